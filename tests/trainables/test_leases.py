"""Leases between processes: one owner a key, the dead give way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainables.leases import Leases


def test_one_owner(tmp_path: Path) -> None:
    one, other = Leases(tmp_path), Leases(tmp_path)
    assert one.acquire(["a", "b"])
    assert one.acquire(["a"]), "who holds a key may ask again"
    assert not other.acquire(["c", "b"])
    assert not (tmp_path / "c").exists(), "all or none"
    one.release(["b"])
    assert other.acquire(["c", "b"])
    one.close()
    other.close()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_dead_give_way_and_the_living_do_not(tmp_path: Path) -> None:
    dead = Leases(tmp_path, beat=1000)
    assert dead.acquire(["a"])
    living = Leases(tmp_path, beat=0.05)
    assert living.acquire(["b"])
    for key in "ab":
        os.utime(tmp_path / key, (0, 0))  # both untouched for long
    deadline = time.monotonic() + 120
    while (tmp_path / "b").stat().st_mtime == 0:
        assert time.monotonic() < deadline, "the owner's thread does not touch it"
        time.sleep(0.01)
    other = Leases(tmp_path, stale=600)
    assert other.acquire(["a"]), "untouched for longer than stale"
    assert not other.acquire(["b"]), "touched by its owner's thread"
    dead.release(["a"])
    assert (tmp_path / "a").exists(), "what was taken over is not the old owner's to give back"
    living.close()
    other.close()


RACE = """
import os, sys, time
from pathlib import Path
from trainables.leases import Leases

folder, mine, others = Path(sys.argv[1]), *sys.argv[2:]
leases = Leases(folder / "leases", stale=600)
(folder / mine).touch()
while not (folder / others).exists():
    time.sleep(0.001)
print(" ".join(key for key in map(str, range(50)) if leases.acquire([key])), flush=True)
os._exit(0)  # without giving anything back
"""


@pytest.mark.parametrize("abandoned", [False, True])
def test_two_processes_never_both_win(tmp_path: Path, abandoned: bool) -> None:
    if abandoned:
        (tmp_path / "leases").mkdir()
        for key in range(50):
            (tmp_path / "leases" / str(key)).write_text("somebody who is gone")
            os.utime(tmp_path / "leases" / str(key), (0, 0))
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), *names], stdout=subprocess.PIPE, text=True)
        for names in (("one", "two"), ("two", "one"))
    ]
    won = [key for racer in racers for key in racer.communicate(timeout=120)[0].split()]
    assert sorted(won, key=int) == [str(key) for key in range(50)]

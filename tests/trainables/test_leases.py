"""Locks between processes: one owner each, and whoever is dead has none."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from trainables.pipeline import leases
from trainables.pipeline.leases import Leases, Lock

ROOT = Path(leases.__file__).parents[1]


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)


def test_one_owner(tmp_path: Path) -> None:
    one, other = Leases(tmp_path), Leases(tmp_path)
    assert one.acquire(["a", "b"])
    assert one.acquire(["a"]), "who holds a key may ask again"
    assert not other.acquire(["c", "b"])
    assert f"process {os.getpid()} on " in other.waits_for and ", started 20" in other.waits_for
    assert Leases(tmp_path).acquire(["c"]), "all or none"
    one.release(["b"])
    assert other.acquire(["d", "b"])
    one.close()
    other.close()
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("c", "c.owner")] == []


HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from trainables.pipeline.leases import Leases, Lock

folder, how = Path(sys.argv[1]), sys.argv[2]
leases, lock = Leases(folder / "leases"), Lock(folder / "search.lock")
assert leases.acquire(["a"]) and lock.acquire()
if how == "fork" and os.fork() == 0:
    time.sleep(600)
child = subprocess.Popen(["sleep", "600"], close_fds=False) if how == "child" else None
print(os.getpid() if child is None else child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["alone", "fork", "child"])
def test_the_dead_give_way_at_once_whatever_they_leave_behind(tmp_path: Path, how: str) -> None:
    holder = process(HOLD, tmp_path, how)
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        (tmp_path / "leases").joinpath("a").touch()
        for file in (tmp_path / "leases" / "a", tmp_path / "search.lock"):
            os.utime(file, (2**32, 2**32))  # its age says nothing, and may lie in the future
        assert not Leases(tmp_path / "leases").acquire(["a"]) and not Lock(tmp_path / "search.lock").acquire()
        assert f"process {holder.pid} on " in Lock(tmp_path / "search.lock").owner
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        began = time.monotonic()
        mine, lock = Leases(tmp_path / "leases"), Lock(tmp_path / "search.lock")
        while not mine.acquire(["a"]):  # a child that was forked a moment ago has yet to close what it got
            assert time.monotonic() - began < 20
            time.sleep(0.01)
        assert lock.acquire(seconds=20)
        assert f"process {os.getpid()} on " in lock.owner
    finally:
        with suppress(ProcessLookupError):
            os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()


RACE = """
import os, sys, time
from pathlib import Path
from trainables.pipeline.leases import Leases

folder, mine, others = Path(sys.argv[1]), *sys.argv[2:]
leases = Leases(folder / "leases")
(folder / mine).touch()
while not (folder / others).exists():
    time.sleep(0.001)
won = [key for key in map(str, range(50)) if leases.acquire([key])]
print(" ".join(won), flush=True)
(folder / f"{mine} ended").touch()
while not (folder / f"{others} ended").exists():
    time.sleep(0.001)
os._exit(0)  # without giving anything back
"""


@pytest.mark.parametrize("abandoned", [False, True])
def test_two_processes_never_both_win(tmp_path: Path, abandoned: bool) -> None:
    if abandoned:
        (tmp_path / "leases").mkdir()
        for key in range(50):
            (tmp_path / "leases" / str(key)).write_text("somebody who is gone")
    racers = [process(RACE, tmp_path, *names) for names in (("one", "two"), ("two", "one"))]
    won = [key for racer in racers for key in racer.communicate(timeout=120)[0].split()]
    assert sorted(won, key=int) == [str(key) for key in range(50)]


def test_a_folder_that_cannot_lock_costs_the_leases_and_not_the_search(tmp_path, monkeypatch, caplog) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    one = Leases(tmp_path)
    assert one.acquire(["a"]) and one.acquire(["b"])
    (said,) = [entry.getMessage() for entry in caplog.records]
    assert said.startswith(f"stages cannot be reserved in {tmp_path} (No locks available): another search")
    with pytest.raises(OSError, match="No locks available"):
        Lock(tmp_path / "search.lock").acquire()


def test_without_a_name_there_is_still_a_lock(tmp_path: Path) -> None:
    one, other = Lock(tmp_path / "x"), Lock(tmp_path / "x")
    assert one.acquire() and one.acquire()
    (tmp_path / "x.owner").unlink()
    assert not other.acquire() and other.owner == "a process that has not written down its name"
    (tmp_path / "x.owner").write_bytes(b"\x1b[31m\xff")
    assert "\x1b" not in other.owner
    one.release()
    one.release()
    assert other.acquire()


def test_what_a_process_that_is_gone_has_left_is_removed_and_what_is_held_stays(tmp_path: Path) -> None:
    ours, left = Leases(tmp_path), Leases(tmp_path)
    assert ours.acquire(["held"])
    for name in ("gone", "gone.owner", "alone.owner"):
        (tmp_path / name).touch()
    left.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {"held", "held.owner"}
    assert not left.acquire(["held"])
    ours.close()
    assert list(tmp_path.iterdir()) == []

"""Leases between processes: one owner a key, the dead give way."""

from __future__ import annotations

import multiprocessing
import os
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
    living = Leases(tmp_path, beat=0.05, stale=0.4)
    assert living.acquire(["b"])
    other = Leases(tmp_path, stale=0.4)
    time.sleep(0.6)
    assert other.acquire(["a"]), "untouched for longer than stale"
    assert not other.acquire(["b"]), "touched by its owner's thread"
    dead.release(["a"])
    assert (tmp_path / "a").exists(), "what was taken over is not the old owner's to give back"
    living.close()
    other.close()


def race(folder: Path, start: float, wins: multiprocessing.Queue[str]) -> None:
    leases = Leases(folder, stale=30)
    time.sleep(max(0.0, start - time.time()))
    for key in map(str, range(50)):
        if leases.acquire([key]):
            wins.put(key)
    wins.close()
    wins.join_thread()
    os._exit(0)  # without giving anything back


@pytest.mark.parametrize("abandoned", [False, True])
def test_two_processes_never_both_win(tmp_path: Path, abandoned: bool) -> None:
    if abandoned:
        for key in range(50):
            (tmp_path / str(key)).write_text("somebody who is gone")
            os.utime(tmp_path / str(key), (0, 0))
    context = multiprocessing.get_context("spawn")
    wins: multiprocessing.Queue[str] = context.Queue()
    start = time.time() + 4.0
    processes = [context.Process(target=race, args=(tmp_path, start, wins)) for _ in range(2)]
    for process in processes:
        process.start()
    won = [wins.get(timeout=60) for _ in range(50)]
    for process in processes:
        process.join()
    assert wins.empty()
    assert sorted(won, key=int) == [str(key) for key in range(50)]

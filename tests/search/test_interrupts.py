"""Signals: the first one ends a command between two events, the next one at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from search.execution import interrupts
from search.execution.interrupts import (
    INTERRUPTED,
    RUN_AGAIN,
    SIGNALS,
    Interrupts,
    TimeIsUp,
    seconds_to_finish,
    shielded_children,
)

ROOT = Path(interrupts.__file__).parents[1]


ENDING = [number for number in SIGNALS if number != signal.SIGUSR1]


@pytest.mark.parametrize("number", ENDING)
def test_the_first_is_a_request_and_the_second_does_not_wait(number, monkeypatch):
    monkeypatch.setattr(interrupts, "REPEATED_SECONDS", 0.0)
    before = [signal.getsignal(each) for each in SIGNALS]
    asked = []
    it = Interrupts()
    with pytest.raises(KeyboardInterrupt), it, it.between_events(lambda: asked.append(True)):
        os.kill(os.getpid(), number)
        assert asked == [True] and it.received
        os.kill(os.getpid(), number)
        time.sleep(1)
        asked.append("not reached")
    assert asked == [True]
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_of_events_it_is_raised_and_what_swallows_it_is_found_out(number):
    it = Interrupts()
    with it:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(1)
        assert it.received
        with pytest.raises(KeyboardInterrupt), it.between_events(lambda: None):
            pytest.fail("the events begin all the same")


@pytest.mark.parametrize("number", ENDING)
def test_what_must_not_be_broken_off_is_not_though_it_brings_handlers_of_its_own(number, monkeypatch):
    monkeypatch.setattr(interrupts, "REPEATED_SECONDS", 0.0)
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as it:
        with it.deferred():
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            done.append(it.received)
            signal.signal(number, lambda *_: done.append("Ray's"))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(1)
        it.check()
    assert done == [True]


def test_a_child_outlives_the_terminal_and_its_parent_hears_of_it():
    with pytest.raises(KeyboardInterrupt), Interrupts() as it:
        with it.deferred():
            with shielded_children():
                child = subprocess.Popen(["sleep", "600"])
                os.kill(os.getpid(), signal.SIGHUP)
                child.send_signal(signal.SIGHUP)
                child.send_signal(signal.SIGUSR1)
            for _ in range(50):  # it may be heard in another thread first
                if it.received:
                    break
                time.sleep(0.1)
            assert it.received
            time.sleep(0.2)
            assert child.poll() is None
            child.terminate()
            assert child.wait(timeout=60) == -signal.SIGTERM
        it.check()


def test_little_time_left_is_a_request_of_its_own_and_its_exit_code_says_so(monkeypatch):
    asked = []
    with Interrupts() as it, it.between_events(lambda: asked.append("end"), lambda: asked.append("finish")):
        # to every process of a job, and from a job script to the command as well: once is enough
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGUSR1)
        assert asked == ["finish"] and it.exit_code == RUN_AGAIN == 75
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        assert it.exit_code == RUN_AGAIN
    with pytest.raises(TimeIsUp), Interrupts() as it:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(1)
    with Interrupts() as it, it.between_events(lambda: asked.append("end"), lambda: asked.append("finish")):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked == ["finish", "end"] and it.exit_code == INTERRUPTED == 130
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert seconds_to_finish() == 240
    monkeypatch.setattr(interrupts, "time", SimpleNamespace(time=lambda: 1000.5, monotonic=time.monotonic))
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1300")
    assert seconds_to_finish() == 239.5
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1010")
    assert seconds_to_finish() == 0


NOHUP = """
import os, signal, sys
from search.execution.interrupts import Interrupts
with Interrupts() as it:
    os.kill(os.getpid(), signal.SIGHUP)
    print(it.received)
"""


def test_nohup_is_heeded():
    line = [sys.executable, "-c", NOHUP]
    done = subprocess.run(["nohup", *line], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"
    assert subprocess.run(line, capture_output=True, text=True, cwd=ROOT).returncode == -signal.SIGINT


LOST = """
import os, sys, time
from pathlib import Path
from search.execution.interrupts import Interrupts
it, path = Interrupts(), Path(sys.argv[1])
with it, it.between_events(lambda: None):
    print("ready", flush=True)
    while not it.received:
        time.sleep(0.01)
    print("to nobody", flush=True)
path.write_text("ended well")
"""


def test_a_terminal_that_is_closed_ends_it_without_an_error(tmp_path):
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{LOST}", tmp_path / "x"],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=ROOT,
    )  # fmt: skip
    os.close(slave)
    said = b""
    while b"ready" not in said:
        said += os.read(master, 1000)
    os.close(master)
    assert process.wait(timeout=60) == 0 and (tmp_path / "x").read_text() == "ended well"

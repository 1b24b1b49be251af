"""Ctrl-C, `kill`, a terminal that is closed: all end a command in the same way, with exit code 130.

SIGUSR1, which batch systems send some time before they end a job, ends a search at the next epochs of its trials, with
exit code 75: the job is to be put back into its queue.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")

SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

TIME_IS_UP = getattr(signal, "SIGUSR1", None)
"""The signal of a batch system that a job has little time left."""

INTERRUPTED, RUN_AGAIN = 130, 75
"""Exit codes: ended by a person or by the machine; ended because a job's time is up (EX_TEMPFAIL of sysexits.h)."""

FINISHING_SECONDS = 240.0
"""Time that running trials have to end their epochs where the batch system does not say when the job ends: with
`--signal=USR1@300`, a minute is left for what comes after."""

CLOSING_SECONDS = 60.0
"""Time before a job's end that is kept for tables, report and MLflow."""


REPEATED_SECONDS = 5.0
"""A signal that comes again within this time is the same one: batch systems send it to every process of a job, and the
job's script passes it on. From the keyboard, a second one always means that the first one took too long."""


class TimeIsUp(KeyboardInterrupt):
    """SIGUSR1 where nothing can be finished."""


def seconds_to_finish() -> float:
    """Time that running trials have to end their epochs: until a minute before the job's end, where Slurm tells it."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return max(0.0, int(end) - time.time() - CLOSING_SECONDS) if end.isdecimal() else FINISHING_SECONDS


class Interrupts:
    """Turns the signals into `KeyboardInterrupt`, or the first one into a request, where that is asked for.

    Raised wherever the driver happens to be, an interrupt may be swallowed by a native call of Ray, or leave Ray
    half started, waiting for itself. So `received` says whether one came, whatever became of it.
    """

    def __init__(self) -> None:
        self.received = False
        self.number = 0
        """The first signal that came; 0 for none."""
        self._since = 0.0
        self._request: Callable[[], None] | None = None
        self._finish: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._arm()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @property
    def exit_code(self) -> int:
        """Exit code of a command that was interrupted."""
        return RUN_AGAIN if self.number == TIME_IS_UP else INTERRUPTED

    @contextmanager
    def between_events(self, request: Callable[[], None], finish: Callable[[], None] | None = None) -> Iterator[None]:
        """Calls `request` at the first signal instead of raising; a second one raises at once.

        Args:
            request: Asks for the end.
            finish: Called in its place at SIGUSR1, after which there is some time left.

        Raises:
            KeyboardInterrupt: A signal came before.
        """
        self.check()
        self._finish = finish
        try:
            with self.deferred(request):
                yield
        finally:
            self._finish = None

    @contextmanager
    def deferred(self, request: Callable[[], None] = lambda: None) -> Iterator[None]:
        """The same for what must not be broken off: whoever calls it looks at `received`, or calls `check`, later."""
        before, self._request = self._request, request
        try:
            yield
        finally:
            self._request = before
            self._arm()  # Ray has handlers of its own, and installs them when it starts

    def check(self) -> None:
        """Raises what was only noted.

        Raises:
            KeyboardInterrupt: A signal came before.
        """
        if self.received:
            raise self._error()

    def _error(self) -> KeyboardInterrupt:
        return TimeIsUp() if self.number == TIME_IS_UP else KeyboardInterrupt()

    def _arm(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            there = signal.getsignal(number)
            # nohup: the command is to outlive its terminal
            if there == self._handle or (number != signal.SIGINT and there is signal.SIG_IGN):
                continue
            signal.signal(number, self._handle)
            self._before.setdefault(number, there)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = not self.received, True
        if first:
            self.number = number
            self._since = time.monotonic()
        elif number == TIME_IS_UP or (
            number == self.number != signal.SIGINT and time.monotonic() - self._since < REPEATED_SECONDS
        ):
            return
        if number != signal.SIGINT:
            _leave_lost_terminal()
        if self._request is None or not first:
            raise self._error()
        (self._finish if self._finish is not None and number == TIME_IS_UP else self._request)()


@contextmanager
def shielded_children() -> Iterator[None]:
    """Processes that are started meanwhile end neither with the terminal nor at SIGUSR1, which batch systems send to
    every process of a job: whoever started them ends them in order."""
    blocked = {getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name)}
    # a process inherits what is blocked; what came for this one is delivered afterwards
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked) if blocked else set()
    try:
        yield
    finally:
        if blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_lost_terminal() -> None:
    """Sends output nowhere whose terminal is gone: writing to it would be an error in whatever is being done."""
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)

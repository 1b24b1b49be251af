"""Ctrl-C, `kill` and a terminal that is closed: all three end a command in the same way, with exit code 130."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """Turns the three signals into `KeyboardInterrupt`, or the first one into a request, where that is asked for.

    Raised wherever the driver happens to be, an interrupt may be swallowed by a native call of Ray, or leave Ray
    half started, waiting for itself. So `received` says whether one came, whatever became of it.
    """

    def __init__(self) -> None:
        self.received = False
        self._request: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._arm()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def between_events(self, request: Callable[[], None]) -> Iterator[None]:
        """Calls `request` at the first signal instead of raising; a second one raises at once.

        Raises:
            KeyboardInterrupt: A signal came before.
        """
        self.check()
        with self.deferred(request):
            yield

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
            raise KeyboardInterrupt

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
        if number != signal.SIGINT:
            _leave_lost_terminal()
        if self._request is None or not first:
            raise KeyboardInterrupt
        self._request()


@contextmanager
def children_outlive_the_terminal() -> Iterator[None]:
    """Processes that are started meanwhile do not end with the terminal: whoever started them ends them in order."""
    hangup = {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()
    # a process inherits what is blocked; what came for this one is delivered afterwards
    before = signal.pthread_sigmask(signal.SIG_BLOCK, hangup) if hangup else set()
    try:
        yield
    finally:
        if hangup:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_lost_terminal() -> None:
    """Sends output nowhere whose terminal is gone: writing to it would be an error in whatever is being done."""
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)

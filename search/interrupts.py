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
    """Turns the three signals into `KeyboardInterrupt`; inside `between_events` the first one into a request.

    Raised wherever the driver happens to be, an interrupt may be swallowed by a native call of Ray. So `received` says
    whether one came, whatever became of it.
    """

    def __init__(self) -> None:
        self.received = False
        self._request: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # nohup: the command is to outlive its terminal
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def between_events(self, request: Callable[[], None]) -> Iterator[None]:
        """Calls `request` at the first signal instead of raising; a second one raises at once.

        Raises:
            KeyboardInterrupt: A signal came before, and nobody has ended for it.
        """
        self._request = request
        try:
            if self.received:
                raise KeyboardInterrupt
            yield
        finally:
            self._request = None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        first, self.received = not self.received, True
        if number != signal.SIGINT:
            _leave_lost_terminal()
        if self._request is None or not first:
            raise KeyboardInterrupt
        self._request()


def _leave_lost_terminal() -> None:
    """Sends output nowhere whose terminal is gone: writing to it would be an error in whatever is being done."""
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)

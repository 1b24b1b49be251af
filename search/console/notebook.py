"""A search in a notebook: its progress is one output of the cell, which is updated in place.

IPython is no dependency: where this process is the kernel of a notebook, IPython has been imported already.
"""

from __future__ import annotations

import sys
from typing import Any

WIDTH = 115
"""Columns of printed tables in a notebook."""


def _shell() -> Any:
    """The shell of the kernel; `None` outside notebooks."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return _shell() is not None


def cell_number() -> int | None:
    """Number of the cell that runs; `None` outside notebooks."""
    shell = _shell()
    return None if shell is None else int(shell.execution_count)


class Output:
    """One output of the cell that runs, which is updated in place."""

    def __init__(self) -> None:
        self._display = sys.modules["IPython"].display
        self._handle = self._display.display(self._display.HTML(""), display_id=True)

    def show(self, html: str) -> None:
        """Shows HTML instead of what was shown."""
        self._handle.update(self._display.HTML(html))

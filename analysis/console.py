"""The console that every command writes to: text appears as it is, whatever it holds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from analysis.text import lenient_output, printable

UNBROKEN = 10_000
"""Columns where nobody looks at a terminal: a file or a pipe gets whole lines."""


def styled(text: object, style: str = "") -> Text:
    """Text in a style, escaped before anything is measured."""
    return Text(printable(str(text)), style)


class Console(rich.console.Console):  # type: ignore[misc]
    """Rich without markup, emoji codes and highlighting, which would read a name like `[v2]` as a tag and drop it.

    Styles are given by `style=` or by `styled`. Control characters and direction marks are shown instead of executed.

    Args:
        **options: Of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        lenient_output()
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, "force_jupyter": False, **options})
        if "width" not in options and not self.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
            self.width = UNBROKEN

    def render_str(self, text: str, **options: Any) -> Text:
        """Escapes before anything is measured, so that tables stay straight."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escapes what comes in other ways, such as a `Text`, which a narrow column may then cut short."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

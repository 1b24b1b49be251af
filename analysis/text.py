"""Text from elsewhere (names of files, classes and searches, messages of libraries), made safe for its reader."""

from __future__ import annotations

import re
import shlex
import sys
import unicodedata
from contextlib import suppress
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""

ACTS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of characters that act on their reader instead of being shown."""

JOINERS = "\u200c\u200d"
"""Format characters that spell words and emoji."""


def printable(text: str, keep: str = "\n") -> str:
    r"""Shows control characters, escape sequences and direction marks instead of executing them.

    Args:
        text: Any text.
        keep: Control characters that stay.

    >>> printable("red \x1b[31m, reversed \u202e")
    'red \\x1b[31m, reversed \\u202e'
    """
    return "".join(
        _escaped(sign) if unicodedata.category(sign) in ACTS and sign not in keep + JOINERS else sign
        for sign in str(text)
    )


def _escaped(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def command(*words: object) -> str:
    """A command line that can be pasted into a shell, whatever its words hold.

    >>> command("python", "run_search.py", "--resume", "my $(search)")
    "python run_search.py --resume 'my $(search)'"
    """
    return shlex.join(printable(str(word)) for word in words)


def csv_cell(value: Any) -> Any:
    """A cell that a spreadsheet does not run: text that would be a formula is preceded by an apostrophe.

    >>> csv_cell("=1+1"), csv_cell("-3.5"), csv_cell(-3.5)
    ("'=1+1", '-3.5', -3.5)
    """
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    with suppress(ValueError):
        float(value)
        return value
    return f"'{value}"


def markdown_cell(value: object) -> str:
    r"""Text for a cell of a Markdown table, where it can neither end the cell nor start markup.

    >>> markdown_cell("a|b *c*")
    'a\\|b \\*c\\*'
    """
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", printable(str(value), keep="").replace("\n", " "))


def lenient_output(*streams: Any) -> None:
    """Lets a terminal or pipe that lacks a character show its escape instead of ending the command.

    Args:
        *streams: Text streams (default: standard output and standard error).
    """
    for stream in streams or (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")

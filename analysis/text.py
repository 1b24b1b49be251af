"""Text from elsewhere (names of files, classes and searches, messages of libraries), made safe for its reader."""

from __future__ import annotations

import codecs
import difflib
import html
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the beginning of a formula; some read the full-width forms like the ASCII ones."""

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
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        _escaped(sign) if unicodedata.category(sign) in ACTS and sign not in keep + JOINERS else sign for sign in text
    )


def sentence(text: object) -> str:
    r"""Text on one line, so that a line end in a name or in an error of a library cannot forge a line of its own.

    >>> sentence("no such file: a\nerror: all is lost")
    'no such file: a error: all is lost'
    """
    return printable(" ".join(str(text).splitlines()), keep="")


def _escaped(sign: str) -> str:
    code = ord(sign)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The question after the nearest known name; "" if none is near.

    >>> did_you_mean("fp23", ["fp32", "bf16"]), did_you_mean("x", ["fp32"])
    ("did you mean 'fp32'?", '')
    """
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else ""


def command(*words: object) -> str:
    r"""A command line that can be pasted into a shell, whatever its words hold.

    Args:
        *words: The words. A `Path` that begins with a dash is preceded by `./`, so that it is not read as an option.

    >>> command("python", "run_search.py", "--resume", "my $(search)")
    "python run_search.py --resume 'my $(search)'"
    >>> print(command("ls", "bell\a"))
    ls $'bell\x07'
    """
    spelt = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words)
    return " ".join(map(_quoted, spelt))


def option(name: str, value: object) -> list[str]:
    """The words of an option with its value, for `command`.

    >>> option("--resume", "mine"), option("--resume", "-mine")
    (['--resume', 'mine'], ['--resume=-mine'])
    """
    return [f"{name}={value}"] if str(value).startswith("-") else [name, str(value)]


def _quoted(word: str) -> str:
    if printable(word, keep="") == word:
        return shlex.quote(word)
    # bash, zsh and POSIX 2024 read the bytes back
    return "$'" + "".join(map(_quoted_sign, word)) + "'"


def _quoted_sign(sign: str) -> str:
    if printable(sign, keep="") != sign:
        # a name that is no UTF-8 holds its bytes as surrogates
        how = "surrogateescape" if "\udc80" <= sign <= "\udcff" else "surrogatepass"
        return "".join(f"\\x{byte:02x}" for byte in sign.encode("utf-8", how))
    return f"\\{sign}" if sign in "\\'" else sign


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


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV whose cells neither run in a spreadsheet nor act on a terminal.

    Args:
        table: Any table; its index is left out.
    """
    shown = table.rename(columns=_csv_shown)
    for place, kind in enumerate(shown.dtypes):
        if kind.kind != "O":
            continue
        # not by Series.map, which makes floats of whole numbers beside a None
        cells = shown.iloc[:, place].to_numpy(dtype=object, copy=True)
        for row, cell in enumerate(cells):
            cells[row] = _csv_shown(cell)
        shown.isetitem(place, cells)
    return str(shown.to_csv(index=False, lineterminator="\n"))


def _csv_shown(value: Any) -> Any:
    return csv_cell(printable(value, keep="\t\n")) if isinstance(value, str) else value


def html_text(text: object, quote: bool = True) -> str:
    """Text for an HTML page, where it can neither open an element nor leave an attribute.

    Args:
        text: Any text.
        quote: Whether quotes are escaped; plotly, whose labels are a little HTML, does not read their escapes.

    >>> html_text("<b onclick='x'>")
    '&lt;b onclick=&#x27;x&#x27;&gt;'
    """
    return html.escape(printable(str(text)), quote=quote)


def markdown_cell(value: object) -> str:
    r"""Text for a cell of a Markdown table or a line of Markdown, where it can neither end the cell nor start markup.

    >>> print(markdown_cell("a|b *c* <d>"))
    a\|b \*c\* \<d\>
    """
    shown = re.sub(r"([\\|*_`<>\[\]&~$])", r"\\\1", sentence(value))
    # addresses become links without any markup
    return re.sub(r"(?<=\w):(?=//)|(?<=www)\.|(?<=\w)@(?=\w)", lambda sign: "\\" + sign.group(), shown)


READABLE = {
    "×": "x", "…": "...", "→": "->", "±": "+/-", "−": "-", "–": "-", "—": "-", "█": "#", "•": "*", "✕": "x", "✓": "v",
    "≤": "<=", "≥": ">=", "η": "eta", "“": '"', "”": '"', "‘": "'", "’": "'",
}  # fmt: skip
"""What a terminal gets that lacks one of the signs that our own sentences use."""

_LENIENT = "longtail_tune.lenient"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(READABLE.get(sign) or _escaped(sign) for sign in lacking), error.end


codecs.register_error(_LENIENT, _replaced)


def lenient_output(*streams: Any) -> None:
    """Lets a terminal or pipe that lacks a character show something like it, or its escape, instead of ending.

    Args:
        *streams: Text streams (default: standard output and standard error).
    """
    for stream in streams or (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors=_LENIENT)


def echo(*lines: object, file: TextIO | None = None) -> None:
    """Prints lines for people: what acts on a terminal is shown instead.

    Args:
        *lines: One or more lines; each may have several.
        file: A text stream (default: standard output).
    """
    for line in lines:
        print(printable(str(line)), file=file)

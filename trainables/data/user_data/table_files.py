"""`csv:FILE`: image files and labels, one a line."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainables.data.catalogue import DataError, spelled
from trainables.data.images.progress import side_by_side
from trainables.data.tables import TableError, read_rows, shorten
from trainables.data.user_data.class_names import classes_of
from trainables.data.user_data.source import SPLITS, Source, check_classes


def read_table(file: Path) -> Source:
    """Reads the labels and files of a CSV table; no pixel is read."""
    rows, header, unused = _rows(file)
    again = _doubled(file, rows)
    class_names, number, odd = classes_of(file, [row.label for row in rows])
    found: dict[str, list[int]] = {}
    files: dict[str, list[Path]] = {}
    for row in rows:
        found.setdefault(row.split, []).append(number[row.label])
        files.setdefault(row.split, []).append(row.file)
    if "train" not in found:
        raise DataError(f"{file}: no line is of the split train")
    hint = "" if header else "; where line 1 is a header, name its columns path,label or path,label,split"
    check_files(str(file), file.parent, [row.file for row in rows], hint)
    labels = {split: np.array(found[split], dtype=np.int64) for split in SPLITS if split in found}
    check_classes(str(file), labels, class_names)
    return Source(str(file), class_names, labels, files, problems=(*again, *unused, *odd))


COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img_path"),
    "label": ("label", "class", "class_name", "category", "target"),
    "split": ("split", "set", "subset", "partition"),
}
"""Accepted names of the columns of a table; the first takes precedence."""

SPLIT_WORDS: Mapping[str, str] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Accepted names of the splits, in any case."""


class _Row(NamedTuple):
    """A line of a table: an image."""

    line: int
    path: str
    file: Path
    label: str
    split: str


def _rows(file: Path) -> tuple[list[_Row], bool, list[str]]:
    """Reads the images of a table, whether it has a header, and a warning about unused columns."""
    try:
        lines = read_rows(file)
    except TableError as error:
        raise DataError(f"{file}: cannot be read as CSV in UTF-8 ({error})") from error
    if not lines:
        raise DataError(f"{file}: has no lines; it needs path,label or path,label,split on each")
    line, first = lines[0]
    place, header = {"path": 0, "label": 1, "split": 2}, [cell.lower() for cell in first]
    unused: list[str] = []
    named = any(name in COLUMNS["path"] for name in header)
    if named:
        place = _columns(f"{file}, line {line}", first)
        lines = lines[1:]
        ignored = [cell or "(no name)" for number, cell in enumerate(first) if number not in place.values()]
        unused = [f"{file}: columns that are not used: {', '.join(ignored)}"] if ignored else []
        if not lines:
            raise DataError(f"{file}: has no lines below its header")
    elif len(first) not in (2, 3):
        raise DataError(
            f"{file}, line {line}: has {len(first)} columns; path,label or path,label,split are needed, separated by "
            "commas, semicolons or tabs, or a header that has these names among others"
        )
    rows = []
    for line, cells in lines:
        where = f"{file}, line {line}"
        used = [cells[at] for at in place.values() if at < len(cells)]
        if len(cells) != len(first) or not all(used):
            raise DataError(f"{where}: needs {len(first)} filled columns like the first line, got {cells!r}")
        split = cells[place["split"]] if place["split"] < len(cells) else "train"
        if split.lower() not in SPLIT_WORDS:
            raise DataError(f"{where}: split must be train, val or test, got {split!r}")
        path = cells[place["path"]]
        rows.append(_Row(line, path, _resolved(file.parent, path), cells[place["label"]], SPLIT_WORDS[split.lower()]))
    return rows, named, unused


def _columns(where: str, header: Sequence[str]) -> dict[str, int]:
    """Index of each column by its name; without a column split, its index lies beyond the end."""
    names = [cell.lower() for cell in header]
    place = {}
    for column, known in COLUMNS.items():
        found = [at for at, name in enumerate(names) if name == column]
        found = found or [at for at, name in enumerate(names) if name in known]
        if len(found) > 1:
            raise DataError(
                f"{where}: several columns may be the {column}, {', '.join(header[at] for at in found)}; name one of "
                f"them {column}, and the others otherwise"
            )
        if not found and column == "label":
            raise DataError(f"{where}: the header has no column label, got {', '.join(header)}; name one so")
        place[column] = found[0] if found else len(header)
    return place


def _resolved(root: Path, text: str) -> Path:
    """Resolves a path of a table: relative to the table, absolute, below the home directory, or with backslashes."""
    path = root / (Path(text).expanduser() if text.startswith("~/") else text)
    if "\\" in text and not os.path.isfile(path):
        slashed = root / text.replace("\\", "/")
        return slashed if os.path.isfile(slashed) else path
    return path


def _doubled(file: Path, rows: Sequence[_Row]) -> list[str]:
    """Warns of lines that repeat others.

    Raises:
        DataError: An image has two labels, or is in two splits.
    """
    seen: dict[str, _Row] = {}
    again = []
    for row in rows:
        before = seen.setdefault(os.path.normpath(row.file), row)
        if before is row:
            continue
        for what, now, then in (("label", row.label, before.label), ("split", row.split, before.split)):
            if now != then:
                raise DataError(
                    f"{file}, line {row.line}: {row.path} has the {what} {now!r}, and {then!r} in line {before.line}; "
                    f"an image has one {what}: take one of the lines out"
                )
        again.append(row)
    if not again:
        return []
    shown = shorten([f"{row.path} (line {row.line})" for row in again], 3)
    return [f"{file}: {len(again)} lines repeat an image of a line above, which then counts twice: {shown}"]


def check_files(where: str, root: Path, files: Sequence[Path], hint: str = "") -> None:
    """Checks that all files can be read.

    Args:
        where: The table that names them, for messages.
        root: Folder that relative paths start from.
        files: All files.
        hint: Added to the message if the first file is absent.

    Raises:
        DataError: Some cannot; the message counts them and names the first few.
    """
    problems = side_by_side(_why_absent, files)
    lacking = [(file, why) for file, why in zip(files, problems, strict=True) if why]
    if lacking:
        known = [file.relative_to(root) if file.is_relative_to(root) else file for file, _ in lacking]
        reasons = ["" if why == ABSENT else f" ({why})" for _, why in lacking]
        shown = shorten([f"{spelled(file)}{why}" for file, why in zip(known, reasons, strict=True)], 3)
        what = "absent or cannot be read" if any(reasons) else "absent"
        raise DataError(
            f"{where}: {len(lacking)} of the {len(files)} files that it names are {what} under {root}: {shown}"
            f"{hint if problems[0] else ''}"
        )


ABSENT = "absent"


def _why_absent(file: Path) -> str:
    """Reason why a file cannot be read; "" if it can."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return "no file"
        return "" if os.access(file, os.R_OK) else "no permission to read it"
    except OSError as error:
        return ABSENT if error.errno in (errno.ENOENT, errno.ENOTDIR) else error.strerror or str(error)
    except ValueError as error:  # a zero byte in the path
        return str(error)

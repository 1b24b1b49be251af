"""Errors of a disk: what keeps a search from writing its results."""

from __future__ import annotations

import errno
import re
import sqlite3

UNWRITABLE = {
    errno.ENOSPC: "; make room", errno.EDQUOT: "; make room", errno.EFBIG: "; allow larger files (ulimit -f)",
    errno.EMFILE: "; allow more open files (ulimit -n)", errno.ENFILE: "", errno.EROFS: "", errno.EIO: "",
    errno.ESTALE: "",
}  # fmt: skip
"""Errors of a disk or a machine, and not of this program; with what helps."""


def cannot_write(error: BaseException | None) -> str:
    """What keeps a search from writing its results, in a sentence; "" for any other error.

    Args:
        error: The error, with what it was raised from.

    >>> cannot_write(OSError(errno.ENOSPC, "No space left on device", "results/a/journal.jsonl"))
    'results/a/journal.jsonl cannot be written: No space left on device; make room'
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            return f"{error.filename or 'A file'} cannot be written: {error.strerror}{UNWRITABLE[error.errno]}"
        if isinstance(error, sqlite3.OperationalError) and re.search("full|readonly|disk I/O", str(error)):
            return f"A database of the search cannot be written: {error}; make room"
        error = error.__cause__ or error.__context__
    return ""

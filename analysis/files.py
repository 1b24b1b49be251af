"""Files that are either whole or not there: written beside their place and moved into it."""

from __future__ import annotations

import json
import math
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any


def write(path: str | Path, content: str | bytes) -> None:
    """Replaces a file atomically, so that a crash or a full disk leaves the old one and no half of the new one.

    Args:
        path: The file; its folder must exist.
        content: Text, written as UTF-8 with line ends as they are, or bytes.

    Raises:
        OSError: The file cannot be written; the error names it, and nothing is left beside it.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(beside)):
            # the file that a person knows, and it alone; a full disk names none, a refused move names two
            error.filename = str(target)
            del error.filename2
        raise
    # the new name survives a power cut, too; Windows cannot open folders
    with suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader accepts: NaN and infinities, which JSON lacks, become null.

    >>> to_json({"a": float("nan"), "b": (1, 2.5)})
    '{"a": null, "b": [1, 2.5]}'
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value

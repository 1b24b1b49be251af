"""An MLflow database that was copied or moved: its artifacts are looked for beside it, and not where they were.

MLflow notes absolute paths of every experiment's and run's artifacts. A copy of the database has a copy of them beside
it (`mlruns`), and a search that continues there must neither read nor write those of the original.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

ARTIFACTS = "mlruns"
"""Folder of artifacts beside the database."""

COLUMNS = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
"""Columns in which MLflow notes paths."""


def relocate(database: Path) -> bool:
    """Points a database at the artifacts that lie beside it, where it names others.

    It does so if they were copied along, or if the paths in the database no longer exist.

    Returns:
        Whether anything was changed; False also for a database that cannot be read or written.
    """
    if not database.is_file():
        return False
    try:
        with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
            return _relocate(connection, database.resolve().parent / ARTIFACTS)
    except sqlite3.Error:
        return False


def _relocate(connection: sqlite3.Connection, here: Path) -> bool:
    found = [_root(str(place)) for (place,) in connection.execute("SELECT artifact_location FROM experiments")]
    roots = {
        written
        for written, path, rest in filter(None, found)
        if path.resolve() != here and ((here / rest).is_dir() or not path.is_dir())
    }
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for root in roots:
        for table, column in COLUMNS:
            columns = (
                {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} if table in tables else set()
            )
            if column in columns:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (
                        here.as_uri() if root.startswith("file:") else str(here),
                        len(root) + 1,
                        len(root) + 1,
                        f"{root}/",
                    ),
                )
    return bool(roots)


def _root(place: str) -> tuple[str, Path, str] | None:
    """Splits a local path after `mlruns`: that part as it is written and as a path, and the rest."""
    if not place.startswith(("file:///", "/")):
        return None
    before, sign, after = place.rpartition(f"/{ARTIFACTS}/")
    if not sign:
        return None
    path = Path(url2pathname(urlparse(before).path)) if place.startswith("file:") else Path(before)
    return f"{before}/{ARTIFACTS}", path / ARTIFACTS, url2pathname(after) if place.startswith("file:") else after

"""`python -m search.list`: the searches in an MLflow store, newest first."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from analysis import command_line
from analysis.command_line import TRACKING_URI, Parser
from analysis.records import mlflow_store, reader
from analysis.text import echo, printable, sentence

LOCK = "search.lock"
"""File in a search's folder that its driver holds locked."""


ELSEWHERE = "running?"
"""Status of a search whose folder is not on this machine, so that its driver cannot be asked."""


def running(folder: Path) -> bool | None:
    """Whether the driver of a search is alive on this machine; `None` where its folder is not here."""
    if not folder.is_dir():
        return None
    lock = folder / LOCK
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return None


def table(uri: str, output: str | None = None) -> str:
    """The searches of a store as lines of text.

    Args:
        uri: Address of the store.
        output: Folder of results, where the locks of running searches lie (default: the searches' own).

    Raises:
        LoadError: There is no store at `uri`.
    """
    rows = [("search", "data", "started (UTC)", "trials", "finished", "best", "status")]
    for row in reader.searches(uri).to_dict("records"):
        accuracy = row["best_accuracy"]
        best = "unknown" if math.isnan(accuracy) else f"{100 * accuracy:.1f} % ({row['best_arm']})"
        started = f"{row['started']:%Y-%m-%d %H:%M}"
        counts = str(row["trials"]), str(row["finished"])
        name, data = (printable(row[key], keep="") for key in ("name", "data"))
        rows.append((name, data, started, *counts, best, _status(uri, row, output)))
    if len(rows) == 1:
        return "no search yet"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _status(uri: str, row: dict[str, Any], output: str | None) -> str:
    """A search that was killed could not say so: it runs while its driver holds its lock."""
    if row["status"] != "RUNNING":
        return {"KILLED": "interrupted"}.get(row["status"], str(row["status"]).lower())
    file = mlflow_store.database(uri)
    places = [Path(output)] if output is not None else [Path(row["output"] or "results")]
    if file is not None and output is None:
        places.append(file.parent / places[0])
    alive = [found for place in places if (found := running(place / row["name"])) is not None]
    if not alive:
        return ELSEWHERE
    return "running" if any(alive) else "interrupted"


def parser(prog: str = "python -m search.list") -> Parser:
    """The command's options."""
    it = Parser(prog, description="List the searches in an MLflow store, newest first.")
    it.add_argument("--tracking-uri", metavar="URI", help=TRACKING_URI)
    it.add_argument("--output", metavar="DIR", help="folder of results (default: that of each search)")
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.list") -> int:
    """Prints the table; 2 where the store cannot be read."""
    return command_line.run(parser(prog), arguments, _list)


def _list(options: argparse.Namespace) -> int:
    uri = mlflow_store.address(options.tracking_uri)
    text = table(uri, options.output)
    echo(
        sentence(f"searches in {uri}{mlflow_store.source(options.tracking_uri)}"),
        text,
        "best: mean accuracy on val of the leading recipe, in the arm that measures it best",
    )
    if ELSEWHERE in text:
        echo(
            f"{ELSEWHERE}: the folder of the search is not on this machine, so it may have been interrupted; name the "
            "folder of results with --output"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

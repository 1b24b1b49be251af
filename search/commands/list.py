"""The searches in an MLflow store, newest first."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from analysis.records import mlflow_store, reader
from analysis.records.schema import SPACE_CHANGES
from analysis.text import echo, printable, sentence
from search.workspace.lock import running

ELSEWHERE = "running?"
"""Status of a search whose folder is not on this machine, so that its driver cannot be asked."""


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
        changed = ", space changed" if row[SPACE_CHANGES] else ""
        rows.append((name, data, started, *counts, best, _status(uri, row, output) + changed))
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


def show(options: argparse.Namespace) -> int:
    """Prints the table."""
    uri = mlflow_store.address(options.tracking_uri)
    text = table(uri, options.output)
    echo(
        sentence(f"searches in {uri}{mlflow_store.source(options.tracking_uri)}"),
        text,
        "best: mean accuracy on val of the leading recipe, in the arm that measures it best",
    )
    if ", space changed" in text:
        echo("space changed: it was resumed with another space; its run in MLflow and its report say what differs")
    if ELSEWHERE in text:
        echo(
            f"{ELSEWHERE}: the folder of the search is not on this machine, so it may have been interrupted; name the "
            "folder of results with --output"
        )
    return 0

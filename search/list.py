"""`python -m search.list`: the searches in an MLflow store, newest first."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from analysis import load
from analysis.text import echo, lenient_output, printable, sentence


def table(uri: str) -> str:
    """The searches of a store as lines of text.

    Raises:
        LoadError: There is no store at `uri`.
    """
    rows = [("search", "data", "started (UTC)", "trials", "finished", "best", "status")]
    for row in load.searches(uri).to_dict("records"):
        best = "unknown" if math.isnan(row["best_accuracy"]) else f"{100 * row['best_accuracy']:.1f} %"
        started = f"{row['started']:%Y-%m-%d %H:%M}"
        counts = str(row["trials"]), str(row["finished"])
        name, data = (printable(row[key], keep="") for key in ("name", "data"))
        rows.append((name, data, started, *counts, best, row["status"].lower()))
    if len(rows) == 1:
        return "no search yet"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 2 where the store cannot be read."""
    lenient_output()
    parser = argparse.ArgumentParser(prog="python -m search.list", description="List the searches in an MLflow store.")
    parser.add_argument("--tracking-uri", metavar="URI", help="the store (default: mlflow.db in this directory)")
    options = parser.parse_args(arguments)
    uri = options.tracking_uri or load.default_uri()
    try:
        text = table(uri)
    except load.LoadError as error:
        echo(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    echo(f"searches in {sentence(uri)}", text, "best: mean accuracy on val of the leading recipe")
    return 0


if __name__ == "__main__":
    sys.exit(main())

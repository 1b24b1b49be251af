"""`python -m analysis.report`: what a search found, as one HTML page that needs no network.

`write` makes the page from tables in memory, so that a search can do it as it ends; the command reads them from MLflow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis import files
from analysis.records.mlflow_store import address
from analysis.records.reader import LoadError
from analysis.records.schema import RecordError
from analysis.report import cards, context, sections
from analysis.report.findings import Findings, from_store
from analysis.report.html import HERE, TEMPLATES
from analysis.text import echo, lenient_output, sentence


def write(path: str | Path, findings: Findings) -> Path:
    """Writes the page; a file that is there is replaced.

    Returns:
        The path.
    """
    target = Path(path)
    files.write(target, render(findings))
    return target


def render(findings: Findings) -> str:
    """The whole page as HTML."""
    named = findings.trials["search"] if len(findings.trials) else [findings.about.get("search", "")]
    name = str(next(iter(named)))
    return TEMPLATES.get_template("page.html").render(
        title=f"Search {name}" if name else "A search without trials",
        context=context.context(findings),
        notices=[
            ("Before you believe it", findings.health),
            ("Data", str(findings.about.get("data_notes") or "").splitlines()),
        ],
        cards=cards.cards(findings),
        best=cards.best_recipe(findings),
        units=context.units(findings),
        sections=[sections.rendered(name, findings) for name in sections.ORDER],
        style=_asset("style.css"),
        script=_asset("script.js"),
        plotly=Markup(get_plotlyjs()),  # not ours, and the same on every page
    )


def _asset(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))  # our own file


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page of a search; 2 where that cannot be done."""
    lenient_output()
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description="Write what a search found as one HTML page."
    )
    parser.add_argument("--search", metavar="NAME", help="the search (default: the latest)")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="the MLflow store (default: MLFLOW_TRACKING_URI, or mlflow.db in this directory)",
    )
    parser.add_argument("--out", metavar="FILE", default="report.html", help="the page (default: %(default)s)")
    options = parser.parse_args(arguments)
    uri = address(options.tracking_uri)
    try:
        name, findings = from_store(uri, options.search)
        write(options.out, findings)
    except (LoadError, RecordError) as error:
        echo(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        why = error.strerror or str(error)
        echo(f"error: --out {sentence(options.out)} cannot be written: {sentence(why)}", file=sys.stderr)
        return 2
    echo(sentence(f"report of search {name} ({len(findings.trials)} trials in {uri}): {options.out}"))
    return 0

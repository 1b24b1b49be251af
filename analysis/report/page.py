"""`python -m analysis.report`: what a search found, as one HTML page that needs no network.

`write` makes the page from tables in memory, so that a search can do it as it ends; the command reads them from MLflow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis import command_line, files
from analysis.command_line import TRACKING_URI, Parser
from analysis.records.mlflow_store import address
from analysis.report import cards, context, sections
from analysis.report.findings import Findings, from_store
from analysis.report.html import HERE, TEMPLATES
from analysis.text import echo, sentence


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
            ("Adaptive arm", str(findings.about.get("adaptive_arm") or "").splitlines()),
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


def parser(prog: str = "python -m analysis.report") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Write what a search found as one HTML page.")
    it.add_argument("--search", metavar="NAME", help="the search (default: the latest)")
    it.add_argument("--tracking-uri", metavar="URI", help=TRACKING_URI)
    it.add_argument("--out", metavar="FILE", default="report.html", help="page to write (default: %(default)s)")
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m analysis.report") -> int:
    """Writes the page of a search; 2 where that cannot be done."""
    return command_line.run(parser(prog), arguments, _report)


def _report(options: argparse.Namespace) -> int:
    uri = address(options.tracking_uri)
    name, findings = from_store(uri, options.search)
    command_line.write(options.out, render(findings))
    echo(sentence(f"report of search {name} ({len(findings.trials)} trials in {uri}): {options.out}"))
    return 0

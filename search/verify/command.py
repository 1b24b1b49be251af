"""Prints whether a search can be believed, in one line that can stand in a paper, or why it is refused."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis.text import echo, sentence
from search.settings import Settings
from search.verify import claims, comparison


def run(options: argparse.Namespace) -> int:
    """Verifies a search; 1 where it is refused or contradicts the other one."""
    given = Path(options.search)
    is_folder = (given / "search.json").is_file() and given.name != options.search
    folder = given.resolve() if is_folder else Path(options.output) / options.search
    found = claims.verify(Settings.stored(folder.parent, folder.name, ""))
    _refuse(options.prog, found.problems)
    if not found.problems:
        echo(sentence(found.summary))
    for text in found.unchecked:
        echo(f"note: {sentence(text)}")
    if options.against is None:
        return 1 if found.problems else 0
    agreement = comparison.compare(found, options.against)
    for text in agreement.said:
        echo(f"compared with {sentence(options.against)}: {sentence(text)}")
    _refuse(options.prog, agreement.contradictions)
    return 1 if found.problems or agreement.contradictions else 0


def _refuse(prog: str, problems: list[str]) -> None:
    for problem in problems:
        echo(f"{prog}: refused: {sentence(problem)}", file=sys.stderr)

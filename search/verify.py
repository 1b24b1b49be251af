"""`python -m search.verify SEARCH`: whether what a search left can be believed.

Seeds, test readings, hashes of data, code and recipe, tables and every decision are held against the journal. What can
be believed is told in one line; what cannot is refused with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import command_line
from analysis.command_line import Parser
from analysis.text import echo, sentence
from search.settings import Settings


def parser(prog: str = "python -m search.verify") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Verify a search: seeds, test readings, decisions, data, code, recipe and tables.")
    it.add_argument("search", metavar="SEARCH", help="name of the search, or its folder")
    it.add_argument("--output", metavar="DIR", default="results", help="folder of results (default: %(default)s)")
    it.add_argument("--against", metavar="FOLDER", type=Path, help="compare with the search in this folder")
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.verify") -> int:
    """Verifies; 1 where the search is not believed or the other one contradicts it, 2 where it cannot be read."""
    it = parser(prog)
    return command_line.run(it, arguments, lambda options: _verify(options, it.prog))


def _verify(options: argparse.Namespace, prog: str) -> int:
    # --help must be fast
    from search.verification import claims, comparison

    given = Path(options.search)
    known = (given / "search.json").is_file() and given.name != options.search
    folder = given.resolve() if known else Path(options.output) / options.search
    found = claims.verify(Settings.stored(folder.parent, folder.name, ""))
    for problem in found.problems:
        echo(f"{prog}: refused: {sentence(problem)}", file=sys.stderr)
    if not found.problems:
        echo(sentence(found.summary))
    for text in found.unchecked:
        echo(f"note: {sentence(text)}")
    if options.against is None:
        return 1 if found.problems else 0
    agreement = comparison.compare(found, options.against)
    for text in agreement.said:
        echo(f"compared with {sentence(options.against)}: {sentence(text)}")
    for text in agreement.contradictions:
        echo(f"{prog}: refused: {sentence(text)}", file=sys.stderr)
    return 1 if found.problems or agreement.contradictions else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m trainables.stage_store`: lists, verifies and cleans the store of finished stages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis import command_line
from analysis.command_line import Parser, UsageError, byte_count
from analysis.text import echo, sentence

if TYPE_CHECKING:
    from trainables.pipeline.store import StageStore


def parser(prog: str = "python -m trainables.stage_store") -> Parser:
    """The command's options."""
    it = Parser(prog, description="List, verify and clean the store of finished stages.")
    it.add_argument(
        "command", choices=("list", "verify", "clean"), nargs="?", default="list", help="what to do (default: list)"
    )
    it.add_argument(
        "--store", metavar="DIR", default="results/stages",
        help="folder or URL of the store (default: results/stages)",
    )  # fmt: skip
    it.add_argument(
        "--store-limit", metavar="SIZE", type=byte_count,
        help="with clean: maximum size to keep, e.g. 500MB (default: no limit)",
    )  # fmt: skip
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m trainables.stage_store") -> int:
    """Runs the command; 1 where `verify` finds something damaged, 2 where the store cannot be read."""
    return command_line.run(parser(prog), arguments, _run)


def _run(options: argparse.Namespace) -> int:
    from trainables.pipeline.store import StageStore  # with torch, and --help must be fast

    try:
        return {"list": _list, "verify": _verify, "clean": _clean}[options.command](StageStore(options.store), options)
    except OSError as error:
        raise UsageError(f"--store {options.store}: {error.strerror or error}") from error


def _verify(store: StageStore, options: argparse.Namespace) -> int:
    from trainables.pipeline.housekeeping import problems  # with torch

    there, found = store.entries(), list(problems(store))
    echo(*(f"{problem.key}: {problem.reason}" for problem in found))
    damaged = sum(problem.damaged for problem in found)
    unread = f", {len(found) - damaged} not readable now" if len(found) > damaged else ""
    echo(f"{len(there)} entries read, {damaged} damaged{unread}, in {options.store}")
    return 1 if found else 0


def _clean(store: StageStore, options: argparse.Namespace) -> int:
    from trainables.pipeline.housekeeping import clean  # with torch

    cleaned = clean(store)
    there = store.entries()
    removed = store.evict(options.store_limit) if options.store_limit is not None else []
    freed = cleaned.bytes + sum(found.bytes for found in removed)
    echo(
        f"removed {cleaned.damaged} damaged entries, {cleaned.left} left by processes that are gone, {cleaned.old} "
        f"unfinished stages, and {len(removed)} of {len(there)} others ({freed / 1e6:.1f} MB)"
    )
    return 0


def _list(store: StageStore, options: argparse.Namespace) -> int:
    there = store.entries()
    for found in there:
        parent = f" from {found.parent[:8]}" if found.parent else ""
        echo(
            f"{found.key[:8]}  {found.kind:<8} {found.epochs:>4} epochs {found.seconds:>8.1f} s "
            f"{found.bytes / 1e6:>9.2f} MB  seed {found.seed}{parent}"
        )
    total, seconds = sum(found.bytes for found in there), sum(found.seconds for found in there)
    size = f"{total / 1e6:.1f} MB, {seconds:.0f} s of training"
    echo(f"{len(there)} entries, {size}, in {sentence(options.store)}")
    partials, left = store.partials(), store.files.leftovers()
    if partials:
        echo(f"{len(partials)} unfinished stages, {sum(partials.values()) / 1e6:.1f} MB")
    if left:
        echo(f"{len(left)} left by processes that are gone, {sum(left.values()) / 1e6:.1f} MB: `clean` removes them")
    unreadable = len(store.files.folders()) - len(there)
    if unreadable:
        echo(f"{unreadable} entries cannot be read: `verify` says why")
    return 0


if __name__ == "__main__":
    sys.exit(main())

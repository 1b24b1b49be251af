"""Runs, continues or previews a search with the options of the command line."""

from __future__ import annotations

import argparse

from analysis.console import Console
from search.request import make_request
from search.run import launch


def run(options: argparse.Namespace) -> int:
    """Runs the search; returns 0 with a best recipe, 1 without one or if it ended early, 130 after an interruption."""
    result = launch(make_request(vars(options)), Console())
    if result.interrupted:
        return 130
    return 1 if result.failed or result.best is None else 0

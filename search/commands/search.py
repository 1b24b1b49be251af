"""A search that was asked for on the command line."""

from __future__ import annotations

import argparse

from analysis.console import Console
from search.request import make_request
from search.run import launch


def run(options: argparse.Namespace) -> int:
    """Runs it; 0 where it has a best recipe, 1 where it has none or ended early, 130 where a person ended it."""
    result = launch(make_request(vars(options)), Console())
    if result.interrupted:
        return 130
    return 1 if result.failed or result.best is None else 0

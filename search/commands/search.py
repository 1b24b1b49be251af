"""Runs, continues or previews a search with the options of the command line."""

from __future__ import annotations

import argparse

from analysis.console import Console
from search.request import make_request
from search.run import launch


def run(options: argparse.Namespace) -> int:
    """Runs the search; returns `SearchResult.exit_code`."""
    return launch(make_request(vars(options)), Console()).exit_code

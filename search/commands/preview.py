"""`--dry-run`: shows what a search would run, without Ray and MLflow, which take seconds to import."""

from __future__ import annotations

import argparse

from analysis.console import Console
from search.console.preview import show
from search.context import SearchContext
from search.request import make_request


def run(options: argparse.Namespace) -> int:
    """Prints the preview."""
    request = make_request(vars(options))
    show(Console(), SearchContext.make(request.space, request.settings), getattr(options, "measure", False))
    return 0

"""`--dry-run`: shows what a search would run, without Ray and MLflow, which take seconds to import."""

from __future__ import annotations

import argparse

from analysis.console import Console
from search.console.preview import show, show_change
from search.growth.change import open_search
from search.request import make_request


def run(options: argparse.Namespace) -> int:
    """Prints the preview."""
    request = make_request(vars(options))
    context, change = open_search(request)
    if change is not None:
        show_change(Console(), change)
    show(Console(), context, getattr(options, "measure", False))
    return 0

"""The sections of the report, one function each: what a search found to HTML.

Numbers are fractions in the tables and in CSV; people read percent and points.
"""

from analysis.report.sections.on_pairs import elsewhere, least, no_table, nominated, pairs
from analysis.report.sections.on_recipes import alone, around, classes, curves, front, importance, recipes
from analysis.report.sections.on_search import context, cost, judged, notices, progress, provenance, units, verdicts

__all__ = [
    "alone", "around", "classes", "context", "cost", "curves", "elsewhere", "front", "importance", "judged", "least",
    "no_table", "nominated", "notices", "pairs", "progress", "provenance", "recipes", "units", "verdicts",
]  # fmt: skip

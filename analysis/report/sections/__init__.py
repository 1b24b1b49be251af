"""The sections of the report: one module each, in the order of `ORDER`.

A section has a `TITLE`, says why it does not apply to these findings (`problem`), and writes itself (`html`). A section
that fails is shown as a card with its error; the others are written all the same.
"""

from __future__ import annotations

import logging
import traceback
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from markupsafe import Markup

from analysis.report.findings import Findings
from analysis.report.html import MACROS, note

log = logging.getLogger(__name__)

ORDER = (
    "pairs", "nominated", "other_searches", "recipes", "ablation", "front", "alone", "curves", "classes", "reliability",
    "progress", "cost", "verdicts", "provenance",
)  # fmt: skip
"""Names of the modules; one that is named here is a section of the page."""


class Section(Protocol):
    """What a module of this package offers."""

    TITLE: str

    def problem(self, findings: Findings) -> str | None:
        """Why the section does not apply, in whole sentences; `None` where it does."""

    def html(self, findings: Findings) -> Markup:
        """The section's content; called only where it applies."""


class Rendered(NamedTuple):
    """A section of the page.

    Args:
        id: Name of its module.
        title: Its heading.
        body: Its content, or why there is none.
    """

    id: str
    title: str
    body: Markup


def rendered(name: str, findings: Findings) -> Rendered:
    """Writes a section, or says why it does not apply or could not be written."""
    title = name.replace("_", " ").capitalize()
    try:
        section = cast(Section, import_module(f"{__name__}.{name}"))
        title = section.TITLE
        problem = section.problem(findings)
        return Rendered(name, title, section.html(findings) if problem is None else note(problem))
    except Exception as error:  # whatever is wrong with one section must not cost the page
        log.exception("section %r of the report could not be written", name)
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename.rpartition('/')[2]}, line {last.lineno}"
        return Rendered(name, title, Markup(MACROS.broken(f"{type(error).__name__}: {error}", place)))

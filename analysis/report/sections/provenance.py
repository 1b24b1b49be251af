"""Where the page comes from."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from analysis.report import html as ui
from analysis.report.findings import Findings

TITLE = "Where this comes from"

MOST_REASONS = 5
"""Lost trials of an outcome that are named."""


def problem(findings: Findings) -> str | None:
    """It always applies."""
    return None


def html(findings: Findings) -> Markup:
    """Settings, seeds, data and versions."""
    items: dict[str, Any] = {key: value for key, value in findings.about.items() if key != "data_notes"}
    trials, design = findings.trials, findings.design
    if len(trials):
        items |= {
            "context of the design": ", ".join(sorted({context for context in design["context"] if context})),
            "trials logged": len(trials),
            "seeds of the design": ", ".join(map(str, sorted(set(design["seed"])))) or "none",
            "data and splits": ", ".join(sorted({str(mark)[:16] for mark in trials["fingerprint"]})[:8]),
        }
        lost = trials[trials["outcome"].isin(["diverged", "failed"])]
        for outcome, rows in lost.groupby("outcome"):
            lines = [f"{row['title']}, seed {row['seed']}: {row['reason']}" for row in rows.to_dict("records")]
            reasons = list(dict.fromkeys(lines))
            more = len(reasons) - MOST_REASONS
            items[f"{outcome} trials"] = "; ".join(reasons[:MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")
    items["page written"] = f"{datetime.now(tz=UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}"
    return Markup(ui.MACROS.definitions([(key, value) for key, value in items.items() if value not in (None, "")]))

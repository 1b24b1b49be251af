"""Pairs that the adaptive arm suggested, measured on fresh seeds."""

from __future__ import annotations

from markupsafe import Markup

from analysis.report import html as ui
from analysis.report.findings import Findings
from analysis.report.sections.pairs import reason, verdict

TITLE = "Pairs that the adaptive arm suggested"


def problem(findings: Findings) -> str | None:
    """Most searches suggest no pair."""
    return "The adaptive arm suggested no further pair." if findings.nominated is None else None


def html(findings: Findings) -> Markup:
    """The conflict table of these pairs."""
    assert findings.nominated is not None
    rows = [
        [
            ui.name(f"{row['a']} × {row['b']}"),
            verdict(row),
            *ui.contrasts(row),
            ui.count(row["n_seeds"]),
            reason(row),
        ]
        for row in findings.nominated.to_dict("records")
    ]
    return ui.stack(
        ui.paragraph(
            "The adaptive arm keeps what is good, so its own numbers may only suggest pairs. These were then measured "
            "with all four cells on fresh seeds, and are judged by those alone."
        ),
        ui.table(["pair", "verdict", *ui.CONTRAST_HEADS, "seeds", "why"], rows, "nominated", findings.nominated),
    )

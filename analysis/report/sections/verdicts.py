"""What the verdicts mean."""

from __future__ import annotations

from markupsafe import Markup

from analysis.formatting import VERDICTS, magnitude
from analysis.report import html as ui
from analysis.report.findings import Findings

TITLE = "How to read a verdict"


def problem(findings: Findings) -> str | None:
    """It always applies."""
    return None


def html(findings: Findings) -> Markup:
    """The method in a paragraph, and each verdict."""
    rows = [
        [ui.Cell(kind="name", word=style.name, verdict=verdict), ui.long(style.words)]
        for verdict, style in VERDICTS.items()
    ]
    return ui.stack(
        ui.paragraph(
            "For two tricks there are four recipes: with neither, with one, with the other, with both, everything else "
            "equal. All four are trained on the same seeds, so differences are taken within a seed. Each direction is "
            "what adding one trick to the other does: it helps or hurts where the interval excludes 0 after the "
            "correction for the number of tests; a loss as large as the margin is excluded; or it is not known yet. "
            "The interaction is how far both together are from the sum of their effects. The first verdict that holds "
            f"is given; the margin is {magnitude(findings.margin)} points. Only the design arm, which is never stopped "
            "early, is judged: what an adaptive search kept is too lucky to compare."
        ),
        ui.MACROS.plain_table(["verdict", "when"], rows),
    )

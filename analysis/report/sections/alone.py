"""Each trick alone."""

from __future__ import annotations

from markupsafe import Markup

from analysis.report import html as ui
from analysis.report.findings import Findings
from analysis.report.plots import forest_plots

TITLE = "Each trick alone"


def problem(findings: Findings) -> str | None:
    """The design arm must have run tricks alone."""
    if findings.effects is not None:
        return None
    reason = findings.problem or "the design arm ran no trick alone"
    return f"Unknown: the effect of a trick alone could not be measured ({reason})."


def html(findings: Findings) -> Markup:
    """A forest plot."""
    assert findings.effects is not None
    fewest, most = int(findings.effects["n_seeds"].min()), int(findings.effects["n_seeds"].max())
    caption = (
        f"What each trick does alone, against the same recipe without it, over {fewest}"
        + (f" to {most}" if most != fewest else "")
        + " seeds. An interval that holds 0 means that it is not known whether the trick helps."
    )
    return ui.figure(forest_plots.effects(findings.effects), "effects", caption)

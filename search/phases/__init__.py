"""The phases of a search: one file each, registered by one line here, in the order of their worth.

A budget may end a search anywhere, so trials of an earlier phase go first. A phase begins as soon as the phases that
it comes `after` have ended: the others overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

from search.phases.ablation import Ablation
from search.phases.adaptive import Adaptive
from search.phases.candidates import Candidates
from search.phases.design import Design
from search.phases.extra_blocks import ExtraBlocks
from search.phases.phase import Phase
from search.phases.published import Published
from search.phases.race import Confirm, Final, Race
from search.phases.robustness import Robustness
from search.phases.tune import Tune
from search.phases.verdicts import Verdicts
from search.recipes.factory import RecipeFactory
from search.settings import Settings

PHASES: tuple[Phase, ...] = (
    Tune(),
    Design(),
    Published(),
    Adaptive(),
    Race(),
    Final(),
    Confirm(),
    Verdicts(),
    Robustness(),
    Candidates(),
    Ablation(),
)


def enabled(settings: Settings, extra_blocks: int | None = None, phases: Sequence[Phase] | None = None) -> list[Phase]:
    """The phases that a search has.

    Args:
        settings: Settings of the search.
        extra_blocks: Budget of `--settle`, which runs further blocks of the design and nothing else.
        phases: All phases there are; `PHASES` where absent.
    """
    chosen = [phase for phase in (PHASES if phases is None else phases) if phase.enabled(settings)]
    if extra_blocks is None:
        return chosen
    return [*(phase for phase in chosen if phase.name in ("tune", "design")), ExtraBlocks()]


def outlook(settings: Settings, factory: RecipeFactory) -> list[tuple[str, str, int]]:
    """Upper bounds of what a search runs: (phase, description, trials) of each phase."""
    return [(phase.name, phase.description, phase.max_trials(settings, factory)) for phase in enabled(settings)]

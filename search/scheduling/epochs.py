"""What plans cost in epochs where they share their finished stages, whatever a store holds already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from search.scheduling.early_stopping import SHORTENED
from search.state import SearchState
from trainables.pipeline.keys import stage_keys
from trainables.plan import Plan


def trained(plans: list[Plan]) -> int:
    """Epochs that are trained where every stage is trained once."""
    seen: dict[str, int] = {}
    for plan in plans:
        for stage, keys in zip(plan.stages, stage_keys(plan, {}), strict=True):
            for key in keys[: stage.members]:
                seen[key] = stage.epochs
    return sum(seen.values())


def paid(plans: Iterable[tuple[int, Plan]], reuse: bool) -> int:
    """Epochs of plans on seed blocks; stages are shared within a block only.

    Args:
        plans: (block, plan) of each trial.
        reuse: Whether finished stages are re-used.
    """
    of_block: dict[int, list[Plan]] = defaultdict(list)
    for block, plan in plans:
        of_block[block].append(plan)
    return sum(trained(group) if reuse else sum(plan.cost for plan in group) for group in of_block.values())


def of_proposals(state: SearchState, proposals: Sequence[str]) -> int:
    """Epochs that proposals have taken at least: of one that did not finish, those of its shortened plan alone."""
    settings = state.settings
    rungs = settings.rungs if settings.rung_score == SHORTENED else ()
    plans: list[tuple[int, Plan]] = []
    for name in proposals:
        request, record = state.requests[name], state.records.get(name)
        plan = request.recipe.plan
        if record is not None:
            last = record.stop.get("rung", 1.0)
            plans += [(request.seed, plan.shortened(rung)) for rung in rungs if rung <= last]
        if record is not None and record.outcome == "finished":
            plans.append((request.seed, plan))
    return paid(plans, settings.reuse)

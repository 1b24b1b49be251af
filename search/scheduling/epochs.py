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
    """Epochs that proposals have taken at least, those outside a changed space included.

    A shortened plan counts where the trial has come to its end, the plan itself where the trial has finished.
    """
    records = state.records | state.set_aside_records
    plans: list[tuple[int, Plan]] = []
    for name in proposals:
        if name in records:
            request, record = state.requests[name], records[name]
            plan = request.recipe.plan
            rungs = [point.progress for point in record.curve if SHORTENED in point.metrics]
            plans += [(request.seed, plan.shortened(rung)) for rung in rungs]
            plans += [(request.seed, plan)] * (record.outcome == "finished")
    return paid(plans, state.settings.reuse)

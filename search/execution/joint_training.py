"""What a search was asked to train jointly and trains one by one."""

from __future__ import annotations

from search.context import SearchContext
from trainables.models import is_own, untrained
from trainables.pipeline.joint_seeds import why_alone
from trainables.training.acceleration.fusion import CannotFuse, check_stackable
from trainables.training.numerics import why_apart


def trained_apart(context: SearchContext) -> list[str]:
    """A sentence for what was asked to be trained jointly and will not be."""
    settings, plans = context.settings, [cell.recipe.plan for cell in context.design.cells]
    reasons: dict[str, dict[str, str]] = {"trials": {}, "members": {}}
    for plan in plans:
        for index, stage in enumerate(plan.stages):
            reasons["trials"].setdefault(stage.name, why_alone(plan, index))
            if stage.members > 1:
                reasons["members"].setdefault(stage.name, why_apart(stage))
    said = []
    for what, are in (("trials", "the seeds of a recipe"), ("members", "members")):
        asked = getattr(settings.numerics, f"fused_{what}")
        apart = [f"{stage!r} ({why})" for stage, why in reasons[what].items() if why]
        if asked == "off" or not reasons[what]:
            continue
        if not is_own(context.model):
            try:
                check_stackable(untrained(context.model))
            except CannotFuse as error:
                apart = [f"all stages ({error})"]
        if apart:
            said.append(f"--fused-{what} {asked}: {are} are trained one by one in {', '.join(apart)}")
    return said

"""The decision to end the adaptive arm, from what a search knows when the next proposal is due."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import variance

from search.scheduling.early_end.gain_bound import gain_bound
from search.scheduling.early_end.rule import EarlyEnd, is_due, stagnation
from search.scheduling.sampler import Sampler
from search.state import SearchState


def early_end(state: SearchState, sampler: Sampler, values: Sequence[float | None], asked: int) -> EarlyEnd | None:
    """The decision to propose nothing more (`search.scheduling.early_end.rule`); `None` to propose.

    Args:
        state: The search.
        sampler: Knows the same proposals.
        values: Of the proposals that are known, in order; `None` for one without a value.
        asked: Proposals so far.
    """
    patience, margin = state.settings.patience or 0, state.margin
    # a changed space and trials that were added after an early end get the whole patience again
    since = max([state.former_proposals, *(end.asked for end in state.early_ends)])
    if not patience or len(values) - since < patience or len(sampler.study.directions) > 1:
        return None
    taught = [trial for trial in sampler.trials if "arm" in trial.user_attrs]
    best = max((trial.values[0] for trial in taught), default=-math.inf)
    stagnant = min(stagnation(best, values, margin), len(values) - since)
    if not is_due(stagnant, patience):
        return None
    gain = gain_ahead(state, sampler, asked, patience)
    return None if gain >= margin else EarlyEnd(asked, state.proposals - asked, stagnant, patience, gain, margin)


def gain_ahead(state: SearchState, sampler: Sampler, asked: int, ahead: int) -> float:
    """Upper bound of the gain of the next proposals, see `search.scheduling.early_end.gain_bound`.

    Args:
        state: The search.
        sampler: Proposes them.
        asked: Proposals so far.
        ahead: How many of the next ones.
    """
    noise = seed_variance(state)
    seeds = {
        trial.number: len(state.values(trial.user_attrs["recipe"], ("design",)))
        for trial in sampler.trials
        if trial.user_attrs.get("arm") == "design"
    }
    return gain_bound(
        sampler.trials,
        sampler.preview(asked, ahead),
        lambda trial: noise / max(1, seeds.get(trial.number, 1)),
        state.margin,
        state.settings.seed + asked,
    )


def seed_variance(state: SearchState) -> float:
    """Variance of the objective between seeds of one recipe, pooled over the cells of the design.

    Where no cell has two seeds, it is taken to be the square of the margin.
    """
    values = [state.values(cell.recipe.plan.id, ("design",)) for cell in state.factory.cells]
    squares = sum((len(of_cell) - 1) * variance(of_cell) for of_cell in values if len(of_cell) > 1)
    freedom = sum(len(of_cell) - 1 for of_cell in values if of_cell)
    return squares / freedom if squares > 0 else state.margin**2

"""A verdict in words: each direction first, then the pair, then its caveats."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from analysis.conflicts.contrasts import FEWEST_FIRST_STAGES
from analysis.conflicts.verdicts import ALONE, DIRECTIONS, HELPS, HURTS, NO_LOSS, Pair, Rule
from analysis.formatting import MOST_SEEDS, bounds, counted, magnitude, percent, span
from analysis.stats.intervals import Estimate, wilson_interval


def action(pair: Pair, verdict: str, rule: Rule) -> str:
    """What to do about a pair."""
    if verdict == "conflict":
        return "avoid together"
    if verdict == "harmful":
        hurt = [name for name in DIRECTIONS if pair.direction(name, rule) == HURTS] or [_clearest(pair)]
        return " and ".join(f"do not add {pair.added(name)} to {pair.base(name)}" for name in hurt)
    if verdict in ("synergy", "better together"):
        return "use together"
    if verdict == "redundant":
        gains = [pair.added(name) for name in DIRECTIONS if pair.direction(name, rule) == HELPS]
        return f"one is enough: {gains[0]}" if len(gains) == 1 else "one is enough"
    return {"compatible": "safe to combine", "unresolved": "not known yet"}.get(verdict, "cannot be combined")


def reason(pair: Pair, verdict: str, rule: Rule, more_seeds: Any) -> str:
    """Why: the directions, then what is shown of the pair."""
    if pair.problem:
        return pair.problem
    said = [direction(pair, name, rule) for name in DIRECTIONS]
    overlap = f"interaction {_interval(pair.estimate('interaction'), rule.level)}"
    if verdict == "conflict":
        said.append(f"their gains overlap, in accuracy and in log-odds: {overlap}")
    elif verdict == "harmful":
        hurt = [name for name in DIRECTIONS if pair.direction(name, rule) == HURTS] or [_clearest(pair)]
        said += [
            f"{pair.added(name)} alone: {_interval(pair.estimate(ALONE[name]), rule.level)}, so it is not shown that "
            f"the pair is to blame ({overlap})"
            for name in hurt
        ]
    elif verdict == "synergy":
        said.append(f"together they gain more than the sum of both: {overlap}")
    elif verdict == "better together":
        said.append(f"together they beat each alone, and the recipe without them; {overlap}")
    elif verdict == "redundant":
        said.append(f"their gains overlap, in accuracy and in log-odds, and no loss is shown: {overlap}")
    elif verdict == "unresolved":
        said.append(_further(more_seeds))
    return "; ".join(said)


def direction(pair: Pair, name: str, rule: Rule) -> str:
    """What adding one trick to the other does."""
    added, base, found = pair.added(name), pair.base(name), pair.estimate(name)
    word = pair.direction(name, rule)
    low, high = found.interval(rule.level)
    if word in (HELPS, HURTS):
        return f"adding {added} to {base} {word}: {_interval(found, rule.level)}"
    if word == NO_LOSS:
        excluded = f"no loss of {magnitude(rule.margin)} points or more"
        return f"adding {added} to {base}: {excluded}, {_interval(found, rule.level)}"
    return f"adding {added} to {base}: not known yet, anything from {bounds(low, high)} points"


class Facts(NamedTuple):
    """What a verdict rests on.

    Args:
        lost: Trials of the four cells that diverged.
        diverged: Trials with both tricks that diverged.
        trials: Trials with both tricks.
        first_stages: First stages behind the contrast that has the fewest.
        blocks: Seed blocks with all four cells.
        fitted: Whether the cells are predictions of a factorial's model.
        longer: Epochs of the trials with the first trick over those without, and the same of the second.
        fixed_val: What to know of a val that is the same in every block; "" where it differs.
    """

    lost: int = 0
    diverged: int = 0
    trials: int = 0
    first_stages: int = 0
    blocks: int = 0
    fitted: bool = False
    longer: tuple[float, float] = (1.0, 1.0)
    fixed_val: str = ""


def caveats(pair: Pair, verdict: str, rule: Rule, facts: Facts) -> str:
    """Limits of a verdict that its reader must know, each after a semicolon."""
    words = []
    if pair.earlier.get("verdict") == verdict:
        words.append(f"shown at look {pair.earlier['look']}")
    elif rule.look is not None and rule.look > 1 and not pair.impossible:
        words.append(f"look {rule.look}: new claims are tested at {percent(rule.alpha)}")
    if facts.diverged:
        low, high = (percent(limit, 0) for limit in wilson_interval(facts.diverged, facts.trials, rule.level))
        words.append(f"together they diverged in {facts.diverged} of {facts.trials} trials ({low} to {high})")
    if facts.lost and not pair.problem:
        words.append(
            f"{counted(facts.lost, 'trial')} of these cells diverged: claims also hold with them at the worst value "
            "of their cell"
        )
    if not pair.problem and not pair.impossible:
        if facts.first_stages < FEWEST_FIRST_STAGES:
            words.append(f"measured on {counted(facts.first_stages, 'first stage')} and true of no others")
        if facts.fitted:
            words.append(
                "exploratory: fitted to a factorial with the other tricks off, assuming no interactions of three tricks"
            )
    for label, ratio in zip((pair.a, pair.b), facts.longer, strict=True):
        if ratio > 1.05 or ratio < 0.95:
            words.append(f"trials with {label} were trained {ratio:.1f} times as long as those without")
    if not pair.problem and facts.fixed_val:
        words.append(facts.fixed_val)
    return "".join(f"; {word}" for word in words)


def _interval(estimate: Estimate, level: float) -> str:
    return span(estimate.value, *estimate.interval(level), " points")


def _clearest(pair: Pair) -> str:
    return min(DIRECTIONS, key=lambda name: pair.p_of(name, -1))


def _further(more_seeds: Any) -> str:
    if more_seeds is pd.NA or more_seeds >= MOST_SEEDS:
        return f"more than {MOST_SEEDS} further seeds would be needed to settle the pair"
    return f"about {counted(more_seeds, 'further seed')} would settle the pair"

"""From the contrasts of pairs to verdicts: of each direction, then of the pair.

"Shown" means that the two-sided test at 1 − level rejects, which is when the printed interval excludes 0, and that it
survives the correction for the number of tests. Where runs of one of the four cells diverged, every claim must hold of
the runs that finished and with the lost ones at the worst value that their cell has reached: each p-value below is the
larger of the two.

**Directions** ("adding B to A", "adding A to B"): *helps* or *hurts* where that is shown; *no loss* where the one-sided
interval excludes a loss as large as the margin; else *unknown*.

**Pairs** (the first that holds):

    conflict          a direction hurts, and I < 0 in accuracy and in log-odds:
                      p = max(2·smaller p of the two directions, both p of I)
    harmful           a direction hurts
    synergy           both directions help, both together beat neither, and I > 0 in accuracy and in log-odds
    better together   both directions help, and both together beat neither
    redundant         I < 0 in accuracy and in log-odds
    compatible        no loss in either direction (an intersection-union test: no correction, 5 % a pair)
    unresolved        anything else;   not applicable: the four cells do not exist side by side

**Many tests.** Directions are one family, the claims conflict, synergy and redundant one each, over all declared
(primary) pairs by Holm (family-wise error ≤ 1 − level) and over all others by Benjamini-Hochberg (false discovery rate
≤ q, raw p ≤ 1 − level). Pairs that could not be tested are in no family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis.conflicts.contrasts import LOG_ODDS
from analysis.formatting import MOST_SEEDS
from analysis.stats.alpha_spending import LOOKS, share_at
from analysis.stats.intervals import Estimate
from analysis.stats.multiplicity import benjamini_hochberg, holm

MARGIN = 0.005
"""Loss of accuracy that would not matter, where a search declares none."""

HELPS, HURTS, NO_LOSS, UNKNOWN = "helps", "hurts", "no loss", "unknown"
CLAIMS = ("conflict", "harmful", "synergy", "better together", "redundant")
"""Verdicts that are shown, in the order in which they are tried."""
FAMILIES = ("conflict", "synergy", "redundant")
"""Claims that are corrected over pairs; the others rest on the directions."""

DIRECTIONS = ("b_given_a", "a_given_b")
ALONE = {"b_given_a": "alone_b", "a_given_b": "alone_a"}
"""Direction -> the effect alone of the trick that is added."""

SETTLING_POWER = 0.8
"""Probability with which "further seeds that would settle it" do so, were the present estimates true."""


class Rule(NamedTuple):
    """What a pair is judged by.

    Args:
        margin: Loss that would not matter, a fraction.
        level: Confidence level of the printed intervals.
        alpha: Largest raw p-value of a claim; a look's share of 1 − level.
        threshold: Largest adjusted p-value.
        look: Number of the look; `None` for the only one.
    """

    margin: float
    level: float
    alpha: float
    threshold: float
    look: int | None

    def shows(self, p: float, adjusted: float) -> bool:
        """Whether a claim is shown; NaN shows nothing."""
        return p <= self.alpha and adjusted <= self.threshold


def rule_for(primary: bool, margin: float, level: float, q: float, look: int | None) -> Rule:
    """The rule of primary pairs, or of the others."""
    share = share_at(look, primary)
    return Rule(margin, level, share * (1 - level), share * ((1 - level) if primary else q), look)


@dataclass
class Pair:
    """A pair on its way to its verdict.

    Args:
        a: First trick in the alphabet.
        b: Second trick.
        views: Estimates by name of the contrast: of the runs that finished; where runs of these cells diverged also
            with the lost runs at the worst value of their cell.
        problem: Why nothing may be claimed; "" if something may.
        impossible: Whether the four cells do not exist side by side.
        primary: Whether the pair was declared before the search.
        earlier: What an earlier look has shown: "verdict", "b_given_a", "a_given_b" -> verdict, "look" -> its number.
        p: p-value of each direction and claim; empty where nothing was tested.
        adjusted: The same, corrected for the number of tests.
    """

    a: str
    b: str
    views: Sequence[Mapping[str, Estimate]] = ()
    problem: str = ""
    impossible: bool = False
    primary: bool = False
    earlier: Mapping[str, Any] = field(default_factory=dict)
    p: dict[str, float] = field(default_factory=dict)
    adjusted: dict[str, float] = field(default_factory=dict)

    def estimate(self, name: str) -> Estimate:
        """A contrast of the runs that finished."""
        return self.views[0][name]

    def added(self, direction: str) -> str:
        """The trick that is added in a direction."""
        return self.b if direction == "b_given_a" else self.a

    def base(self, direction: str) -> str:
        """The trick that it is added to."""
        return self.a if direction == "b_given_a" else self.b

    def p_of(self, name: str, sign: int) -> float:
        """Two-sided p-value of a contrast, 1 where its sign is the other one; the largest over the views."""
        sides = [view[name].below() if sign < 0 else view[name].above() for view in self.views]
        return math.nan if any(map(math.isnan, sides)) else min(1.0, 2 * max(sides))

    def lower(self, direction: str, level: float) -> float:
        """One-sided lower limit of a direction, the lowest over the views."""
        limits = [view[direction].lower(level) for view in self.views]
        return math.nan if any(map(math.isnan, limits)) else min(limits)

    def test(self) -> None:
        """Fills in the p-values."""
        hurts = {name: self.p_of(name, -1) for name in DIRECTIONS}
        helps = {name: self.p_of(name, 1) for name in DIRECTIONS}
        self.p = {name: min(hurts[name], helps[name]) for name in DIRECTIONS}
        overlap = max(self.p_of(name, -1) for name in ("interaction", LOG_ODDS))
        excess = max(self.p_of(name, 1) for name in ("interaction", LOG_ODDS))
        self.p["conflict"] = max(min(1.0, 2 * min(hurts.values())), overlap)
        self.p["synergy"] = max(*helps.values(), self.p_of("both", 1), excess)
        self.p["redundant"] = overlap

    def direction(self, name: str, rule: Rule) -> str:
        """The verdict of a direction."""
        if self.problem or self.impossible:
            return UNKNOWN
        word = HELPS if self.p_of(name, 1) < self.p_of(name, -1) else HURTS
        if rule.shows(self.p[name], self.adjusted[name]) or self.earlier.get(name) == word:
            return word
        return NO_LOSS if self.lower(name, rule.level) > -rule.margin else UNKNOWN

    def verdict(self, rule: Rule) -> str:
        """The verdict of the pair."""
        if self.impossible:
            return "not applicable"
        if self.problem:
            return "unresolved"
        directions = [self.direction(name, rule) for name in DIRECTIONS]
        hurts = HURTS in directions
        better = directions == [HELPS, HELPS] and self.p_of("both", 1) <= 1 - rule.level
        shown = {claim: rule.shows(self.p[claim], self.adjusted[claim]) for claim in FAMILIES}
        holds = {
            "conflict": hurts and shown["conflict"],
            "harmful": hurts,
            "synergy": better and shown["synergy"],
            "better together": better,
            "redundant": shown["redundant"],
        }
        for claim in CLAIMS:
            if holds[claim] or self.earlier.get("verdict") == claim:
                return claim
        lowest = min(self.lower(name, rule.level) for name in DIRECTIONS)
        return "compatible" if lowest > -rule.margin else "unresolved"

    def sign_flip(self, rule: Rule) -> bool:
        """Whether a trick is shown to help alone and to hurt beside the other."""
        return any(
            self.direction(name, rule) == HURTS and self.p_of(ALONE[name], 1) <= 1 - rule.level for name in DIRECTIONS
        )

    def excluded_harm(self, level: float) -> float:
        """The smallest loss that one-sided intervals exclude in both directions, ≥ 0; NaN where unknown."""
        if self.problem or self.impossible:
            return math.nan
        return max(0.0, -min(self.lower(name, level) for name in DIRECTIONS))

    def further_seeds(self, rule: Rule) -> Any:
        """Blocks beyond the present ones after which some verdict would be reached, were the estimates true.

        A claim is reached with probability `SETTLING_POWER` where estimate / error exceeds the two t quantiles
        together. The correction is taken to multiply p-values by what it does now; further blocks do not lower the
        share of a fixed val's images; where looks are shared, the next look's rule counts.
        """
        if self.problem or self.impossible:
            return pd.NA
        rule = _at_next_look(rule, self.primary)
        reached = self._reached

        def alpha(test: str) -> float:
            return _one_sided(rule, self.p[test], self.adjusted[test])

        hurts = reached("b_given_a", -1, alpha("b_given_a")) | reached("a_given_b", -1, alpha("a_given_b"))
        better = reached("both", 1, (1 - rule.level) / 2)
        compatible = np.ones(MOST_SEEDS, dtype=bool)
        for name in DIRECTIONS:
            better &= reached(name, 1, alpha(name))
            compatible &= reached(name, 1, 1 - rule.level, -rule.margin)
        redundant = reached("interaction", -1, alpha("redundant")) & reached(LOG_ODDS, -1, alpha("redundant"))
        return _first(hurts | better | redundant | compatible)

    def further_seeds_of(self, direction: str, rule: Rule) -> Any:
        """Blocks beyond the present ones after which a direction would be known, were its estimate true.

        See `further_seeds`.
        """
        if self.problem or self.impossible:
            return pd.NA
        rule = _at_next_look(rule, self.primary)
        alpha = _one_sided(rule, self.p[direction], self.adjusted[direction])
        known = self._reached(direction, -1, alpha) | self._reached(direction, 1, alpha)
        return _first(known | self._reached(direction, 1, 1 - rule.level, -rule.margin))

    def _reached(self, name: str, sign: int, alpha: float, bound: float = 0.0) -> np.ndarray[Any, Any]:
        """(MOST_SEEDS,) whether a contrast exceeds a bound after 1, 2, … further blocks, in every view."""
        further = np.arange(1, MOST_SEEDS + 1)
        whole = np.ones(MOST_SEEDS, dtype=bool)
        for view in self.views:
            whole &= _reached(view[name], sign, alpha, bound, further)
        return whole


def adjust(pairs: Sequence[Pair]) -> None:
    """Fills in the adjusted p-values: Holm over the primary pairs, Benjamini-Hochberg over the others."""
    for primary, correct in ((True, holm), (False, benjamini_hochberg)):
        family = [pair for pair in pairs if pair.p and pair.primary is primary]
        columns = {claim: correct(np.array([pair.p[claim] for pair in family])) for claim in FAMILIES}
        both = correct(np.array([pair.p[name] for pair in family for name in DIRECTIONS]))
        for i, pair in enumerate(family):
            pair.adjusted = {claim: float(columns[claim][i]) for claim in FAMILIES}
            pair.adjusted |= {name: float(both[2 * i + k]) for k, name in enumerate(DIRECTIONS)}


def _at_next_look(rule: Rule, primary: bool) -> Rule:
    """The rule by which further blocks are judged: their look has its own share of the error rate."""
    if rule.look is None:
        return rule
    nearest = share_at(min(rule.look + 1, LOOKS), primary) / max(share_at(rule.look, primary), 1e-9)
    return rule._replace(alpha=rule.alpha * nearest, threshold=rule.threshold * nearest)


def _one_sided(rule: Rule, p: float, adjusted: float) -> float:
    """The one-sided level of a test, if the correction multiplies p-values by what it does now."""
    factor = adjusted / p if 0 < p < 0.5 else 1.0
    return min(rule.alpha, rule.threshold / max(factor, 1.0)) / 2


def _first(settled: np.ndarray[Any, Any]) -> int:
    """The smallest number of further blocks that settles something."""
    return int(np.argmax(settled)) + 1 if settled.any() else MOST_SEEDS


def _reached(
    estimate: Estimate, sign: int, alpha: float, bound: float, further: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    blocks = estimate.blocks + further
    error = np.sqrt((estimate.error**2 - estimate.images) * estimate.blocks / blocks + estimate.images)
    df = estimate.df + further
    needed = special.stdtrit(df, 1 - alpha) + special.stdtrit(df, SETTLING_POWER)
    return np.asarray(sign * (estimate.value - bound) / error >= needed)

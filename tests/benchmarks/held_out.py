"""Whether the conflict table's intervals hold for blocks that it has not seen: real trials of the default design.

The design arm of a search is trained over `--blocks` seed blocks (the command continues one that was interrupted).
Then, `--draws` times, `--few` random blocks give a conflict table, and each of its estimates is held against the mean
of the same contrast over all other blocks. With s̃² the table's moderated variance of a block's value, the difference of
both means has the variance

    s̃² (1/n + 1/m),   n = blocks of the table, m = the others

so the interval that must hold the others' mean is ± t · se · √(1 + n/m), where se is the table's standard error, t the
quantile at its degrees of freedom. The width that is printed is that of the table's own interval, ± t · se.

All blocks are drawn from one pool of images, so this says what other seeds and splits of these data would give.

    OMP_NUM_THREADS=1 python tests/benchmarks/held_out.py
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy import special

import search
from analysis.conflicts import pairwise
from analysis.conflicts.verdicts import DIRECTIONS, HELPS, HURTS, NO_LOSS
from trainables.data import standard

ROOT = Path(__file__).parents[2]
CONTRASTS = ("interaction", *DIRECTIONS, "alone_a", "alone_b")
LEVEL = 0.95


@dataclass
class Tally:
    """What became of the estimates of a contrast.

    Args:
        inside: Whether the other blocks' mean lies in the interval, one entry per pair and draw.
        widths: Half-widths of the table's intervals, fractions.
    """

    inside: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)


@dataclass
class Comparison:
    """Tables of a few blocks beside what all other blocks show.

    Args:
        contrasts: By name of the contrast.
        directions: Verdict of a direction -> means of that direction over the other blocks, fractions.
        settled: Directions and pairs with an answer, one entry per table.
    """

    contrasts: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in CONTRASTS})
    directions: dict[str, list[float]] = field(default_factory=lambda: {HELPS: [], HURTS: [], NO_LOSS: []})
    settled: list[tuple[int, int]] = field(default_factory=list)

    def add(self, table: pd.DataFrame, others: pd.DataFrame) -> None:
        """Counts one draw.

        Args:
            table: Conflict table of the drawn blocks.
            others: That of the other blocks, with the same pairs.
        """
        answers = 0
        for row, other in zip(table.to_dict("records"), others.to_dict("records"), strict=True):
            for name, tally in self.contrasts.items():
                if np.isfinite(row[f"{name}_se"]) and np.isfinite(other[name]):
                    width = float(special.stdtrit(row[f"{name}_df"], (1 + LEVEL) / 2)) * row[f"{name}_se"]
                    reach = width * (1 + row["n_seeds"] / other["n_seeds"]) ** 0.5
                    tally.inside.append(bool(abs(row[name] - other[name]) <= reach))
                    tally.widths.append(width)
            for name in DIRECTIONS:
                if row[f"{name}_verdict"] in self.directions:
                    answers += 1
                    self.directions[row[f"{name}_verdict"]].append(other[name])
        self.settled.append((answers, int((~table["verdict"].isin(("unresolved", "not applicable"))).sum())))


def compare(trials: pd.DataFrame, few: int, draws: int, margin: float, seed: int = 0) -> Comparison:
    """Holds tables of a few blocks against all others.

    Args:
        trials: Trials of the design arm, see `analysis.conflicts.pairwise`.
        few: Blocks of a table.
        draws: Different choices of these blocks; all there are, if fewer.
        margin: Loss that would not matter.
        seed: Of the draws.
    """
    found = Comparison()
    choices = list(combinations(sorted(trials["seed"].unique()), few))
    chosen = np.random.default_rng(seed).permutation(len(choices))[:draws]
    for number in chosen:
        drawn = trials["seed"].isin(choices[number])
        found.add(pairwise(trials[drawn], margin=margin), pairwise(trials[~drawn], margin=margin))
    return found


def report(found: Comparison, margin: float) -> None:
    """Prints coverage, widths and what became of the directions' verdicts."""
    print("| contrast | coverage, % | half-width of the 95 % interval, points |\n|---|---|---|")
    for name, tally in found.contrasts.items():
        print(f"| {name} | {100 * np.mean(tally.inside):.1f} | {100 * np.mean(tally.widths):.1f} |")
    print(
        "\n| verdict of a direction | in all tables | other blocks' mean has the other sign, % | a loss ≥ margin, % |"
    )
    print("|---|---|---|---|")
    for word, means in found.directions.items():
        values = np.array(means)
        other = {HELPS: values <= 0, HURTS: values >= 0}.get(word)
        share = "-" if other is None or not len(values) else f"{100 * other.mean():.1f}"
        loss = f"{100 * (values <= -margin).mean():.1f}" if word == NO_LOSS and len(values) else "-"
        print(f"| {word} | {len(values)} | {share} | {loss} |")
    answers, pairs = np.mean(found.settled, axis=0)
    print(f"\nA table has an answer for {answers:.1f} directions and {pairs:.1f} pairs on average.")


def main() -> None:
    """Trains the design where it is not trained yet, then compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default=str(ROOT / "spaces" / "full_combo.py"), help="(default: full_combo)")
    parser.add_argument("--data", default="digits-lt", help="(default: digits-lt)")
    parser.add_argument("--blocks", type=int, default=13, help="seed blocks to train (default: 13)")
    parser.add_argument("--few", type=int, nargs="+", default=[5, 8], help="blocks of a table (default: 5 8)")
    parser.add_argument("--draws", type=int, default=200, help="choices of these blocks (default: 200)")
    options = parser.parse_args()
    result = search.run(
        options.space, name="held-out", data=options.data, seeds=options.blocks, trials=0, race=False,
        start_points=False, check_seeds=0, tracking_uri="none", resume=(Path("results") / "held-out").exists(),
    )  # fmt: skip
    design = result.trials[result.trials["arm"] == "design"]
    margin = standard(options.data).margin
    cells = design["recipe"].nunique()
    lost = int((design["outcome"] != "finished").sum())
    print(f"{options.data}: {cells} cells × {options.blocks} blocks, {lost} trials lost")
    for few in options.few:
        print(f"\nTables of {few} blocks held against the other {options.blocks - few}, {options.draws} draws:\n")
        report(compare(design, few, options.draws, margin), margin)


if __name__ == "__main__":
    main()

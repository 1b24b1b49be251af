"""The design arm as a table: one per context, cells × blocks."""

from __future__ import annotations

import difflib
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.records.schema import RecordError, choosable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Cell = frozenset[str]

FEWEST_BLOCKS = 2


@dataclass(frozen=True)
class Table:
    """The trials of one context.

    Args:
        context: Name of what the cells have in common besides their tricks; "" for nothing.
        cells: The tricks that are on, one entry per row.
        seeds: The blocks, one entry per column.
        score: The metric, (cells, blocks); NaN where no trial finished.
        stage: Code of the first stage that a trial was trained from, (cells, blocks); −1 where there is no trial.
        runs: Trials, (cells, blocks).
        diverged: Trials that diverged, (cells, blocks).
        correct: Whether each val image was classified correctly, (cells, blocks, images), where every block has the
            same images; `None` where that was not recorded.
        is_mean_of_images: Whether the metric is the mean of `correct`.
        one_split: Whether all blocks have one split.
        epochs: Mean epochs of a cell's trials, (cells,).
    """

    context: str
    cells: tuple[Cell, ...]
    seeds: tuple[Hashable, ...]
    score: Floats
    stage: Ints
    runs: Ints
    diverged: Ints
    correct: NDArray[np.float32] | None
    is_mean_of_images: bool
    one_split: bool
    epochs: Floats

    @property
    def pessimistic_score(self) -> Floats:
        """The metric with every diverged trial at the worst value that its cell has reached, (cells, blocks).

        A trial that diverges is not lost at random: what the trials that finished show must hold with it, too.
        """
        lost = (self.diverged > 0) & np.isnan(self.score)
        finished = np.isfinite(self.score).any(1)
        worst = np.full(len(self.score), np.nan)
        worst[finished] = np.nanmin(self.score[finished], axis=1)
        return np.where(lost, worst[:, None], self.score)


def check_options(metric: str, margin: float, level: float, q: float) -> None:
    """Refuses options out of range, and metrics of the test split."""
    choosable(metric)
    if not 0 <= margin < 1:
        raise ValueError(f"margin is a fraction in [0, 1), e.g. 0.005 for half a point; got {margin}")
    if not 0.5 < level < 1:
        raise ValueError(f"level is a fraction in (0.5, 1), e.g. 0.95; got {level}")
    if not 0 < q < 1:
        raise ValueError(f"q, the false discovery rate, is a fraction in (0, 1), e.g. 0.10; got {q}")


def read_tables(trials: pd.DataFrame, metric: str, arm: str = "design") -> list[Table]:
    """One table per context, from the rows of one arm; see `analysis.conflicts.pairwise` for the columns.

    Raises:
        ValueError: A column is missing, the arm has no rows or one block only, or a row cannot be read.
        TypeError: `tricks` is not a collection of labels.
    """
    for column in ("arm", "seed", "first_stage", "tricks", metric):
        if column not in trials.columns:
            near = difflib.get_close_matches(column, [str(name) for name in trials.columns], 1)
            raise ValueError(
                f"trials has no column {column!r}{did_you_mean(near)}; pairwise reads arm, seed, first_stage, tricks, "
                f"{metric} and, where present, outcome, context, correct, split_seed and epochs"
            )
    design = trials[trials["arm"] == arm]
    if "outcome" in design.columns:
        # a worker that was lost says nothing about the tricks: its cell is missing in that block
        design = design[design["outcome"] != "failed"]
    if design.empty:
        arms = sorted({str(name) for name in trials["arm"]})
        raise ValueError(
            f"trials has no rows with arm {arm!r} (arms found: {arms}); only designed cells, which are never "
            "stopped early, can show conflicts"
        )
    runs = _runs(design, metric)
    seeds = {seed for contexts in runs.values() for _, seed in contexts}
    if len(seeds) < FEWEST_BLOCKS:
        raise ValueError(
            f"the {arm} arm has {len(seeds)} block (seed {next(iter(seeds))!r}); differences need at least "
            f"{FEWEST_BLOCKS}: run more seeds (--seeds)"
        )
    return [_table(context, runs[context]) for context in sorted(runs)]


def primary_pairs(primary: Iterable[Sequence[str] | str], labels: Sequence[str]) -> set[tuple[str, str]]:
    """Declared pairs, each sorted.

    Raises:
        ValueError: An entry is no pair, or a label is unknown.
    """
    if isinstance(primary, str):
        raise ValueError(f"primary is a list of pairs, got the text {primary!r}; write [{primary!r}]")
    pairs = set()
    for entry in primary:
        parts = [part.strip() for part in entry.split("×")] if isinstance(entry, str) else list(entry)
        if len(parts) != 2 or parts[0] == parts[1]:
            raise ValueError(f"primary: {entry!r} is not a pair; write ('a', 'b') or 'a×b' with two different labels")
        for part in parts:
            if part not in labels:
                near = difflib.get_close_matches(str(part), labels, 1, cutoff=0.0)
                raise ValueError(
                    f"primary: no trick {part!r} in the design arm{did_you_mean(near)}; labels are {list(labels)}"
                )
        a, b = sorted(parts)
        pairs.add((a, b))
    return pairs


def did_you_mean(near: Sequence[str]) -> str:
    """The nearest name in brackets, or nothing."""
    return f" (did you mean {near[0]!r}?)" if near else ""


# ------------------------------------------------------------------------------------------------------ helpers


class _Run(NamedTuple):
    first_stage: str
    score: float  # NaN: diverged
    correct: NDArray[np.float32] | None  # (images,)
    split: Any  # None: unknown
    epochs: float  # NaN: unknown


_Runs = dict[tuple[Cell, Hashable], list[_Run]]


def _runs(design: pd.DataFrame, metric: str) -> dict[str, _Runs]:
    """Checked trials by context, then by cell and seed."""
    found: dict[str, _Runs] = {}
    blank = [None] * len(design)
    optional = (
        design[name] if name in design.columns else blank
        for name in ("outcome", "context", "correct", "split_seed", "epochs")
    )
    columns = (design.index, design["seed"], design["first_stage"], design["tricks"], design[metric], *optional)
    for index, seed, first_stage, tricks, value, outcome, context, correct, split, epochs in zip(*columns, strict=True):
        place = f"trials row {index!r}"
        if isinstance(tricks, str) or not isinstance(tricks, (tuple, list, set, frozenset)):
            raise TypeError(f"{place}: tricks must be a tuple of labels such as ('cutout',), got {tricks!r}")
        if _missing(seed) or _missing(first_stage):
            raise ValueError(
                f"{place}: seed and first_stage must be known, got seed={seed!r}, first_stage={first_stage!r}; "
                "without them replicates cannot be told from copies"
            )
        score = _score(value, "finished" if _missing(outcome) else str(outcome), metric, place)
        images = _images(correct, place) if math.isfinite(score) else None
        length = math.nan if _missing(epochs) else float(epochs)
        run = _Run(str(first_stage), score, images, None if _missing(split) else split, length)
        cells = found.setdefault("" if _missing(context) else str(context), {})
        cells.setdefault((frozenset(map(str, tricks)), seed), []).append(run)
    _check_images(found)
    return found


def _score(value: Any, outcome: str, metric: str, place: str) -> float:
    if outcome == "diverged":
        return math.nan
    if outcome != "finished":
        raise ValueError(
            f"{place}: outcome {outcome!r} in the design arm; allowed are 'finished' and 'diverged' (a stopped trial "
            "would let survivors decide): give such trials another arm"
        )
    score = math.nan if _missing(value) else float(value)
    if math.isnan(score):
        raise ValueError(f"{place}: {metric} is missing although the trial finished; mark it outcome='diverged'")
    if not 0 <= score <= 1:
        raise ValueError(f"{place}: {metric} must be a fraction in [0, 1], got {score:g}; divide percent by 100")
    return score


def _images(correct: Any, place: str) -> NDArray[np.float32] | None:
    """Per-image correctness of one trial; `None` where it was not kept."""
    if _missing(correct) or len(correct) == 0:
        return None
    images = np.asarray(correct, dtype=np.float32)
    if images.ndim != 1 or not np.isin(images, (0, 1)).all():
        raise ValueError(f"{place}: correct must be a list of 0 and 1, one per image of val")
    return images


def _check_images(contexts: dict[str, _Runs]) -> None:
    finished = [run for runs in contexts.values() for many in runs.values() for run in many if math.isfinite(run.score)]
    lengths = {-1 if run.correct is None else len(run.correct) for run in finished}
    if len(lengths) > 1:
        got = ", ".join("none" if length < 0 else str(length) for length in sorted(lengths))
        raise ValueError(
            f"correct (per-image correctness) must have one length in all finished trials, got {got}; keep it where "
            "every block has the same val images, and leave it empty everywhere else"
        )


def _table(context: str, runs: _Runs) -> Table:
    cells = sorted({cell for cell, _ in runs}, key=lambda cell: (len(cell), sorted(cell)))
    seeds = sorted({seed for _, seed in runs}, key=lambda seed: (str(type(seed)), seed))
    row, column = {cell: i for i, cell in enumerate(cells)}, {seed: i for i, seed in enumerate(seeds)}
    shape = (len(cells), len(seeds))
    score, stage = np.full(shape, np.nan), np.full(shape, -1, dtype=np.int64)
    count, diverged = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    codes: dict[str, int] = {}
    for (cell, seed), replicates in runs.items():
        at = row[cell], column[seed]
        scores = np.array([run.score for run in replicates])
        lost = np.isnan(scores)
        if lost.any() and not lost.all():
            raise RecordError(
                f"tricks {tuple(sorted(cell))} at seed {seed!r} both finished and diverged; one cell and seed has one "
                "outcome: remove the trial that was repeated"
            )
        score[at], count[at], diverged[at] = scores.mean(), len(scores), lost.sum()
        name = "+".join(sorted({run.first_stage for run in replicates}))
        stage[at] = codes.setdefault(name, len(codes))
    correct = _correct(runs, row, column)
    return Table(
        context,
        tuple(cells),
        tuple(seeds),
        score,
        stage,
        count,
        diverged,
        correct,
        correct is None or bool(np.nanmax(np.abs(correct.mean(2) - score)) < 1e-4),
        len(seeds) > 1 and len({run.split for many in runs.values() for run in many} | {None}) == 2,
        np.array([np.mean([run.epochs for s in seeds for run in runs.get((cell, s), ())]) for cell in cells]),
    )


def _correct(runs: _Runs, row: dict[Cell, int], column: dict[Hashable, int]) -> NDArray[np.float32] | None:
    """Correctness of every image (cells, blocks, images), NaN where no trial finished; `None` where it was not kept."""
    kept = {
        key: np.mean([run.correct for run in many if run.correct is not None], axis=0)
        for key, many in runs.items()
        if any(run.correct is not None for run in many)
    }
    if not kept:
        return None
    correct = np.full((len(row), len(column), len(next(iter(kept.values())))), np.nan, dtype=np.float32)
    for (cell, seed), images in kept.items():
        correct[row[cell], column[seed]] = images
    return correct


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))

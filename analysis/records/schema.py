"""The record: what one trial logs. The search writes it, everything in `analysis/` reads it.

A record is one trial, that is one plan trained with one seed. Every number is a fraction in [0, 1] unless
its name says otherwise. `schema` grows when a field changes its meaning.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1

ARMS = ("tune", "design", "check", "adaptive", "race", "confirm", "around", "nominated")
"""tune: the baseline on a grid of learning rates and weight decays. design: feeds the conflict table. check: cells of
the design again in another `setting` (learning rate, final length). adaptive: finds recipes. race: contenders on fresh
seeds, by which the winner is chosen. confirm: winner and baseline on seeds that chose nothing; the only arm that reads
the test split. around: the winner with some of its tricks removed, down to the baseline. nominated: the four cells of
pairs that the adaptive arm suggested, on fresh seeds."""

ARM = re.compile(r"[a-z][a-z_]*")
"""An arm that a further phase of a search may bring."""

OUTCOMES = ("finished", "stopped", "diverged", "failed")
"""stopped: by the scheduler. diverged: a loss that is not finite. failed: an error or a lost worker."""

BASELINE = "baseline"
"""Title of the recipe in which nothing is on."""

NUMBERS = "numbers"
"""In the arm "around": between a winner without all its tricks and the baseline: learning rates, decays, lengths."""

NUMBERS_IN_WORDS = "its learning rates and lengths"
"""The same as people read it."""


class RecordError(ValueError):
    """Records that cannot be read, or must not be used as asked."""


def choosable(metric: str) -> str:
    """The metric, where something may be chosen or judged by it.

    Raises:
        RecordError: It is of the test split.

    >>> choosable("final/accuracy")
    'final/accuracy'
    """
    if "test" in metric.split("/"):
        raise RecordError(
            f"metric {metric!r} is of the test split, which may not choose anything; use a final/* metric, "
            "which is of the validation split, e.g. 'final/accuracy'"
        )
    return metric


@dataclass(frozen=True)
class Point:
    """One evaluation of a trial on `val`.

    Args:
        stage: Name of the stage.
        member: Which of the stage's members, from 0.
        epoch: Epochs of the plan behind it (members of a stage count once).
        progress: The same as a fraction of the plan, in (0, 1].
        metrics: E.g. "loss", "accuracy", "rebalanced"; without prefix.
    """

    stage: str
    member: int
    epoch: int
    progress: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Record:
    """One trial.

    Args:
        search: Name of the search.
        trial: Id of the trial in it.
        arm: One of `ARMS`, or that of a further phase.
        recipe: Id of the plan: equal plans, equal ids.
        title: The recipe in words, e.g. "representation/cost_sensitive + classifier".
        seed: Seed block.
        split_seed: Seed of the split; equal to `seed` where val is cut from a pool.
        first_stage: Id of the first stage's checkpoint: what a claim about a first-stage trick is replicated over.
        tricks: Labels that are on.
        context: What the labels' 0 level was measured in (design arm), see `search.design.labels`.
        outcome: One of `OUTCOMES`.
        choices: Readable choices, e.g. {"classifier/draw": "class_balanced", "representation/lr": 0.1}.
        families: Trick to family, of every trick in the plan, e.g. {"class_balanced": "re-sampling"}.
        plan: The plan as a dict.
        data: Name of the data set.
        model: Name of the network.
        imbalance: Largest class over smallest.
        fingerprint: Of the data and the split.
        counts: Training images per class.
        val_counts: Held-out images per class.
        class_names: Of every class, in the order of the counts.
        epochs: Epochs of the plan, members multiplied.
        epochs_trained: Of these, trained by this trial and not re-used; with what it trained for other trials.
        images: Images seen in training, the cost at which recipes are compared.
        steps: Optimiser steps.
        seconds: Wall time of the trial.
        seconds_saved: Training time of the stages that were re-used, less that of what it trained for other trials.
        reused: Names of the stages that were re-used.
        metrics: Final metrics on val ("final/accuracy", "final/harmonic_mean", …, "final/calibration_error");
            of the confirm arm also "test/accuracy", ….
        recalls: Recall of every class on val.
        per_class: Further numbers by class, on val: "logits_magnitude", "regularized_std".
        correct: Per-image correctness on val, where val is the same in every block.
        curve: Every evaluation, in order; a re-used stage's are replayed.
        reason: Why it was stopped, diverged or failed.
        stop: The scheduler's decision in numbers: rung, score, value, cut, among, cohort, epoch; {} if not stopped.
        setting: How a trial of the check arm differs from the design's: "lr/3", "lr*3" or "full length"; "" elsewhere.
        gpus: Share of GPUs that the trial held.
        memory: Peak memory of the trial's process on its device, in bytes; 0 where it was not measured.
        started: Unix time.
        schema: Version of this schema.
    """

    search: str
    trial: str
    arm: str
    recipe: str
    title: str
    seed: int
    split_seed: int
    first_stage: str
    tricks: tuple[str, ...]
    context: str
    outcome: str
    choices: dict[str, Any]
    plan: dict[str, Any]
    data: str
    model: str
    imbalance: float
    fingerprint: str
    counts: tuple[int, ...]
    val_counts: tuple[int, ...]
    epochs: float
    epochs_trained: float
    images: int
    steps: int
    seconds: float
    seconds_saved: float
    reused: tuple[str, ...]
    metrics: dict[str, float]
    recalls: tuple[float, ...] = ()
    correct: tuple[int, ...] = ()
    per_class: dict[str, Any] = field(default_factory=dict)
    curve: tuple[Point, ...] = ()
    reason: str = ""
    stop: dict[str, Any] = field(default_factory=dict)
    setting: str = ""
    gpus: float = 0.0
    memory: float = 0.0
    families: dict[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    started: float = 0.0
    schema: int = field(default=SCHEMA)

    def __post_init__(self) -> None:
        if not ARM.fullmatch(self.arm):
            raise RecordError(f"trial {self.trial!r}: arm must be a lower-case word, got {self.arm!r}")
        if self.outcome not in OUTCOMES:
            raise RecordError(
                f"trial {self.trial!r}: outcome must be one of {', '.join(OUTCOMES)}, got {self.outcome!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Record:
        """The inverse of `to_dict`, also after a passage through JSON.

        Raises:
            RecordError: The fields are those of another schema.
        """
        known = {f.name for f in dataclasses.fields(Record)}
        if fields.get("schema") != SCHEMA or set(fields) - known:
            raise RecordError(
                f"a record of schema {fields.get('schema')!r} cannot be read by schema {SCHEMA}; "
                "use the version of longtail-tune that wrote it"
            )
        values = dict(fields)
        for name in ("tricks", "counts", "val_counts", "class_names", "reused", "recalls", "correct"):
            values[name] = tuple(values.get(name) or ())
        # JSON has no NaN: what is unknown is null there
        values["recalls"] = tuple(math.nan if recall is None else recall for recall in values["recalls"])
        for name in ("metrics", "per_class"):
            values[name] = _known(values.get(name) or {})
        if values.get("imbalance") is None:
            values["imbalance"] = math.nan
        values["curve"] = tuple(
            Point(**{**point, "metrics": _known(point["metrics"])}) for point in values.get("curve") or ()
        )
        return Record(**values)


def _known(value: Any) -> Any:
    """Numbers as they are, NaN for null."""
    if isinstance(value, dict):
        return {key: _known(one) for key, one in value.items()}
    return [_known(one) for one in value] if isinstance(value, list) else math.nan if value is None else value


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and two-sided t interval of a few values; the bounds are NaN for fewer than two.

    >>> [round(x, 4) for x in interval([0.60, 0.62, 0.64])]
    [0.62, 0.5703, 0.6697]
    """
    import numpy as np
    from scipy import stats

    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(array.mean())
    if array.size < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.5 + level / 2, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size))
    return mean, mean - half, mean + half


def bounded_interval(
    values: Sequence[float], level: float = 0.95, *, images: float = 0.0, same_images: bool = False
) -> tuple[float, float, float]:
    """Mean and two-sided interval of a few fractions, with limits in [0, 1].

    Wilson's interval with an effective number of images: n_eff / q² = m(1 − m) / h², where h is the half width of the
    t interval of the mean m, or of what the number of images alone allows where that says less. So seeds that agree by
    chance, or because they judge the same few images right, give no interval of width 0. For little scatter it equals
    `interval`.

    Args:
        values: One fraction of each seed.
        level: Of the interval.
        images: Images that each value was measured on, see `effective_images`; 0 where unknown.
        same_images: Whether every seed was measured on the same ones, so that more seeds do not make them more.

    Returns:
        Mean, lower and upper limit. The limits are NaN for fewer than two values, and for equal ones of unknown images.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; effective size: Korn and Graubard 1998, Survey Methodology
        24, 193-201.
    Differs: the effective size is the smaller of two, not an estimate of the design effect.

    >>> [round(x, 3) for x in bounded_interval([0.02, 0.12, 0.03])]
    [0.057, 0.007, 0.336]
    >>> [round(x, 3) for x in interval([0.02, 0.12, 0.03])]
    [0.057, -0.08, 0.193]
    >>> [round(x, 3) for x in bounded_interval([1.0, 1.0], images=7)]
    [1.0, 0.785, 1.0]
    """
    import numpy as np
    from scipy import stats

    mean, low, high = interval(values, level)
    if math.isnan(low):
        return mean, low, high
    half = (high - low) / 2
    # q² / n_eff; fractions that scatter have a mean inside (0, 1)
    share = half**2 / (mean * (1 - mean)) if 0 < mean < 1 else 0.0
    if images:
        of_images = float(stats.norm.ppf(0.5 + level / 2)) ** 2 / (images * (1 if same_images else len(values)))
        share = share + of_images if same_images else max(share, of_images)
    if not share:
        return mean, math.nan, math.nan
    centre, reach = (mean + share / 2) / (1 + share), np.sqrt(mean * (1 - mean) * share + share**2 / 4) / (1 + share)
    return mean, float(max(0.0, min(centre - reach, mean))), float(min(1.0, max(centre + reach, mean)))


def effective_images(value: float, error: float) -> float:
    """How many images measure a fraction with this standard error, 0 where the error is unknown.

    The N at which √(p(1 − p) / N) is the error, with p = (N · value + ½) / (N + 1), as the error is taken from smoothed
    recalls: a fraction of 1 does not mean that it is known exactly.

    >>> round(effective_images(0.8, 0.04)), round(effective_images(1.0, 0.1)), effective_images(0.8, float("nan"))
    (101, 6, 0.0)
    """
    from scipy.optimize import brentq

    if not error > 0 or not math.isfinite(value):
        return 0.0

    def lacking(log_images: float) -> float:
        images = math.exp(log_images)
        p = (images * value + 0.5) / (images + 1)
        return math.sqrt(p * (1 - p) / images) - error

    lowest, highest = math.log(1e-3), math.log(1e12)
    if lacking(lowest) < 0 or lacking(highest) > 0:
        return 0.0
    return math.exp(brentq(lacking, lowest, highest))


def difference_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and two-sided t interval of a few differences of fractions, cut to [−1, 1], where differences lie.

    >>> difference_interval([0.1, 0.9])[1:]
    (-1.0, 1.0)
    """
    mean, low, high = interval(values, level)
    # NaN stays, as no comparison with it holds
    return mean, -1.0 if low < -1 else low, 1.0 if high > 1 else high


def prediction_interval(
    values: Sequence[float], further: int = 1, level: float = 0.95, error: float = 0.0
) -> tuple[float, float]:
    """Where the mean of `further` fresh runs should fall, given the fractions of earlier runs.

    mean ± t(n − 1) · s · √(1/n + 1/further), cut to [0, 1], where fractions lie. With the standard error of one value
    by the number of its images, at least what that alone allows: values that agree by chance do not promise the next.

    >>> [round(x, 4) for x in prediction_interval([0.60, 0.62, 0.64])]
    [0.5206, 0.7194]
    """
    import numpy as np
    from scipy import stats

    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return float("nan"), float("nan")
    scatter = float(stats.t.ppf(0.5 + level / 2, array.size - 1)) * float(array.std(ddof=1))
    of_images = float(stats.norm.ppf(0.5 + level / 2)) * (error if error > 0 else 0.0)
    half = max(scatter, of_images) * float(np.sqrt(1 / array.size + 1 / further))
    return max(0.0, float(array.mean()) - half), min(1.0, float(array.mean()) + half)

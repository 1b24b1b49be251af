"""Learning-rate schedules, as factors of the peak rate over a chain of stages.

A factor depends on the position in the chain alone, never on how many steps an epoch has: that is what lets
a stage be shared by plans that draw differently later on.

A schedule is named with or without options: `cosine`, `cosine(per=epoch)`, `multistep(at=30/60/80, of=90, by=0.1,
warm_up=0)`. Epochs in options are those of a training of `of` epochs; a chain of another length has them in
proportion, rounded. `RECIPES` has the published ones by name.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

from analysis.text import did_you_mean


class ScheduleError(ValueError):
    """A schedule that does not exist, or an option that cannot be meant."""


def constant(position: float, total: int) -> float:
    """Always the peak rate."""
    return 1.0


def cosine(
    position: float,
    total: int,
    per: str = "step",
    last: str = "above",
    warm_up: float = 0,
    start: float = 0,
    of: float = 200,
) -> float:
    """½ (1 + cos(π · t)), from 1 to 0, with t = position / total (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5).

    Args:
        position: Epochs of the chain that have been trained, with fractions.
        total: Epochs of the chain, T.
        per: "step", or "epoch": t stays constant within an epoch, e / T in the epoch after e others, as
            `torch.optim.lr_scheduler.CosineAnnealingLR(T)` stepped once an epoch (Kang et al., LOS, MiSLAS).
        last: "above": the last epoch still has a rate above 0; "zero": with `per=epoch`, t = e / (T − 1), which gives
            the last epoch none.
        warm_up: Epochs of linear warm-up, W; t then runs over the others, (e − W) / (T − W).
        start: Factor that the warm-up comes from, see `multistep`.
        of: Epochs of the training that the warm-up is counted in.

    >>> cosine(0, 10), round(cosine(5, 10), 3), round(cosine(10, 10), 3)
    (1.0, 0.5, 0.0)
    >>> [round(cosine(e + 0.9, 4, per="epoch"), 4) for e in range(4)]
    [1.0, 0.8536, 0.5, 0.1464]
    """
    warm = round(warm_up / of * total)
    if warm and position < warm:
        return _warmed(position, warm, start)
    position, total = position - warm, total - warm
    if per == "step":
        return 0.5 * (1 + math.cos(math.pi * min(position / max(1, total), 1.0)))
    epochs = max(1, total - 1 if last == "zero" else total)
    return 0.5 * (1 + math.cos(math.pi * min(int(position) / epochs, 1.0)))


def one_cycle(position: float, total: int, rise: float = 0.3, start: float = 25.0, end: float = 1e4) -> float:
    """Cosine from 1/25 up to 1 over the first 30 %, then cosine down to 1/(25·10⁴); momentum stays.

    The shape and the constants of `torch.optim.lr_scheduler.OneCycleLR` (Smith & Topin 2018,
    arXiv:1708.07120), with its `cycle_momentum=False`. Differs: the end is reached at position = total and
    not at the last step before it.

    >>> [round(one_cycle(p, 10), 4) for p in (0, 3, 10)]
    [0.04, 1.0, 0.0]
    """
    done = min(position / total, 1.0)
    if done < rise:
        low, high, part = 1 / start, 1.0, done / rise
    else:
        low, high, part = 1.0, 1 / (start * end), (done - rise) / (1 - rise)
    return high + (low - high) * 0.5 * (1 + math.cos(math.pi * part))


def multistep(
    position: float,
    total: int,
    at: tuple[float, ...] = (160, 180),
    by: float = 0.01,
    warm_up: float = 5,
    start: float = 0,
    early: int = 0,
    of: float = 200,
) -> float:
    """× `by` after each milestone, linear warm-up before; constant within an epoch.

    As it is, the CIFAR-LT recipe of LDAM (Cao et al. 2019, arXiv:1906.07413): with 200 epochs, warm-up e/5 over
    epochs e = 1 … 5, and × 0.01 from epochs 161 and 181 on.

    Args:
        position: Epochs of the chain that have been trained, with fractions.
        total: Epochs of the chain.
        at: Milestones: epochs with the rate before.
        by: Factor of each milestone.
        warm_up: Epochs of warm-up, W.
        start: Epoch e = 1 … W has the factor start + (1 − start) · e / W; Bag of Tricks has 1/3, the others 0.
        early: Epochs by which each milestone comes earlier: 1 for codes that count epochs from 1 and drop at epoch
            160, where the others drop after it (Bag of Tricks).
        of: Epochs of the training that all of these are counted in.

    >>> [multistep(e, 200) for e in (0, 4, 100, 160, 180)]
    [0.2, 1.0, 1.0, 0.01, 0.0001]
    """
    epoch, scale = int(position), total / of
    warm = round(warm_up * scale)
    if epoch < warm:
        return _warmed(position, warm, start)
    passed = sum(epoch >= round(milestone * scale) - early for milestone in at)
    return float(by**passed)


def _warmed(position: float, warm: int, start: float) -> float:
    return start + (1 - start) * (int(position) + 1) / warm


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "multistep": multistep,
}

RECIPES: Mapping[str, str] = {
    "ldam": "multistep",
    "mislas": "multistep(by=0.1)",
    "bag_of_tricks": "multistep(start=1/3, early=1)",
    "bag_of_tricks_classifier": "multistep(at=10/20, of=30, by=0.1, start=1/3, early=1)",
    "bag_of_tricks_cam": "multistep(at=20, of=40, start=1/3, early=1)",
    "bag_of_tricks_large": "multistep(at=60/80, of=100, by=0.1, warm_up=0, early=1)",
    "bag_of_tricks_full_bag": "multistep(at=120/160, of=160, by=0.1, warm_up=0, early=1)",
    "bag_of_tricks_fine_tuning": "multistep(at=8/16, of=20, by=0.1, warm_up=0, early=1)",
    "imagenet_lt": "multistep(at=30/60/80, of=90, by=0.1, warm_up=0)",
    "kang": "cosine(per=epoch)",
    "los": "cosine(per=epoch)",
    "mislas_classifier": "cosine(per=epoch)",
}
"""The schedules of the public codes, by method: LDAM (Cao et al. 2019), MiSLAS (Zhong et al. 2021), Bag of Tricks
(Zhang et al. 2021: first stage, classifier re-training, stage on CAM images, ImageNet-LT and iNaturalist, the full bag
and its fine-tuning), `imagenet_lt` as the text of Bag of Tricks has it, Kang et al. 2020, LOS (Sun et al. 2025)."""

_CHOICES = {"per": ("step", "epoch"), "last": ("above", "zero")}


@functools.lru_cache(maxsize=256)
def schedule_of(text: str) -> Callable[[float, int], float]:
    """Parses a schedule.

    Args:
        text: A key of `SCHEDULES`, with options where it has some, or one of `RECIPES`.

    Returns:
        (position in epochs, epochs of the chain) -> factor of the peak rate.

    Raises:
        ScheduleError: The schedule or an option is unknown, which suggests the nearest, or a value is out of range.

    >>> round(schedule_of("multistep(at=30/60/80, of=90, by=0.1, warm_up=0)")(60, 90), 4)
    0.01
    >>> [round(0.1 * schedule_of("bag_of_tricks")(e, 200), 4) for e in (0, 1, 2, 3, 4)]
    [0.0467, 0.06, 0.0733, 0.0867, 0.1]
    """
    found = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", RECIPES.get(text, text))
    if found is None or found.group(1) not in SCHEDULES:
        name = text if found is None else found.group(1)
        raise ScheduleError(f"unknown schedule {text!r}: {_near(name, [*SCHEDULES, *RECIPES])}")
    schedule = SCHEDULES[found.group(1)]
    known = [name for name in inspect.signature(schedule).parameters if name not in ("position", "total")]
    options: dict[str, Any] = {}
    for part in (found.group(2) or "").split(","):
        if not part.strip():
            continue
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known or not equals:
            raise ScheduleError(f"schedule {text!r} has no option {part.strip()!r}: {_near(key, known)}")
        options[key] = _option(text, key, value)
    at, of = options.get("at", ()), options.get("of", 200)
    if of <= 0 or any(milestone > of for milestone in at) or list(at) != sorted(at):
        raise ScheduleError(f"schedule {text!r}: milestones must rise and lie within of={of:g} epochs")
    return functools.partial(schedule, **options)


def _option(text: str, key: str, value: str) -> Any:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise ScheduleError(f"schedule {text!r}: {key} must be {' or '.join(_CHOICES[key])}, got {value!r}")
        return value
    try:
        # milestones are several numbers, 160/180; a single one may be a fraction, 1/3
        numbers = tuple(float(Fraction(one)) for one in (value.split("/") if key == "at" else [value]))
    except (ValueError, ZeroDivisionError):
        numbers = (-1.0,)
    if any(not 0 <= number < math.inf for number in numbers):
        raise ScheduleError(
            f"schedule {text!r}: {key} must be {'numbers' if key == 'at' else 'a number'} ≥ 0, got {value!r}"
        )
    if key == "at":
        return numbers
    return int(numbers[0]) if key == "early" else numbers[0]


def _near(name: str, known: Iterable[str]) -> str:
    options = list(known)
    return did_you_mean(name, options, 0.5) or f"known are {', '.join(options) or 'none'}"

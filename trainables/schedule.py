"""Learning-rate schedules, as factors of the peak rate over a chain of stages.

A factor depends on the position in the chain alone, never on how many steps an epoch has: that is what lets
a stage be shared by plans that draw differently later on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

WARM_UP_SHARE = 5 / 200
"""Warm-up of `multistep`: 5 of the 200 epochs of the CIFAR-LT recipe (Cao et al. 2019)."""


def constant(position: float, total: int) -> float:
    """Always the peak rate."""
    return 1.0


def cosine(position: float, total: int) -> float:
    """½ (1 + cos(π · position / total)), from 1 to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5).

    >>> cosine(0, 10), round(cosine(5, 10), 3), round(cosine(10, 10), 3)
    (1.0, 0.5, 0.0)
    """
    return 0.5 * (1 + math.cos(math.pi * min(position / total, 1.0)))


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


def multistep(position: float, total: int) -> float:
    """×0.01 after 80 % and again after 90 % of the epochs, linear warm-up over the first 2.5 %.

    The CIFAR-LT recipe of Cao et al. 2019 (arXiv:1906.07413): with 200 epochs, warm-up e/5 over epochs
    e = 1 … 5, milestones 160 and 180. Constant within an epoch.

    >>> [multistep(e, 200) for e in (0, 4, 100, 160, 180)]
    [0.2, 1.0, 1.0, 0.01, 0.0001]
    """
    epoch = int(position)
    warm_up = round(WARM_UP_SHARE * total)
    if epoch < warm_up:
        return (epoch + 1) / warm_up
    return 0.01 ** ((epoch >= round(0.8 * total)) + (epoch >= round(0.9 * total)))


SCHEDULES: Mapping[str, Callable[[float, int], float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "multistep": multistep,
}

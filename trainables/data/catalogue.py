"""Which data sets there are, and the standard schedule of each. Light: nothing here imports torch.

A new data set is one module with two functions, and one line in `MODULES`:

    def standard(name: str) -> Standard: ...
    def load(name: str, *, root, imbalance: float, split_seed: int, fold_val: bool) -> LongTailed: ...

The module imports what is heavy inside `load`, because names and schedules are asked for by commands that
must answer at once (`--dry-run`).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from trainables.data.long_tail import LongTailed

MODULES: Mapping[str, str] = MappingProxyType(
    {
        "digits-lt": "trainables.data.digits",
    }
)


class DataError(ValueError):
    """A data set that does not exist, or cannot be cut as asked."""


@dataclass(frozen=True)
class Standard:
    """How a data set is trained where nothing else is said.

    Args:
        epochs: Of the whole plan; a stage's `length=` is a share of them.
        lr: Peak learning rate of SGD.
        momentum: Of SGD, in [0, 1).
        nesterov: Nesterov's momentum instead of Polyak's.
        weight_decay: L2 penalty of SGD.
        batch_size: Images per step.
        schedule: Name of the learning-rate schedule.
        model: A name of `trainables.models`.
        imbalance: Images of the largest class over those of the smallest.
        eval_every: Epochs between evaluations.
        margin: Difference in accuracy that matters, in [0, 1], declared before anything is measured: the δ
            of the conflict verdicts.
        final_epochs: Of the final training of an exported recipe.
    """

    epochs: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    batch_size: int
    schedule: str
    model: str
    imbalance: float
    eval_every: int
    margin: float
    final_epochs: int


class DataModule(Protocol):
    """What the module of a data set has."""

    def standard(self, name: str) -> Standard:
        """The standard schedule."""
        ...

    def load(self, name: str, *, root: str | None, imbalance: float, split_seed: int, fold_val: bool) -> LongTailed:
        """The data, cut to a long tail and split."""
        ...


def module_of(name: str) -> DataModule:
    """The module of a data set.

    Raises:
        DataError: The name is unknown; the nearest known one is offered.
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"unknown data set {name!r}: {hint}known are {', '.join(MODULES)}")
    return cast(DataModule, importlib.import_module(MODULES[name]))

"""What a trial is made from, and the data that trials of one process share; without Ray, for whoever only plans."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from trainables.data import LongTailed, load
from trainables.data.loaders import held_bytes


@dataclass(frozen=True)
class TrialSpec:
    """Everything that a trial is made from; JSON-serialisable.

    Args:
        plan: `Plan.to_dict()`.
        seed: Seed of everything that is drawn in training.
        split_seed: Seed of the split into train and val.
        data: Name of the data set.
        root: Its folder, where it is not bundled.
        imbalance: Largest class over smallest.
        model: Name of the network.
        store: Folder of finished stages; `None` trains everything.
        tricks: Folders of further tricks; "module:NUMBER" is one within a module that Ray has brought.
        rungs: Fractions of the plan at which to report at once.
        shortened: Whether the whole plan is trained shortened to each rung before it is trained itself.
        target: Final metrics whose mean is the score of a shortened plan.
        read_test: Also measure the final network on test: for confirmed recipes alone.
        calibrate: Also fit a calibration on val when it is finished: for recipes on fresh seeds, as it costs some
            hundredths of a second on small data.
        device: "cpu", "cuda", or "auto".
        numerics: Fields of `Numerics` that are not at their defaults.
        deployment: `Deployment.to_dict()`; `None` weighs nothing.
        joint_seeds: Seeds that are trained in one network, its own among them, each on the split of its number; empty
            for a trial by itself.
        fingerprint: Fingerprint that the data must have; "" for any.
    """

    plan: dict[str, Any]
    seed: int
    split_seed: int
    data: str
    root: str | None
    imbalance: float | None
    model: str
    store: str | None = None
    tricks: tuple[str, ...] = ()
    rungs: tuple[float, ...] = ()
    shortened: bool = False
    target: tuple[str, ...] = ("final/accuracy",)
    read_test: bool = False
    calibrate: bool = False
    device: str = "auto"
    numerics: dict[str, str] = field(default_factory=dict)
    deployment: dict[str, Any] | None = None
    joint_seeds: tuple[int, ...] = ()
    fingerprint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable dict."""
        return dataclasses.asdict(self)


class Splits:
    """Cache of the splits that this process has loaded; the least recently used are dropped.

    Args:
        most: Bytes that they may hold together (`held_bytes`); the latest one is kept whatever it holds.
    """

    def __init__(self, most: int = 10**9) -> None:
        self._most = most
        self._kept: dict[tuple[Any, ...], LongTailed] = {}

    def get(self, name: str, root: str | None, imbalance: float | None, split_seed: int) -> LongTailed:
        """A split, loaded where it is not kept."""
        key = (name, root, imbalance, split_seed)
        data = self._kept.pop(key, None)
        if data is None:
            data = load(name, root=root, imbalance=imbalance, split_seed=split_seed)
        self._kept[key] = data
        while len(self._kept) > 1 and sum(map(held_bytes, self._kept.values())) > self._most:
            self._kept.pop(next(iter(self._kept)))
        return data

    def clear(self) -> None:
        """Keeps none."""
        self._kept.clear()


_SPLITS = Splits()


def cached_data(name: str, root: str | None, imbalance: float | None, split_seed: int) -> LongTailed:
    """A split, loaded once per process while it fits beside others."""
    return _SPLITS.get(name, root, imbalance, split_seed)


def forget_data() -> None:
    """Empties the cache of splits: between two searches of one process the data may have changed."""
    _SPLITS.clear()


def spec_of(fields: dict[str, Any]) -> TrialSpec:
    """The inverse of `TrialSpec.to_dict`, also after a passage through JSON."""
    return TrialSpec(
        **{**fields, **{name: tuple(fields[name]) for name in ("tricks", "rungs", "target", "joint_seeds")}}
    )

"""The stages of one pipeline in a store: what is finished, what was left in the middle, and features of fixed views."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainables.pipeline.keys import features_key, plain_features_key
from trainables.pipeline.snapshot import StageSnapshot
from trainables.pipeline.store import StageStore
from trainables.plan.model import Plan

Ancestors = Sequence[tuple[str, float]]
"""Keys of the stages before, with the seconds that each took."""


class StageCache:
    """Reads and writes the stages of one pipeline. Without a store nothing is found and nothing is kept.

    Args:
        store: Where they are kept.
        plan: The plan.
        keys: Keys of its stages, as `stage_keys` returns them.
        seed: Seed of the trial.
        device: Where tensors are read to.
        start: Key of what lies before the first stage, as `start_key` returns it.
    """

    def __init__(
        self,
        store: StageStore | None,
        plan: Plan,
        keys: Sequence[Sequence[str]],
        seed: int,
        device: torch.device,
        start: str,
    ) -> None:
        self.store, self.keys = store, keys
        self._plan, self._seed, self._device, self._start = plan, seed, device, start

    def find(self, stage: int, member: int) -> tuple[StageSnapshot, bool] | None:
        """A finished stage, or else the given member of it; and whether it is the whole stage."""
        if self.store is None:
            return None
        *members, whole = self.keys[stage]
        # the merged stage first, before any of its members is read
        for key in dict.fromkeys([whole, members[0]] if member == 0 else [members[member]]):
            stored = self.store.get(key)
            if stored is not None:
                return StageSnapshot.load(stored.tensors, stored.state, self._device), key == whole
        return None

    def save(self, key: str, snapshot: StageSnapshot, ancestors: Ancestors, measured: bool) -> None:
        """Keeps a finished stage, or a finished member, which is not measured."""
        if self.store is None:
            return
        tensors, state = snapshot.save()
        state |= {
            "kind": "stage" if measured else "member",
            "ancestors": list(ancestors),
            "seed": self._seed,
            "first_stage": self.keys[0][-1],
        }
        self.store.put(key, tensors, state)
        self.store.drop_partial(key)

    def unfinished(self, stage: int, members: range) -> list[StageSnapshot]:
        """Members that some trial left in the middle of the stage; empty unless all are at one epoch."""
        if self.store is None:
            return []
        stored = [self.store.get_partial(self.keys[stage][member]) for member in members]
        found = [StageSnapshot.load(one.tensors, one.state, self._device) for one in stored if one is not None]
        return found if len(found) == len(members) and len({one.epochs for one in found}) == 1 else []

    def save_unfinished(self, stage: int, first: int, snapshots: Sequence[StageSnapshot]) -> None:
        """Keeps members in the middle of their stage, so that a crash costs little."""
        if self.store is not None:
            for member, snapshot in enumerate(snapshots, start=first):
                self.store.put_partial(self.keys[stage][member], *snapshot.save())

    def features(self, stage: int, ancestors: Ancestors, compute: Callable[[], Tensor]) -> Tensor:
        """Features of fixed views from the store, or computed and kept there for other stages from this start."""
        return self._features(features_key(self._before(stage), self._plan.stages[stage]), ancestors, compute)

    def split_features(self, stage: int, split: str, ancestors: Ancestors, compute: Callable[[], Tensor]) -> Tensor:
        """Features of the images of a split without augmentation, computed or from the store."""
        return self._features(plain_features_key(self._before(stage), split), ancestors, compute)

    def _before(self, stage: int) -> str:
        """The key of what a stage starts from; of the first stage, that of data and network."""
        return self.keys[stage - 1][-1] if stage else self._start

    def _features(self, key: str, ancestors: Ancestors, compute: Callable[[], Tensor]) -> Tensor:
        if self.store is None:
            return compute()
        stored = self.store.get(key)
        if stored is not None:
            return stored.tensors["features"].to(self._device)
        began = time.perf_counter()
        features = compute()
        state = {"kind": "features", "seconds": time.perf_counter() - began, "ancestors": list(ancestors)}
        self.store.put(key, {"features": features}, state)
        return features

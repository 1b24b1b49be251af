"""Which stages are being trained: no two trials ever train one at the same time, here or in another search."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from search.scheduling.trial_request import TrialRequest
from trainables.pipeline.leases import Leases
from trainables.pipeline.store import StageStore


class StageLocks:
    """Locks of the unfinished stages of running trials.

    Args:
        keys: Stage keys of a trial: what it will train or re-use, stage by stage.
        store: Finished stages; `None` where nothing is re-used, and nothing is locked.
        leases: Locks of the store, where other searches may use it at the same time.
        limit: Bytes that the store may hold; `None` for no limit.
    """

    def __init__(
        self,
        keys: Callable[[TrialRequest], list[list[str]]],
        store: StageStore | None,
        leases: Leases | None = None,
        limit: int | None = None,
    ) -> None:
        self._keys, self._store, self._leases, self._limit = keys, store, leases, limit
        self.held: dict[str, set[str]] = {}
        """Keys of unfinished stages by the running trial that trains them."""
        self._finished: set[str] = set()
        self._known: dict[str, set[str]] = {}

    @property
    def shares_stages(self) -> bool:
        """Whether a trial can use what another one has trained."""
        return self._store is not None

    @property
    def waits_for(self) -> str:
        """Who holds the stage for which `acquire` was last refused, in words."""
        return "" if self._leases is None else self._leases.waits_for

    def acquire(self, request: TrialRequest) -> bool:
        """Locks the unfinished stages of a trial; `False` where somebody is training one of them."""
        needed = self._unfinished(request)
        if any(needed & keys for keys in self.held.values()):
            return False
        if self._leases is not None and not self._leases.acquire(sorted(needed)):
            return False
        self.held[request.id] = needed
        return True

    def release(self, request: TrialRequest, finished: bool = False) -> None:
        """Gives the locks of a trial back.

        Args:
            request: The trial.
            finished: Whether its stages are finished. Where the workers' machines differ from this one, so do their
                keys: then ours never appear in the store, and must not be waited for.
        """
        keys = self.held.pop(request.id, set())
        if finished:
            self._finished |= keys & self._of(request)
        if self._leases is not None:
            self._leases.release(keys)

    def evict(self, needed: Iterable[TrialRequest]) -> None:
        """Evicts finished stages until the store fits its limit."""
        if self._store is None or self._limit is None:
            return
        kept = {key for request in needed for key in self._all(request)}
        self._finished -= {entry.key for entry in self._store.evict(self._limit, kept)}

    def _unfinished(self, request: TrialRequest) -> set[str]:
        if self._store is None:
            return set()
        keys = self._all(request) - self._finished
        self._finished |= {key for key in keys if self._store.has(key)}
        return keys - self._finished

    def _all(self, request: TrialRequest) -> set[str]:
        """Everything that a trial may train, including the stages of seeds that are trained jointly with it."""
        joint = [self._of(replace(request, id=f"{request.id} {seed}", seed=seed)) for seed in request.joint_seeds]
        return set().union(*joint) if joint else self._of(request)

    def _of(self, request: TrialRequest) -> set[str]:
        if request.id not in self._known:
            self._known[request.id] = {key for stage in self._keys(request) for key in stage}
        return self._known[request.id]

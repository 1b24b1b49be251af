"""The average of a stage's weights, where a trick keeps one: what is evaluated and handed on instead of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

from trainables.models import Network
from trainables.training.context import State

AverageFn = Callable[[State, State, int, "int | None"], State]


class WeightAverage:
    """The average of one member's weights.

    Args:
        rule: What the average seam built; `None` where the stage keeps no average.
        state: The average so far; empty at its beginning.
    """

    def __init__(self, rule: AverageFn | None, state: State) -> None:
        self.state = state
        self._rule = rule
        self._network: Network | None = None

    def update(self, network: Network, step: int, epoch: int | None) -> None:
        """Takes the weights after a step, or after an epoch, into the average.

        Args:
            network: The network in training.
            step: Steps of the chain so far.
            epoch: Epochs of the chain so far; `None` within an epoch.
        """
        if self._rule is not None:
            self.state = self._rule(self.state, network.state_dict(), step, epoch)

    def network(self, trained: Network) -> Network:
        """The network with the averaged weights; the trained one itself where there is no average."""
        if not self.state:
            return trained
        if self._network is None:
            self._network = copy.deepcopy(trained)
        self._network.load_state_dict(self.state)
        return self._network

"""Max-norm constraint on the classifier's rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from spaces.domain import uniform
from trainables.batch import Batch, Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.classifier_rows import learned_weight, weight_in


@trick(
    seam="after_step",
    family="classifier re-training",
    source="Alshammari et al. 2022, arXiv:2203.14197, MaxNorm",
    space={"fraction": uniform(0.0, 1.0, step=0.1)},
    needs=("one_head",),
)
@dataclass(frozen=True)
class MaxNorm:
    """After every step, shortens each row of the classifier's weight that is longer than a radius.

        w_c <- min(1, r / ‖w_c‖) · w_c,   r = min_j ‖w_j‖ + fraction · (max_j ‖w_j‖ − min_j ‖w_j‖)

    with the norms at the stage's start. The bias is free. A radius that no row reaches changes nothing.

    Args:
        fraction: Where between the smallest and the largest norm the radius lies, in [0, 1].
        radius: r itself, above 0, instead of the rule.

    Raises:
        MissingFact: Neither a radius nor the model (or its state) at the stage's start is known.
        ValueError: The head has no weight row per class.

    Source:
        Alshammari, Wang, Ramanan, Kong 2022, "Long-Tailed Recognition via Weight Balancing", CVPR,
        arXiv:2203.14197; the rule for the radius from its public code.

    Differs:
        From the paper, none: it projects after every step. The public code projects once per epoch.

    >>> import types
    >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    >>> model = types.SimpleNamespace(head=types.SimpleNamespace(weight=weight))
    >>> MaxNorm(radius=2.0).build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))(model, None, None)
    >>> weight.data
    tensor([[1.2000, 1.6000],
            [0.0000, 1.0000]])
    """

    fraction: float = 0.1
    radius: float | None = None

    def __post_init__(self) -> None:
        in_range(self, "fraction", 0, 1)
        if self.radius is not None:
            in_range(self, "radius", 0, above=True, below=True)

    def build(self, facts: Facts) -> Callable[[Any, Outputs | None, Batch | None], None]:
        """(Model, Outputs, Batch) -> None."""
        radius = self._from_start(facts) if self.radius is None else self.radius

        @torch.no_grad()
        def project(model: Any, outputs: Outputs | None, batch: Batch | None) -> None:
            weight = learned_weight(model.head, "max_norm")
            norms = weight.norm(dim=1, keepdim=True)
            # rows of length 0 stay: the smallest number instead of 0 makes their factor 1
            weight.mul_((radius / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1))

        return project

    def _from_start(self, facts: Facts) -> float:
        weight = None if facts.start is None else weight_in(facts.start)
        if weight is None:
            facts.require("max_norm", "model")
            weight = learned_weight(facts.model.head, "max_norm")
        norms = weight.detach().double().norm(dim=1)
        return float(norms.min() + self.fraction * (norms.max() - norms.min()))

"""τ-normalised classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import uniform
from trainables.batch import Facts, Outputs
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.classifier_rows import AlignedHead, weight_of


@trick(
    seam="readout",
    family="classifier re-training",
    source="Kang et al. 2020, arXiv:1910.09217, section 4, τ-normalised classifier",
    space={"tau": uniform(0.0, 2.0, step=0.1)},
    needs=("linear",),
)
@dataclass(frozen=True)
class TauNorm:
    """Evaluates with the rows of the classifier's weight brought nearer to equal length; nothing is trained.

        z_c = x · w_c / ‖w_c‖ ** τ

    τ = 0 drops the bias, and with `keep_bias` changes nothing. What `disalign` has learned corrects these logits.

    Args:
        tau: τ, at least 0.
        keep_bias: Add the classifier's bias, unchanged.

    Raises:
        MissingFact: Facts without the evaluated model.
        ValueError: The head has no weight row per class, or the outputs no features.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR,
        arXiv:1910.09217, section 4, τ-normalised classifier.

    Differs:
        None; Bag of Tricks' public code keeps the bias: `keep_bias=True`. Neither source says what the τ of the
        paper is chosen on; here it is a number like others, searched on `val`.

    >>> import types
    >>> head = types.SimpleNamespace(weight=torch.tensor([[3.0, 4.0], [0.0, 1.0]]), bias=torch.zeros(2))
    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), model=types.SimpleNamespace(head=head))
    >>> TauNorm(tau=1.0).build(facts)(Outputs(torch.zeros(1, 2), features=torch.tensor([[1.0, 1.0]])))
    tensor([[1.4000, 1.0000]])
    """

    tau: float = 1.0
    keep_bias: bool = False

    def __post_init__(self) -> None:
        in_range(self, "tau", 0, below=True)
        among(self, "keep_bias", (False, True))

    def build(self, facts: Facts) -> Callable[[Outputs], Tensor]:
        """Outputs -> z (B, C)."""
        facts.require("tau_norm", "model")
        head = facts.model.head
        weight_of(head, "tau_norm")

        def readout(outputs: Outputs) -> Tensor:
            if outputs.features is None:
                raise ValueError("trick 'tau_norm': Outputs must have features (B, D), got None")
            weight = weight_of(head, "tau_norm").detach()
            norms = weight.norm(dim=1, keepdim=True)
            norms = torch.where(norms > 0, norms, 1)  # a row of zeros stays one
            bias = head.bias.detach() if self.keep_bias and head.bias is not None else None
            z = functional.linear(outputs.features, weight / norms**self.tau, bias)
            return head.corrected(z, outputs.features) if isinstance(head, AlignedHead) else z

        return readout

"""Vector scaling (VS loss; Kini et al. 2021, NeurIPS, arXiv:2103.01550): temperatures and adjustments of the logits.

The loss is CE(Δ_c z_c + ι_c) with Δ_c = (n_c / n_max) ** γ and ι_c = τ ln π_c: `class_dependent_temperature`, then
`logit_adjusted`; in the other order it is another loss. Published: γ 0.05 and τ 0.75 on CIFAR-100-LT, 0.2 and 1.2 on
CIFAR-10-LT (imbalance 100).
"""

from spaces.domain import Space, Stage, one_of, trick

# fmt: off
SPACE = Space(
    stages=[
        Stage("train", length=1.0, choose=[
            one_of(None, trick("class_dependent_temperature", gamma=one_of(0.05, 0.1, 0.2))),
            one_of(None, trick("logit_adjusted", tau=one_of(0.75, 1.0, 1.2)))]),
    ],
    screen=["train/class_dependent_temperature", "train/logit_adjusted"],
)

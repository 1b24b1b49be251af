"""Single models that came after the survey and share its augmentation (crop and flip), alone and with each other.

Minority over-sampling with rich context (CMO), UniMix with its Bayias loss (here `balanced_softmax`), augmentation by
class (CUDA), flat minima (SAM, and for rare classes Focal-SAM and ImbSAM), and the deferred weights that several of
them are published with. SAM's steps cost two passes: every trial's images and seconds are in its record.
"""

from spaces.domain import Space, Stage, one_of, trick

# fmt: off
SPACE = Space(
    stages=[
        Stage("train", length=0.8, choose=[
            "weighted_partner",
            one_of(None, "cmo", trick("unimix", alpha=0.8, tau=one_of(-0.1, -0.5))),
            one_of(None, "balanced_softmax"),
            one_of(None, "cuda", "trivial_augment", "random_erasing"),
            one_of(None, trick("sam", rho=one_of(0.05, 0.1, 0.2, 0.5)),
                         trick("focal_sam", rho=one_of(0.1, 0.2, 0.3), gamma=one_of(3.2, 2.0), sharpness=0.8),
                         trick("imb_sam", rho=one_of(0.05, 0.1)))]),
        one_of(
            Stage("finish", length=0.2, carry="all", keep=True),
            Stage("deferred", length=0.2, carry="all", keep=True, choose=[trick("effective_number", beta=0.9999)]),
        ),
    ],
    screen=["train/cmo", "train/unimix", "train/balanced_softmax", "train/cuda", "train/sam",
            "deferred/effective_number"],
)

"""Mixture consistency and cumulative learning (GLMC; Du et al. 2023, CVPR, arXiv:2305.08661), with SAM and max-norm.

Published: batches of 64, learning rate 0.01 along a cosine, weight decay 5e-3, two views of every image; partners drawn
by 1/n ** q, q 0 at imbalance 100 and 0.2 at 50; k 1.2, w 4 and 6. With SAM (ρ 0.05) it is the highest single model of
the field on CIFAR-100-LT. Its network is `--model 'resnet32?width=64'` or `resnet34_cifar`. Every cell sees two views
of an image, the baseline too, so that all are compared at equal images.
"""

from spaces.domain import Space, Stage, one_of, trick

# fmt: off
SPACE = Space(
    stages=[
        Stage("train", length=1.0, lr=0.01, weight_decay=5e-3, batch_size=64, schedule="cosine", choose=[
            trick("several_views", count=2), trick("weighted_partner", power=one_of(0.0, 0.2)),
            one_of(None, "mixup_cutmix"),
            one_of(None, trick("glmc", k=1.2, w=one_of(4.0, 1.0, 6.0))),
            one_of(None, trick("sam", rho=0.05)),
            one_of(None, "max_norm")]),
    ],
    screen=["train/mixup_cutmix", "train/glmc", "train/sam", "train/max_norm"],
)

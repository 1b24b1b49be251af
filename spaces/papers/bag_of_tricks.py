"""Bag of Tricks (Zhang et al. 2021, AAAI 35(4)), tables 5, 7, 8, 9 and 10: mixup × deferred re-balancing.

The paper trains each cell once and finds that cost-sensitive weights add nothing to CAM-based balanced sampling
(table 9) while input mixup does (table 10). This space measures the same pairs over seed blocks.
"""

from spaces.domain import Space, Stage, one_of, some_of, trick

# fmt: off
SPACE = Space(
    stages=[
        Stage("representation", length=0.8, choose=[
            one_of(None, trick("input_mixup", alpha=1.0), trick("manifold_mixup", alpha=1.0, layer="pool"))]),
        one_of(
            Stage("finish", length=0.2, carry="all", keep=True),
            # DRS on plain or CAM-transformed images, DRW, and both at once
            Stage("deferred", length=0.2, carry="all", keep=("mix",), choose=[
                one_of(None, "class_balanced", "square_root", "progressive"),
                one_of(None, "cost_sensitive"),
                some_of("cam_foreground")]),
        ),
    ],
    screen=["representation/input_mixup", "representation/manifold_mixup",
            "deferred/class_balanced", "deferred/cost_sensitive", "deferred/cam_foreground"],
)

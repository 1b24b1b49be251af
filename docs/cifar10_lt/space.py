"""Re-weighting, re-sampling, mixup and deferred re-balancing on CIFAR-10-LT: small enough for two CPU cores."""

from spaces.domain import Space, Stage, log_uniform, one_of, trick, uniform

# fmt: off
SPACE = Space(
    stages=[
        Stage("representation", epochs=5, lr=log_uniform(0.03, 0.3, step="thirds"), choose=[
            one_of(None, "cost_sensitive", trick("effective_number", beta=one_of(0.99, 0.999))),
            one_of(None, "class_balanced", "square_root"),
            one_of(None, trick("input_mixup", alpha=uniform(0.2, 1.0, step=0.4)))]),
        one_of(
            Stage("finish", epochs=1, carry="all", keep=True),
            Stage("deferred", epochs=1, carry="all", keep=("mix",), choose=[
                one_of("class_balanced", "cost_sensitive")]),
            Stage("classifier", epochs=1, lr=log_uniform(0.01, 0.1, step="halves"), carry="weights",
                  choose=["classifier", "class_balanced"]),
        ),
    ],
    screen=["representation/cost_sensitive", "representation/class_balanced", "representation/input_mixup",
            "deferred/class_balanced"],
)

"""Every family of long-tail tricks, stage by stage, with the numbers worth tuning.

Copy this file to write your own space. A line is a choice: `one_of` takes one of its options, `None` is
"none of them", and a number that belongs to an option is only there when the option is.
"""

from spaces.domain import Space, Stage, forbid, integer, log_uniform, one_of, some_of, trick, uniform

# fmt: off
SPACE = Space(
    stages=[
        Stage("representation", length=0.8, lr=log_uniform(0.01, 0.3, step="thirds"),
              weight_decay=one_of(2e-4, 5e-4, 2e-3), choose=[
            # re-weighting
            one_of(None, trick("cost_sensitive", power=one_of(0.5, 1.0)),
                         trick("effective_number", beta=one_of(0.9, 0.99, 0.999))),
            # re-sampling
            one_of(None, "class_balanced", "square_root", "progressive"),
            # losses and logit adjustment
            one_of(None, trick("focal", gamma=one_of(0.5, 1.0, 2.0))),
            one_of(None, "balanced_softmax"),
            # mixup
            one_of(None, trick("input_mixup", alpha=uniform(0.2, 1.0, step=0.4)),
                         trick("manifold_mixup", alpha=uniform(0.2, 1.0, step=0.4), layer=one_of("layer3", "pool"))),
            # regularisation
            some_of(trick("cutout", size=one_of(0.25, 0.5))),
        ]),
        # balanced training and merging: N_D few-shot sets of N_C images a class, one start, merged weights
        one_of(None, Stage("balanced", length=0.15, lr=log_uniform(0.001, 0.02, step="halves"), members=integer(2, 6),
                           carry="weights", choose=[trick("few_shot", n_c=one_of(5, 10, 20)), "average",
                                                    one_of(None, trick("input_mixup", alpha=0.2))])),
        one_of(
            # the same to the end, with or without a post-hoc correction
            Stage("finish", length=0.2, carry="all", keep=True, choose=[
                one_of(None, trick("tau_norm", tau=uniform(0.5, 1.5, step=0.25)))]),
            # deferred re-balancing: DRS, DRW
            Stage("deferred", length=0.2, carry="all", keep=("mix", "augment"), choose=[
                one_of("class_balanced", "square_root", "progressive", "cost_sensitive",
                       trick("effective_number", beta=one_of(0.99, 0.999)))]),
            # classifier re-training on a frozen backbone: cRT
            Stage("classifier", length=0.2, lr=log_uniform(0.002, 0.2, step="halves"), carry="weights", choose=[
                "classifier",
                one_of("class_balanced", "square_root"),
                one_of(None, "max_norm")]),
            # label over-smoothing: the classifier goes on from where it is, every image drawn once
            Stage("smoothing", length=0.2, lr=log_uniform(5e-4, 0.05, step="halves"), weight_decay=0.0, carry="weights",
                  choose=[trick("classifier", reset=False),
                          trick("label_over_smoothing", delta=uniform(0.9, 0.98, step=0.04))]),
        ),
    ],
    screen=["representation/cost_sensitive", "representation/class_balanced", "representation/input_mixup",
            "balanced", "deferred/class_balanced", "classifier"],
    forbid=[forbid("representation/focal", "representation/balanced_softmax",
                   reason="focal is a loss of sigmoids: an adjustment of the softmax means nothing to it")],
)

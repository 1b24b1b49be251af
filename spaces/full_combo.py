"""Every family of long-tail tricks, stage by stage, with the numbers worth tuning.

Copy this file to write your own space. A line is a choice: `one_of` takes one of its options, `None` is
"none of them", and a number that belongs to an option is only there when the option is.
"""

from spaces.domain import Space, Stage, forbid, integer, log_uniform, one_of, some_of, trick, uniform

# fmt: off
SPACE = Space(
    stages=[
        Stage("representation", length=0.8, lr=log_uniform(0.01, 0.3, step="thirds"),
              weight_decay=one_of(2e-4, 5e-4, 2e-3), batch_size=one_of(64, 128, 256, 512), choose=[
            # re-weighting
            one_of(None, trick("cost_sensitive", power=one_of(0.5, 1.0)),
                         trick("effective_number", beta=one_of(0.9, 0.99, 0.999)), "log_inverse"),
            # re-sampling
            one_of(None, "class_balanced", "square_root", "progressive", trick("power_law", q=one_of(0.25, 0.75)),
                         "resample_effective", "over_sampling", "under_sampling"),
            # losses
            one_of(None, trick("focal", gamma=one_of(0.5, 1.0, 2.0)), trick("softmax_focal", gamma=one_of(1.0, 2.0)),
                         "equalization", "influence_balanced", "lade"),
            # margin and logit adjustment
            one_of(None, "balanced_softmax", trick("logit_adjusted", tau=one_of(0.5, 1.0, 1.5)),
                         trick("class_dependent_temperature", gamma=one_of(0.1, 0.2, 0.3)), "ldam"),
            # smoothing
            one_of(None, "label_smoothing", "label_aware_smoothing"),
            # mixup
            one_of(None, trick("input_mixup", alpha=uniform(0.2, 1.0, step=0.4)),
                         trick("manifold_mixup", alpha=uniform(0.2, 1.0, step=0.4), layer=one_of("layer3", "pool")),
                         "remix", "cutmix"),
            # head and regularisation
            one_of(None, "cosine_head"),
            some_of(trick("cutout", size=one_of(0.25, 0.5)), "rand_augment"),
            one_of(None, trick("ema", decay=one_of(0.9, 0.99)), trick("swa", start=one_of(0.5, 0.75))),
            # flat minima; a step costs two passes
            one_of(None, trick("sam", rho=one_of(0.05, 0.1, 0.2)))]),
        # balanced training and merging: N_D few-shot sets of N_C images a class, one start, merged weights;
        # before it the classifier alone, for a start that was re-balanced already
        one_of(None, Stage("refit", length=0.05, carry="weights", choose=["classifier"])),
        one_of(None, Stage("balanced", length=0.15, lr=log_uniform(0.001, 0.02, step="halves"), members=integer(2, 6),
                           carry="weights", choose=[trick("few_shot", n_c=one_of(5, 10, 20)),
                                                    one_of(None, trick("input_mixup", alpha=0.2)),
                                                    one_of("average", "adaptive", "greedy_soup", "interpolate")])),
        one_of(
            # the same to the end, with or without a post-hoc correction
            Stage("finish", length=0.2, carry="all", keep=True, choose=[
                one_of(None, trick("tau_norm", tau=uniform(0.5, 1.5, step=0.25)), "nearest_mean",
                             trick("post_hoc_adjustment", tau=uniform(0.5, 1.5, step=0.25)))]),
            # deferred re-balancing: DRS, DRW, both on CAM-transformed images
            Stage("deferred", length=0.2, carry="all", keep=("mix", "augment", "average"), choose=[
                one_of("class_balanced", "square_root", "progressive", "cost_sensitive",
                       trick("effective_number", beta=one_of(0.99, 0.999))),
                one_of(None, "cam_foreground", "image_transform")]),
            # classifier re-training on a frozen backbone: cRT, LWS, max-norm, GML
            Stage("classifier", length=0.2, lr=log_uniform(0.002, 0.2, step="halves"), views=6, carry="weights",
                  choose=[
                one_of("classifier", "learnable_scale"),
                one_of("class_balanced", "square_root"),
                one_of(None, "gml"),
                one_of(None, "max_norm")]),
            # label over-smoothing: the classifier goes on from where it is, every image drawn once
            Stage("smoothing", length=0.2, lr=log_uniform(5e-4, 0.05, step="halves"), weight_decay=0.0, views=6,
                  carry="weights", choose=[trick("classifier", reset=False),
                                           trick("label_over_smoothing", delta=uniform(0.9, 0.98, step=0.04))]),
        ),
    ],
    screen=["representation/cost_sensitive", "representation/class_balanced", "representation/input_mixup",
            "balanced", "deferred/class_balanced", "classifier"],
    forbid=[forbid("representation/focal", f"representation/{softmax}",
                   reason="focal is a loss of sigmoids: what adjusts or smooths a softmax means nothing to it")
            for softmax in ("balanced_softmax", "logit_adjusted", "ldam", "label_smoothing", "label_aware_smoothing")],
)

"""Everything that acts behind a frozen backbone: features as data, or a pretrained network that stays as it is.

    python run_search.py --space spaces/heads.py --data features:FILE

The backbone's features are computed once (`views=`). A line is a choice, as in `full_combo.py`.
"""

from spaces.domain import Space, Stage, forbid, integer, log_uniform, one_of, trick, uniform

# fmt: off
FROZEN = trick("classifier", reset=False)

SPACE = Space(
    stages=[
        Stage("probe", length=0.8, lr=log_uniform(0.02, 0.64, step="halves"), weight_decay=one_of(5e-5, 5e-4, 5e-3),
              batch_size=one_of(128, 256, 512), views=1, choose=[
            FROZEN,
            # re-weighting
            one_of(None, trick("cost_sensitive", power=one_of(0.5, 1.0)),
                         trick("effective_number", beta=one_of(0.9, 0.99, 0.999))),
            # re-sampling
            one_of(None, "class_balanced", "square_root", "progressive", trick("power_law", q=one_of(0.25, 0.75))),
            # margin and logit adjustment
            one_of(None, "balanced_softmax", trick("logit_adjusted", tau=one_of(0.5, 1.0, 1.5)),
                         trick("class_dependent_temperature", gamma=one_of(0.1, 0.2, 0.3))),
            # smoothing
            one_of(None, "label_smoothing", "label_aware_smoothing"),
            # mixup of features
            one_of(None, trick("manifold_mixup", alpha=uniform(0.2, 1.0, step=0.4), layer="pool")),
            # head
            one_of(None, trick("cosine_head", scale=one_of(15.0, 25.0, 35.0)))]),
        one_of(
            # the same to the end, with or without a post-hoc correction
            Stage("finish", length=0.2, carry="all", keep=True, views=1, choose=[
                one_of(None, trick("tau_norm", tau=uniform(0.5, 1.5, step=0.25)), "nearest_mean",
                             trick("post_hoc_adjustment", tau=uniform(0.5, 1.5, step=0.25)))]),
            # deferred re-balancing: DRS, DRW
            Stage("deferred", length=0.2, carry="all", keep=("mix",), views=1, choose=[
                one_of("class_balanced", "square_root", "cost_sensitive")]),
            # label over-smoothing: targets this flat want the small learning rate of its paper
            Stage("smoothing", length=0.2, lr=log_uniform(0.000125, 0.002, step="halves"), weight_decay=0.0, views=1,
                  choose=[FROZEN, trick("label_over_smoothing", delta=uniform(0.9, 0.98, step=0.04))]),
            # one learned factor a class (LWS)
            Stage("scaling", length=0.2, lr=log_uniform(0.02, 0.64, step="halves"), views=1, choose=[
                "learnable_scale", one_of("class_balanced", "square_root")]),
        ),
        # balanced training and merging of heads
        one_of(None, Stage("balanced", length=0.2, lr=log_uniform(0.002, 0.2, step="halves"), members=integer(2, 4),
                           views=1, choose=[FROZEN, trick("few_shot", n_c=one_of(5, 10, 20)),
                                            one_of("average", "interpolate")])),
    ],
    screen=["probe/class_balanced", "probe/cost_sensitive", "probe/balanced_softmax", "probe/manifold_mixup",
            "balanced", "smoothing"],
    forbid=[forbid("probe/cosine_head", "scaling",
                   reason="a cosine head gives every class the same length, which is what the factors would learn"),
            *(forbid(f"finish/{readout}", "balanced", reason="a correction of the finished classifier comes last")
              for readout in ("tau_norm", "nearest_mean", "post_hoc_adjustment"))],
)

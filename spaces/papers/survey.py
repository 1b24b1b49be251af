"""The survey's six systems (Zhang et al. 2023, TPAMI, arXiv:2110.04596), each whole, beside deferred re-weighting.

Each system is one way to train the first four fifths; the last fifth continues plainly, with deferred re-weighting, or
with RIDE's own weights and temperatures. Their published recipes are the start points, see `spaces.recipes`.
Methods of two views see every image twice: compare them at equal images as well.
"""

from spaces.domain import Space, Stage, one_of, trick

# fmt: off
ROTATION = one_of(None, "rotation", name="augmentation")
EXPERTS = trick("experts", width=one_of(0.75, 1.0))
SPACE = Space(
    stages=[
        one_of(
            Stage("plain", length=0.8, choose=[ROTATION]),
            Stage("de_confound", length=0.8, choose=[
                trick("causal_norm", alpha=one_of(1.0, 1.5, 3.0)), ROTATION]),
            Stage("sade", length=0.8, choose=[EXPERTS, trick("sade", tau=one_of(1.0, 2.0)), ROTATION]),
            Stage("ride", length=0.8, choose=[EXPERTS, trick("ride", factor=one_of(-0.45, -0.2)), ROTATION]),
            Stage("reslt", length=0.8, choose=[
                "reslt_head", trick("reslt", beta=one_of(0.72, 0.9, 0.995)), ROTATION]),
            Stage("gpaco", length=0.8, choose=[
                "several_views", one_of(None, trick("auto_augment", view=0), name="first_view"),
                trick("sim_augment", view=1),
                trick("gpaco", alpha=one_of(0.01, 0.05), temperature=one_of(0.05, 0.2),
                      momentum_encoder=one_of(False, True))]),
            Stage("rsg", length=0.8, choose=["cosine_head", "ldam", trick("rsg", strength=one_of(0.5, 1.0)), ROTATION]),
            name="system",
        ),
        one_of(
            Stage("finish", length=0.2, carry="all", keep=True),
            Stage("deferred", length=0.2, carry="all", keep=True, choose=["cost_sensitive"]),
            Stage("reweighted", length=0.2, carry="all", keep=True, choose=[trick("ride", reweight=True)]),
        ),
    ],
    screen=["de_confound", "sade", "ride", "reslt", "gpaco", "rsg", "deferred"],
)

"""The survey's six systems (Zhang et al. 2023, TPAMI, arXiv:2110.04596), each whole, beside deferred re-weighting.

Each system is one way to train the first four fifths; the last fifth continues plainly, with deferred re-weighting, or
with RIDE's own weights and temperatures; experts may then get routers. Their published recipes are the start points,
see `spaces.recipes`.
Methods of two views see every image twice: compare them at equal images as well.
"""

from typing import Any

from spaces.domain import Space, Stage, Trick, log_uniform, one_of, trick
from spaces.papers.tables import Fact, Row, Setting, Table

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
        one_of(None, Stage("routed", length=0.025, batch_size=512, schedule="cosine", lr=log_uniform(1e-3, 0.1),
                           choose=["expert_assignment", "routing_loss", "class_balanced"])),
    ],
    screen=["de_confound", "sade", "ride", "reslt", "gpaco", "rsg", "deferred"],
)

IMAGENET = Setting("ImageNet-LT", "imagenet-lt", None, "resnext50")
NOTES = (
    "The survey's numbers are single runs.",
    "Batches of 256, learning rate 0.1 along a cosine, weight decay 5e-4; RIDE in batches of 64 at 0.025 "
    "with drops.",
    "The survey's rows of OLTR, LFME, SSP, UNO-IC and BBN are left out: the gallery does not have these methods.",
    "ResLT's ImageNet head has a 1×1 convolution; the row here has the CIFAR head.",
    "Relative accuracy is the accuracy divided by an upper bound: the larger accuracy of plain training and of the "
    "method itself on a balanced set of the same size. The survey's figure has both for every method; here only the "
    "baseline's at 90 epochs are given, 57.3 and 79.4 %, as the others are printed in a picture that was not at hand. "
    "Its text says that MiSLAS has the higher accuracy and balanced softmax the higher relative accuracy at 90 epochs.",
)
BOUNDS = {90: {"baseline": 57.3}}
"""Published upper bounds by length, in percent."""


def _train(epochs: float, *tricks: str | Trick, **numbers: Any) -> Stage:
    common: dict[str, Any] = {"lr": 0.1, "weight_decay": 5e-4, "batch_size": 256, "schedule": "cosine", **numbers}
    return Stage("train", epochs=round(epochs), choose=tricks, **common)


def _again(draw: str, epochs: int) -> tuple[Stage, ...]:
    """Decoupled training: a first stage with the given sampler, then the classifier retrained.

    The second stage has 10 epochs with class-balanced sampling.
    """
    draws = () if draw == "instance" else (draw,)
    return _train(epochs, *draws), Stage("classifier", epochs=10, lr=0.1, weight_decay=5e-4, batch_size=256,
                                         schedule="cosine", choose=["classifier", "class_balanced"])


def _rows(epochs: int, column: int) -> tuple[Row, ...]:
    """The systems at one of the survey's two lengths."""
    margins = ("cosine_head", trick("ldam", max_margin=0.3))
    drops = "multistep(at=120/160, of=200, by=0.1, warm_up=0)"
    ride: dict[str, Any] = {"lr": 0.025, "batch_size": 64, "schedule": drops}
    diverse = trick("ride", factor=-0.2, rho=0.02)
    finish: dict[str, Any] = {"epochs": round(0.2 * epochs), "carry": "all", "keep": True}
    rows: tuple[tuple[str, str, tuple[Stage, ...], tuple[float, float]], ...] = (
        ("baseline", "softmax", (_train(epochs),), (45.5, 46.8)),
        ("weighted_softmax", "weighted softmax", (_train(epochs, "log_inverse", reduction="weighted_mean"),),
         (47.9, 49.1)),
        ("focal", "focal, γ = 3", (_train(epochs, trick("softmax_focal", gamma=3.0, constant_factor=True)),),
         (45.8, 47.2)),
        ("equalization", "softmax equalization", (_train(epochs, trick("equalization", tail_share=4.3e-4)),),
         (47.3, 48.0)),
        ("balanced_softmax", "balanced softmax", (_train(epochs, "balanced_softmax"),), (50.8, 51.2)),
        ("lade", "LADE", (_train(epochs, trick("lade", alpha=0.1)),), (51.5, 51.6)),
        ("ldam", "LDAM", (_train(epochs, *margins),), (51.1, 51.1)),
        ("crt", "cRT", _again("instance", epochs), (49.9, 50.3)),
        ("crt_class_balanced", "cRT on a class-balanced first stage", _again("class_balanced", epochs), (44.9, 43.0)),
        ("crt_square_root", "cRT on a square-root first stage", _again("square_root", epochs), (49.3, 48.5)),
        ("crt_progressive", "cRT on a progressive first stage", _again("progressive", epochs), (48.4, 48.1)),
        ("mislas", "MiSLAS",
         (_train(epochs, trick("input_mixup", alpha=0.2)), Stage(
             "classifier", epochs=10, lr=0.1, weight_decay=5e-4, batch_size=256, schedule="mislas_classifier", choose=[
                 trick("learnable_scale", scale_bias=True, weight_lr=0.05), "class_balanced",
                 trick("label_aware_smoothing", head=0.3, tail=0.0)])), (51.4, 53.4)),
        ("de_confound", "De-confound", (_train(epochs, trick("causal_norm", alpha=3.0)),), (51.8, 51.3)),
        ("rsg", "RSG", (_train(0.8 * epochs, *margins, "rsg", reduction="weighted_mean"),
                        Stage("deferred", choose=[trick("effective_number", beta=0.9999)], **finish)), (49.6, 52.9)),
        ("reslt", "ResLT", (_train(epochs, "reslt_head", trick("reslt", beta=0.99)),), (51.6, 53.2)),
        ("paco", "PaCo", (_train(epochs, "several_views", trick("sim_augment", view=1), trick(
            "gpaco", alpha=0.05, temperature=0.07, queue=8192, dim=128, momentum_encoder=True)),), (52.7, 54.4)),
        ("ride", "RIDE", (_train(0.8 * epochs, "experts", diverse, **ride),
                          Stage("reweighted", choose=[trick("ride", factor=-0.2, rho=0.02, reweight=True)], **finish)),
         (55.5, 56.1)),
        ("sade", "SADE", (_train(epochs, "experts", "sade"),), (57.3, 58.8)),
    )
    return tuple(Row(name, title, stages, (accuracy[column],)) for name, title, stages, accuracy in rows)


def _table(epochs: int, column: int) -> Table:
    def beats(name: str, title: str) -> Fact:
        return Fact(f"{title} beats plain training.", {name: 1.0, "baseline": -1.0}, 1)

    return Table(
        f"survey/{epochs}", f"The survey's methods, {epochs} epochs",
        "Zhang, Kang, Hooi, Yan, Feng 2023, Deep Long-Tailed Learning: A Survey, TPAMI, arXiv:2110.04596", "accuracy",
        (IMAGENET,), _rows(epochs, column),
        (beats("balanced_softmax", "Balanced softmax"), beats("ride", "RIDE"), beats("sade", "SADE"),
         Fact("SADE beats balanced softmax.", {"sade": 1.0, "balanced_softmax": -1.0}, 1)), NOTES,
        BOUNDS.get(epochs, {}))


TABLES = (_table(90, 0), _table(200, 1))

"""Published recipes, each as it would be written by someone who has read its paper and nothing else.

They are start points of the adaptive arm and stand in its race: a search that does not beat them has found nothing.
What is published is the stages, their share of the schedule, the tricks and their numbers. Learning rates are given
as multiples of the rate that the data set is trained with, because the papers' own belong to their batch size and
number of steps; a whole recipe has the data set's standard length.

    bag_of_tricks          Zhang et al. 2021, AAAI 35(4), table 11: input mixup throughout, the last fifth on
                           class-balanced draws of CAM-transformed images
    label_over_smoothing   Sun et al. 2025, ICLR: strong weight decay first; then the classifier alone, δ = 0.98, at
                           a twentieth of the rate, without weight decay, every image drawn once
    balanced_merging       Yu et al. 2024, arXiv:2401.16811: few-shot sets of N_C = 10 images a class, the whole
                           network tuned on each with mixup 0.2, the weights averaged; then the classifier
    mislas                 Zhong et al. 2021, arXiv:2104.00466: mixup first; then class-balanced draws, label-aware
                           smoothing, a learnable scale per class on the old classifier
    classifier_retraining  Kang et al. 2020, arXiv:1910.09217: plain training; then a new classifier on a frozen
                           backbone with class-balanced draws (cRT)

For networks that come with weights, and for features:

    lift                   Shi et al. 2024, arXiv:2309.10019: light fine-tuning with a cosine classifier of scale 25 and
                           logit adjustment. Here the biases learn, which every network has; the paper's AdaptFormer is
                           in `spaces/papers/lift.py`
    lt_soups               Aminbeidokhti et al. 2025, arXiv:2511.10683: the whole network tuned on balanced subsets, the
                           weights averaged; then the classifier alone on all images. Here all subsets are of one size,
                           where the paper's grow

The survey's systems, start points of a space that offers their tricks (`spaces/papers/survey.py`), with the published
augmentation, schedule and weight decay of their CIFAR recipes:

    de_confound            Tang et al. 2020, arXiv:2009.12991: a normalised classifier without the drift of training
    sade                   Zhang et al. 2022, arXiv:2107.09249: three experts for three distributions, rotation
    ride                   Wang et al. 2021, arXiv:2010.01809: diverse experts, rotation, weights in the last fifth
    ride_routed            the same, then 5 of 200 epochs for the routers that spare an image experts
    reslt                  Cui et al. 2022, arXiv:2101.10633: three branches, β = 0.995 (CIFAR-100-LT, imbalance 100)
    gpaco, paco            Cui et al. 2023, arXiv:2209.12400, and 2021, arXiv:2107.12028: two views, AutoAugment and
                           Cutout on the first one; twice as long in the papers
    rsg                    Wang et al. 2021, arXiv:2106.09859: LDAM-DRW with generated samples in the last fifth

Start points of the spaces that contain them, with the numbers of CIFAR-100-LT at imbalance 100:

    vs_loss                Kini et al. 2021, arXiv:2103.01550: temperatures by class, then logit adjustment (γ = 0.05,
                           τ = 0.75); `spaces/papers/vs_loss.py`
    weight_balancing       Alshammari et al. 2022, arXiv:2203.14197: strong weight decay; then the classifier alone,
                           with effective numbers, weight decay 0.1, MaxNorm; `spaces/papers/weight_balancing.py`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spaces.domain import OneOf, Space, Stage, one_of, trick


@dataclass(frozen=True)
class Published:
    """A recipe, with the choices around it that say what may be taken away from it.

    Args:
        name: Short.
        title: As it is spoken of.
        space: Its stages; everything that is not part of the baseline is a choice.
        labels: The choices that make the recipe.
    """

    name: str
    title: str
    space: Space
    labels: tuple[str, ...]


def published(lr: float) -> tuple[Published, ...]:
    """The recipes, for a data set that is trained with this learning rate.

    Args:
        lr: Peak learning rate of the first stage, above 0.

    >>> [recipe.name for recipe in published(0.1)]
    ['bag_of_tricks', 'label_over_smoothing', 'balanced_merging', 'mislas', 'classifier_retraining']
    """
    plain = Stage("finish", length=0.2, carry="all", keep=True)
    end = Stage("finish", length=0.1, carry="all", keep=True)
    return (
        Published(
            "bag_of_tricks",
            "Bag of Tricks",
            Space(
                stages=[
                    Stage("representation", length=0.8, lr=lr, choose=[one_of(None, trick("input_mixup", alpha=1.0))]),
                    one_of(plain, Stage("deferred", length=0.2, carry="all", keep=("mix", "augment", "average"),
                                        choose=[one_of(None, "class_balanced"), one_of(None, "cam_foreground")])),
                ]
            ),
            ("representation/input_mixup", "deferred", "deferred/class_balanced", "deferred/cam_foreground"),
        ),
        Published(
            "label_over_smoothing",
            "label over-smoothing",
            Space(
                stages=[
                    Stage("representation", length=0.9, lr=lr, weight_decay=5e-3, schedule="cosine"),
                    one_of(end, Stage("smoothing", length=0.1, lr=lr / 20, weight_decay=0.0, schedule="cosine", choose=[
                        trick("classifier", reset=False), one_of(None, trick("label_over_smoothing", delta=0.98))])),
                ]
            ),
            ("smoothing", "smoothing/label_over_smoothing"),
        ),
        Published(
            "balanced_merging",
            "balanced training and merging",
            Space(
                stages=[
                    Stage("representation", length=0.75, lr=lr),
                    one_of(None, Stage("balanced", length=0.15, lr=lr / 20, members=4, choose=[
                        trick("few_shot", n_c=10), one_of(None, trick("input_mixup", alpha=0.2)), "average"])),
                    one_of(end, Stage("classifier", length=0.1, lr=lr / 2, choose=[
                        "classifier", one_of(None, "class_balanced")])),
                ]
            ),
            ("balanced", "balanced/input_mixup", "classifier", "classifier/class_balanced"),
        ),
        Published(
            "mislas",
            "MiSLAS-like",
            Space(
                stages=[
                    Stage("representation", length=0.9, lr=lr, choose=[one_of(None, trick("input_mixup", alpha=1.0))]),
                    one_of(end, Stage("scaling", length=0.1, lr=lr, schedule="cosine", choose=[
                        trick("learnable_scale", scale_bias=True, weight_lr=0.2), one_of(None, "class_balanced"),
                        one_of(None, trick("label_aware_smoothing", head=0.3, tail=0.0))])),
                ]
            ),
            ("representation/input_mixup", "scaling", "scaling/class_balanced", "scaling/label_aware_smoothing"),
        ),
        Published(
            "classifier_retraining",
            "classifier re-training",
            Space(
                stages=[
                    Stage("representation", length=0.9, lr=lr),
                    one_of(end, Stage("classifier", length=0.1, lr=lr, schedule="cosine", choose=[
                        "classifier", one_of(None, "class_balanced")])),
                ]
            ),
            ("classifier", "classifier/class_balanced"),
        ),
    )  # fmt: skip


def published_for_pretrained(lr: float) -> tuple[Published, ...]:
    """Recipes that start from a pretrained network.

    Args:
        lr: As in `published`.

    >>> [recipe.name for recipe in published_for_pretrained(0.2)]
    ['lift', 'lt_soups']
    """
    return (
        Published(
            "lift",
            "LIFT-like",
            Space(
                stages=[
                    Stage("tuned", length=1.0, lr=lr, schedule="cosine", choose=[
                        one_of(None, "bias_only"), one_of(None, trick("cosine_head", scale=25.0)),
                        one_of(None, "logit_adjusted")]),
                ]
            ),
            ("tuned/bias_only", "tuned/cosine_head", "tuned/logit_adjusted"),
        ),
        Published(
            "lt_soups",
            "LT-Soups-like",
            Space(
                stages=[
                    Stage("soup", length=0.6, lr=lr / 10, members=4, schedule="cosine", choose=[
                        trick("few_shot", n_c=20), "average"]),
                    Stage("classifier", length=0.4, lr=lr, schedule="cosine", choose=[
                        trick("classifier", reset=False), one_of(None, "logit_adjusted")]),
                ]
            ),
            ("classifier/logit_adjusted",),
        ),
    )  # fmt: skip


def published_systems(lr: float) -> tuple[Published, ...]:
    """The survey's six systems, PaCo in both forms, RIDE with and without routers.

    Args:
        lr: As in `published`.

    >>> [recipe.name for recipe in published_systems(0.1)]
    ['de_confound', 'sade', 'ride', 'ride_routed', 'reslt', 'gpaco', 'paco', 'rsg']
    """
    # batches of 128, momentum 0.9 with Nesterov's where the public code has it
    common: dict[str, Any] = {"lr": lr, "weight_decay": 5e-4, "nesterov": True}
    step = "multistep(by=0.1)"
    views = [
        "several_views",
        one_of(None, trick("auto_augment", view=0)),
        one_of(None, trick("cutout", view=0)),
        one_of(None, trick("sim_augment", view=1)),
    ]
    of_views = ("auto_augment", "cutout", "sim_augment")

    def one_stage(name: str, title: str, labels: tuple[str, ...], stage: Stage) -> Published:
        return Published(name, title, Space(stages=[stage]), tuple(f"{name}/{label}" for label in labels))

    def of_paco(name: str, title: str, momentum_encoder: bool) -> Published:
        numbers = {**common, "lr": lr / 2, "nesterov": False}
        schedule = "multistep(at=320/360, of=400, by=0.1, warm_up=10)"
        loss = trick("gpaco", momentum_encoder=momentum_encoder)
        return one_stage(
            name,
            title,
            (*of_views, "gpaco"),
            Stage(name, length=1.0, schedule=schedule, choose=[*views, one_of(None, loss)], **numbers),
        )

    def of_ride(name: str, title: str, share: float, *behind: Stage | OneOf, labels: tuple[str, ...] = ()) -> Published:
        """RIDE in a share of the schedule, and what comes behind it."""
        diverse = trick("ride", factor=-0.45)
        first = Stage("ride", length=0.8 * share, schedule="ldam", choose=[
            "experts", diverse, one_of(None, "rotation")], **common)  # fmt: skip
        end = one_of(Stage("finish", length=0.2 * share, carry="all", keep=True),
                     Stage("reweighted", length=0.2 * share, carry="all", keep=True, choose=[
                         trick("ride", factor=-0.45, reweight=True)]))  # fmt: skip
        return Published(name, title, Space(stages=[first, end, *behind]), ("ride/rotation", "reweighted", *labels))

    routed = Stage("routed", length=0.025, batch_size=512, schedule="cosine", choose=[
        "expert_assignment", "routing_loss", one_of(None, "class_balanced")], **{**common, "lr": lr / 10})  # fmt: skip
    return (
        one_stage(
            "de_confound", "De-confound", ("causal_norm",),
            Stage("de_confound", length=1.0, lr=lr, weight_decay=5e-4, schedule="multistep(at=120/160, start=1/3)",
                  choose=[one_of(None, "causal_norm")]),
        ),
        one_stage(
            "sade", "SADE", ("sade", "rotation"),
            Stage("sade", length=1.0, schedule=step, choose=["experts", one_of(None, "sade"), one_of(None, "rotation")],
                  **common),
        ),
        of_ride("ride", "RIDE", 1.0),
        of_ride("ride_routed", "RIDE with routers", 0.975, routed, labels=("routed/class_balanced",)),
        one_stage(
            "reslt", "ResLT", ("reslt",),
            Stage("reslt", length=1.0, schedule="multistep(by=0.1, warm_up=0)",
                  choose=["reslt_head", one_of(None, "reslt")], **common),
        ),
        of_paco("gpaco", "GPaCo", False),
        of_paco("paco", "PaCo", True),
        Published(
            "rsg",
            "RSG",
            Space(
                stages=[
                    Stage("rsg", length=0.8, lr=lr, weight_decay=2e-4, schedule="ldam", reduction="weighted_mean",
                          choose=["cosine_head", "ldam", one_of(None, "rsg")]),
                    one_of(Stage("finish", length=0.2, carry="all", keep=True),
                           Stage("deferred", length=0.2, carry="all", keep=True, choose=[
                               trick("effective_number", beta=0.9999)])),
                ]
            ),
            ("rsg/rsg", "deferred"),
        ),
    )  # fmt: skip


def published_in_spaces(lr: float) -> tuple[Published, ...]:
    """Recipes that are start points of the spaces that contain them, and of no other.

    Args:
        lr: As in `published`.

    >>> [recipe.name for recipe in published_in_spaces(0.1)]
    ['vs_loss', 'weight_balancing']
    """
    slow: dict[str, Any] = {"lr": lr / 10, "batch_size": 64, "schedule": "cosine"}
    return (
        Published(
            "vs_loss",
            "VS loss",
            Space(
                stages=[
                    Stage("train", length=1.0, lr=lr, choose=[
                        one_of(None, trick("class_dependent_temperature", gamma=0.05)),
                        one_of(None, trick("logit_adjusted", tau=0.75))]),
                ]
            ),
            ("train/class_dependent_temperature", "train/logit_adjusted"),
        ),
        Published(
            "weight_balancing",
            "weight balancing",
            Space(
                stages=[
                    Stage("representation", length=0.95, weight_decay=5e-3, **slow),
                    one_of(Stage("finish", length=0.05, carry="all", keep=True),
                           Stage("classifier", length=0.05, weight_decay=0.1, choose=[
                               trick("classifier", reset=False),
                               one_of(None, trick("effective_number", beta=0.9999)),
                               one_of(None, trick("max_norm", fraction=0.1))], **slow)),
                ]
            ),
            ("classifier", "classifier/effective_number", "classifier/max_norm"),
        ),
    )  # fmt: skip

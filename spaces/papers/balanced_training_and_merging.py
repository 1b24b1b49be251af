"""Balanced training and merging (Yu et al. 2024, arXiv:2401.16811): its tables, and a space of its ablations.

N_D fine-tunings of the whole network on few-shot sets of N_C images a class, from one start, their weights averaged;
then a classifier stage. The paper reports a peak at N_D = 10 and N_C = 10, and a collapse of the harmonic mean at
N_D = 20, all from single runs.
"""

from spaces.domain import Space, Stage, one_of, trick
from spaces.papers.tables import Fact, Row, Setting, Table

# fmt: off
SPACE = Space(
    stages=[
        Stage("representation", length=0.75, choose=[one_of(None, trick("input_mixup", alpha=0.2))]),
        one_of(None, Stage("balanced", length=0.15, lr=0.005, members=one_of(2, 4, 8, 10, 20), carry="weights", choose=[
            trick("few_shot", n_c=one_of(5, 10, 20)), one_of(None, trick("input_mixup", alpha=0.2)), "average"])),
        one_of(
            Stage("finish", length=0.1, carry="all", keep=True),
            Stage("classifier", length=0.1, carry="weights", choose=["classifier", "class_balanced"]),
        ),
    ],
    screen=["representation/input_mixup", "balanced", "classifier"],
)

PLACES = Setting("Places-LT", "places-lt", None, "resnet152")
IMAGENET = Setting("ImageNet-LT", "imagenet-lt", None, "resnet50")
INATURALIST = Setting("iNaturalist 2018", "inaturalist18", None, "resnet50")
LR = {"places-lt": 5e-3, "imagenet-lt": 1e-3, "inaturalist18": 5e-4}
"""Learning rate of the few-shot trainings after MiSLAS."""

EPOCHS = {"places-lt": 90, "imagenet-lt": 180, "inaturalist18": 200}
"""Of the first stage, as in the configurations of the public code (commit 3c221ad)."""

SOURCE = "Yu et al. 2024, Balanced Training and Merging for long-tailed recognition, arXiv:2401.16811, {}"
NOTES = (
    "The paper's numbers come from single runs.",
    "The code's configuration for balanced training repeats that of the first stage; learning rate and the 30 epochs "
    "of each of the N_D trainings are those of the text.",
    "N_C images a class without replacement, as in the code: fewer where a class has fewer.",
)


def _mislas(setting: Setting, members: int = 0, n_c: int = 10, last: bool = False) -> tuple[Stage, ...]:
    """MiSLAS, with balanced training and merging between its stages, or behind them."""
    first = Stage("representation", epochs=EPOCHS[setting.data], lr=0.1, weight_decay=5e-4, batch_size=256,
                  schedule="cosine", choose=[trick("input_mixup", alpha=0.2)])
    balanced = Stage("balanced", epochs=30, lr=LR[setting.data], weight_decay=5e-4, batch_size=256, schedule="cosine",
                     members=max(1, members), choose=[trick("few_shot", n_c=n_c), trick("input_mixup", alpha=0.2),
                                                      "average"])
    scaling = Stage("scaling", epochs=10, lr=0.1, schedule="mislas_classifier", choose=[
        trick("learnable_scale", scale_bias=True, weight_lr=0.05), "class_balanced",
        trick("label_aware_smoothing", head=0.4 if setting is PLACES else 0.3, tail=0.1 if setting is PLACES else 0.0)])
    if not members:
        return first, scaling
    return (first, scaling, balanced) if last else (first, balanced, scaling)


RAISES = (Fact("Balanced training and merging raises the harmonic mean.", {"merged": 1.0, "mislas": -1.0}, 1),)
"""The paper claims this of the harmonic mean; the accuracy falls on two of its three data sets."""


def _main(setting: Setting, name: str, measure: str, plain: float, merged: float) -> Table:
    return Table(
        f"balanced_training_and_merging/{name}", f"MiSLAS with and without balanced training, {setting.title}",
        SOURCE.format("its table of " + setting.title), measure, (setting,), (
            Row("mislas", "MiSLAS", _mislas(setting), (plain,)),
            Row("merged", "MiSLAS with balanced training and merging, N_D = 10, N_C = 10", _mislas(setting, 10),
                (merged,)),
        ), RAISES if measure == "harmonic_mean" else (), NOTES)


TABLES = (
    _main(PLACES, "places", "harmonic_mean", 28.75, 29.80),
    _main(PLACES, "places_accuracy", "accuracy", 40.12, 40.25),
    _main(IMAGENET, "imagenet", "harmonic_mean", 17.68, 21.11),
    _main(IMAGENET, "imagenet_accuracy", "accuracy", 52.68, 52.59),
    _main(INATURALIST, "inaturalist", "harmonic_mean", 2.03, 2.18),
    _main(INATURALIST, "inaturalist_accuracy", "accuracy", 71.57, 71.43),
    Table("balanced_training_and_merging/n_d", "Number of few-shot trainings N_D", SOURCE.format("ablation over N_D"),
          "harmonic_mean", (PLACES,), (
        Row("mislas", "MiSLAS", _mislas(PLACES), (28.75,)),
        *(Row(f"n_d_{members}", f"N_D = {members}", _mislas(PLACES, members), (value,))
          for members, value in ((2, 28.43), (4, 29.11), (8, 28.20), (10, 29.80), (20, 15.17))),
    ), (Fact("Ten few-shot trainings raise the harmonic mean.", {"n_d_10": 1.0, "mislas": -1.0}, 1),
        Fact("Twenty of them are worse than ten.", {"n_d_20": 1.0, "n_d_10": -1.0}, -1)), NOTES),
    Table("balanced_training_and_merging/n_c", "Images a class N_C", SOURCE.format("ablation over N_C"),
          "harmonic_mean", (PLACES,), (
        Row("mislas", "MiSLAS", _mislas(PLACES), (28.75,)),
        *(Row(f"n_c_{n_c}", f"N_C = {n_c}", _mislas(PLACES, 10, n_c), (value,))
          for n_c, value in ((5, 28.48), (10, 29.80), (20, 29.59))),
    ), (Fact("Ten images a class are better than five.", {"n_c_10": 1.0, "n_c_5": -1.0}, 1),), NOTES),
    Table("balanced_training_and_merging/place", "Between the stages or behind them",
          SOURCE.format("ablation over the place of merging"), "harmonic_mean", (PLACES,), (
        Row("mislas", "MiSLAS", _mislas(PLACES), (28.75,)),
        Row("between", "between the stages", _mislas(PLACES, 10), (29.80,)),
        Row("behind", "behind the second stage", _mislas(PLACES, 10, last=True), (None,)),
    ), (Fact("Merging between the stages is better than behind them.", {"between": 1.0, "behind": -1.0}, 1),), NOTES),
)

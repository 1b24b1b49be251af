"""Balanced training and merging (Yu et al. 2024, arXiv:2401.16811): its tables, and a space of its ablations.

N_D fine-tunings of the whole network on few-shot sets of N_C images a class, from one start, their weights averaged;
then a classifier stage. The paper reports a peak at N_D = 10 and N_C = 10, and a collapse of the harmonic mean at
N_D = 20, all from single runs.
"""

from dataclasses import replace

from spaces.domain import Space, Stage, Trick, one_of, trick
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
    "The paper's rows on PaCo and GPaCo are left out: neither text nor code says how their last 40 epochs are trained.",
)


CLASSIFIER_ONLY = trick("classifier", reset=False)
GML = "gml"


def _mislas(setting: Setting, members: int = 0, n_c: int = 10, *, last: bool = False, merge: str | Trick = "average",
            trained: tuple[Trick, ...] = (), loss: str | Trick | None = None) -> tuple[Stage, ...]:
    """MiSLAS, with balanced training and merging between its stages, or behind them."""
    places = setting is PLACES
    smoothing = trick("label_aware_smoothing", head=0.4 if places else 0.3, tail=0.1 if places else 0.0)
    first = Stage("representation", epochs=EPOCHS[setting.data], lr=0.1, weight_decay=5e-4, batch_size=256,
                  schedule="cosine", choose=[trick("input_mixup", alpha=0.2)])
    balanced = Stage("balanced", epochs=30, lr=LR[setting.data], weight_decay=5e-4, batch_size=256, schedule="cosine",
                     members=max(1, members), choose=[trick("few_shot", n_c=n_c), trick("input_mixup", alpha=0.2),
                                                      merge, *trained])
    scaling = Stage("scaling", epochs=10, lr=0.1, schedule="mislas_classifier", choose=[
        trick("learnable_scale", scale_bias=True, weight_lr=0.05), "class_balanced", loss or smoothing])
    if not members:
        return first, scaling
    return (first, scaling, balanced) if last else (first, balanced, scaling)


SAME = {"harmonic_mean": "", "geometric_mean": "_geometric", "lowest_recall": "_lowest", "accuracy": "_accuracy"}
"""What the paper's main tables print, each a table here, and how its id ends."""

ORDER = tuple(SAME)


def _main(setting: Setting, name: str, plain: tuple[float | None, ...], merged: tuple[float | None, ...],
          *others: Row) -> tuple[Table, ...]:
    """The main table of a data set, once for each of its measures; `others` have one number for each measure."""
    rows = (Row("mislas", "MiSLAS", _mislas(setting), plain),
            Row("merged", "MiSLAS with balanced training and merging, N_D = 10, N_C = 10", _mislas(setting, 10),
                merged),
            *others)
    return tuple(
        Table(f"balanced_training_and_merging/{name}{SAME[measure]}",
              f"MiSLAS with and without balanced training, {setting.title}",
              SOURCE.format("its table of " + setting.title), measure, (setting,),
              tuple(replace(row, published=(row.published[number],)) for row in rows),
              RAISES if measure == "harmonic_mean" else (), (*NOTES, *(PLACES_NOTES if setting is PLACES else ())))
        for number, measure in enumerate(ORDER) if plain[number] is not None)


RAISES = (Fact("Balanced training and merging raises the harmonic mean.", {"merged": 1.0, "mislas": -1.0}, 1),)
"""The paper claims this of the harmonic mean; the accuracy falls on two of its three data sets."""

PLACES_NOTES = (
    "The code starts from ImageNet weights and trains the last block and the classifier only; the rows here train the "
    "whole network. For the weights, name them: --model 'resnet152?pretrained=FILE'.",
)
WHOLE = Row("whole", "average, the whole network trained (as above)", _mislas(PLACES, 10), (29.80,))


def _ablation(name: str, title: str, rows: tuple[Row, ...], facts: tuple[Fact, ...], *notes: str) -> Table:
    return Table(f"balanced_training_and_merging/{name}", title, SOURCE.format("ablation on Places-LT"),
                 "harmonic_mean", (PLACES,), (Row("mislas", "MiSLAS", _mislas(PLACES), (28.75,)), *rows), facts,
                 (*NOTES, *PLACES_NOTES, *notes))


TABLES = (
    *_main(PLACES, "places", (28.75, 35.30, 3.0, 40.12), (29.80, 35.60, 4.0, 40.25),
           Row("mislas_gml", "MiSLAS, GML in the second stage", _mislas(PLACES, loss=GML), (28.81, 34.94, 3.0, 39.68)),
           Row("merged_gml", "the same with balanced training and merging", _mislas(PLACES, 10, loss=GML),
               (29.90, 35.39, 4.0, 39.92))),
    *_main(IMAGENET, "imagenet", (17.68, 45.78, None, 52.68), (21.11, 45.85, None, 52.59)),
    *_main(INATURALIST, "inaturalist", (2.03, 51.27, None, 71.57), (2.18, 52.02, None, 71.43)),
    _ablation("n_d", "Number of few-shot trainings N_D", tuple(
        Row(f"n_d_{members}", f"N_D = {members}", _mislas(PLACES, members), (value,))
        for members, value in ((2, 28.43), (4, 29.11), (8, 28.20), (10, 29.80), (20, 15.17))
    ), (Fact("Ten few-shot trainings raise the harmonic mean.", {"n_d_10": 1.0, "mislas": -1.0}, 1),
        Fact("Twenty of them are worse than ten.", {"n_d_20": 1.0, "n_d_10": -1.0}, -1))),
    _ablation("n_c", "Images a class N_C", tuple(
        Row(f"n_c_{n_c}", f"N_C = {n_c}", _mislas(PLACES, 10, n_c), (value,))
        for n_c, value in ((5, 28.48), (10, 29.80), (20, 29.59))
    ), (Fact("Ten images a class are better than five.", {"n_c_10": 1.0, "n_c_5": -1.0}, 1),)),
    _ablation("place", "Between the stages or behind them", (
        Row("between", "between the stages", _mislas(PLACES, 10), (29.80,)),
        Row("behind", "behind the second stage", _mislas(PLACES, 10, last=True), (None,)),
    ), (Fact("Merging between the stages is better than behind them.", {"between": 1.0, "behind": -1.0}, 1),)),
    _ablation("trained", "What the few-shot trainings train", (
        WHOLE, Row("classifier", "the classifier alone", _mislas(PLACES, 10, trained=(CLASSIFIER_ONLY,)), (None,)),
    ), (Fact("Training the whole network is better than the classifier alone.",
             {"whole": 1.0, "classifier": -1.0}, 1),),
        "The paper's row of the backbone alone is left out."),
    _ablation("merging", "How the trained networks are merged", (
        WHOLE,
        *(Row(f"{strategy}_{mean}", f"{title}, scored by the {mean} mean",
              _mislas(PLACES, 10, merge=trick(strategy, mean=mean)), (None,))
          for strategy, title in (("adaptive", "adaptive coefficients"), ("greedy_soup", "greedy soup"))
          for mean in ("harmonic", "geometric")),
    ), tuple(Fact(f"Plain averages are better than {title} by the {mean} mean.",
                  {"whole": 1.0, f"{strategy}_{mean}": -1.0}, 1)
             for strategy, title in (("adaptive", "adaptive coefficients"), ("greedy_soup", "a greedy soup"))
             for mean in ("harmonic", "geometric")),
        "Of this table only the average's number is held here."),
)

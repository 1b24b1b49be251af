"""Bag of Tricks (Zhang et al. 2021, AAAI 35(4)): the tables on CIFAR-LT, and a space of mixup × deferred re-balancing.

The paper trains each cell once and takes the best epoch on test. Where text and public code (commit ce7859a) disagree,
the recipes here follow the code and the notes of the tables say so. `SPACE` measures the pairs of tables 5, 7, 8, 9 and
10 over seed blocks: the paper finds that cost-sensitive weights add nothing to CAM-based balanced sampling (table 9)
while input mixup does (table 10).
"""

from typing import Any

from spaces.domain import Space, Stage, Trick, one_of, some_of, trick
from spaces.papers.tables import Fact, Row, Setting, Table

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

SETTINGS = tuple(
    Setting(f"CIFAR-{classes}-LT, imbalance {imbalance}", f"cifar{classes}-lt", float(imbalance), "resnet32")
    for classes in (10, 100) for imbalance in (100, 50)
)
SGD: dict[str, Any] = {"weight_decay": 2e-4, "batch_size": 128, "nesterov": True}
"""Of every stage of the tables, so that another data set does not change the recipe."""

SOURCE = "Zhang, Wei, Zhou, Wu 2021, Bag of Tricks for Long-Tailed Visual Recognition, AAAI 35(4), table {}"
ONE_RUN = "The paper trains every cell once and reports the best epoch on test; ours are means over seeds at the end."
MIXUP_LENGTH = (
    "The author trains mixup for 400 epochs (public code, MAX_EPOCH 400; issue 1 of the repository), twice as long as "
    "the other rows; the text says 200. The rows here are as long as in the code."
)


def _first(length: float, *tricks: str | Trick, **numbers: Any) -> Stage:
    return Stage("representation", epochs=round(200 * length), lr=0.1, schedule="bag_of_tricks", choose=tricks, **SGD,
                 **numbers)


def _plain(*tricks: str | Trick, length: float = 1.0, **numbers: Any) -> tuple[Stage, ...]:
    """One training with the same tricks from beginning to end."""
    return (_first(0.8 * length, *tricks, **numbers),
            Stage("finish", epochs=round(40 * length), carry="all", keep=True))


def _deferred(*tricks: str | Trick, **numbers: Any) -> tuple[Stage, ...]:
    """The last 40 of 200 epochs with the tricks, the same optimiser and schedule."""
    return _first(0.8), Stage("deferred", epochs=40, carry="all", choose=tricks, **numbers)


def _cam(draw: str, *tricks: str | Trick, mixup: Trick | None = None, change: str = "cam_foreground",
         ) -> tuple[Stage, ...]:
    """40 epochs of their own on images whose foreground is transformed, from epoch 160 of plain training or mixup."""
    first = _first(0.8) if mixup is None else _first(1.6, mixup)
    return first, Stage(
        "deferred", epochs=40, lr=1e-3, schedule="bag_of_tricks_cam", keep=("mix",),
        choose=[draw, trick(change), *tricks], **SGD)


def _tuned(stages: tuple[Stage, ...], draw: str = "class_balanced") -> tuple[Stage, ...]:
    return *stages, Stage("fine_tuning", epochs=20, lr=2e-3, schedule="bag_of_tricks_fine_tuning",
                          choose=[draw], **SGD)


BASELINE = Row("baseline", "cross-entropy", _plain(), (30.18, 24.78, 61.73, 57.90))
INPUT = trick("input_mixup", alpha=1.0)
MANIFOLD = trick("manifold_mixup", alpha=1.0, layer="pool")
INPUT_ROW = Row("input_mixup", "input mixup, α = 1", _plain(INPUT, length=2.0), (26.99, 22.91, 59.66, 55.75))
MANIFOLD_ROW = Row("manifold_pool", "manifold mixup at pool, α = 1", _plain(MANIFOLD, length=2.0),
                   (26.61, 21.50, 60.14, 56.44))
CAM_BALANCED = Row("cam_balanced", "DRS on CAM images, class-balanced", _cam("class_balanced"),
                   (24.63, 18.60, 58.27, 54.05))
BALANCED_DRS = Row("drs_class_balanced", "DRS, class-balanced", _deferred("class_balanced"),
                   (29.04, 21.34, 59.56, 55.67))
COST_SENSITIVE_DRW = Row("drw_cost_sensitive", "DRW, cost-sensitive",
                         _deferred("cost_sensitive", reduction="weighted_mean"), (25.31, 20.81, 58.92, 54.57))
BALANCED = Row("class_balanced", "class-balanced from the start", _plain("class_balanced"),
               (30.44, 23.97, 67.34, 61.48))
COST_SENSITIVE = Row("cost_sensitive", "cost-sensitive", _plain("cost_sensitive", reduction="weighted_mean"),
                     (29.07, 23.74, 70.92, 63.78))
INPUT_TUNED = Row("input_mixup_tuned", "input mixup, then fine-tuning", _tuned(_plain(INPUT, length=2.0)),
                  (26.27, 20.32, 58.21, 53.97))
MANIFOLD_TUNED = Row("manifold_pool_tuned", "manifold mixup, then fine-tuning", _tuned(_plain(MANIFOLD, length=2.0)),
                     (28.88, 22.59, 61.16, 57.43))
CAM_COST_SENSITIVE = Row("cam_balanced_cost_sensitive", "DRS on CAM images, class-balanced, cost-sensitive",
                         _cam("class_balanced", "cost_sensitive"), (24.82, 18.96, 58.36, 54.09))
INPUT_CAM = Row("input_mixup_cam_balanced", "input mixup, then CAM images, class-balanced",
                _cam("class_balanced", mixup=INPUT), (21.88, 17.94, 53.94, 50.04))
MANIFOLD_CAM = Row("manifold_pool_cam_balanced", "manifold mixup, then CAM images, class-balanced",
                   _cam("class_balanced", mixup=MANIFOLD), (22.65, 19.17, 57.20, 56.94))
WHOLE_BAG = Row("bag_of_tricks", "input mixup, CAM images, then fine-tuning", _tuned(INPUT_CAM.stages),
                (19.97, 16.41, 52.17, 48.31))


def _table(number: int, title: str, rows: tuple[Row, ...], facts: tuple[Fact, ...] = (),
           notes: tuple[str, ...] = ()) -> Table:
    return Table(f"bag_of_tricks/{number}", title, SOURCE.format(number), "error", SETTINGS, (BASELINE, *rows), facts,
                 (ONE_RUN, *notes))


def _gain(of: str, over: str = "baseline") -> dict[str, float]:
    return {of: 1.0, over: -1.0}


BAG = Fact("The whole bag beats plain training.", _gain("bag_of_tricks"), 1)
CAM = Fact("CAM-transformed images add to deferred class-balanced draws.",
           _gain("cam_balanced", "drs_class_balanced"), 1)
CAM_ON_MIXUP = Fact("Input mixup with CAM images is better than input mixup alone.",
                    _gain("input_mixup_cam_balanced", "input_mixup"), 1)
DEFERRED = Fact("Class-balanced draws help more in the last fifth than from the start.",
                _gain("drs_class_balanced", "class_balanced"), 1)
DRS = Fact("Deferred class-balanced draws beat plain training.", _gain("drs_class_balanced"), 1)
DRW = Fact("Deferred cost-sensitive weights beat plain training.", _gain("drw_cost_sensitive"), 1)
MIXUP_ON_CAM = Fact("Input mixup with CAM images is better than CAM images alone.",
                    _gain("input_mixup_cam_balanced", "cam_balanced"), 1)
OVERLAP = Fact(
    "Cost-sensitive weights and class-balanced draws of CAM images gain less together than the sum of both alone.",
    {"cam_balanced_cost_sensitive": 1.0, "cam_balanced": -1.0, "drw_cost_sensitive": -1.0, "baseline": 1.0}, -1)
TUNING = Fact("Fine-tuning does more after input mixup than after manifold mixup.",
              {"input_mixup_tuned": 1.0, "input_mixup": -1.0, "manifold_pool_tuned": -1.0, "manifold_pool": 1.0}, 1)
TUNING_BAG = Fact("Fine-tuning adds to input mixup with CAM images.",
                  _gain("bag_of_tricks", "input_mixup_cam_balanced"), 1)
TUNING_INPUT = Fact("Fine-tuning helps after input mixup.", _gain("input_mixup_tuned", "input_mixup"), 1)
TUNING_MANIFOLD = Fact("Fine-tuning hurts after manifold mixup.", _gain("manifold_pool_tuned", "manifold_pool"), -1)
WEIGHTS_ON_CAM = Fact("Cost-sensitive weights add nothing to class-balanced draws of CAM images.",
                      _gain("cam_balanced_cost_sensitive", "cam_balanced"), 0)

DIFFERENCES = Table(
    "bag_of_tricks/differences", "What the paper concludes about pairs, in one search", SOURCE.format("4 to 11"),
    "error", SETTINGS,
    (BASELINE, COST_SENSITIVE, BALANCED,
     Row("cost_sensitive_class_balanced", "cost-sensitive and class-balanced from the start",
         _plain("cost_sensitive", "class_balanced", reduction="weighted_mean"), (None,) * len(SETTINGS)),
     BALANCED_DRS, COST_SENSITIVE_DRW, CAM_BALANCED, CAM_COST_SENSITIVE, INPUT_ROW, INPUT_TUNED, INPUT_CAM, WHOLE_BAG,
     MANIFOLD_ROW, MANIFOLD_TUNED, MANIFOLD_CAM),
    (Fact("Not in the paper: weights and draws that both balance are worse than balanced draws alone.",
          _gain("cost_sensitive_class_balanced", "class_balanced"), -1),
     DEFERRED, DRS, DRW, CAM, WEIGHTS_ON_CAM, OVERLAP, MIXUP_ON_CAM, CAM_ON_MIXUP, TUNING_INPUT, TUNING_MANIFOLD,
     TUNING, BAG, TUNING_BAG,
     Fact("Manifold mixup and class-balanced draws of CAM images gain less together than the sum of both alone.",
          {"manifold_pool_cam_balanced": 1.0, "manifold_pool": -1.0, "cam_balanced": -1.0, "baseline": 1.0}, -1)),
    (ONE_RUN, MIXUP_LENGTH, "Rows share their first stages: a seed block costs 9.5 times plain training."))

BAG_LENGTH = (
    "The rows with mixup follow the code: 160 epochs of mixup, 40 on CAM images, 20 of fine-tuning. Plain training has "
    "90 epochs, and the text says the same of the whole bag."
)


def _large(name: str, setting: Setting, limit: int, errors: tuple[float, float, float]) -> Table:
    """The whole bag on a large data set, as the public code configures it for ImageNet-LT."""
    sgd: dict[str, Any] = {"weight_decay": 1e-4, "batch_size": 512, "nesterov": True}
    mixed = (Stage("representation", epochs=160, lr=0.2, schedule="bag_of_tricks_full_bag", choose=[INPUT], **sgd),
             Stage("deferred", epochs=40, lr=2e-3, schedule="constant",
                   choose=["class_balanced", trick("cam_foreground", limit=limit)], **sgd))
    tuned = Stage("fine_tuning", epochs=20, lr=2e-3, schedule="bag_of_tricks_fine_tuning", choose=["class_balanced"],
                  **sgd)
    return Table(
        f"bag_of_tricks/11_{name}", f"The whole bag, {setting.title}", SOURCE.format("2 and 11"), "error", (setting,), (
            Row("baseline", "cross-entropy",
                (Stage("representation", epochs=90, lr=0.2, schedule="imagenet_lt", **sgd),), (errors[0],)),
            Row("input_mixup_cam_balanced", "input mixup, then CAM images, class-balanced", mixed, (errors[1],)),
            Row("bag_of_tricks", "input mixup, CAM images, then fine-tuning", (*mixed, tuned), (errors[2],)),
        ), (BAG, TUNING_BAG), (ONE_RUN, BAG_LENGTH))


TABLES = (
    _table(1, "Two-stage re-weighting with margins", (
        Row("ldam_drw", "LDAM with deferred re-weighting",
            (_first(0.8, "cosine_head", "ldam"),
             Stage("deferred", epochs=40, carry="all", keep=True, reduction="weighted_mean",
                   choose=[trick("effective_number", beta=0.9999)])),
            (22.97, 20.70, 57.96, 54.92)),
    ), (Fact("Margins with deferred re-weighting beat plain training.", _gain("ldam_drw"), 1),),
        ("Of this table only the row of LDAM-DRW is held here.",
         "Its text implies weights of inverse frequency; the code of LDAM, followed here, has effective numbers.")),
    _table(3, "Re-weighting in one stage", (
        COST_SENSITIVE,
        Row("focal", "focal, γ = 2", _plain(trick("focal", gamma=2.0)), (29.62, 24.75, 61.90, 57.56)),
        Row("class_balanced_9999", "class-balanced cross-entropy, β = 0.9999",
            _plain(trick("effective_number", beta=0.9999, normalise=True), reduction="weighted_mean"),
            (28.26, 22.76, None, None)),
        Row("class_balanced_9", "class-balanced cross-entropy, β = 0.9",
            _plain(trick("effective_number", beta=0.9, normalise=True), reduction="weighted_mean"),
            (None, None, 66.40, 63.48)),
        Row("class_balanced_focal_9999_1", "class-balanced focal, β = 0.9999, γ = 1",
            _plain(trick("effective_number", beta=0.9999, normalise=True), trick("focal", gamma=1.0), reduction="mean"),
            (27.02, None, None, None)),
        Row("class_balanced_focal_9999_2", "class-balanced focal, β = 0.9999, γ = 2",
            _plain(trick("effective_number", beta=0.9999, normalise=True), trick("focal", gamma=2.0), reduction="mean"),
            (None, 22.03, None, None)),
        Row("class_balanced_focal_9_1", "class-balanced focal, β = 0.9, γ = 1",
            _plain(trick("effective_number", beta=0.9, normalise=True), trick("focal", gamma=1.0), reduction="mean"),
            (None, None, 62.36, None)),
        Row("class_balanced_focal_99_1", "class-balanced focal, β = 0.99, γ = 1",
            _plain(trick("effective_number", beta=0.99, normalise=True), trick("focal", gamma=1.0), reduction="mean"),
            (None, None, None, 57.24)),
    ), (), ("Weights are averaged as in the code: over the batch's weight sum, but not for the focal losses.",)),
    _table(4, "Re-sampling in one stage", (
        Row("under_sampling", "random under-sampling", _plain("under_sampling"), (34.14, 26.91, 67.23, 60.98)),
        Row("over_sampling", "random over-sampling", _plain("over_sampling"), (33.24, 26.53, 67.00, 61.11)),
        BALANCED,
        Row("square_root", "square-root", _plain("square_root"), (31.36, 24.84, 64.47, 59.82)),
        Row("progressive", "progressive", _plain("progressive"), (32.91, 25.03, 61.41, 57.09)),
    ), (), ("Random over- and under-sampling have no public code: an epoch is C · n_max or C · n_min images here.",)),
    _table(5, "Mixup", (
        INPUT_ROW,
        Row("input_mixup_2", "input mixup, α = 2", _plain(trick("input_mixup", alpha=2.0), length=2.0),
            (28.65, 24.90, 60.38, 56.39)),
        MANIFOLD_ROW,
        Row("manifold_pool_2", "manifold mixup at pool, α = 2",
            _plain(trick("manifold_mixup", alpha=2.0, layer="pool"), length=2.0), (27.67, 22.02, 60.45, 56.45)),
        Row("manifold_layer3", "manifold mixup at layer 3, α = 1",
            _plain(trick("manifold_mixup", alpha=1.0, layer="layer3"), length=2.0), (27.30, 22.41, 60.81, 56.68)),
        Row("manifold_layer3_2", "manifold mixup at layer 3, α = 2",
            _plain(trick("manifold_mixup", alpha=2.0, layer="layer3"), length=2.0), (27.14, 22.31, 60.73, 56.52)),
    ), (Fact("Input mixup lowers the error.", _gain("input_mixup"), 1),
        Fact("Manifold mixup at pool lowers the error.", _gain("manifold_pool"), 1)),
        (MIXUP_LENGTH, "The table's rows at FC are left out: after the linear layer and before it are the same mix.")),
    _table(6, "Fine-tuning after mixup", (
        INPUT_ROW, INPUT_TUNED, MANIFOLD_ROW, MANIFOLD_TUNED,
    ), (TUNING_INPUT, TUNING_MANIFOLD, TUNING),
        (MIXUP_LENGTH,
         "Neither text nor code says how CIFAR is fine-tuned: the recipe is that of the code for ImageNet-LT, 20 "
         "epochs at 0.002 with class-balanced draws.")),
    _table(7, "Deferred re-sampling", (
        Row("drs_under_sampling", "DRS, under-sampling", _deferred("under_sampling"), (28.18, 21.33, 60.21, 55.97)),
        Row("drs_over_sampling", "DRS, over-sampling", _deferred("over_sampling"), (28.88, 21.52, 59.76, 55.90)),
        BALANCED_DRS,
        Row("drs_square_root", "DRS, square-root", _deferred("square_root"), (31.31, 22.21, 61.02, 57.05)),
        Row("drs_progressive", "DRS, progressive", _deferred("progressive"), (33.48, 24.58, 61.35, 56.93)),
        CAM_BALANCED,
        Row("cam_under_sampling", "DRS on CAM images, under-sampling", _cam("under_sampling"),
            (24.98, 19.15, 58.99, 54.17)),
        Row("cam_over_sampling", "DRS on CAM images, over-sampling", _cam("over_sampling"),
            (24.87, 18.82, 58.45, 54.36)),
        Row("cam_square_root", "DRS on CAM images, square-root", _cam("square_root"), (28.14, 20.69, 60.07, 55.61)),
        Row("cam_progressive", "DRS on CAM images, progressive", _cam("progressive"), (27.39, 19.46, 59.67, 55.28)),
        Row("image_balanced", "DRS on images transformed as a whole, class-balanced",
            _cam("class_balanced", change="image_transform"), (28.10, 21.60, 59.28, 55.05)),
        BALANCED,
    ), (DEFERRED, DRS, CAM),
        ("In the code progressive DRS counts epochs over the whole training; here over its own stage.",
         "CAM-based over- and under-sampling and the transformed whole images have no public code; an epoch is as long "
        "as with the same draws of plain images.")),
    _table(8, "Deferred re-weighting", (
        Row("drw_focal", "DRW, focal", _deferred(trick("focal", gamma=2.0), "cost_sensitive", reduction="mean"),
            (29.71, 23.77, 61.74, 57.32)),
        COST_SENSITIVE_DRW,
        *(Row(f"drw_class_balanced_focal_{column}", f"DRW, class-balanced focal, β = {beta}, γ = {gamma:g}",
              _deferred(trick("effective_number", beta=beta, normalise=True), trick("focal", gamma=gamma),
                        reduction="mean"),
              tuple(error if column == number else None for number in range(4)))
          for column, (beta, gamma, error) in enumerate(
              ((0.9999, 1.0, 25.62), (0.9999, 2.0, 21.25), (0.9, 1.0, 61.99), (0.99, 1.0, 55.54)))),
    ), (DRW,),
        ("The code gives focal loss the weights n_min / n_c in the second stage, and so does this row.",
         "β and γ of class-balanced focal loss are those of the code's one-stage configurations.")),
    _table(9, "Cost-sensitive weights on CAM-based draws", (
        CAM_BALANCED, COST_SENSITIVE_DRW, CAM_COST_SENSITIVE,
    ), (WEIGHTS_ON_CAM, OVERLAP)),
    _table(10, "Mixup, then class-balanced draws of CAM images", (
        INPUT_ROW, MANIFOLD_ROW, CAM_BALANCED, INPUT_CAM, MANIFOLD_CAM,
    ), (MIXUP_ON_CAM, CAM_ON_MIXUP), (MIXUP_LENGTH,)),
    _table(11, "The whole bag", (
        INPUT_CAM, WHOLE_BAG,
    ), (BAG, TUNING_BAG), (MIXUP_LENGTH,)),
    _large("imagenet", Setting("ImageNet-LT", "imagenet-lt", None, "resnet10"), 100, (65.99, 58.13, 56.87)),
    _large("inaturalist", Setting("iNaturalist 2018", "inaturalist18", None, "resnet50"), 50, (39.89, 29.72, 29.13)),
    DIFFERENCES,
)

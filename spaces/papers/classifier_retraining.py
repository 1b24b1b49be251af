"""The classifier re-training methods that label over-smoothing is compared with, on one representation (ICLR 2025).

One first stage, which is trained once and shared by all: weight decay 5e-3, learning rate 0.01 along a cosine. Behind
it plain training to the end, cRT, LWS, τ-normalisation, label-aware smoothing (MiSLAS) and label over-smoothing. Logits
magnitude and regularised standard deviation of every trial are among its metrics.
"""

from spaces.domain import Space, Stage, Trick, one_of, trick
from spaces.papers.tables import Fact, Row, Setting, Table

# fmt: off
SPACE = Space(
    stages=[
        Stage("representation", length=0.9, lr=0.01, weight_decay=5e-3, schedule="cosine"),
        one_of(
            Stage("finish", length=0.1, carry="all", keep=True,
                  choose=[one_of(None, trick("tau_norm", tau=one_of(0.5, 0.7, 1.0)))]),
            Stage("crt", length=0.1, lr=one_of(0.01, 0.1), schedule="cosine", choose=["classifier", "class_balanced"]),
            Stage("lws", length=0.1, lr=one_of(0.01, 0.1), schedule="cosine",
                  choose=["learnable_scale", "class_balanced"]),
            Stage("mislas", length=0.1, lr=one_of(0.01, 0.1), schedule="cosine", choose=[
                trick("learnable_scale", scale_bias=True, weight_lr=0.2), "class_balanced",
                trick("label_aware_smoothing", head=0.3, tail=0.0)]),
            Stage("smoothing", length=0.1, lr=one_of(5e-4, 5e-3), weight_decay=0.0, schedule="cosine", choose=[
                trick("classifier", reset=False), trick("label_over_smoothing", delta=one_of(0.9, 0.95, 0.98, 0.99))]),
        ),
    ],
    screen=["finish/tau_norm", "crt", "lws", "mislas", "smoothing"],
)

SETTINGS = tuple(Setting(f"CIFAR-100-LT, imbalance {imbalance}", "cifar100-lt", float(imbalance), "resnet34_cifar")
                 for imbalance in (100, 50, 10))
FIRST = Stage("representation", epochs=200, lr=0.01, weight_decay=5e-3, batch_size=64, schedule="los")
NONE = (None,) * len(SETTINGS)


def _second(epochs: int, *tricks: str | Trick, lr: float, weight_decay: float = 0.0) -> tuple[Stage, ...]:
    return FIRST, Stage("second", epochs=epochs, lr=lr, weight_decay=weight_decay, batch_size=64, schedule="los",
                        choose=tricks)


TABLES = (
    Table("label_over_smoothing/classifier_retraining", "Classifier re-training on one representation",
          "Sun et al. 2025, Rethinking Classifier Re-Training in Long-Tailed Recognition, ICLR", "accuracy", SETTINGS, (
        Row("baseline", "first stage alone", (FIRST,), NONE),
        Row("tau_norm", "τ-normalisation, τ = 1", (Stage("representation", epochs=199, lr=0.01, weight_decay=5e-3,
                                                         batch_size=64, schedule="los"),
                                                   Stage("readout", epochs=1, carry="all",
                                                         choose=[trick("tau_norm", tau=1.0)])), NONE),
        Row("crt", "cRT", _second(10, "classifier", "class_balanced", lr=0.1, weight_decay=5e-4), NONE),
        Row("lws", "LWS", _second(5, "learnable_scale", "class_balanced", lr=0.1), NONE),
        Row("mislas", "label-aware smoothing with learnable scales", _second(
            10, trick("learnable_scale", scale_bias=True, weight_lr=0.1), "class_balanced",
            trick("label_aware_smoothing", head=0.4, tail=0.1), lr=0.1), NONE),
        Row("label_over_smoothing", "label over-smoothing, δ = 0.98", _second(
            20, trick("classifier", reset=False), trick("label_over_smoothing", delta=0.98), lr=5e-4), NONE),
    ), (Fact("Label over-smoothing beats the first stage alone.", {"label_over_smoothing": 1.0, "baseline": -1.0}, 1),
        Fact("Label over-smoothing beats cRT.", {"label_over_smoothing": 1.0, "crt": -1.0}, 1),
        Fact("Label over-smoothing beats LWS.", {"label_over_smoothing": 1.0, "lws": -1.0}, 1),
        Fact("Label over-smoothing beats label-aware smoothing.", {"label_over_smoothing": 1.0, "mislas": -1.0}, 1)),
        ("The paper's numbers are not given here: its public code (bilibili/LOS) prints none, its tables and those of "
         "its preprint (arXiv:2403.00250) were not at hand, and other papers quote it with other networks. So only the "
         "order of the methods is compared.",
         "The paper takes the best epoch on test and averages the logits of an image and its mirror image.",
         "Logits magnitude and regularised standard deviation of every trial are among the search's metrics.")),
)

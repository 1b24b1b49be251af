"""Label over-smoothing (LOS, ICLR 2025): a well-regularised first stage, then only the classifier, over-smoothed.

The published recipe: weight decay 5e-3 and learning rate 0.01 with a cosine in the first stage; 20 of 220 epochs at
learning rate 5e-4 without weight decay in the second, δ = 0.98, every image drawn once. Published accuracies are not
given here, see `spaces.papers.classifier_retraining`.
"""

from spaces.domain import Space, Stage, one_of, trick

# fmt: off
SPACE = Space(
    stages=[
        Stage("representation", length=1.0, lr=one_of(0.01, 0.1), weight_decay=one_of(2e-4, 1e-3, 5e-3),
              schedule="cosine", choose=[one_of(None, trick("input_mixup", alpha=0.2))]),
        one_of(
            Stage("finish", length=0.1, carry="all", keep=True),
            Stage("smoothing", length=0.1, lr=one_of(5e-4, 5e-3), weight_decay=0.0, schedule="cosine", carry="weights",
                  choose=[trick("classifier", reset=False),
                          one_of(None, trick("label_over_smoothing", delta=one_of(0.9, 0.95, 0.98, 0.99))),
                          one_of(None, "class_balanced")]),
        ),
    ],
    screen=["representation/input_mixup", "smoothing/label_over_smoothing", "smoothing/class_balanced"],
)

"""The classifier re-training methods that label over-smoothing is compared with, on one representation (ICLR 2025).

One first stage, which is trained once and shared by all: weight decay 5e-3, learning rate 0.01 along a cosine. Behind
it plain training to the end, cRT, LWS, τ-normalisation, label-aware smoothing (MiSLAS) and label over-smoothing. Logits
magnitude and regularised standard deviation of every trial are among its metrics.
"""

from spaces.domain import Space, Stage, one_of, trick

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

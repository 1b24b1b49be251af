"""Light fine-tuning of a foundation model on a long tail (LIFT, ICML 2024; arXiv:2309.10019).

For a network with pretrained weights whose blocks have an MLP, a vision transformer. Published: AdaptFormer with a
learned scale, a cosine classifier of scale 25, logit adjustment; SGD at 0.01 along a cosine, batches of 128, weight
decay 5e-4, 10 epochs. Not here: the classifier's start from text or class means, and the ensemble of shifted crops.
"""

from spaces.domain import Space, Stage, one_of, trick

# fmt: off
SPACE = Space(
    stages=[
        Stage("tuned", epochs=10, lr=one_of(0.01, 0.02), weight_decay=5e-4, batch_size=128, schedule="cosine",
              optimizer=one_of("sgd", "adamw"), choose=[
            one_of(trick("classifier", reset=False),
                   trick("adapt_former", bottleneck=one_of(4, 16, 64), scale=1.0, learn_scale=True),
                   trick("lora", rank=one_of(4, 8)), "bias_only", trick("last_block", count=one_of(1, 2)),
                   name="what_learns"),
            one_of(None, "logit_adjusted", "balanced_softmax", "lade"),
            one_of(None, trick("cosine_head", scale=one_of(15.0, 25.0, 35.0)))]),
    ],
    screen=["tuned/adapt_former", "tuned/logit_adjusted", "tuned/cosine_head"],
)

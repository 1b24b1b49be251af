"""Weight balancing (Alshammari et al. 2022, CVPR, arXiv:2203.14197): strong weight decay, then the classifier again.

Published: 200 epochs at learning rate 0.01 along a cosine, batches of 64, weight decay 5e-3; then 10 epochs in which
the classifier alone goes on from where it is, with the weights of effective numbers (β 0.9999), weight decay 0.1 and
rows of bounded length. The network is `resnet34_cifar`, which the paper calls ResNet-32.
"""

from spaces.domain import Space, Stage, one_of, trick

# fmt: off
SPACE = Space(
    stages=[
        Stage("representation", length=0.95, lr=0.01, weight_decay=one_of(5e-3, 2e-4, 1e-3), batch_size=64,
              schedule="cosine"),
        one_of(
            Stage("finish", length=0.05, carry="all", keep=True),
            Stage("classifier", length=0.05, lr=0.01, weight_decay=one_of(0.1, 5e-3), batch_size=64, schedule="cosine",
                  choose=[trick("classifier", reset=False),
                          one_of(None, trick("effective_number", beta=one_of(0.9999, 0.999))),
                          one_of(None, trick("max_norm", fraction=0.1))]),
        ),
    ],
    screen=["classifier", "classifier/effective_number", "classifier/max_norm"],
)

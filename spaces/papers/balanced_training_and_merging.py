"""Balanced training and merging (BTM), the ablations over N_D and N_C and the place of merging.

N_D fine-tunings of the whole network on few-shot sets of N_C images a class, from one start, their weights
averaged; then a classifier stage. The paper reports a peak at N_D = 10 and N_C = 10, and a collapse of the harmonic
mean at N_D = 20, all from single runs.
"""

from spaces.domain import Space, Stage, one_of, trick

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

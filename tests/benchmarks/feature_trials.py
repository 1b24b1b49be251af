"""A trial on features beside a plain PyTorch loop in the same run: seconds of a core, accuracy, and their ratio.

    LONGTAIL_SHARED=… python tests/benchmarks/feature_trials.py [--rounds 5]

The data are CIFAR-100-LT at imbalance 100 as features of a frozen ImageNet network; 30 epochs of a linear classifier,
batches of 256, SGD at 0.2 along a cosine. The plain loop is what one writes by hand, without evaluation; a trial is the
whole pipeline, every evaluation on val included. The rows of products are the least that any way of training has to
compute: the logits and the gradient of every step, of one trial, of four whose batches differ, and of four that share
their batches. Rounds alternate, and the fastest of each counts: other work on the machine only makes one slower.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from spaces.domain import Space, Stage, trick
from trainables.data import LongTailed, load, standard
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import build, defaults

CPU = torch.device("cpu")
TRICKS = {
    "cross-entropy": (),
    "class-balanced draw": ("class_balanced",),
    "cost-sensitive": ("cost_sensitive",),
    "balanced softmax": ("balanced_softmax",),
    "balanced softmax + mixup": ("balanced_softmax", trick("manifold_mixup", layer="pool")),
    "all of them": ("class_balanced", "cost_sensitive", "balanced_softmax", trick("manifold_mixup", layer="pool")),
    "cosine head (usual path)": ("cosine_head",),
}


def plain_loop(data: LongTailed, epochs: int = 30) -> float:
    """Accuracy on test."""
    images, labels = data.normalise(data.train_images), data.train_labels
    random = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(images.shape[1], data.classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    steps = epochs * -(-len(labels) // 256)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for index in torch.randperm(len(labels), generator=random).split(256):
            loss = functional.cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        right = model(data.normalise(data.test_images)).argmax(dim=1) == data.test_labels
    return float(right.float().mean())


def products(data: LongTailed, trials: int = 1, shared: bool = False, epochs: int = 30) -> float:
    """The matrix products of the training alone; NaN in the place of an accuracy.

    Args:
        data: The data.
        trials: Trials that are computed at once.
        shared: Whether all have the same batches, so that their weights are one wide matrix.
        epochs: Epochs of each.
    """
    x = data.normalise(data.train_images[:256])
    weight = torch.randn(trials, data.classes, x.shape[1])
    error = torch.randn(trials, 256, data.classes)
    wide, error_of_all = weight.flatten(0, 1), error.transpose(0, 1).flatten(1, 2).contiguous()
    batches = x.expand(trials, -1, -1).contiguous()
    for _ in range(epochs * -(-len(data.train_labels) // 256)):
        if shared or trials == 1:
            torch.mm(x, wide.T)
            torch.mm(error_of_all.T, x)
        else:
            torch.bmm(batches, weight.mT)
            torch.bmm(error.mT, batches)
    return float("nan")


def trial(data: LongTailed, name: str, choose: tuple[object, ...]) -> float:
    """Accuracy on test."""
    space = Space(stages=[Stage("head", length=1.0, choose=list(choose))])
    pipeline = Pipeline(build(space, defaults(), standard(name)).plan, data, "linear", 0, CPU)
    pipeline.run()
    return pipeline.test()[0]["test/accuracy"]


def main() -> None:
    """Prints a line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    shared = Path(os.environ.get("LONGTAIL_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"
    file = shared / "cifar100_features.npz"
    if not file.is_file():
        sys.exit(f"{file} is not there; set LONGTAIL_SHARED to the folder that has data/cifar100_features.npz")
    torch.set_num_threads(1)
    name = f"features:{file}"
    data = load(name, imbalance=100)
    runs: dict[str, Callable[[], float]] = {"plain loop": lambda: plain_loop(data)}
    runs |= {title: (lambda choose=choose: trial(data, name, choose)) for title, choose in TRICKS.items()}
    runs |= {
        "products of one trial": lambda: products(data),
        "products of four, each": lambda: products(data, 4),
        "four with shared batches": lambda: products(data, 4, shared=True),
    }
    fastest, accuracy = dict.fromkeys(runs, float("inf")), dict.fromkeys(runs, 0.0)
    for _ in range(rounds):
        for title, run in runs.items():
            began = time.process_time()
            accuracy[title] = run()
            at_once = 4 if "four" in title else 1
            fastest[title] = min(fastest[title], (time.process_time() - began) / at_once)
    print(f"{len(data.train_labels)} images, 30 epochs, one thread, fastest of {rounds} rounds")
    print(f"{'':28} {'core s':>7} {'of plain':>9} {'test %':>7}")
    for title in runs:
        share = fastest[title] / fastest["plain loop"]
        print(f"{title:28} {fastest[title]:7.2f} {share:9.2f} {100 * accuracy[title]:7.1f}")


if __name__ == "__main__":
    main()

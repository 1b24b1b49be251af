"""Self-supervised aggregation of experts at test time (SADE): weights learnt from the target's images alone.

    w = softmax(v),   maximise over v: mean cosine of softmax(Σ_e w_e z_e(x')) and softmax(Σ_e w_e z_e(x''))

x' and x'' are two augmented views of an unlabelled target image, z_e the logits of expert e; the network is in
evaluation mode and stays as it is. An expert that says the same of both views gains weight, and on images of another
class distribution that is the expert which was trained for it.

It reads the images of the test split. So it is a command over a trained network, and no part of a search: nothing is
selected by it but the E weights, and the labels are read after the weights are fixed.

Source:
    Zhang, Hooi, Hong, Feng 2022, "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic Long-Tailed
    Recognition", NeurIPS, arXiv:2107.09249, section 4.3, with the constants of the public CIFAR code.

Differs:
    The views come from the data set's own crop and flip and from `sim_augment`, whose crop changes the aspect ratio and
    may cut some of one side. Colours and grey are drawn first here and last there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from analysis import files
from analysis.text import echo
from trainables import metrics
from trainables.batch import Batch, Facts
from trainables.data import LongTailed, load
from trainables.data.augment import own
from trainables.final.errors import TrainError
from trainables.final.network import RECIPE, trained, weights_file
from trainables.final.recipe import read_recipe
from trainables.models import Network
from trainables.pipeline.pipeline import normalised_for
from trainables.plan import Plan
from trainables.registry import make
from trainables.training.seeding import generator

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
BATCH_SIZE, EPOCHS = 128, 5
COSINE_FLOOR = 1e-6
"""Smallest product of lengths in the cosine."""
SMALLEST_WEIGHT = 0.05
"""Learning stops after an epoch in which a weight, rounded to two digits, has fallen below this."""
VIEW = {"smallest": 1.0, "jitter": 0.4, "grey": 0.2, "blur": 0.2}
"""Numbers of `sim_augment` that make a view."""

Views = Iterable[tuple[Tensor, Tensor]]
"""The experts' logits (E, B, C) of two views of each batch."""


@dataclass(frozen=True)
class Aggregation:
    """Result of learning the weights.

    Args:
        weights: (E,), they sum to 1.
        similarity: Mean cosine of every epoch.
    """

    weights: Tensor
    similarity: tuple[float, ...]


def aggregated(weights: Tensor, experts: Tensor) -> Tensor:
    """Logits (B, C) of experts (E, B, C) with weights (E,)."""
    return torch.einsum("e,ebc->bc", weights.to(experts.dtype), experts)


def similarity(v: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mean cosine of the probabilities that two views give.

    Args:
        v: (E,) before the softmax.
        first: (E, B, C) logits of one view.
        second: The same of the other.

    >>> z = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]]])
    >>> round(similarity(torch.tensor([9.0, -9.0]), z, z.flip(0)).item(), 4)
    0.0366
    """
    w = v.softmax(dim=0)
    one, other = (aggregated(w, z).softmax(dim=1) for z in (first, second))
    return functional.cosine_similarity(one, other, dim=1, eps=COSINE_FLOOR).mean()


def learn(views: Callable[[int], Views], experts: int, epochs: int = EPOCHS) -> Aggregation:
    """Learns the weights of experts by gradient descent.

    Args:
        views: Number of an epoch -> its batches.
        experts: E, at least 1. Weights begin equal.
        epochs: Passes over the images, at least 1.
    """
    v = torch.full((experts,), 1 / experts, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([v], LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    seen = []
    for epoch in range(epochs):
        total, images = 0.0, 0
        for first, second in views(epoch):
            found = similarity(v, first.double(), second.double())
            optimiser.zero_grad()
            (-found).backward()
            optimiser.step()
            total, images = total + found.item() * first.shape[1], images + first.shape[1]
        seen.append(total / max(1, images))
        if float((100 * v.detach().softmax(dim=0)).round().min()) < 100 * SMALLEST_WEIGHT:
            break
    return Aggregation(v.detach().softmax(dim=0), tuple(seen))


def learn_on(network: Network, data: LongTailed, images: Tensor, epochs: int = EPOCHS, seed: int = 0) -> Aggregation:
    """Learns the weights of a network's experts on unlabelled images.

    Args:
        network: In evaluation mode.
        data: The data that it was trained on: how images are normalised, cropped and mirrored.
        images: (M, c, H, W) uint8.
        epochs: As in `learn`.
        seed: Of the views and of the order of the images.

    Raises:
        TrainError: The network has no experts.
    """
    count = len(experts_of(network, data, images[:2]))
    strong = make("sim_augment", **VIEW).build(Facts(data.counts, data.train_labels))

    @torch.no_grad()
    def views(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        drawn = generator(seed, "aggregate", epoch)
        for index in torch.randperm(len(images), generator=drawn).split(BATCH_SIZE):
            two = own(images[index].expand(2, *images[index].shape), data.pad, data.flip, data.crop, drawn)
            plain = Batch.plain(two[0], index, torch.zeros_like(index))
            first, second = strong(plain.with_images(two), drawn).images
            yield experts_of(network, data, first), experts_of(network, data, second)

    return learn(views, count, epochs)


def experts_of(network: Network, data: LongTailed, images: Tensor) -> Tensor:
    """(E, B, C) logits of a network's experts.

    Raises:
        TrainError: It has none.
    """
    with torch.no_grad():
        experts: Tensor | None = network(data.normalise(images)).experts
    if experts is None:
        raise TrainError(
            "the network has one classifier, and aggregation weights several; train a recipe with 'experts' and 'sade'"
        )
    return experts


# --- the command --------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Learns the weights of a trained network's experts and measures with and without them."""
    seed = _first_seed(options.folder) if options.seed is None else options.seed
    if options.epochs < 1:
        raise TrainError(f"--epochs must be at least 1, got {options.epochs}")
    recipe = read_recipe(options.folder / RECIPE, options.tricks, trust=options.trust)
    network = trained(options.folder, seed, tricks=options.tricks, trust=options.trust)
    of, root = recipe["data"], recipe["provenance"].get("data_root")
    if options.data is None:
        root = options.data_root or root
    data = normalised_for(recipe["model"], load(of["name"], root=root, imbalance=of["imbalance"], fold_val=True))
    target = data if options.data is None else load(options.data, root=options.data_root)
    if target.kind == "features" or target.test_images.shape[1:] != data.train_images.shape[1:]:
        raise TrainError(
            f"{target.name}: aggregation needs test images of the training images' shape "
            f"{tuple(data.train_images.shape[1:])}, got {target.kind} {tuple(target.test_images.shape[1:])}"
        )
    if target.class_names != data.class_names:
        raise TrainError(
            f"{target.name}: aggregation needs the classes of {data.name} in the same order, got "
            f"{', '.join(target.class_names[:5])}{', …' if len(target.class_names) > 5 else ''}"
        )
    found = learn_on(network, data, target.test_images, options.epochs, seed)
    document = {"data": target.name, "seed": seed} | measured(network, data, target, found)
    echo(text(document, len(target.test_images), _readouts(recipe)))
    if options.out is not None:
        files.write(options.out, files.to_json(document) + "\n")
        echo(f"Written: {options.out}")
    return 0


def text(document: Mapping[str, Any], images: int, readouts: Sequence[str]) -> str:
    """What was learnt and measured, for people."""
    weights = ", ".join(f"{weight:.3f}" for weight in document["weights"])
    seen = document["similarity"]
    lines = [
        f"Weights of the experts: {weights}, learnt from the {images} test images of {document['data']} without their "
        f"labels, in {len(seen)} epochs (mean cosine {seen[0]:.4f} in the first, {seen[-1]:.4f} in the last).",
        "The labels were read after the weights were fixed, for these numbers; choose nothing by them:",
        "",
        f"{'':18}  mean of experts  aggregated",
    ]
    for name, value in document["mean"].items():
        if value is not None and not math.isnan(value):
            lines.append(f"{name:18}  {value:15.4f}  {document['aggregated'][name]:10.4f}")
    if readouts:
        lines.append(f"Both are without the readout of the recipe ({', '.join(readouts)}).")
    return "\n".join(lines)


def _first_seed(folder: Path) -> int:
    """The lowest seed whose weights are in a folder.

    Raises:
        TrainError: There are none.
    """
    before, after = weights_file(0).split("0")
    found = [
        name.removeprefix(before).removesuffix(after) for name in (file.name for file in folder.glob(f"{before}*"))
    ]
    seeds = [int(number) for number in found if number.isdigit()]
    if not seeds:
        raise TrainError(f"{folder} has no weights of a final training; name the folder that longtail-tune train left")
    return min(seeds)


def _readouts(recipe: Mapping[str, Any]) -> list[str]:
    """The readouts of a recipe's last stage, which take the place of the experts' mean in evaluation."""
    return [trick.name for trick in Plan.from_dict(recipe["plan"]).stages[-1].on("readout")]


def measured(network: Network, data: LongTailed, target: LongTailed, found: Aggregation) -> dict[str, Any]:
    """Weights, and metrics on the target's labels with equal and with learnt weights."""
    batches = target.test_images.split(BATCH_SIZE)
    experts = torch.cat([experts_of(network, data, images) for images in batches], dim=1)
    equal = torch.full_like(found.weights, 1 / len(found.weights))
    totals = target.test_labels.bincount(minlength=data.classes)
    document: dict[str, Any] = {"weights": found.weights.tolist(), "similarity": list(found.similarity)}
    for name, weights in (("mean", equal), ("aggregated", found.weights)):
        predicted = aggregated(weights, experts).argmax(dim=1)
        recalls = metrics.recalls(predicted, target.test_labels, data.classes)
        document[name] = metrics.summarise(recalls, data.counts, totals)
        document[name]["image_accuracy"] = float((predicted == target.test_labels).double().mean())
    return document

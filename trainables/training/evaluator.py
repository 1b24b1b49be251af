"""Measures the network of a stage on a split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from trainables import metrics
from trainables.batch import Facts, evaluation_batch
from trainables.models import Network
from trainables.plan.model import Plan
from trainables.training.context import TrainingContext
from trainables.training.network_setup import stage_facts
from trainables.training.seeding import generator


class Evaluator:
    """Measures networks of one stage on a split.

    Args:
        context: Data, seed, device.
        plan: The plan.
        index: The stage, whose readout is used.
        split: "val" or "test".
        stored: Where the backbone is frozen, given the name of a split and a function that computes its features,
            returns them, computed or from a store.
    """

    def __init__(
        self,
        context: TrainingContext,
        plan: Plan,
        index: int,
        split: str = "val",
        stored: Callable[[str, Callable[[], Tensor]], Tensor] = lambda split, compute: compute(),
    ) -> None:
        data = context.data
        self._split, self._stored = split, stored
        self._context, self._stage = context, plan.stages[index]
        self._images = data.val_images if split == "val" else data.test_images
        self._labels = data.val_labels if split == "val" else data.test_labels
        self._generators = partial(generator, context.seed, plan.chain_number(index))
        self._frozen = self._stage.views > 0
        self._features: Tensor | None = None
        self._class_means: float | None = None

    @torch.no_grad()
    def logits(self, network: Network) -> Tensor:
        """(M, C) float64 logits of the split, through the stage's readout."""
        training = network.training
        network.eval()
        logits = self._logits(network, stage_facts(self._context, network, self._stage.epochs, self._generators))
        network.train(training)
        return logits

    def __call__(self, network: Network) -> dict[str, Any]:
        """Measures a network, see `measured`."""
        return self.measured(network)[0]

    @torch.no_grad()
    def measured(self, network: Network) -> tuple[dict[str, Any], Tensor]:
        """Measures a network. Where the stage learns from fixed views, the backbone's features are computed once.

        Returns:
            "loss", "accuracy" (mean recall), "adjusted" (post-hoc logit adjustment, Menon et al. 2021,
            arXiv:2007.07314, eq. 9, τ = 1) and "class_means" (nearest mean of the training features by cosine):
            the last two are what a second stage would roughly reach. Also "calibration_error", "recalls",
            "logits_magnitude" and "regularized_std" (C,), and "predicted" (M,), classes. All others are fractions but
            the loss and the two diagnostics of label over-smoothing. Of a head with routers also "experts_used", the
            mean over the images, and "flops_share". Beside them the logits (M, C), float64.
        """
        data, labels = self._context.data, self._labels
        training = network.training
        network.eval()
        facts = stage_facts(self._context, network, self._stage.epochs, self._generators)
        logits = self._logits(network, facts)
        if self._class_means is None or not (self._frozen or len(network.backbone) == 0):
            self._class_means = self._nearest_mean(network, facts)
        routing = self._computation(network)
        network.train(training)
        predicted = logits.argmax(dim=1)
        recalls = metrics.recalls(predicted, labels, data.classes)
        prior = (data.counts.double() / data.counts.sum()).clamp(min=1e-12).log().to(logits.device)
        found = {
            "loss": float(functional.cross_entropy(logits, labels)),
            "accuracy": float(recalls.nanmean()),
            "adjusted": float(metrics.recalls((logits - prior).argmax(dim=1), labels, data.classes).nanmean()),
            "class_means": self._class_means,
            "calibration_error": metrics.calibration_error(logits.softmax(dim=1), labels),
            "recalls": recalls.tolist(),
            "logits_magnitude": metrics.logits_magnitude(logits, labels).tolist(),
            "regularized_std": metrics.regularized_std(logits, labels).tolist(),
            "predicted": predicted.tolist(),
            **routing,
        }
        return found, logits

    def _logits(self, network: Network, facts: Facts) -> Tensor:
        """(M, C) float64 logits of the split, batch by batch, through the stage's readout."""
        made = next((trick.made() for trick in self._stage.on("readout")), None)
        readout = None if made is None else made.build(facts)
        views = getattr(made, "views", lambda images: images[None])
        size = evaluation_batch(self._images)
        if self._frozen and not hasattr(made, "views"):
            batches = (network.classify(features) for features in self._split_features(network).split(size))
        else:
            batches = (network(self._context.data.normalise(views(images))) for images in self._images.split(size))
        return torch.cat([out.logits if readout is None else readout(out) for out in batches]).double()

    def _computation(self, network: Network) -> dict[str, float]:
        """Of a head with routers, the experts that an image takes in the mean, and their share of all computation."""
        if getattr(network.head, "routers", None) is None:
            return {}
        normalise, flops = self._context.data.normalise, []
        outputs = [network(normalise(images)) for images in self._images.split(evaluation_batch(self._images))]
        used = float(torch.cat([out.experts_used for out in outputs]).double().mean())
        for parts in (network.backbone.values(), [network]):
            x = normalise(self._images[:1])
            with FlopCounterMode(display=False) as counter:
                for part in parts:
                    x = part(x)
            flops.append(counter.get_total_flops())
        shared, whole = flops
        share = (shared + (whole - shared) * used / len(outputs[0].experts)) / whole
        return {"experts_used": used, "flops_share": share}

    def _split_features(self, network: Network) -> Tensor:
        """(M, D) features of the split; those of a frozen backbone are computed once."""

        def compute() -> Tensor:
            batches = self._images.split(evaluation_batch(self._images))
            return torch.cat([network(self._context.data.normalise(images)).joint_features for images in batches])

        if not self._frozen:
            return compute()
        if self._features is None:
            self._features = self._stored(self._split, compute)
        return self._features

    def _nearest_mean(self, network: Network, facts: Facts) -> float:
        data = self._context.data
        features = self._stored("train", facts.features) if self._frozen else facts.features()
        sums = features.new_zeros(data.classes, features.shape[1]).index_add_(0, data.train_labels, features)
        means = functional.normalize(sums, dim=1)
        nearest = (functional.normalize(self._split_features(network), dim=1) @ means.T).argmax(dim=1)
        return float(metrics.recalls(nearest, self._labels, data.classes).nanmean())

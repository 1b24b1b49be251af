"""An epoch of a linear classifier on features that stay as they are, with the gradient in closed form.

With z = W x + b + a, where a is what the logits seam adds, p = softmax(z), and the mixture's labels y_k, shares s_k and
weights w(y_k), the gradient of the batch's loss in z is Σₖ sₖ w(yₖ) (p − q(yₖ)), divided as the stage's reduction says.
It is that of the usual path to rounding, from the same draws; there is no graph to build, and what depends on labels
alone is planned for the whole epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainables.batch import Batch, Blend
from trainables.models.heads import LinearHead
from trainables.models.network import Network

if TYPE_CHECKING:
    from trainables.training.feed import Epoch
    from trainables.training.stage_run import StageRun


def fixed_features(run: StageRun) -> Tensor | None:
    """Features (V, N, D) that stay the same in every epoch of a stage; `None` where the usual path must train it.

    Args:
        run: The stage, with its network, objective and feed.
    """
    network, objective, stage = run.network, run.objective, run.stage
    learned = [id(parameter) for group in run.optimiser.param_groups for parameter in group["params"]]
    linear = type(network) is Network and type(network.head) is LinearHead
    if not linear or learned != [id(parameter) for parameter in network.head.parameters()]:
        return None
    if objective.shift is None or run.after_step or run.context.sharding.count > 1:
        return None
    if any(stage.on(seam) for seam in ("partner", "inside", "step")):
        return None
    if run.feed.features is not None:
        return run.feed.features
    data = run.context.data
    images: object = data.train_images
    resident = isinstance(images, Tensor) and images.ndim == 2 and data.train_views is None
    if len(network.backbone) or not resident:
        return None
    return data.normalise(data.train_images)[None]


def train(run: StageRun, epoch: Epoch, features: Tensor) -> Tensor:
    """Trains the batches of an epoch.

    Args:
        run: The stage.
        epoch: The epoch that `begin_epoch` returned; its stream is not read.
        features: (V, N, D) from `fixed_features`.

    Returns:
        The sum of the losses of its steps.
    """
    head, objective = run.network.head, run.objective
    assert isinstance(head, LinearHead) and objective.shift is not None
    weight, bias = head.weight.detach(), head.bias.detach()
    shift = objective.shift.to(weight)
    ruled_out = shift.isneginf() if objective.has_target and shift.isneginf().any() else None
    gradient = weight.new_empty(weight.shape), bias.new_empty(bias.shape)
    head.weight.grad, head.bias.grad = gradient
    total = torch.zeros((), device=weight.device)
    with torch.no_grad():
        for step, (x, y, parts, blend) in enumerate(_batches(run, epoch, features)):
            z = torch.addmm(bias, x, weight.T)
            if blend is not None and blend.layer == "logits":
                z = blend(z)
            log_p = torch.log_softmax(z.add_(shift), dim=1)
            if objective.has_target:
                q = torch.zeros_like(z)
                for part, labels in zip(parts.T, y.T, strict=True):
                    q += part[:, None] * objective.targets(labels, z.dtype)
                if ruled_out is not None:
                    q, log_p = q.masked_fill(ruled_out, 0), log_p.masked_fill(ruled_out, 0)
                total -= (q * log_p).sum()
                d = log_p.exp_() if ruled_out is None else log_p.exp_().masked_fill_(ruled_out, 0)
                d.mul_(q.sum(dim=1, keepdim=True)).sub_(q)
            else:
                total -= (log_p.gather(1, y) * parts).sum()
                d = log_p.exp_().mul_(parts.sum(dim=1, keepdim=True)).scatter_add_(1, y, -parts)
            if blend is not None and blend.layer == "logits":
                own = blend.share.to(d)[:, None]
                d = (own * d).index_add_(0, blend.order, (1 - own) * d)
            torch.mm(d.T, x, out=gradient[0])
            torch.sum(d, dim=0, out=gradient[1])
            run.take_step(epoch, step)
    return total


def _batches(run: StageRun, epoch: Epoch, features: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Blend | None]]:
    """Features (B, D), labels (B, K), factor of each label's loss (B, K) and mix of the logits of every batch."""
    everything = torch.cat(list(epoch.batches))
    sizes = [len(index) for index in epoch.batches]
    labels = run.context.data.train_labels[everything]
    rows = everything
    if len(features) > 1:
        rows = everything + run.feed.draw_views(len(features), sizes, epoch.draws["view"]) * features.shape[1]
    table = features.flatten(0, 1)
    mix = run.feed.mix
    if mix is None:
        counted = run.objective.weights(labels)
        for index, y, w in zip(rows.split(sizes), labels[:, None].split(sizes), counted.split(sizes), strict=True):
            yield table.index_select(0, index), y, (w / _divisor(run, epoch, w)).to(table.dtype)[:, None], None
        return
    for index, row, y in zip(epoch.batches, rows.split(sizes), labels.split(sizes), strict=True):
        x = table.index_select(0, row)
        batch = mix(Batch.plain(x, index, y), epoch.draws["mix"])
        blend, x = batch.blend, batch.images[0]
        if blend is not None and blend.layer != "logits":
            x, blend = blend(x), None
        w = run.objective.weights(batch.y) * batch.share
        yield x, batch.y, (w / _divisor(run, epoch, w)).to(table.dtype), blend


def _divisor(run: StageRun, epoch: Epoch, weights: Tensor) -> Tensor | float:
    if run.stage.reduction == "weighted_mean":
        return weights.sum()
    return len(weights) * (epoch.expected if run.stage.reduction == "expected" else 1.0)

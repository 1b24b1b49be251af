"""Makes the network of a stage: what it carries over, its head, what learns; and merges the members of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainables import metrics
from trainables.batch import Facts, evaluation_batch, pixels_of
from trainables.data.augment import own
from trainables.models import Network
from trainables.plan.model import Plan, StagePlan
from trainables.training.context import CarryOver, State, TrainingContext, copy_state
from trainables.training.own_modules import refuse_added_modules, without_modules
from trainables.training.seeding import generator


def stage_facts(
    context: TrainingContext, network: Network, epochs: int, generators: Callable[[str], torch.Generator]
) -> Facts:
    """The facts that the tricks of a stage are built from.

    Args:
        context: Data, seed, device.
        network: The network as it is now.
        epochs: Epochs of the stage, or of its chain, as the trick counts them.
        generators: Purpose to generator.
    """
    data = context.data

    def score(state: Mapping[str, Tensor]) -> Tensor:
        kept = copy_state(network.state_dict())
        network.load_state_dict(dict(state))
        logits = torch.cat([outputs.logits for _, outputs in facts.outputs()])
        network.load_state_dict(kept)
        return metrics.recalls(logits.argmax(dim=1), data.train_labels, data.classes)

    facts = Facts(
        counts=data.counts,
        labels=data.train_labels,
        epochs=epochs,
        device=context.device,
        model=network,
        images=data.train_images,
        normalise=data.normalise,
        crop_and_flip=lambda images, drawn: own(images[None], data.pad, data.flip, data.crop, drawn)[0],
        pixel_mean=data.mean,
        start=copy_state(network.state_dict()),
        score=score,
        generators=generators,
    )
    return facts


def network_before_stage(
    context: TrainingContext,
    plan: Plan,
    index: int,
    generators: Callable[[str], torch.Generator],
    carry_over: CarryOver | None,
) -> Network:
    """The network at the end of the stage before; at the start of a chain, the network that was evaluated."""
    if plan.starts_chain(index):
        return network_before_chain(context, plan, index, generators, carry_over)
    network = _untrained(context, plan.stages[: plan.chain(index)[0] + 1], generators)
    if carry_over is not None:
        network.load_state_dict(without_modules(carry_over.model))
    return network


def network_before_chain(
    context: TrainingContext,
    plan: Plan,
    index: int,
    generators: Callable[[str], torch.Generator],
    carry_over: CarryOver | None,
) -> Network:
    """The network that the stage's chain took over: its weights are known where the chain starts, later its shape."""
    network = _untrained(context, plan.stages[: plan.chain(index)[0]], generators)
    if carry_over is not None and plan.starts_chain(index):
        network.load_state_dict(without_modules(carry_over.result))
    return network


def _untrained(
    context: TrainingContext, stages: Sequence[StagePlan], generators: Callable[[str], torch.Generator]
) -> Network:
    """A fresh network in the shape that the heads and train tricks of some stages give it."""
    network = context.network(generator(context.seed, "init")).to(context.device)
    for stage in stages:
        network = _change_head(context, network, stage.on("head"), stage.epochs, generators)
        for trick in stage.on("train"):
            reshape = getattr(trick.made(), "reshape", None)
            network = network if reshape is None else reshape(network)
    return network


def network_at_start(
    context: TrainingContext,
    plan: Plan,
    index: int,
    generators: Callable[[str], torch.Generator],
    carry_over: CarryOver | None,
) -> tuple[Network, list[dict[str, Any]]]:
    """The network at a stage's start, and the parameter groups that learn.

    Heads and train tricks of earlier chains give the network its shape, the carry-over gives it its weights. Where a
    chain starts, the stage's own head and train tricks then act on it; inside a chain, those of the chain's first
    stage are in force already, and the weights of the carry-over come last.
    """
    network = network_before_stage(context, plan, index, generators, carry_over)
    first = plan.chain(index)[0]
    starts = index == first
    if starts:
        network = _change_head(context, network, plan.stages[index].on("head"), plan.stages[index].epochs, generators)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    for trick in plan.stages[first].on("train"):
        made, before = trick.made(), list(network.state_dict())
        groups = made.build(stage_facts(context, network, plan.stages[index].epochs, generators))(network)
        if not hasattr(made, "reshape"):
            refuse_added_modules(f"stage {plan.stages[index].name!r}", [trick.name], network, before)
    if not starts and carry_over is not None:
        network.load_state_dict(without_modules(carry_over.model))
    return _set_format(context, plan.stages[index], network.to(context.device)), groups


def trained_network(context: TrainingContext, plan: Plan, index: int, state: Mapping[str, Tensor]) -> Network:
    """The network of a stage with the weights that the stage ended with."""
    network, _ = network_at_start(context, plan, index, lambda _: torch.Generator(), None)
    network.load_state_dict(without_modules(state))
    return network


def _set_format(context: TrainingContext, stage: StagePlan, network: Network) -> Network:
    """The network in the precision and memory format that the numerics ask for."""
    images = context.data.train_images
    # a backbone with cached features sees evaluation batches alone, so its features are those of any batch size
    size = evaluation_batch(images) if stage.views else stage.batch_size
    last = context.numerics.channels_last_for(context.device.type, size * pixels_of(images)) and images.ndim == 4
    return network.settle(context.numerics.precision, torch.channels_last if last else torch.contiguous_format)


def merge_members(
    context: TrainingContext, plan: Plan, index: int, members: Sequence[State], carry_over: CarryOver | None
) -> CarryOver:
    """Merges the members of a stage into one network; a new chain starts after it."""
    chain = plan.chain_number(index)

    def generators(kind: str, purpose: str) -> torch.Generator:
        return generator(context.seed, chain, kind, purpose)

    stage = plan.stages[index]
    # from the state that the members started from, so that a merge can move back towards it
    network, _ = network_at_start(context, plan, index, partial(generators, "start"), carry_over)
    facts = stage_facts(context, network, stage.epochs, partial(generators, "merge"))
    merged: State = stage.on("merge")[0].made().build(facts)([without_modules(member) for member in members])
    return CarryOver(copy_state(merged))


def _change_head(
    context: TrainingContext,
    network: Network,
    heads: Sequence[Any],
    epochs: int,
    generators: Callable[[str], torch.Generator],
) -> Network:
    for trick in heads:
        network = trick.made().build(stage_facts(context, network, epochs, generators))(network)
    return network

"""Modules that tricks bring: in the network while their chain is trained, in its state and its optimiser, then gone.

They lie in `Network.extra` under the trick's name. A new chain starts without those of the chain before, and so does
the exported network. A trick that keeps a module in any other way would never train it, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from trainables.batch import Facts
from trainables.models import Network
from trainables.plan.model import Plan, StagePlan, TrickPlan
from trainables.registry import PlanError

PREFIX = "extra."
"""Of the names of these modules in a network's state."""

WHOLE = ("inside", "step")
"""Seams whose tricks need a whole batch in one process, and one network at a time."""


def without_modules(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's state without that of the modules of tricks."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}


def add_modules(network: Network, plan: Plan, index: int, facts: Facts) -> list[dict[str, Any]]:
    """Adds the modules of a stage's tricks, and of those of the earlier stages of its chain, to the network.

    Args:
        network: The network at the stage's start, changed in place.
        plan: The plan.
        index: The stage.
        facts: What the tricks may know.

    Returns:
        Their parameter groups.
    """
    like = next(network.parameters())
    groups = []
    for trick in _tricks_with_modules(plan, index):
        made = trick.made()
        own = nn.ModuleDict(dict(made.modules(facts))).to(device=like.device, dtype=like.dtype)
        attach(network, trick.name, own)
        learning = [parameter for parameter in own.parameters() if parameter.requires_grad]
        if learning:
            groups.append({"params": learning, "lr_scale": getattr(made, "lr_scale", 1.0)})
    return groups


def attach(network: Network, name: str, modules: nn.ModuleDict) -> None:
    """Gives a network the modules of a trick, whose name may be that of a method of every module, as `cuda` is."""
    network.extra._modules[name] = modules


def load_modules(network: Network, state: Mapping[str, Tensor]) -> None:
    """Gives the modules of tricks their values from a state; those that come on later keep their initial ones."""
    known = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    network.extra.load_state_dict(known, strict=False)


def _tricks_with_modules(plan: Plan, index: int) -> Iterator[TrickPlan]:
    """Every trick that brings modules, of the chain's stages up to this one, in the order in which they come on."""
    known = set()
    for stage in (plan.stages[i] for i in plan.chain(index) if i <= index):
        for trick in stage.tricks:
            if trick.name not in known and hasattr(trick.made(), "modules"):
                known.add(trick.name)
                yield trick


def needs_whole_batches(stage: StagePlan) -> TrickPlan | None:
    """The first trick of a stage that cannot see a batch in parts: it keeps modules, or acts where rows must meet."""
    acting = {trick.name for seam in WHOLE for trick in stage.on(seam)}
    return next((t for t in stage.tricks if t.name in acting or hasattr(t.made(), "modules")), None)


def refuse_parts(plan: Plan) -> None:
    """Refuses a plan that cannot be trained on batches in parts.

    Raises:
        PlanError: A trick needs whole batches.
    """
    for stage in plan.stages:
        trick = needs_whole_batches(stage)
        if trick is not None:
            raise PlanError(
                f"stage {stage.name!r}: {trick.name} needs whole batches in one process, and batches are divided; "
                "train with --accumulate 1 in one process, or leave it out"
            )


def refuse_other_modules(where: str, built: Iterable[tuple[str, Any]], known: Iterable[nn.Parameter]) -> None:
    """Refuses functions that hold parameters which no optimiser has.

    Args:
        where: The stage.
        built: Name of each trick, and what it has built.
        known: Parameters of the network.

    Raises:
        PlanError: A trick holds a module or a parameter of its own.
    """
    learning = {id(parameter) for parameter in known}
    for name, function in built:
        if any(parameter.requires_grad and id(parameter) not in learning for parameter in _held(function, set())):
            raise PlanError(f"{where}: {name} holds a module that nothing would train; {ADVICE}")


ADVICE = "return it from the trick's modules(facts) -> {name: module}, and read it by facts.own_modules(self)"


def refuse_added_modules(where: str, names: Sequence[str], network: Network, before: Iterable[str]) -> None:
    """Refuses tricks that have changed the shape of the network where a later stage could not follow.

    Args:
        where: The stage.
        names: The tricks, one of which has acted since.
        network: The network as it is now.
        before: Names of its state before they acted.

    Raises:
        PlanError: The network's state has other names than before.
    """
    if set(network.state_dict()) != set(before):
        which = f"one of {', '.join(names)}" if len(names) > 1 else next(iter(names), "something")
        raise PlanError(f"{where}: {which} adds a module to the network; {ADVICE}")


def _held(thing: Any, seen: set[int]) -> Iterator[nn.Parameter]:
    """The parameters that a function reaches through its closure, its arguments and its object."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    inner: Iterable[Any] = ()
    if isinstance(thing, nn.Parameter):
        yield thing
    elif isinstance(thing, nn.Module):
        yield from thing.parameters()
    elif isinstance(thing, (list, tuple, set)):
        inner = thing
    elif isinstance(thing, dict):
        inner = thing.values()
    elif isinstance(thing, partial):
        inner = (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, MethodType):
        inner = (thing.__self__, thing.__func__)
    elif isinstance(thing, FunctionType):
        inner = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
    elif type(thing).__module__.startswith(("trainables.tricks", "longtail_tricks")):
        inner = vars(thing).values() if hasattr(thing, "__dict__") else ()
    for each in inner:
        yield from _held(each, seen)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True

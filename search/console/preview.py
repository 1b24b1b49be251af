"""`--dry-run`: the tree of a space, what a search of it would run, and how long that takes here."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from rich.tree import Tree

from analysis.console import styled
from analysis.formatting import magnitude
from analysis.text import printable, sentence
from search.design import power_preview
from search.design.labels import Design
from search.execution import epoch_time
from search.execution.cpus import allowed_cpus
from search.execution.joint_training import trained_apart
from search.phases import outlook
from search.scheduling.early_stopping import SHORTENED
from search.scheduling.epochs import trained
from search.scheduling.time_left.random_recipes import random_recipes
from search.scheduling.time_left.stage_times import TRIAL_SECONDS
from spaces.domain import (
    STAGE_NUMBERS,
    Integer,
    LogUniform,
    OneOf,
    SomeOf,
    Space,
    Stage,
    Uniform,
)
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan, build, defaults
from trainables.registry import entry
from trainables.trial_spec import cached_data

if TYPE_CHECKING:
    from rich.console import Console

    from search.context import SearchContext
    from search.growth.change import SpaceChange


def show(console: Console, context: SearchContext, measure: bool = False) -> None:
    """Prints the preview.

    Args:
        console: Rich console for user-facing output.
        context: What would run.
        measure: Whether to train the baseline for some seconds, where no search has told how long an epoch takes.
    """
    settings, space = context.settings, context.space
    context.check_data()
    console.print(tree(space))
    choices, recipes, continuous = count(space)
    more = ", and continuous numbers" if continuous else ""
    console.print(
        styled(f"\nAt most {choices:,} combinations of tricks and stages; {recipes:,} with their numbers{more}.")
    )
    for rule in space.forbid:
        console.print(styled(f"  never together: {' and '.join(rule.labels)} ({rule.reason})"))

    design = context.design
    for pair in design.impossible:
        console.print(styled(f"  not applicable: {pair.a} × {pair.b}: {pair.reason}"))
    console.print()
    for part in power_preview.show(design, settings.seeds, context.standard.sd, context.standard.margin, settings.data):
        console.print(styled(part) if isinstance(part, str) else part)
    for note in (*context.start_notes, *trained_apart(context)):
        console.print(styled(sentence(note)))
    arms = _arms(context, design)
    found = time_of_epoch(context, measure)
    slots = max(1, settings.max_concurrent or _cores(settings.cpus_per_trial))
    table = Table(title="What would run", title_justify="left")
    for column in ("arm", "recipes", "seeds", "trials", "epochs", "with re-use", f"time on {slots} slots"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    total = 0.0
    for name, recipes_here, seeds, trials, plain, reused in arms:
        paid = reused if settings.reuse else plain
        took = ((paid * found.seconds if found else 0.0) + trials * TRIAL_SECONDS) / slots
        total += took
        shown = f"{took / 60:.1f} min" if found else "unknown"
        table.add_row(name, str(recipes_here or ""), str(seeds or ""), str(trials), f"{plain:,}", f"{reused:,}", shown)
    console.print(table)
    console.print(
        "From the race on, the numbers are upper bounds, at the mean length of a recipe. A conflict, harm or synergy "
        "that the best recipe itself has is checked in addition."
    )
    if settings.trials:
        console.print(styled(_early_end(context)))
    if 0 < settings.check_seeds < power_preview.FEWEST_FIRST_STAGES and settings.seeds:
        fewest = power_preview.FEWEST_FIRST_STAGES
        console.print(
            f'--check-seeds {settings.check_seeds} is too few for pairs of the first stage: their verdicts stay "at '
            f'these settings", and pairs that are nominated stay unresolved; at least {fewest} are needed.'
        )
    known = (
        f"About {total / 60:.1f} minutes in all, from {found.seconds * 1000:.0f} ms per epoch ({found.source}) and "
        f"{TRIAL_SECONDS} s of overhead per trial; early stopping is not taken into account."
        if found
        else f"How long that takes is unknown: no search of {settings.data} with {context.model} has run from "
        f"{settings.output} on this machine; --dry-run --measure trains the baseline for some seconds to find out."
    )
    console.print(styled(known))


def show_change(console: Console, change: SpaceChange, kept: str = "") -> None:
    """Prints how the space of a search changes that is resumed with another one.

    Args:
        console: Rich console for user-facing output.
        change: The change.
        kept: File that holds the former space.
    """
    for number, line in enumerate(change.words()):
        console.print(styled(line, "bold" if not number else ""), soft_wrap=True)
    if kept:
        console.print(styled(f"The former space is kept in {kept}.", "dim"), soft_wrap=True)
    console.print()


def _early_end(context: SearchContext) -> str:
    """Whether the adaptive arm may end before its last proposal, in sentences."""
    settings, patience = context.settings, context.settings.patience or 0
    if settings.objective == "both":
        return "The adaptive arm makes all of its proposals: with two objectives it has no single gain to wait for."
    if not 0 < patience < settings.trials:
        why = "--no-early-end" if not patience else f"its patience is {patience}"
        return f"The adaptive arm makes all of its {settings.trials} proposals ({why})."
    margin = f"{magnitude(context.standard.margin)} points"
    spent = {
        "nothing": "nothing is trained instead",
        "verdicts": "the epochs that this saves go to further seeds for declared pairs",
    }
    return (
        f"The adaptive arm ends early if {patience} proposals in a row have not improved on the best recipe by "
        f"{margin}, the margin, and the next {patience} gain less with 90 % probability: {spent[settings.spend_on]} "
        "(--no-early-end makes all of them)."
    )


def tree(space: Space) -> Tree:
    """The space as a tree of stages, choices and numbers."""
    root = Tree(styled("space", "bold"))
    for slot in space.stages:
        if isinstance(slot, Stage):
            _branch(root, slot)
            continue
        one = root.add("one of")
        for option in slot.options:
            if option is None:
                one.add("none")
            else:
                _branch(one, option)
    if space.screen:
        root.add(styled("screened for conflicts: " + ", ".join(space.screen)))
    if space.recipes:
        root.add(styled("trained as written: " + ", ".join(recipe.name for recipe in space.recipes)))
    return root


def _branch(parent: Tree, stage: Stage) -> None:
    usual = {field.name: field.default for field in dataclasses.fields(Stage)}
    numbers = [f"{key} {getattr(stage, key)}" for key in STAGE_NUMBERS if getattr(stage, key) != usual[key]]
    carry = "" if str(parent.label) == "space" and not parent.children else f", carries {stage.carry}"
    branch = parent.add(styled(stage.name, "bold").append(printable(f": {', '.join(numbers)}{carry}"), "not bold"))
    for item in stage.choose:
        options = item.options if isinstance(item, (OneOf, SomeOf)) else (item,)
        seams = dict.fromkeys(entry(option.name).seam for option in options if option is not None)
        branch.add(styled("/".join(seams), "dim").append(printable(f"  {item}"), "not dim"))


def count(space: Space) -> tuple[int, int, bool]:
    """Combinations of tricks and stages, the same with numbers, and whether some number is continuous.

    What is forbidden or cannot be trained is counted in: an upper bound.
    """
    choices = recipes = 1
    continuous = False
    for slot in space.stages:
        options = slot.options if isinstance(slot, OneOf) else (slot,)
        counted = [(1, 1, False) if stage is None else _count_stage(stage) for stage in options]
        choices *= sum(c for c, _, _ in counted)
        recipes *= sum(r for _, r, _ in counted)
        continuous |= any(open_ for _, _, open_ in counted)
    return choices, recipes, continuous


def _count_stage(stage: Stage) -> tuple[int, int, bool]:
    sizes = [_size(getattr(stage, key)) for key in STAGE_NUMBERS]
    choices, recipes, continuous = 1, math.prod(size or 1 for size in sizes), 0 in sizes
    for item in stage.choose:
        options = item.options if isinstance(item, (OneOf, SomeOf)) else (item,)
        counted = [[_size(value) for _, value in trick.numbers] if trick else [] for trick in options]
        continuous |= any(0 in one for one in counted)
        each = [math.prod(size or 1 for size in one) for one in counted]
        if isinstance(item, SomeOf):
            choices, recipes = choices * 2 ** len(each), recipes * math.prod(1 + one for one in each)
        else:
            choices, recipes = choices * len(each), recipes * sum(each)
    return choices, recipes, continuous


def _size(value: Any) -> int:
    """Values of a number; 0 for a continuous one."""
    if isinstance(value, OneOf):
        return len(value.options)
    if isinstance(value, Integer):
        return value.high - value.low + 1
    if isinstance(value, Uniform):
        return 0 if value.step is None else math.floor((value.high - value.low) / value.step + 1e-9) + 1
    if isinstance(value, LogUniform):
        return len(value.grid())
    return 1


def _arms(context: SearchContext, design: Design) -> Iterator[tuple[str, int, int, int, int, int]]:
    """(arm, recipes, seeds, trials, epochs, epochs with re-use) of each arm."""
    settings = context.settings
    cells = [cell.recipe.plan for cell in design.cells]
    distinct = len({plan.id for plan in cells})
    blocks: dict[int, list[Plan]] = {}
    for block, cell in design.runs(settings.seeds):
        blocks.setdefault(block, []).append(cell.recipe.plan)
    plans = [plan for block in blocks.values() for plan in block]
    reused = sum(trained(block) for block in blocks.values())
    drawn = random_recipes(context.factory, settings.trials, settings.children_per_start)
    proposed = [recipe.plan for recipe in drawn]
    work = [each for plan in proposed for each in (plan, *_shortened(context, plan))]
    starts = [recipe.plan for recipe, _ in context.factory.starts(settings.start_points).values()]
    mean = round(sum(plan.cost for plan in proposed or cells) / len(proposed or cells))
    for name, _, trials in outlook(context.settings, context.factory):
        if name == "design":
            yield name, distinct, len(blocks), len(plans), sum(plan.cost for plan in plans), reused
        elif name == "adaptive":
            yield name, len(proposed), 1, settings.trials, sum(plan.cost for plan in work), trained(work)
        elif name == "start":
            yield name, len(starts), 1, trials, sum(plan.cost for plan in starts), trained(starts)
        else:
            yield name, 0, 0, trials, trials * mean, trials * mean


def _shortened(context: SearchContext, plan: Plan) -> list[Plan]:
    """The versions of a plan that a trial of the adaptive arm trains before it."""
    tried = context.settings.rungs if context.settings.rung_score == SHORTENED else ()
    return [plan.shortened(rung) for rung in tried]


def time_of_epoch(context: SearchContext, measure: bool) -> epoch_time.EpochTime | None:
    """Seconds per epoch from the last search of such trials here, or else, where asked for, measured now."""
    found = epoch_time.known(context.settings, context.model)
    if found is None and measure:
        found = epoch_time.EpochTime(
            seconds_per_epoch(context), "of the baseline, measured on one slot of this machine"
        )
        epoch_time.keep(context.settings, context.model, found)
    return found


def seconds_per_epoch(context: SearchContext) -> float:
    """Seconds of one epoch of the baseline on this machine, evaluation included."""
    settings = context.settings
    torch.set_num_threads(1)
    data = cached_data(settings.data, settings.data_root, settings.imbalance, 0)
    plan = build(context.space, defaults(), context.standard, settings.epochs_scale).plan
    pipeline = Pipeline(plan, data, context.model, 0, torch.device("cpu"), numerics=settings.numerics)
    epochs, began = 1, time.perf_counter()
    pipeline.advance()
    if not pipeline.finished:
        # the first epoch is slower than those after it
        epochs, began = 0, time.perf_counter()
    while not pipeline.finished and epochs < 2 * context.standard.eval_every and time.perf_counter() - began < 20:
        pipeline.advance()
        epochs += 1
    return (time.perf_counter() - began) / epochs


def _cores(cpus_per_trial: float) -> int:
    return int(allowed_cpus() / cpus_per_trial)

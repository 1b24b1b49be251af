"""One run of a search: checks, Ray, orchestrator, MLflow, in this order, and what is left of it if it breaks off."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import ray

from analysis.console import Console, styled
from analysis.records.schema import SPACE_CHANGES
from analysis.text import sentence
from search import mlflow_tracker, outcome
from search.commands import explain
from search.console import summary
from search.console.display import Display
from search.console.preview import show_change
from search.context import SearchContext
from search.execution import cluster, epoch_time, gpu_shares, ray_tune
from search.execution.disk import cannot_write
from search.execution.interrupts import Interrupts, shielded_children
from search.execution.joint_training import trained_apart
from search.execution.uploaded_code import CODE_FOLDER
from search.growth.change import EVENT, SpaceChange, notes
from search.outcome import Ending, SearchResult
from search.phases.extra_blocks import why_not
from search.recipes.earlier import teach
from search.recipes.start_points import check_start_points
from search.scheduling.journal import Journal, JournalError
from search.scheduling.objective import PARTS
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.proposer import LAG
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.settings import Settings, SettingsError
from search.state import SearchState
from search.workers import driver
from search.workspace.folder import Workspace, kept_space, successor_of
from search.workspace.identity import SEEDS_APART, refusal
from trainables.pipeline.leases import Leases
from trainables.pipeline.store import StageStore
from trainables.plan import choices_of
from trainables.trial_spec import forget_data

if TYPE_CHECKING:
    from search.request import Request


# --------------------------------------------------------------------------------- before anything is trained


def check(request: Request, context: SearchContext, workspace: Workspace, console: Console) -> SearchContext:
    """The search with its MLflow store and deployment, after everything that can be refused before it starts.

    Raises:
        ValueError: The search cannot run as asked.
    """
    forget_data()
    uri, said = mlflow_tracker.choose(context.settings.tracking_uri)
    if said:
        console.print(styled(sentence(f"MLflow: {uri}{said}")), soft_wrap=True)
    # a search that continues in another directory still writes where it did; the password is kept nowhere
    context = context.with_settings(tracking_uri=uri)
    gpu_shares.check(context.settings)
    context = dataclasses.replace(context, deployment=workspace.deployment(context, request.resume))
    context.check_objective()
    context.check_model()
    check_start_points(context.starts, context.settings)
    return context


def open_workspace(
    request: Request, context: SearchContext, workspace: Workspace, console: Console, change: SpaceChange | None = None
) -> list[str]:
    """Makes the folder of a new search, or compares a resumed one with what it was started on.

    Args:
        request: What was asked for.
        context: The search.
        workspace: Its folder.
        console: Rich console for user-facing output.
        change: How the space of a resumed search changes, which is said and written down.

    Returns:
        What has changed since the search was started, which a new search has to follow; empty of a new one.

    Raises:
        SettingsError: The folder cannot be made, or something has changed and that was not accepted.
    """
    if not request.resume:
        workspace.create(context)
        return []
    # a space that is given was compared when the search was opened
    space_given = request.space_given and not request.accept_changes
    undone = change is None and space_given and workspace.had_space_of(context)
    changed, note = workspace.changes(context, undone or change is not None)
    if changed and not request.accept_changes:
        name = successor_of(context.settings, ()).name
        again = f"starts {name} with the same settings on fresh seed blocks and leaves {workspace.name} as it is"
        settle = "" if request.extra_blocks is None else " --settle"
        raise SettingsError(refusal(f"--resume {workspace.name}{settle}", changed, again))
    if note:
        console.print(styled(sentence(note), "dim"), soft_wrap=True)
    if undone:
        workspace.undo_growth(context)
    elif change is not None and not changed:
        show_change(console, change, str(kept_space(Settings.stored(context.settings.output, workspace.name))[1]))
        workspace.grow(context)
        Journal(workspace.folder / "journal.jsonl").write(EVENT, **change.event())
    return changed


def with_notes(context: SearchContext) -> SearchContext:
    """The search with what readers must know of changes of its space."""
    return dataclasses.replace(context, space_changes=notes(context.settings))


def successor(request: Request, context: SearchContext, changed: list[str], console: Console) -> Request:
    """The new search instead of one that stands on something that has changed, and stays as it is."""
    stored = Settings.stored(context.settings.output, context.settings.name)
    budget = context.settings.time_budget or stored.time_budget
    settings = successor_of(dataclasses.replace(context.settings, time_budget=budget), changed)
    said = (
        f"{'; '.join(changed)}. {stored.name} stays as it is; {settings.name} starts with the same settings on fresh "
        "seed blocks."
    )
    console.print(styled(sentence(said), "bold yellow"), soft_wrap=True)
    return dataclasses.replace(request, settings=settings, resume=False, extra_blocks=None, accept_changes=False)


# --------------------------------------------------------------------------------- the run


def run(
    request: Request, context: SearchContext, workspace: Workspace, console: Console, interrupts: Interrupts
) -> SearchResult:
    """Trains, and concludes from what there is."""
    settings = context.settings
    uri = str(settings.tracking_uri)
    summary.show_notes(console, settings.data, context.splits.first.notes)
    for note in (*context.start_notes, *trained_apart(context)):
        console.print(styled(sentence(note)), soft_wrap=True)
    tracker = None
    state: SearchState | None = None
    try:
        # MLflow makes its database in seconds that Ray needs as well
        tracker = mlflow_tracker.Tracker(uri, settings.name, settings.data, settings.folder)
        with nullcontext(False) if settings.workers else _ray(workspace, interrupts) as own_ray:
            if settings.workers:
                console.print(styled(summary.how_to_work(settings)), soft_wrap=True)
            else:
                context = _connect_ray(context, workspace, console, interrupts)
            slots = gpu_shares.concurrent_trials(context.settings)
            context = _with_lag(context, workspace, request.resume, slots)
            with _orchestrator(request, context, console) as orchestrator:
                state = orchestrator.state
                if request.resume and orchestrator.catch_up():
                    ending = _nothing_left(request, context, orchestrator, tracker, console)
                else:
                    ending = _train(request, context, orchestrator, tracker, console, interrupts, slots, own_ray)
        return outcome.conclude(context, ending, tracker, uri, console)
    except BaseException as error:
        recorded_some = state is not None and bool(state.records)
        if recorded_some or request.resume:
            if tracker is not None:
                tracker.close("KILLED")
            if recorded_some and not isinstance(error, ValueError):
                how = summary.how_to_resume(context.settings, request.extra_blocks is not None)
                console.print(styled(how, "bold yellow"), soft_wrap=True)
            raise
        # nothing was recorded: the name is free again, in MLflow as well
        if tracker is not None:
            tracker.discard()
        workspace.remove()
        raise


@contextmanager
def _ray(workspace: Workspace, interrupts: Interrupts) -> Iterator[bool]:
    """Ends Ray if this search has started it; yields whether it is to. A Ray that the caller has started stays."""
    own = not ray.is_initialized()
    try:
        yield own
    finally:
        if own:
            with interrupts.deferred():
                cluster.stop()
        workspace.remove(ray_tune.FOLDER, CODE_FOLDER)


def _connect_ray(
    context: SearchContext, workspace: Workspace, console: Console, interrupts: Interrupts
) -> SearchContext:
    """Starts or joins Ray, and measures the share of a GPU where that is asked for."""
    for key, value in ray_tune.ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    uploaded = context.settings.address is not None and not ray.is_initialized()
    context = dataclasses.replace(context, code_uploaded=uploaded)
    with interrupts.deferred(), shielded_children():
        for note in gpu_shares.connect(context.settings):
            console.print(styled(sentence(note)), soft_wrap=True)
        gpu_shares.check_storage(context.settings)
        if context.settings.gpus_auto:
            plans = gpu_shares.most_demanding(cell.recipe.plan for cell in context.design.cells)
            seed = context.settings.seed * SEEDS_APART
            specs = [dataclasses.replace(context.plain_spec(plan, seed), store=None).to_dict() for plan in plans]
            found = gpu_shares.measure_share(specs, context.settings.cpus_per_trial)
            console.print(styled(found.reason), soft_wrap=True)
            share = {"gpus_per_trial": found.share, "gpus_auto": False, "gpus_reason": found.reason}
            context = context.with_settings(**share)
            workspace.keep(**share)
    interrupts.check()
    return context


def _with_lag(context: SearchContext, workspace: Workspace, resume: bool, slots: int) -> SearchContext:
    """The search with its lag: on a larger machine, more trials run at a time than it has seen the results of."""
    lag = context.settings.lag or (LAG if resume else max(LAG, slots))
    workspace.keep(lag=lag)
    return context.with_settings(lag=lag)


@contextmanager
def _orchestrator(request: Request, context: SearchContext, console: Console) -> Iterator[Orchestrator]:
    """The orchestrator on what the journal holds; gives the locks of the stage store back at the end."""
    settings = context.settings
    store = StageStore(settings.store_place) if settings.reuse else None
    shared = None if store is None else store.shared_folder
    leases = None if shared is None else Leases(shared / "leases")
    for shared_by_all in (store, leases):
        if shared_by_all is not None:
            shared_by_all.sweep()  # of what killed processes have left
    sampler = Sampler(
        context.space,
        context.standard,
        settings.epochs_scale,
        settings.folder.resolve() / "optuna.db",
        settings.name,
        settings.seed,
        [name.removeprefix("final/") for name in PARTS[settings.objective]],
    )
    first_seed = settings.seed * SEEDS_APART
    state = SearchState(context.factory, settings, context.standard.margin, first_seed, request.extra_blocks)
    locks = StageLocks(context.keys, store, leases, settings.store_limit)
    if said := teach(context, sampler):
        console.print(styled(said), soft_wrap=True)
    try:
        yield Orchestrator(
            state, sampler, Journal(settings.folder / "journal.jsonl"), locks, joint=context.trains_jointly
        )
    finally:
        if leases is not None:
            leases.close()


def _train(
    request: Request, context: SearchContext, orchestrator: Orchestrator, tracker: mlflow_tracker.Tracker,
    console: Console, interrupts: Interrupts, slots: int, own_ray: bool,
) -> Ending:  # fmt: skip
    """Runs trials until none is left, the budget is used up or a person interrupts."""
    settings = context.settings
    again = orchestrator.budget.grant_again()
    if request.resume and again:
        raise SettingsError(f"--resume {settings.name}: budget exhausted; to continue, grant as much again: {again}")
    _track(request, context, orchestrator, tracker)
    if request.resume:
        # not before everything stands: asked again after a refusal, `--trials +50` must not add twice
        settings.keep_changes()
    shares = gpu_shares.resource_allocator(settings)
    halving = context.early_stopping()
    # by what was recorded: phases that come after this one have not planned their trials again yet
    halving.remember(orchestrator.state.records.values())
    scheduler = ray_tune.TuneScheduler(orchestrator, halving, shares, slots)
    known = epoch_time.known(settings, context.model)
    display = Display(console, orchestrator, slots, None if known is None else known.seconds, tracker.seconds_to_write)
    listeners: list[Any] = [tracker.log, display.record]
    if request.explain:
        listeners.append(lambda record: explain.show_stop(console, record))
    callback = ray_tune.TuneCallback(
        orchestrator, scheduler, context, shares, listeners,
        note=lambda text: console.print(styled(sentence(text), "yellow"), soft_wrap=True),
        tick=display.tick,
        interrupt_with=KeyboardInterrupt if own_ray else ray_tune.Interrupted,
    )  # fmt: skip
    try:
        with display:
            if settings.workers:
                driver.execute(orchestrator, context, callback, scheduler, shares, slots, interrupts)
            else:
                ray_tune.execute(orchestrator, context, callback, scheduler, shares, slots, interrupts, own_ray)
    except Exception as error:
        if orchestrator.journal.problem is not None:
            resuming = summary.how_to_resume(settings, request.extra_blocks is not None).splitlines()[-1].strip()
            raise JournalError(f"{orchestrator.journal.problem}: {resuming}") from None
        why = cannot_write(error)
        if not why:
            raise
        orchestrator.stop(why)
    if interrupts.received:
        orchestrator.note_interruption()
    _keep_study(orchestrator, console)
    if orchestrator.stopped_because:
        why = orchestrator.stopped_because
        console.print(styled(sentence(why[:1].upper() + why[1:]), "bold red"), soft_wrap=True)
    if interrupts.received:
        console.print("\nInterrupted; the results so far follow.")
    failed = bool(orchestrator.stopped_because)
    complete = orchestrator.phase == "done" and not failed and _was_complete(request, tracker)
    return Ending(orchestrator, display, complete, interrupts.received, failed)


def _nothing_left(
    request: Request, context: SearchContext, orchestrator: Orchestrator, tracker: mlflow_tracker.Tracker,
    console: Console,
) -> Ending:  # fmt: skip
    """Says that a search is finished; its tables are written again."""
    why = None if request.extra_blocks is None else why_not(orchestrator.state)
    console.print(styled(summary.finished(context.settings, why)), soft_wrap=True)
    _track(request, context, orchestrator, tracker)
    context.settings.keep_changes()
    _keep_study(orchestrator, console)
    return Ending(orchestrator, Display(console, orchestrator, 1), _was_complete(request, tracker))


def _keep_study(orchestrator: Orchestrator, console: Console) -> None:
    """Brings the copy of the study up to date, or says why it is not."""
    problem = orchestrator.sampler.keep(at_once=True)
    if problem:
        console.print(styled(problem, "yellow"), soft_wrap=True)


def _track(
    request: Request, context: SearchContext, orchestrator: Orchestrator, tracker: mlflow_tracker.Tracker
) -> None:
    """Opens the search in MLflow, with everything that its journal has."""
    choices = set(choices_of(context.space))
    starts = context.factory.starts(context.settings.start_points)
    choices |= {name for recipe, _ in starts.values() for name in recipe.choices}
    tags = {"space": context.settings.space} | ({SPACE_CHANGES: context.space_changes} if context.space_changes else {})
    tracker.start(context.params(), tags, choices=choices, resume=request.resume)
    tracker.replay(orchestrator.journal.attempts())


def _was_complete(request: Request, tracker: mlflow_tracker.Tracker) -> bool:
    """Settling runs further blocks and nothing else: a search that was cut before is not at its end after it."""
    return request.extra_blocks is None or tracker.before == "FINISHED"

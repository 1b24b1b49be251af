"""What runs next, without Ray: records are made by hand, finished stages are empty folders."""

import dataclasses
import hashlib
import json
import random
import sys
import time
from collections import Counter

import pytest

from analysis.conflicts import candidates
from analysis.recipes.ablation import path, removals
from analysis.records import reader
from analysis.records.schema import NUMBERS, Point, Record
from search import phases
from search.design.removal import removable
from search.phases.candidates import MAX_PAIRS
from search.phases.extra_blocks import why_not
from search.phases.tune import Tune
from search.recipes.factory import RecipeFactory
from search.scheduling.early_stopping import CohortASHA, stages_of
from search.scheduling.journal import Journal, JournalError
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.sampler import Sampler, SpaceExhausted
from search.scheduling.stage_locks import StageLocks
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState
from spaces.domain import Space, Stage, forbid, log_uniform, one_of
from spaces.recipes import published
from tests.search.whole_searches import small_phases
from trainables.data import standard
from trainables.pipeline.keys import stage_keys
from trainables.pipeline.store import StageStore

STANDARD = standard("digits-lt")

SPACE = Space(
    stages=[
        Stage("first", length=0.5, lr=log_uniform(0.01, 0.3, step="thirds"), choose=[one_of(None, "cost_sensitive")]),
        one_of(Stage("finish", length=0.5, carry="weights", lr=log_uniform(0.01, 0.3)),
               Stage("deferred", length=0.5, carry="weights", lr=log_uniform(0.01, 0.3), choose=["class_balanced"])),
    ],
    screen=["first/cost_sensitive"],
)  # fmt: skip


def keys(request):
    return stage_keys(request.recipe.plan, {"seed": request.seed})


def accuracy(request: TrialRequest) -> float:
    """A world of its own: each label adds, each seed and recipe has its noise."""
    noise = int(request.recipe.plan.id[:4], 16) / 65536 + request.seed % 7 / 7
    return (
        0.4
        + 0.2 * ("cost_sensitive" in request.recipe.title)
        + 0.1 * ("deferred" in request.recipe.title)
        + 0.02 * noise
    )


def record(request: TrialRequest, outcome: str = "finished", value: float | None = None) -> Record:
    value = accuracy(request) if value is None else value
    return Record(
        search="s", trial=request.id, arm=request.arm, recipe=request.recipe.plan.id, title=request.title,
        seed=request.seed, split_seed=request.seed, setting=request.setting, first_stage="f", tricks=request.tricks,
        context=request.context, outcome=outcome,
        choices={}, plan=request.recipe.plan.to_dict(), data="digits-lt", model="resnet8", imbalance=50.0,
        fingerprint="f", counts=(), val_counts=(), epochs=30, epochs_trained=30, images=0, steps=0, seconds=1.0,
        seconds_saved=0.0, reused=(), metrics={"final/accuracy": value} if outcome == "finished" else {},
        curve=(
            Point("first", 0, 15, 0.5, {"accuracy": value}), Point("finish", 15, 30, 1.0, {"accuracy": value}),
        )[: 1 + (outcome == "finished")],
    )  # fmt: skip


class World:
    """What lasts when a search is killed: journal, study, store."""

    phases = None

    def __init__(self, folder, space=SPACE, margin=0.005, **settings):
        folder.mkdir(exist_ok=True)
        self.journal = Journal(folder / "journal.jsonl")
        self.store = StageStore(folder / "stages")
        self.space, self.margin, self.extra_blocks, self.first_seed = space, margin, None, 0
        few = {"start_points": False, "check_seeds": 0, "lag": 4}
        self.settings = Settings(name="s", space="s", data="digits-lt", **few | settings)
        self.begin()

    def begin(self) -> Orchestrator:
        """A new driver on what is there."""
        sampler = Sampler(self.space, STANDARD, 1.0, None, "study", 0)
        factory = RecipeFactory(self.space, STANDARD)
        state = SearchState(factory, self.settings, self.margin, self.first_seed, self.extra_blocks)
        locks = StageLocks(keys, self.store)
        self.orchestrator = Orchestrator(state, sampler, self.journal, locks, all_phases=self.phases)
        return self.orchestrator

    def change(self, **settings) -> Orchestrator:
        self.settings = dataclasses.replace(self.settings, **settings)
        return self.begin()

    def confirmed(self) -> tuple[str, list[float], list[float]]:
        """The winner, and what it and the baseline reached on the confirmation's seeds."""
        state = self.orchestrator.state
        winner, base = state.winner or state.factory.baseline, state.factory.baseline
        return winner.plan.id, *(state.values(one.plan.id, ("confirm",)) for one in (winner, base))

    def unfinished(self, request: TrialRequest) -> set[str]:
        return {key for stage in keys(request) for key in stage if not self.store.has(key)}

    def finish_stage(self, key: str) -> None:
        self.store.folder(key).mkdir(parents=True, exist_ok=True)
        (self.store.folder(key) / "manifest.json").write_text("{}")

    def end(self, request: TrialRequest, outcome: str = "finished", value: float | None = None) -> Record:
        if outcome == "finished":
            for stage in keys(request):
                for key in stage:
                    self.finish_stage(key)
        taken = record(request, outcome, value)
        self.orchestrator.record(taken)
        return taken

    def play(self, slots: int = 1, steps: int | None = None, outcome=lambda request: "finished") -> list[TrialRequest]:
        """Runs trials in `slots`, the oldest ends first, until nothing is left or `steps` events have passed."""
        running, handed, events = [], [], 0
        while steps is None or events < steps:
            events += 1
            request = self.orchestrator.next() if len(running) < slots else None
            if request is not None:
                busy = set().union(*map(self.unfinished, running))
                assert not self.unfinished(request) & busy, "two running trials train the same stage"
                running.append(request)
                handed.append(request)
            elif running:
                oldest = running.pop(0)
                self.end(oldest, outcome(oldest))
            else:
                assert self.orchestrator.finished, "nothing runs, nothing may start, and the search is not over"
                break
        return handed


@pytest.fixture
def small_race(monkeypatch):
    monkeypatch.setattr(World, "phases", small_phases(2, 1, 2))


def test_the_order_of_a_search(tmp_path, small_race):
    handed = World(tmp_path, seeds=2, trials=3).play()
    phases = [request.phase for request in handed]
    assert phases == ["design"] * 4 + ["adaptive"] * 3 + ["race"] * 6 + ["final"] * 2 + ["confirm"] * 4
    # complete blocks: every cell of a seed before the next seed, the baseline first
    assert [(request.seed, request.title) for request in handed[:4]] == [
        (0, "baseline"), (0, "first/cost_sensitive"), (1, "baseline"), (1, "first/cost_sensitive"),
    ]  # fmt: skip
    assert [request.arm for request in handed if request.phase == "final"] == ["race", "race"]
    # the seeds of the arms never meet; test is read by the confirmation alone
    seeds = {phase: {request.seed for request in handed if request.phase == phase} for phase in set(phases)}
    assert seeds == {"design": {0, 1}, "adaptive": seeds["adaptive"], "race": {2000, 2001}, "final": {2002},
                     "confirm": {3000, 3001}}  # fmt: skip
    assert all(1000 <= seed < 2000 for seed in seeds["adaptive"])
    assert all(request.read_test == (request.phase == "confirm") for request in handed)


def test_the_base_seed_moves_every_block(tmp_path, small_race):
    world = World(tmp_path, seeds=1, trials=1)
    world.first_seed = 70_000
    world.begin()
    assert {request.seed // 10_000 for request in world.play()} == {7}


def test_the_winner_is_raced_and_confirmed_against_the_baseline(tmp_path, small_race):
    world = World(tmp_path, seeds=2, trials=6)
    handed = world.play()
    winner, *confirmations = world.confirmed()
    raced = Counter(request.recipe.plan.id for request in handed if request.phase == "race")
    baseline = world.orchestrator.state.factory.cells[0].recipe.plan.id
    assert len(raced) == 3 and baseline in raced and set(raced.values()) == {2}
    final = [request for request in handed if request.phase == "final" and request.recipe.plan.id != baseline]
    by_race = {
        recipe: sum(accuracy(one) for one in handed if one.phase == "race" and one.recipe.plan.id == recipe)
        for recipe in raced if recipe != baseline
    }  # fmt: skip
    assert winner == max(by_race, key=by_race.get) == final[0].recipe.plan.id
    confirmed = [request for request in handed if request.phase == "confirm"]
    expected = [[accuracy(t) for t in confirmed if t.recipe.plan.id == plan] for plan in (winner, baseline)]
    assert confirmations == expected and list(map(len, expected)) == [2, 2]
    assert world.orchestrator.phase == "done"


def test_without_a_race_the_adaptive_arm_is_the_last(tmp_path):
    world = World(tmp_path, seeds=1, trials=2, race=False)
    assert [request.phase for request in world.play()] == ["design", "design", "adaptive", "adaptive"]
    assert world.orchestrator.state.winner is None and world.orchestrator.phase == "done"


def test_nothing_at_all_ends_at_once(tmp_path):
    assert World(tmp_path, seeds=0, trials=0, race=False).play() == []


def test_the_means_of_the_design_warm_the_sampler(tmp_path):
    world = World(tmp_path, seeds=2, trials=0, race=False)
    handed = world.play()
    taught = {trial.user_attrs["recipe"]: trial.value for trial in world.orchestrator.sampler.study.trials}
    for plan, value in taught.items():
        assert value == pytest.approx(sum(accuracy(t) for t in handed if t.recipe.plan.id == plan) / 2)
    assert len(taught) == 2


# --- stages in training -----------------------------------------------------------------------------------


def shared(tmp_path) -> World:
    """Three cells of one seed: two share their first stage, the third does not."""
    space = Space(
        stages=[Stage("first", length=0.5, choose=[one_of(None, "cost_sensitive")]),
                one_of(Stage("finish", length=0.5, carry="weights"),
                       Stage("deferred", length=0.5, carry="weights", choose=["class_balanced"]))],
        screen=["deferred", "first/cost_sensitive"],
    )  # fmt: skip
    return World(tmp_path, space, seeds=1, trials=0, race=False)


def test_a_task_that_needs_a_stage_in_training_waits_and_another_goes_first(tmp_path):
    world = shared(tmp_path)
    baseline, other = world.orchestrator.next(), world.orchestrator.next()
    assert (baseline.title, other.title) == ("baseline", "first/cost_sensitive")
    # "deferred" needs the baseline's first stage, the pair the other's
    assert world.orchestrator.next() is None and not world.orchestrator.finished
    # the moment the first stage is there, before the baseline has ended
    world.finish_stage(keys(baseline)[0][-1])
    third = world.orchestrator.next()
    assert third.title == "deferred"
    assert world.orchestrator.next() is None
    world.end(other)
    assert world.orchestrator.next().title == "deferred + first/cost_sensitive"


def test_a_failed_task_gives_its_stage_back(tmp_path):
    world = shared(tmp_path)
    baseline = world.orchestrator.next()
    world.orchestrator.next()
    assert world.orchestrator.next() is None
    world.end(baseline, "failed")
    assert world.orchestrator.next().title == "deferred"


def test_machines_with_other_keys_do_not_hold_the_search_up(tmp_path):
    """On a cluster the workers' store keys may differ from the driver's: a record is word enough."""
    world = shared(tmp_path)
    baseline = world.orchestrator.next()
    world.orchestrator.next()
    world.orchestrator.record(record(baseline))  # nothing in the store under the driver's keys
    deferred = world.orchestrator.next()
    assert deferred.title == "deferred"
    assert not world.orchestrator.locks.held[deferred.id] & {key for stage in keys(baseline) for key in stage}


def test_without_a_store_nothing_waits(tmp_path):
    world = shared(tmp_path)
    world.store = None
    world.begin()
    assert [world.orchestrator.next().title for _ in range(3)] == ["baseline", "deferred", "first/cost_sensitive"]


def test_all_slots_are_busy_in_the_adaptive_arm(tmp_path):
    """The children of a start wait for its first trial: meanwhile other starts begin."""
    space = Space(stages=[Stage("first", length=0.5, lr=log_uniform(0.01, 0.3)), SPACE.stages[1]])
    world = World(tmp_path, space, seeds=0, trials=12, children_per_start=3, race=False, lag=3)
    running = [world.orchestrator.next() for _ in range(3)]
    assert all(running) and len({request.start for request in running}) == 3
    # once a start's first trial is known, its children come first
    world.end(running[0])
    child = world.orchestrator.next()
    assert child.start == running[0].start
    assert child.recipe.plan.stages[0] == running[0].recipe.plan.stages[0]


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_no_stage_is_trained_twice_at_a_time_whatever_the_slots(tmp_path, slots, small_race):
    world = World(tmp_path, seeds=2, trials=10, children_per_start=3)
    handed = world.play(slots)
    assert Counter(request.phase for request in handed)["adaptive"] == 10
    assert len({request.id for request in handed}) == len(handed)


def test_children_share_their_start(tmp_path):
    handed = World(tmp_path, seeds=0, trials=7, children_per_start=3, race=False, lag=1).play()
    assert [request.start for request in handed] == [0, 0, 0, 1, 1, 1, 2]
    for start in range(3):
        assert len({str(t.recipe.plan.stages[0]) for t in handed if t.start == start}) == 1


def test_a_recipe_that_comes_again_is_a_new_seed(tmp_path):
    space = Space(stages=[Stage("first", length=1, choose=[one_of(None, "cost_sensitive")])])
    handed = World(tmp_path, space, seeds=0, trials=8, race=False).play()
    pairs = [(request.recipe.plan.id, request.seed) for request in handed]
    assert len(set(pairs)) == 8 and {seed for _, seed in pairs} <= set(range(1000, 1008))


# --- what goes wrong --------------------------------------------------------------------------------------


def test_diverged_and_failed_trials_do_not_stop_the_search(tmp_path, small_race):
    outcomes = {"design-0-001": "diverged", "adaptive-0000": "failed", "adaptive-0001": "stopped"}
    world = World(tmp_path, seeds=2, trials=4)
    handed = world.play(outcome=lambda request: outcomes.get(request.id, "finished"))
    assert world.orchestrator.phase == "done" and world.orchestrator.state.winner is not None
    records = world.orchestrator.state.records
    assert {name: records[name].outcome for name in outcomes if name in records} == {
        "design-0-001": "diverged", "adaptive-0001": "stopped",
    }  # fmt: skip
    assert set(world.orchestrator.state.failures) == {"adaptive-0000"}
    states = [t.state.name for t in world.orchestrator.sampler.study.trials if "arm" not in t.user_attrs]
    assert states == ["FAIL", "PRUNED", "COMPLETE", "COMPLETE"]
    # one diverged: the cell's mean over one seed teaches nothing
    assert len([t for t in world.orchestrator.sampler.study.trials if "arm" in t.user_attrs]) == 1
    assert len(handed) == len({request.id for request in handed})


def test_all_fail_and_the_search_ends(tmp_path, small_race):
    world = World(tmp_path, seeds=1, trials=2)
    world.play(outcome=lambda request: "failed")
    assert world.orchestrator.phase == "done"
    assert world.confirmed()[1] == []


def test_a_space_that_is_exhausted_ends_the_adaptive_arm_alone(tmp_path, small_race, caplog):
    space = Space(
        stages=[Stage("first", length=1, choose=[one_of(None, "cost_sensitive"), one_of("class_balanced")])],
        forbid=[forbid("first/cost_sensitive", "first/class_balanced", reason="a test")],
    )
    world = World(tmp_path, space, seeds=1, trials=4)
    world.orchestrator.sampler.ask = lambda *_: (_ for _ in ()).throw(SpaceExhausted("nothing is left"))
    handed = world.play()
    assert {request.phase for request in handed} == {"design", "race", "final", "confirm"}
    assert "the adaptive arm ends after 0 of 4 trials: nothing is left" in caplog.text


def test_the_time_budget_ends_the_search(tmp_path):
    world = World(tmp_path, seeds=3, trials=4, time_budget=1000.0)
    assert world.orchestrator.next() is not None
    world.orchestrator.budget._began = time.monotonic() - 1001
    assert world.orchestrator.next() is None and world.orchestrator.finished
    assert world.orchestrator.phase == "design"


def test_a_fifth_of_the_time_is_kept_for_the_race(tmp_path, small_race):
    world = World(tmp_path, seeds=1, trials=50, time_budget=1000.0)
    world.play(steps=4)
    request = world.orchestrator.next()
    assert request.phase == "adaptive"
    world.orchestrator.budget._began = time.monotonic() - 801
    world.end(request)
    assert world.orchestrator.next().phase == "race"


def test_what_is_left_of_the_time_goes_on_after_a_resume(tmp_path, monkeypatch):
    clock = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    world = World(tmp_path, seeds=9, trials=0, race=False, time_budget=100.0)
    world.settings = dataclasses.replace(world.settings, time_budget=None)  # as the next runs are given none
    world.end(world.orchestrator.next())
    world.orchestrator.next()
    clock[0] = 90.0
    world.orchestrator.note_interruption()
    clock[0] = 1_000.0
    world.begin()
    assert world.orchestrator.left == "1:00 of the time" and not world.orchestrator.budget.grant_again()
    request = world.orchestrator.next()
    clock[0] = 1_030.0
    world.end(request)  # and killed
    clock[0] = 2_000.0
    world.begin()
    world.orchestrator.next()
    assert world.orchestrator.left == "0:30 of the time"
    clock[0] = 2_031.0
    assert (
        world.orchestrator.next() is None
        and world.orchestrator.finished
        and world.orchestrator.budget.grant_again() == "--time-budget 100"
    )
    # also where it has ended with nothing more done
    assert world.begin().budget.grant_again() == "--time-budget 100"
    # given anew it begins anew
    world.settings = dataclasses.replace(world.settings, time_budget=7.0)
    assert world.begin().left == "0:07 of the time" and world.orchestrator.next() is not None
    world.settings = dataclasses.replace(world.settings, time_budget=None)
    assert world.begin().left == "0:07 of the time"


def test_stop_hands_out_nothing_more(tmp_path):
    world = World(tmp_path, seeds=1, trials=1)
    request = world.orchestrator.next()
    world.orchestrator.stop()
    assert world.orchestrator.next() is None and world.orchestrator.finished
    world.end(request)  # still taken
    assert set(world.orchestrator.state.records) == {request.id}


def test_planned_counts_what_is_known(tmp_path, small_race):
    world = World(tmp_path, seeds=2, trials=3)
    assert world.orchestrator.schedule.planned == 2 * 2 + 3 + (2 + 1) * 2 + (1 + 1) * 1 + 2 * 2
    handed = world.play()
    assert world.orchestrator.schedule.planned == len(handed)


# --- resume -----------------------------------------------------------------------------------------------


def outline(requests) -> set[tuple]:
    return {(t.id, t.arm, t.phase, t.recipe.plan.id, t.seed, t.number, t.start, t.title, t.read_test) for t in requests}


FORBIDDING = dataclasses.replace(
    SPACE, forbid=[forbid("first/cost_sensitive", "deferred/class_balanced", reason="a test")], screen=[]
)
"""Some draws cannot be trained; they take numbers of the study."""


def halving() -> CohortASHA:
    """A rule that stops somebody among a few proposals."""
    return CohortASHA((0.5,), 2, "accuracy", least=2)


class Judged(World):
    """A world in which the adaptive arm is judged half-way; `stops` has the decisions."""

    def begin(self) -> Orchestrator:
        super().begin()
        self.halving = halving()
        self.halving.remember(self.orchestrator.state.records.values())
        return self.orchestrator

    def end(self, request: TrialRequest, outcome: str = "finished", value: float | None = None) -> Record:
        points = [dataclasses.asdict(point) for point in record(request).curve]
        kinds, decision = stages_of(request.recipe.plan), None
        if request.may_stop:
            decision = self.halving.judge(request.id, kinds, points, self.orchestrator.proposer.peers(request.id))
        if decision is None:
            return super().end(request, outcome, value)
        taken = dataclasses.replace(record(request, "stopped"), reason=str(decision), stop=decision.to_dict())
        self.orchestrator.record(taken)
        return taken


def contents(world: World) -> list[tuple]:
    """All that the study holds, except times."""
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.intermediate_values, t.user_attrs, t.system_attrs)
        for t in world.orchestrator.sampler.study.trials
    ]


def results(world: World) -> dict[str, dict]:
    """What came of the trials, and why they were stopped."""
    return {name: record.to_dict() for name, record in world.orchestrator.state.records.items()}


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("space", [SPACE, FORBIDDING])
def test_a_search_that_was_cut_anywhere_does_the_same_in_the_end(tmp_path, space, slots, small_race):
    """Trials, stops, study and winner: killed between any two events, in the middle of a line, and once more."""
    limits = {"seeds": 1, "trials": 8, "children_per_start": 2}
    (tmp_path / "whole").mkdir()
    whole = Judged(tmp_path / "whole", space, **limits)
    expected = outline(whole.play(slots))
    assert "stopped" in {record.outcome for record in whole.orchestrator.state.records.values()}
    for cut in range(2 * len(expected) + 1):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        world = Judged(folder, space, **limits)
        world.play(slots, steps=cut)
        done = set(world.orchestrator.state.records)
        before = outline(world.orchestrator.state.requests[name] for name in done)
        if cut % 2 and world.journal.path.exists():
            # killed in the middle of a line
            half = json.dumps(
                {"event": "record", "record": record(whole.orchestrator.state.requests["adaptive-0000"]).to_dict()}
            )
            with world.journal.path.open("a") as file:
                file.write(half[: len(half) // 2])
        world.begin()
        assert set(world.orchestrator.state.records) == done
        if cut % 3 == 0:
            world.play(slots, steps=5)
            done = set(world.orchestrator.state.records)
            before = outline(world.orchestrator.state.requests[name] for name in done)
            world.begin()
        again = world.play(slots)
        assert not done & {request.id for request in again}, f"cut {cut}: a finished request ran again"
        assert outline(again) | before == expected, f"cut {cut}: not the same search"
        assert contents(world) == contents(whole), f"cut {cut}: not the same study"
        assert results(world) == results(whole), f"cut {cut}: not the same decisions"
        assert world.confirmed() == whole.confirmed()


def test_a_journal_that_was_truncated_at_any_byte_is_gone_on_with(tmp_path, small_race):
    """Also where the stages that the lost lines tell of are in the store."""
    limits = {"seeds": 1, "trials": 5, "children_per_start": 2}
    whole = Judged(tmp_path, FORBIDDING, **limits)
    expected = outline(whole.play())
    content = whole.journal.path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for size in sorted({0, *ends, *(end - 1 for end in ends), *range(1, len(content), len(content) // 30)}):
        world = Judged(tmp_path, FORBIDDING, **limits)
        world.journal.path.write_bytes(content[:size])
        world.begin()
        done = outline(
            world.orchestrator.state.requests[name]
            for name in world.orchestrator.state.records
            if name in world.orchestrator.state.requests
        )
        world.play()
        assert outline(world.orchestrator.state.requests.values()) == expected and done <= expected, (
            f"cut at byte {size}"
        )
        assert (contents(world), results(world)) == (contents(whole), results(whole)), f"cut at byte {size}"


def test_a_proposal_whose_line_is_lost_is_named_and_its_id_goes_to_nobody_else(tmp_path):
    """In journals without checksums, too, where nothing else would tell."""
    world = World(tmp_path, seeds=0, trials=3, race=False)
    world.play()
    path = world.journal.path
    events = [json.loads(line) for line in path.read_text().splitlines()]
    without = [{key: value for key, value in event.items() if key not in ("line", "crc32")} for event in events]
    where = [place for place, event in enumerate(without) if event["event"] == "task"]
    for lost, said in ((where[1], "records adaptive-0001, and the line that proposed it is missing"),):
        path.write_text("".join(json.dumps(event) + "\n" for place, event in enumerate(without) if place != lost))
        with pytest.raises(JournalError, match=f"line {lost + 1} {said}"):
            world.begin()
    records = [place for place, event in enumerate(without) if event["event"] == "record"]
    kept = [event for place, event in enumerate(without) if place not in (where[1], records[1])]
    path.write_text("".join(json.dumps(event) + "\n" for event in kept))
    with pytest.raises(JournalError, match="proposes adaptive-0002, and the line that proposed adaptive-0001 is miss"):
        world.begin()
    path.write_text("".join(json.dumps(event) + "\n" for event in without))
    world.begin()
    assert world.play() == []


def test_a_search_that_an_earlier_version_began_goes_on(tmp_path, small_race):
    """Without checksums, lessons, blocks and draws: the same proposals keep their ids and numbers."""
    limits = {"seeds": 1, "trials": 6, "children_per_start": 2}
    world = Judged(tmp_path, FORBIDDING, **limits)
    world.play(steps=11)
    before = {
        request.id: request.number
        for request in world.orchestrator.state.requests.values()
        if request.number is not None
    }
    assert before
    known = ("event", "task", "record", "gpu_seconds")
    events = [json.loads(line) for line in world.journal.path.read_text().splitlines()]
    assert {"lesson", "blocks"} <= {event["event"] for event in events}
    events = [event for event in events if event["event"] not in ("lesson", "blocks")]
    old = [{key: event[key] for key in known if key in event} for event in events]
    world.journal.path.write_text("".join(json.dumps(event) + "\n" for event in old))
    for _ in range(2):
        world.begin()
        world.play(steps=5)
    world.begin()
    world.play()
    assert world.orchestrator.phase == "done" and len(world.orchestrator.sampler.study.trials) >= 6
    after = {
        request.id: request.number
        for request in world.orchestrator.state.requests.values()
        if request.number is not None
    }
    assert before.items() <= after.items() and len(set(after.values())) == 6
    arms = [trial.user_attrs.get("arm") for trial in world.orchestrator.sampler.study.trials]
    assert arms.count("design") == len(
        {r.recipe for r in world.orchestrator.state.records.values() if r.arm == "design"}
    )


def test_draws_that_cannot_be_trained_are_in_the_study_of_that_test(tmp_path, small_race):
    world = Judged(tmp_path, FORBIDDING, seeds=1, trials=8, children_per_start=2)
    world.play()
    assert "FAIL" in {trial.state.name for trial in world.orchestrator.sampler.study.trials}


@pytest.mark.parametrize("cut", [2, 3, 7, None])
def test_an_arm_that_was_exhausted_stays_so_after_a_resume(tmp_path, small_race, caplog, cut):
    barren = Space(
        stages=[Stage("first", length=1, choose=[one_of("cost_sensitive"), one_of("class_balanced")])],
        forbid=[forbid("first/cost_sensitive", "first/class_balanced", reason="a test")],
    )
    world = World(tmp_path, seeds=1, trials=4)
    world.orchestrator.sampler.use(barren)
    world.play(steps=cut)
    world.begin().sampler.use(barren)
    handed = world.play()
    assert world.orchestrator.phase == "done" and not [request for request in handed if request.phase == "adaptive"]
    states = Counter(trial.state.name for trial in world.orchestrator.sampler.study.trials)
    assert states["FAIL"] == 50, "asked once, not again after the break"
    assert "the adaptive arm ends after 0 of 4 trials: 50 proposals in a row cannot be trained" in caplog.text


def test_a_finished_search_runs_nothing_again(tmp_path, small_race):
    world = World(tmp_path, seeds=2, trials=3)
    world.play()
    confirmed = world.confirmed()
    trials = len(world.orchestrator.sampler.study.trials)
    world.begin()
    assert world.play() == []
    assert world.orchestrator.phase == "done" and len(world.orchestrator.sampler.study.trials) == trials
    assert world.confirmed() == confirmed


def test_what_failed_runs_again_after_a_resume_and_is_learnt_from(tmp_path):
    world = World(tmp_path, seeds=1, trials=2, race=False)
    world.play(outcome=lambda request: "failed" if request.id in ("design-0-001", "adaptive-0000") else "finished")
    world.begin()
    assert [request.id for request in world.play()] == ["design-0-001", "adaptive-0000"]
    study = world.orchestrator.sampler.study
    # under its own number: the study knows of one trial for each proposal
    assert [trial.state.name for trial in study.trials if "arm" not in trial.user_attrs] == ["COMPLETE", "COMPLETE"]
    assert len([trial for trial in study.trials if "arm" in trial.user_attrs]) == 2


def test_a_proposal_that_the_journal_never_saw_is_made_again(tmp_path):
    world = World(tmp_path, seeds=0, trials=2, race=False)
    lost = world.orchestrator.sampler.ask(0)  # and killed before it was written down
    world.begin()
    handed = world.play()
    assert handed[0].recipe.plan.id == lost.recipe.plan.id and handed[0].number == lost.number
    assert [trial.state.name for trial in world.orchestrator.sampler.study.trials] == ["COMPLETE", "COMPLETE"]


def test_tasks_survive_json(tmp_path):
    world = World(tmp_path, seeds=1, trials=1, race=False)
    for request in world.play():
        again = TrialRequest.from_dict(json.loads(json.dumps(request.to_dict())))
        assert outline([again]) == outline([request])
        assert again.recipe.plan == request.recipe.plan and again.recipe.labels == request.recipe.labels
        assert again.tricks == request.tricks and again.context == request.context


def test_a_journal_of_another_version_is_refused(tmp_path):
    world = World(tmp_path, seeds=1, trials=0, race=False)
    fields = record(world.orchestrator.next()).to_dict() | {"schema": 0}
    world.journal.write("record", record=fields)
    with pytest.raises(ValueError, match="a record of schema 0 cannot be read"):
        world.begin()


# --- all phases ---------------------------------------------------------------------------------------------

WIDE = Space(
    stages=[
        Stage("first", length=0.5, choose=[one_of(None, "cost_sensitive"), one_of(None, "class_balanced"),
                                           one_of(None, "input_mixup")]),
        one_of(Stage("finish", length=0.5, carry="all", keep=True),
               Stage("deferred", length=0.5, carry="all", choose=["square_root"])),
    ],
    screen=["first/cost_sensitive", "first/class_balanced"],
)  # fmt: skip
"""The learning rate is the data set's; two labels conflict in the design, a third one is nominated."""


def conflicting(request: TrialRequest) -> float:
    """Weights and draws conflict, mixup and weights too; twice the learning rate is a little better."""
    title = request.recipe.title
    on = {name: name in title for name in ("cost_sensitive", "class_balanced", "input_mixup", "deferred")}
    value = 0.5 + 0.15 * on["cost_sensitive"] + 0.12 * on["class_balanced"] + 0.02 * on["input_mixup"]
    value += 0.05 * on["deferred"] - 0.3 * (on["cost_sensitive"] and on["class_balanced"])
    value -= 0.1 * (on["cost_sensitive"] and on["input_mixup"])
    value += 0.01 * (request.recipe.plan.stages[0].lr > 0.1)
    return value + 0.004 * (int(request.recipe.plan.id[:4], 16) / 65536) + 0.003 * (request.seed % 7)


@pytest.fixture
def whole(small_race, monkeypatch):
    """Every phase, few seeds."""
    monkeypatch.setattr(World, "phases", small_phases(2, 1, 2, Tune(1, 2, 1)))
    monkeypatch.setattr(candidates, "FEWEST", 2)
    monkeypatch.setattr(sys.modules[__name__], "accuracy", conflicting)
    return {
        "seeds": 3, "trials": 16, "children_per_start": 2, "tune_baseline": True, "start_points": True,
        "check_seeds": 2, "margin": 0.02,
    }  # fmt: skip


def by_phase(handed) -> dict[str, list[TrialRequest]]:
    found: dict[str, list[TrialRequest]] = {}
    for request in handed:
        found.setdefault(request.phase, []).append(request)
    return found


def test_every_phase_in_its_order(tmp_path, whole):
    world = World(tmp_path, WIDE, **whole)
    handed = world.play()
    order = list(dict.fromkeys(request.phase for request in handed))
    assert order == [
        "tune", "design", "start", "adaptive", "race", "final", "confirm", "check", "nominated", "around",
    ]  # fmt: skip
    assert world.orchestrator.phase == "done" and world.orchestrator.schedule.planned == len(handed)
    seeds = {name: {request.seed for request in requests} for name, requests in by_phase(handed).items()}
    assert seeds.pop("check") <= seeds["design"], "a check is paired with the design's blocks"
    seeds["adaptive"] |= seeds.pop("start")
    assert sum(map(len, seeds.values())) == len(set().union(*seeds.values())), "seeds of two arms meet"
    assert {request.arm for request in handed} == set(phases_arms())


def phases_arms():
    return {phase.arm for phase in phases.PHASES}


def test_the_tuned_baseline_is_what_everything_stands_on(tmp_path, whole):
    world = World(tmp_path, WIDE, **whole)
    handed = by_phase(world.play())
    # 3 rates × 3 decays once, the best two again
    assert len(handed["tune"]) == 9 + 2
    tuned = world.orchestrator.state.factory.context
    assert tuned.lr == pytest.approx(0.3), "the grid is the standard's third, itself, its triple; the last is best"
    for phase in ("design", "adaptive", "race", "around"):
        assert {
            request.recipe.plan.stages[0].lr for request in handed[phase] if "first" in str(request.recipe.plan)
        } == {0.3}
    best = max(handed["tune"], key=lambda t: (sum(s.recipe == t.recipe for s in handed["tune"]), accuracy(t)))
    assert best.recipe.plan.id == world.orchestrator.state.factory.baseline.plan.id


def test_published_recipes_are_trained_whole_and_race(tmp_path, whole):
    world = World(tmp_path, WIDE, **whole)
    handed = by_phase(world.play())
    assert len(handed["start"]) == len({request.recipe.plan.id for request in handed["start"]}) == len(published(0.1))
    assert all(request.arm == "adaptive" and not request.may_stop for request in handed["start"])
    assert all(request.may_stop for request in handed["adaptive"])
    raced = {request.recipe.plan.id for request in handed["race"]}
    assert {request.recipe.plan.id for request in handed["start"]} <= raced
    assert handed["start"][0].title.startswith("Bag of Tricks: representation/input_mixup")


def test_a_published_recipe_of_the_space_teaches_the_sampler(tmp_path, whole):
    space = Space(
        stages=[
            Stage("representation", length=0.9, choose=[one_of(None, "input_mixup")]),
            one_of(Stage("finish", length=0.1, carry="all", keep=True),
                   Stage("classifier", length=0.1, lr=0.1, schedule="cosine", choose=["classifier", "class_balanced"])),
        ],
        screen=["representation/input_mixup"],
    )  # fmt: skip
    world = World(tmp_path, space, **{**whole, "trials": 1, "race": False, "tune_baseline": False, "check_seeds": 0})
    world.play()
    taught = [trial for trial in world.orchestrator.sampler.study.trials if trial.user_attrs.get("arm") == "start"]
    assert [trial.params["stage_2"] for trial in taught] == ["classifier"]
    assert taught[0].value == pytest.approx(
        next(
            accuracy(t)
            for t in world.orchestrator.state.requests.values()
            if t.title.startswith("classifier re-training")
        )
    )


def test_a_conflict_is_run_again_at_other_learning_rates(tmp_path, whole):
    world = World(tmp_path, WIDE, **whole)
    checks = by_phase(world.play())["check"]
    assert {request.setting for request in checks} == {"lr/3", "lr*3"} and {request.arm for request in checks} == {
        "check"
    }
    cells = {frozenset(request.tricks) for request in checks}
    assert len(cells) == 4 and len(checks) == 4 * 2 * 2
    design = {
        (frozenset(t.tricks), t.seed): t for t in world.orchestrator.state.requests.values() if t.phase == "design"
    }
    for request in checks:
        there = design[frozenset(request.tricks), request.seed]
        factor = {"lr/3": 1 / 3, "lr*3": 3}[request.setting]
        rates = [(a.lr, b.lr) for a, b in zip(request.recipe.plan.stages, there.recipe.plan.stages, strict=True)]
        assert all(ours == pytest.approx(factor * theirs, rel=1e-4) for ours, theirs in rates)
        assert request.context == there.context


def test_the_final_length_is_tried_where_the_search_is_short(tmp_path, whole):
    ground = RecipeFactory(WIDE, STANDARD, 0.5)
    short, full = (
        ground.four("first/class_balanced", "first/cost_sensitive"),
        ground.four("first/class_balanced", "first/cost_sensitive", full_length=True),
    )
    assert ground.share == 0.5 and len(short) == len(full) == 4
    # 22.5 epochs are 22
    assert {cell.recipe.plan.epochs for cell in full} == {90} and {c.recipe.plan.epochs for c in short} == {44}


def test_nominated_pairs_have_seeds_of_their_own(tmp_path, whole):
    nominated = by_phase(World(tmp_path, WIDE, **whole).play())["nominated"]
    contexts = {request.context for request in nominated}
    assert "nominated:first/cost_sensitive×first/input_mixup" in contexts and len(contexts) <= MAX_PAIRS
    for context in contexts:
        rows = [request for request in nominated if request.context == context]
        assert set(Counter(frozenset(request.tricks) for request in rows).values()) == {2} and len(rows) == 8
        assert {request.seed for request in rows} == {7000, 7001}


def test_around_the_winner_there_is_a_way_down_to_the_baseline(tmp_path, whole):
    world = World(tmp_path, WIDE, **whole)
    requests = by_phase(world.play())["around"]
    winner = world.orchestrator.state.winner
    units = set(removable(world.orchestrator.state.factory, winner))
    assert units and {request.context for request in requests} == {f"around:{winner.plan.id}"}
    cells = {frozenset(request.tricks): request for request in requests}
    assert cells[max(cells, key=len)].recipe.plan.id == winner.plan.id
    assert cells[frozenset()].recipe.plan.id == world.orchestrator.state.factory.baseline.plan.id
    assert {request.seed for request in requests} == {6000, 6001}
    trials = reader.frame(world.orchestrator.state.records.values())
    steps = path(trials, winner=winner.plan.id)
    assert steps["recipe"].iloc[0] == world.orchestrator.state.factory.baseline.plan.id
    assert steps["recipe"].iloc[-1] == winner.plan.id
    assert {unit for added in steps["added"] for unit in added} - {NUMBERS} == units
    gone = removals(trials, winner=winner.plan.id, margin=0.02)
    assert {row[0] for row in gone["removed"] if len(row) == 1} == units


def test_another_winner_has_all_cells_of_its_own(tmp_path, whole, monkeypatch):
    """Added trials may bring another winner; what both have around them, the baseline at least, is run for each."""
    world = World(tmp_path, WIDE, **whole)
    world.play()
    state = world.orchestrator.state
    former = state.winner
    others = (recipe for recipe in state.tried(("race",)) if recipe.plan.id != former.plan.id)
    other = next(recipe for recipe in others if removable(state.factory, recipe))
    monkeypatch.setattr(SearchState, "winner", property(lambda self: other))
    world.begin()
    world.play()
    trials = reader.frame(world.orchestrator.state.records.values())
    for winner in (former, other):
        steps = path(trials, winner=winner.plan.id)
        assert steps["recipe"].iloc[0] == state.factory.baseline.plan.id
        assert steps["recipe"].iloc[-1] == winner.plan.id


@pytest.mark.parametrize("cuts", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_a_whole_search_that_was_cut_does_the_same_in_the_end(tmp_path, whole, cuts):
    (tmp_path / "whole").mkdir()
    expected = outline(World(tmp_path / "whole", WIDE, **whole).play())
    for cut in range(9, 2 * len(expected), 2 * len(expected) // cuts):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        world = World(folder, WIDE, **whole)
        world.play(steps=cut)
        done = set(world.orchestrator.state.records)
        before = outline(world.orchestrator.state.requests[name] for name in done)
        world.begin()
        again = world.play()
        assert not done & {request.id for request in again}, f"cut {cut}: a finished request ran again"
        assert outline(again) | before == expected, f"cut {cut}: not the same search"


def test_trials_are_added_to_a_finished_search(tmp_path, whole):
    world = World(tmp_path, WIDE, **whole)
    first = world.play()
    assert world.begin().catch_up() and world.play() == []
    world.settings = dataclasses.replace(world.settings, trials=19, seeds=4)
    assert not world.begin().catch_up()
    more = by_phase(world.play())
    assert len(more["adaptive"]) == 3 and {request.seed for request in more["design"]} == {3}
    assert not {request.id for requests in more.values() for request in requests} & {request.id for request in first}
    raced = {
        request.recipe.plan.id for request in world.orchestrator.state.requests.values() if request.phase == "race"
    }
    assert {request.recipe.plan.id for request in first if request.phase == "race"} <= raced, (
        "who has raced stays in the race"
    )
    assert world.orchestrator.phase == "done" and len(world.confirmed()[1]) == 2


# --- budgets ------------------------------------------------------------------------------------------------


def test_gpu_hours_are_counted_over_all_runs(tmp_path):
    world = World(tmp_path, seeds=3, trials=0, race=False, gpu_hours=10 / 3600, gpus_per_trial=0.5)
    for _ in range(2):
        request = world.orchestrator.next()
        world.orchestrator.record(dataclasses.replace(record(request), seconds=6.0, gpus=0.5))
    assert world.orchestrator.left.startswith("0.00 GPU hours")
    failed = world.orchestrator.next()
    world.orchestrator.record(dataclasses.replace(record(failed, "failed"), seconds=4.0, gpus=0.5))
    world.begin()
    # 3 + 3 + 2 of 10: the failed one was paid for as well
    request = world.orchestrator.next()
    assert request.id == failed.id and not world.orchestrator.budget.grant_again()
    world.orchestrator.record(dataclasses.replace(record(request), seconds=4.1, gpus=0.5))
    assert world.orchestrator.next() is None and world.orchestrator.finished and world.orchestrator.phase == "design"
    assert world.orchestrator.budget.grant_again() == f"--gpu-hours {20 / 3600:g}"


def test_gpu_hours_of_lost_attempts_are_counted_as_well(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    world = World(tmp_path, seeds=3, trials=0, race=False, gpu_hours=100 / 3600, gpus_per_trial=0.5)
    lost = world.orchestrator.next()
    clock[0] = 7.0  # waited for its process
    world.orchestrator.started(lost.id)
    clock[0] = 17.0
    world.orchestrator.requeue(lost.id, "its process is gone")  # 10 s of half a GPU
    assert world.orchestrator.next() == lost
    clock[0] = 19.0
    # it failed before its first report: 2 s of a whole GPU, which it was given then
    world.orchestrator.record(dataclasses.replace(record(lost, "failed"), seconds=0.0, gpus=1.0))
    other = world.orchestrator.next()
    clock[0] = 23.0
    world.orchestrator.note_interruption()  # 4 s of half a GPU, and then Ctrl-C
    assert world.orchestrator.budget.gpu_used == 5 + 2 + 2
    assert world.begin().budget.gpu_used == 5 + 2 + 2
    assert world.orchestrator.next() in (lost, other)


def test_what_is_left_is_said(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    world = World(tmp_path, seeds=0, trials=3, race=False, time_budget=125.0, gpu_hours=2.0, gpus_per_trial=1.0)
    world.orchestrator.next()
    clock[0] += 5
    assert world.orchestrator.left == "2:00 of the time, 2.00 GPU hours, 2 proposals"
    assert World(tmp_path / "other", seeds=1, trials=0).orchestrator.left == ""


# --- settling -----------------------------------------------------------------------------------------------

PAIR = "first/class_balanced×first/cost_sensitive"


def noisy(request: TrialRequest) -> float:
    """A mild harm under noise that three blocks cannot resolve."""
    both = {"first/cost_sensitive", "first/class_balanced"} <= set(request.tricks)
    return 0.6 - 0.015 * both + 0.03 * (int(hashlib.sha256(request.id.encode()).hexdigest()[:4], 16) / 65536)


@pytest.fixture
def unresolved(tmp_path, small_race, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "accuracy", noisy)
    world = World(tmp_path, WIDE, seeds=2, trials=0, race=False, primary=(PAIR,), margin=0.002)
    world.play()
    return world


def test_settling_runs_the_four_cells_on_further_blocks_and_nothing_else(unresolved):
    row = unresolved.orchestrator.state.conflicts().iloc[0]
    assert row["verdict"] == "unresolved" and row["look"] == 1
    had = {request.seed for request in unresolved.orchestrator.state.requests.values()}
    asks = int(row["more_seeds"])
    unresolved.extra_blocks = asks
    unresolved.begin()
    handed = unresolved.play()
    assert {request.phase for request in handed} == {"settle"} and {request.arm for request in handed} == {"design"}
    assert len(handed) == 4 * asks and {frozenset(request.tricks) for request in handed} == {
        frozenset(some) for some in ((), ("first/cost_sensitive",), ("first/class_balanced",),
                                     ("first/cost_sensitive", "first/class_balanced"))
    }  # fmt: skip
    assert not {request.seed for request in handed} & had
    table = unresolved.orchestrator.state.conflicts()
    assert table["look"].iloc[0] == 2 and table["n_seeds"].iloc[0] >= 2 + asks


def test_an_interrupted_settling_is_finished_before_another_look(unresolved):
    asks = int(unresolved.orchestrator.state.conflicts()["more_seeds"].iloc[0])
    unresolved.extra_blocks = asks
    unresolved.begin()
    unresolved.play(steps=5)
    looks = list(unresolved.orchestrator.state.looks)
    unresolved.begin()
    unresolved.play()
    assert unresolved.orchestrator.state.looks == looks and len(looks) == 1


def test_a_third_decision_is_refused(unresolved):
    unresolved.journal.write("look", look={"first": 100, "cells": [[0, 1]], "pairs": [PAIR]})
    unresolved.journal.write("look", look={"first": 101, "cells": [[0, 1]], "pairs": [PAIR]})
    unresolved.extra_blocks = 50
    unresolved.begin()
    assert {request.id for request in unresolved.play()} == {"design-100-000", "design-101-000"}
    assert len(unresolved.orchestrator.state.looks) == 2
    assert why_not(unresolved.orchestrator.state) == ["3 looks are the most, and there were 3"]


def test_a_budget_that_settles_nothing_runs_nothing(unresolved):
    asks = int(unresolved.orchestrator.state.conflicts()["more_seeds"].iloc[0])
    unresolved.extra_blocks = asks - 1
    unresolved.begin()
    assert unresolved.play() == [] and unresolved.orchestrator.state.looks == []
    (why,) = why_not(unresolved.orchestrator.state)
    assert f"would take {asks} further blocks, and {asks - 1} of the budget are left" in why


def test_a_task_that_is_put_back_is_the_next_one_and_nothing_is_recorded(tmp_path, small_race):
    world = World(tmp_path, seeds=2, trials=0, race=False)
    first, second = world.orchestrator.next(), world.orchestrator.next()
    world.orchestrator.requeue(first.id, "its process is gone")
    assert first.id not in world.orchestrator.running and second.id in world.orchestrator.running
    assert world.orchestrator.next() == first
    # what it had begun is its own again, and nobody else's
    assert world.orchestrator.locks.held[first.id]
    events = [json.loads(line) for line in world.journal.path.read_text().splitlines()]
    (written,) = [event for event in events if event["event"] == "again"]
    assert (written["trial"], written["reason"], written["gpu_seconds"]) == (first.id, "its process is gone", 0.0)
    assert not [event for event in events if event["event"] == "record"]
    for request in (first, second):
        world.end(request)
    handed = world.play()
    assert [request.seed for request in handed] == [1, 1] and len(world.orchestrator.state.records) == 4


class Rungs:
    """Early stopping without Ray: every proposal is judged half-way."""

    def __init__(self, orchestrator):
        self.orchestrator, self.halving = orchestrator, CohortASHA((0.5,), 2, "accuracy")

    def outcome(self, request: TrialRequest) -> str:
        kinds, points = stages_of(request.recipe.plan), [dataclasses.asdict(record(request).curve[0])]
        if not request.may_stop:
            return "finished"
        decision = self.halving.judge(request.id, kinds, points, self.orchestrator.proposer.peers(request.id))
        return "finished" if decision is None else "stopped"


def played(world: World, slots: int, shuffle: random.Random) -> dict[str, tuple[str, str]]:
    """Recipe and outcome of every trial, where any of the running ones may end first."""
    rungs, running, found = Rungs(world.orchestrator), [], {}
    while True:
        request = world.orchestrator.next() if len(running) < slots else None
        if request is not None:
            running.append(request)
        elif running:
            ended = running.pop(shuffle.randrange(len(running)))
            outcome = rungs.outcome(ended)
            found[ended.id] = (ended.recipe.plan.id, outcome)
            world.end(ended, outcome)
        else:
            assert world.orchestrator.finished
            return found


def test_slots_and_delays_change_no_proposal_no_stop_and_no_winner(tmp_path, small_race):
    found, winners, studies = [], [], []
    for number, slots in enumerate((1, 2, 2, 5)):
        world = World(tmp_path / str(number), seeds=2, trials=30, lag=4)
        found.append(played(world, slots, random.Random(number)))
        winners.append(world.confirmed())
        studies.append([(t.params, t.state, t.values) for t in world.orchestrator.sampler.study.trials])
    assert all(other == found[0] for other in found[1:])
    assert all(other == studies[0] for other in studies[1:])
    assert all(other == winners[0] for other in winners[1:])
    outcomes = Counter(outcome for name, (_, outcome) in found[0].items() if name.startswith("adaptive"))
    assert outcomes["stopped"] > 3 and outcomes["finished"] > 3


def test_a_proposal_knows_what_lies_a_lag_behind_it_and_no_more(tmp_path):
    space = Space(stages=[Stage("first", length=0.5, lr=log_uniform(0.01, 0.3)), SPACE.stages[1]])
    world = World(tmp_path, space, seeds=1, trials=12, lag=3, race=False)
    running = []
    for _ in range(40):
        request = world.orchestrator.next()
        if request is None:
            break
        if request.phase == "adaptive":
            running.append(request)
        else:
            world.end(request)
    # three are proposed, and the fourth waits for the result of the first
    assert [request.id for request in running] == [f"adaptive-{place:04d}" for place in range(3)]
    world.end(running[1])
    assert world.orchestrator.next() is None
    world.end(running[0])
    assert world.orchestrator.next().id == "adaptive-0003"


def test_blocks_that_are_added_later_are_another_look(tmp_path):
    world = World(tmp_path, seeds=3, trials=0, race=False)
    world.play()
    assert world.orchestrator.state.added_blocks == []
    world.begin()
    world.play()
    assert world.orchestrator.state.added_blocks == []  # taken up again, nothing added
    for seeds, further in ((5, [3]), (6, [3, 5])):
        world.settings = dataclasses.replace(world.settings, seeds=seeds)
        world.begin()
        world.play()
        assert world.orchestrator.state.added_blocks == further
    table = world.orchestrator.state.conflicts()
    assert table is None or set(table.look.dropna()) <= {3}


def test_results_are_read_while_another_thread_adds_some(tmp_path):
    world = World(tmp_path, seeds=2, trials=0, race=False)
    world.play()
    state = world.orchestrator.state
    known, later = sorted(state.records), iter(range(100))

    class Requests(dict):
        """In the place of another thread: a record comes with each look at the requests."""

        def __contains__(self, name):
            state.records[f"later-{next(later)}"] = state.records["design-0-000"]
            return super().__contains__(name)

    state.requests = Requests(state.requests)
    assert [request.id for request, _ in state.results(("design",))] == known


def without_blocks(world: World) -> None:
    """The journal as an earlier version wrote it."""
    known = ("event", "task", "record", "gpu_seconds", "lag", "number", "params", "values", "attributes")
    events = [json.loads(line) for line in world.journal.path.read_text().splitlines()]
    old = [{key: event[key] for key in known if key in event} for event in events if event["event"] != "blocks"]
    world.journal.path.write_text("".join(json.dumps(event) + "\n" for event in old))


def test_blocks_that_an_earlier_version_did_not_count_are_a_look_when_others_are_added(tmp_path):
    world = World(tmp_path, seeds=3, trials=0, race=False)
    world.play()
    without_blocks(world)
    world.change(seeds=5)
    world.play()
    assert world.orchestrator.state.added_blocks == [3]
    assert world.begin().state.block_counts == [3, 5]


@pytest.mark.parametrize("steps", [2, 7])
def test_a_design_that_an_earlier_version_left_unfinished_was_no_look(tmp_path, steps):
    world = World(tmp_path, seeds=5, trials=0, race=False)
    world.play(steps=steps)
    assert len(world.orchestrator.state.records) % 2, "in the middle of a block"
    without_blocks(world)
    world.begin()
    world.play()
    assert world.orchestrator.state.added_blocks == [] and len(world.orchestrator.state.records) == 10


def test_phases_that_do_not_depend_on_each_other_overlap_and_decide_the_same(tmp_path, whole):
    one = World(tmp_path / "one", WIDE, **whole)
    expected = outline(one.play())
    world, running, together = World(tmp_path / "many", WIDE, **whole), [], set()
    while not world.orchestrator.finished:
        while len(running) < 40 and (request := world.orchestrator.next()) is not None:
            running.append(request)
        together.add(frozenset(request.phase for request in running))
        if running:
            world.end(running.pop(0))
    assert outline(world.orchestrator.state.requests.values()) == expected
    assert any({"confirm", "check", "around"} <= phases for phases in together)
    assert any({"design", "start"} <= phases for phases in together)
    assert (contents(world), world.confirmed()) == (contents(one), one.confirmed())

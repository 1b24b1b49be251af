"""What runs next, without Ray: records are made by hand, finished stages are empty folders."""

import dataclasses
import json
import time
from collections import Counter

import optuna
import pytest

from analysis.record import Point, Record
from search import phases
from search.agenda import Agenda, Journal, Limits, Task
from search.ground import Ground
from search.sampler import Sampler, SpaceExhausted
from spaces.domain import Space, Stage, forbid, log_uniform, one_of
from trainables.data import standard
from trainables.stage_store import StageStore, stage_keys

STANDARD = standard("digits-lt")

SPACE = Space(
    stages=[
        Stage("first", length=0.5, lr=log_uniform(0.01, 0.3, step="thirds"), choose=[one_of(None, "cost_sensitive")]),
        one_of(Stage("finish", length=0.5, carry="weights", lr=log_uniform(0.01, 0.3)),
               Stage("deferred", length=0.5, carry="weights", lr=log_uniform(0.01, 0.3), choose=["class_balanced"])),
    ],
    screen=["first/cost_sensitive"],
)  # fmt: skip


def keys(plan, seed):
    return stage_keys(plan, {"seed": seed})


def accuracy(task: Task) -> float:
    """A world of its own: each label adds, each seed and recipe has its noise."""
    noise = int(task.recipe.plan.id[:4], 16) / 65536 + task.seed % 7 / 7
    return 0.4 + 0.2 * ("cost_sensitive" in task.recipe.title) + 0.1 * ("deferred" in task.recipe.title) + 0.02 * noise


def record(task: Task, outcome: str = "finished", value: float | None = None) -> Record:
    value = accuracy(task) if value is None else value
    return Record(
        search="s", trial=task.id, arm=task.arm, recipe=task.recipe.plan.id, title=task.title, seed=task.seed,
        split_seed=task.seed, setting=task.setting, first_stage="f", tricks=task.tricks, context=task.context,
        outcome=outcome,
        choices={}, plan=task.recipe.plan.to_dict(), data="digits-lt", model="resnet8", imbalance=50.0,
        fingerprint="f", counts=(), val_counts=(), epochs=30, epochs_trained=30, images=0, steps=0, seconds=1.0,
        seconds_saved=0.0, reused=(), metrics={"final/accuracy": value} if outcome == "finished" else {},
        curve=(Point("first", 0, 15, 0.5, {"accuracy": value}),),
    )  # fmt: skip


class World:
    """What lasts when a search is killed: journal, study, store."""

    def __init__(self, folder, space=SPACE, **limits):
        self.journal = Journal(folder / "journal.jsonl")
        self.store = StageStore(folder / "stages")
        self.studies = optuna.storages.InMemoryStorage()
        self.space, self.limits = space, Limits(**limits)
        self.begin()

    def begin(self) -> Agenda:
        """A new driver on what is there."""
        sampler = Sampler(self.space, STANDARD, 1.0, self.studies, "study", 0)
        self.agenda = Agenda(Ground(self.space, STANDARD), sampler, self.limits, self.journal, keys, self.store)
        return self.agenda

    def finish_stage(self, key: str) -> None:
        self.store.folder(key).mkdir(parents=True, exist_ok=True)
        (self.store.folder(key) / "manifest.json").write_text("{}")

    def end(self, task: Task, outcome: str = "finished", value: float | None = None) -> Record:
        if outcome == "finished":
            for stage in keys(task.recipe.plan, task.seed):
                for key in stage:
                    self.finish_stage(key)
        taken = record(task, outcome, value)
        self.agenda.take(taken)
        return taken

    def play(self, slots: int = 1, steps: int | None = None, outcome=lambda task: "finished") -> list[Task]:
        """Runs trials in `slots`, the oldest ends first, until nothing is left or `steps` events have passed."""
        running, handed, events = [], [], 0
        while steps is None or events < steps:
            events += 1
            task = self.agenda.next() if len(running) < slots else None
            if task is not None:
                running.append(task)
                handed.append(task)
            elif running:
                oldest = running.pop(0)
                self.end(oldest, outcome(oldest))
            else:
                assert self.agenda.finished, "nothing runs, nothing may start, and the search is not over"
                break
        return handed


@pytest.fixture
def small_race(monkeypatch):
    monkeypatch.setattr(phases, "CONTENDERS", 2)
    monkeypatch.setattr(phases, "FINALISTS", 1)
    monkeypatch.setattr(phases, "ROUNDS", (2, 1, 2))


def test_the_order_of_a_search(tmp_path, small_race):
    handed = World(tmp_path, seeds=2, trials=3).play()
    phases = [task.phase for task in handed]
    assert phases == ["design"] * 4 + ["adaptive"] * 3 + ["race"] * 6 + ["final"] * 2 + ["confirm"] * 4
    # complete blocks: every cell of a seed before the next seed, the baseline first
    assert [(task.seed, task.title) for task in handed[:4]] == [
        (0, "baseline"), (0, "first/cost_sensitive"), (1, "baseline"), (1, "first/cost_sensitive"),
    ]  # fmt: skip
    assert [task.arm for task in handed if task.phase == "final"] == ["race", "race"]
    # the seeds of the arms never meet; test is read by the confirmation alone
    seeds = {phase: {task.seed for task in handed if task.phase == phase} for phase in set(phases)}
    assert seeds == {"design": {0, 1}, "adaptive": seeds["adaptive"], "race": {2000, 2001}, "final": {2002},
                     "confirm": {3000, 3001}}  # fmt: skip
    assert all(1000 <= seed < 2000 for seed in seeds["adaptive"])
    assert all(task.read_test == (task.phase == "confirm") for task in handed)


def test_the_base_seed_moves_every_block(tmp_path, small_race):
    world = World(tmp_path, seeds=1, trials=1)
    ground, sampler = world.agenda.known.ground, world.agenda.sampler
    world.agenda = Agenda(ground, sampler, world.limits, world.journal, keys, world.store, base_seed=70_000)
    assert {task.seed // 10_000 for task in world.play()} == {7}


def test_the_winner_is_raced_and_confirmed_against_the_baseline(tmp_path, small_race):
    world = World(tmp_path, seeds=2, trials=6)
    handed = world.play()
    winner = world.agenda.winner
    raced = Counter(task.recipe.plan.id for task in handed if task.phase == "race")
    baseline = world.agenda.cells[0].recipe.plan.id
    assert len(raced) == 3 and baseline in raced and set(raced.values()) == {2}
    final = [task for task in handed if task.phase == "final" and task.recipe.plan.id != baseline]
    by_race = {
        recipe: sum(accuracy(task) for task in handed if task.phase == "race" and task.recipe.plan.id == recipe)
        for recipe in raced if recipe != baseline
    }  # fmt: skip
    assert winner.recipe.plan.id == max(by_race, key=by_race.get) == final[0].recipe.plan.id
    confirmed = [task for task in handed if task.phase == "confirm"]
    assert winner.confirmed == [accuracy(t) for t in confirmed if t.recipe.plan.id == winner.recipe.plan.id]
    assert winner.baseline == [accuracy(t) for t in confirmed if t.recipe.plan.id == baseline]
    assert len(winner.confirmed) == len(winner.baseline) == 2
    assert world.agenda.phase == "done"


def test_without_a_race_the_adaptive_arm_is_the_last(tmp_path):
    world = World(tmp_path, seeds=1, trials=2, race=False)
    assert [task.phase for task in world.play()] == ["design", "design", "adaptive", "adaptive"]
    assert world.agenda.winner is None and world.agenda.phase == "done"


def test_nothing_at_all_ends_at_once(tmp_path):
    assert World(tmp_path, seeds=0, trials=0, race=False).play() == []


def test_the_means_of_the_design_warm_the_sampler(tmp_path):
    world = World(tmp_path, seeds=2, trials=0, race=False)
    handed = world.play()
    taught = {trial.user_attrs["recipe"]: trial.value for trial in world.agenda.sampler.study.trials}
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
    baseline, other = world.agenda.next(), world.agenda.next()
    assert (baseline.title, other.title) == ("baseline", "first/cost_sensitive")
    # "deferred" needs the baseline's first stage, the pair the other's
    assert world.agenda.next() is None and not world.agenda.finished
    # the moment the first stage is there, before the baseline has ended
    world.finish_stage(keys(baseline.recipe.plan, 0)[0][-1])
    third = world.agenda.next()
    assert third.title == "deferred"
    assert world.agenda.next() is None
    world.end(other)
    assert world.agenda.next().title == "deferred + first/cost_sensitive"


def test_a_failed_task_gives_its_stage_back(tmp_path):
    world = shared(tmp_path)
    baseline = world.agenda.next()
    world.agenda.next()
    assert world.agenda.next() is None
    world.end(baseline, "failed")
    assert world.agenda.next().title == "deferred"


def test_machines_with_other_keys_do_not_hold_the_search_up(tmp_path):
    """On a cluster the workers' store keys may differ from the driver's: a record is word enough."""
    world = shared(tmp_path)
    baseline = world.agenda.next()
    world.agenda.next()
    world.agenda.take(record(baseline))  # nothing in the store under the driver's keys
    deferred = world.agenda.next()
    assert deferred.title == "deferred"
    assert not world.agenda.running[deferred.id] & {key for stage in keys(baseline.recipe.plan, 0) for key in stage}


def test_without_a_store_nothing_waits(tmp_path):
    world = shared(tmp_path)
    world.store = None
    world.begin()
    assert [world.agenda.next().title for _ in range(3)] == ["baseline", "deferred", "first/cost_sensitive"]


def test_all_slots_are_busy_in_the_adaptive_arm(tmp_path):
    """The children of a start wait for its first stage: meanwhile other starts begin."""
    space = Space(stages=[Stage("first", length=0.5, lr=log_uniform(0.01, 0.3)), SPACE.stages[1]])
    world = World(tmp_path, space, seeds=0, trials=12, children=3, race=False)
    running = [world.agenda.next() for _ in range(3)]
    assert all(running) and len({task.start for task in running}) == 3
    # once a first stage is there, its children come first
    world.finish_stage(keys(running[0].recipe.plan, running[0].seed)[0][-1])
    child = world.agenda.next()
    assert child.start == running[0].start
    assert child.recipe.plan.stages[0] == running[0].recipe.plan.stages[0]


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_no_stage_is_trained_twice_at_a_time_whatever_the_slots(tmp_path, slots, monkeypatch, small_race):
    world = World(tmp_path, seeds=2, trials=10, children=3)
    begin = Agenda._begin

    def checked(agenda, task):
        busy = set().union(*agenda.running.values(), set())
        assert not agenda._unfinished(task) & busy
        return begin(agenda, task)

    monkeypatch.setattr(Agenda, "_begin", checked)
    handed = world.play(slots)
    assert Counter(task.phase for task in handed)["adaptive"] == 10
    assert len({task.id for task in handed}) == len(handed)


def test_children_share_their_start(tmp_path):
    handed = World(tmp_path, seeds=0, trials=7, children=3, race=False).play()
    assert [task.start for task in handed] == [0, 0, 0, 1, 1, 1, 2]
    for start in range(3):
        assert len({str(t.recipe.plan.stages[0]) for t in handed if t.start == start}) == 1


def test_a_recipe_that_comes_again_is_a_new_seed(tmp_path):
    space = Space(stages=[Stage("first", length=1, choose=[one_of(None, "cost_sensitive")])])
    handed = World(tmp_path, space, seeds=0, trials=8, race=False).play()
    pairs = [(task.recipe.plan.id, task.seed) for task in handed]
    assert len(set(pairs)) == 8 and {seed for _, seed in pairs} <= set(range(1000, 1008))


# --- what goes wrong --------------------------------------------------------------------------------------


def test_diverged_and_failed_trials_do_not_stop_the_search(tmp_path, small_race):
    outcomes = {"design-0-001": "diverged", "adaptive-0000": "failed", "adaptive-0001": "stopped"}
    world = World(tmp_path, seeds=2, trials=4)
    handed = world.play(outcome=lambda task: outcomes.get(task.id, "finished"))
    assert world.agenda.phase == "done" and world.agenda.winner is not None
    assert {name: world.agenda.records[name].outcome for name in outcomes if name in world.agenda.records} == {
        "design-0-001": "diverged", "adaptive-0001": "stopped",
    }  # fmt: skip
    assert set(world.agenda.failures) == {"adaptive-0000"}
    states = [t.state.name for t in world.agenda.sampler.study.trials if "arm" not in t.user_attrs]
    assert states == ["FAIL", "PRUNED", "COMPLETE", "COMPLETE"]
    # one diverged: the cell's mean over one seed teaches nothing
    assert len([t for t in world.agenda.sampler.study.trials if "arm" in t.user_attrs]) == 1
    assert len(handed) == len({task.id for task in handed})


def test_all_fail_and_the_search_ends(tmp_path, small_race):
    world = World(tmp_path, seeds=1, trials=2)
    world.play(outcome=lambda task: "failed")
    assert world.agenda.phase == "done"
    assert world.agenda.winner.confirmed == []


def test_a_space_that_is_exhausted_ends_the_adaptive_arm_alone(tmp_path, small_race, caplog):
    space = Space(
        stages=[Stage("first", length=1, choose=[one_of(None, "cost_sensitive"), one_of("class_balanced")])],
        forbid=[forbid("first/cost_sensitive", "first/class_balanced", reason="a test")],
    )
    world = World(tmp_path, space, seeds=1, trials=4)
    world.agenda.sampler.ask = lambda *_: (_ for _ in ()).throw(SpaceExhausted("nothing is left"))
    handed = world.play()
    assert {task.phase for task in handed} == {"design", "race", "final", "confirm"}
    assert "the adaptive arm ends after 0 of 4 trials: nothing is left" in caplog.text


def test_the_time_budget_ends_the_search(tmp_path):
    world = World(tmp_path, seeds=3, trials=4, seconds=1000)
    assert world.agenda.next() is not None
    world.agenda._began = time.monotonic() - 1001
    assert world.agenda.next() is None and world.agenda.finished
    assert world.agenda.phase == "design"


def test_a_fifth_of_the_time_is_kept_for_the_race(tmp_path, small_race):
    world = World(tmp_path, seeds=1, trials=50, seconds=1000)
    world.play(steps=4)
    task = world.agenda.next()
    assert task.phase == "adaptive"
    world.agenda._began = time.monotonic() - 801
    world.end(task)
    assert world.agenda.next().phase == "race"


def test_stop_hands_out_nothing_more(tmp_path):
    world = World(tmp_path, seeds=1, trials=1)
    task = world.agenda.next()
    world.agenda.stop()
    assert world.agenda.next() is None and world.agenda.finished
    world.end(task)  # still taken
    assert set(world.agenda.records) == {task.id}


def test_planned_counts_what_is_known(tmp_path, small_race):
    world = World(tmp_path, seeds=2, trials=3)
    assert world.agenda.planned == 2 * 2 + 3 + (2 + 1) * 2 + (1 + 1) * 1 + 2 * 2
    handed = world.play()
    assert world.agenda.planned == len(handed)


# --- resume -----------------------------------------------------------------------------------------------


def outline(tasks) -> set[tuple]:
    return {(t.id, t.arm, t.phase, t.recipe.plan.id, t.seed, t.number, t.start, t.title, t.read_test) for t in tasks}


@pytest.mark.parametrize("slots", [1, 2])
def test_a_search_that_was_cut_anywhere_does_the_same_in_the_end(tmp_path, slots, small_race):
    limits = {"seeds": 1, "trials": 4, "children": 2}
    (tmp_path / "whole").mkdir()
    whole = World(tmp_path / "whole", **limits)
    expected = outline(whole.play(slots))
    events = 2 * len(expected)
    for cut in range(events + 1):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        world = World(folder, **limits)
        world.play(slots, steps=cut)
        done = set(world.agenda.records)
        before = outline(world.agenda.tasks[name] for name in done)
        if cut % 2 and world.journal.path.exists():
            # killed in the middle of a line
            half = json.dumps({"event": "record", "record": record(whole.agenda.tasks["design-0-000"]).to_dict()})
            with world.journal.path.open("a") as file:
                file.write(half[: len(half) // 2])
        world.begin()
        assert set(world.agenda.records) == done
        again = world.play(slots)
        assert not done & {task.id for task in again}, f"cut {cut}: a finished task ran again"
        if slots == 1:
            assert outline(again) | before == expected, f"cut {cut}: not the same search"
        else:
            # what is proposed depends on who ends first; what was proposed keeps its number
            assert {(row[0], row[1]) for row in outline(again) | before if row[1] != "race"} >= {
                (row[0], row[1]) for row in expected if row[1] in ("design", "adaptive")
            }
        numbers = [task.number for task in world.agenda.tasks.values() if task.number is not None]
        assert len(set(numbers)) == len(numbers) == 4
        assert world.agenda.winner is not None
        states = Counter(trial.state.name for trial in world.agenda.sampler.study.trials)
        assert states["RUNNING"] == states["WAITING"] == 0


def test_a_finished_search_runs_nothing_again(tmp_path, small_race):
    world = World(tmp_path, seeds=2, trials=3)
    world.play()
    winner = world.agenda.winner
    trials = len(world.agenda.sampler.study.trials)
    world.begin()
    assert world.play() == []
    assert world.agenda.phase == "done" and len(world.agenda.sampler.study.trials) == trials
    assert dataclasses.asdict(world.agenda.winner)["confirmed"] == winner.confirmed


def test_what_failed_runs_again_after_a_resume_and_is_learnt_from(tmp_path):
    world = World(tmp_path, seeds=1, trials=2, race=False)
    world.play(outcome=lambda task: "failed" if task.id in ("design-0-001", "adaptive-0000") else "finished")
    world.begin()
    assert [task.id for task in world.play()] == ["design-0-001", "adaptive-0000"]
    study = world.agenda.sampler.study
    states = [trial.state.name for trial in study.trials if trial.user_attrs.get("arm") is None]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert len([trial for trial in study.trials if "arm" in trial.user_attrs]) == 2


def test_a_proposal_that_the_journal_never_saw_is_given_up(tmp_path):
    world = World(tmp_path, seeds=0, trials=2, race=False)
    lost = world.agenda.sampler.ask(0)  # and killed before it was written down
    world.begin()
    handed = world.play()
    assert handed[0].recipe.plan.id == lost.recipe.plan.id and handed[0].number != lost.number
    assert {trial.state.name for trial in world.agenda.sampler.study.trials} == {"FAIL", "COMPLETE"}


def test_tasks_survive_json(tmp_path):
    world = World(tmp_path, seeds=1, trials=1, race=False)
    for task in world.play():
        again = Task.from_dict(json.loads(json.dumps(task.to_dict())))
        assert outline([again]) == outline([task])
        assert again.recipe.plan == task.recipe.plan and again.recipe.labels == task.recipe.labels
        assert again.tricks == task.tricks and again.context == task.context


def test_a_journal_of_another_version_is_refused(tmp_path):
    world = World(tmp_path, seeds=1, trials=0, race=False)
    fields = record(world.agenda.next()).to_dict() | {"schema": 0}
    world.journal.write("record", record=fields)
    with pytest.raises(ValueError, match="a record of schema 0 cannot be read"):
        world.begin()


def test_a_task_that_is_put_back_is_the_next_one_and_nothing_is_recorded(tmp_path, small_race):
    world = World(tmp_path, seeds=2, trials=0, race=False)
    first, second = world.agenda.next(), world.agenda.next()
    world.agenda.again(first.id, "its process is gone")
    assert first.id not in world.agenda.running and second.id in world.agenda.running
    assert world.agenda.next() == first
    # what it had begun is its own again, and nobody else's
    assert world.agenda.running[first.id]
    events = [json.loads(line) for line in world.journal.path.read_text().splitlines()]
    assert [event for event in events if event["event"] == "again"] == [
        {"event": "again", "trial": first.id, "reason": "its process is gone"}
    ]
    assert not [event for event in events if event["event"] == "record"]
    for task in (first, second):
        world.end(task)
    handed = world.play()
    assert [task.seed for task in handed] == [1, 1] and len(world.agenda.records) == 4

"""What Ray says of a trial that failed, and when no further one is handed out."""

import json
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.tune.utils.serialization import TuneFunctionEncoder

import search
from search import phases
from search.execution import ray_tune
from search.execution.failures import FailureCount, describe_error
from search.execution.gpu_shares import ResourceAllocator, Share
from search.execution.ray_tune import Failure, TuneCallback, TuneScheduler, TuneSearcher
from tests.search.whole_searches import ALIKE, TRICK, journal, small_phases


def in_setup(error: Exception) -> ActorDiedError:
    """As Ray tells an error of a process that had not begun."""
    lines = f"Traceback\n  in setup\n{type(error).__name__}: {error}"
    return ActorDiedError(RayTaskError("__init__", lines, error, actor_id="00"))


@pytest.mark.parametrize(
    ("error", "said", "lost"),
    [
        # what a trial raises it tells itself: these are errors of the machinery around it
        (in_setup(ModuleNotFoundError("No module named 'x'")), "ModuleNotFoundError: No module named 'x'", False),
        (RayTaskError("step", "Traceback\n  in train\nKeyError: 1", KeyError(1)), "KeyError: 1", False),
        (ValueError(""), "ValueError", False),
        (None, "None", False),
        (ActorDiedError(), "ActorDiedError: its process is gone", True),
        (NodeDiedError("node 1"), "NodeDiedError: its process is gone", True),
        (WorkerCrashedError(), "WorkerCrashedError: its process is gone", True),
        # Ray ends the process that takes most, where the machine has no more
        (OutOfMemoryError("the node"), "OutOfMemoryError: its process is gone", True),
    ],
)
def test_what_an_error_says(error, said, lost):
    assert describe_error(error) == (said, lost)


def test_an_error_stays_in_memory(tmp_path):
    """Ray would pickle it into the results folder, and unpickle what lies there at the end."""
    trial = SimpleNamespace(
        run_metadata=SimpleNamespace(num_failures=0), local_path=str(tmp_path), placement_group_factory=None
    )
    TuneScheduler(SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), 2).on_trial_add(None, trial)
    trial.handle_error(ActorDiedError())
    assert isinstance(trial.handle_error, Failure) and isinstance(trial.handle_error.error, ActorDiedError)
    assert trial.run_metadata.num_failures == 1 and list(tmp_path.iterdir()) == []
    # what Ray writes of a trial at the end of a search does not take the error along
    written = json.loads(json.dumps(trial.handle_error, cls=TuneFunctionEncoder))
    assert b"ActorDied" not in bytes.fromhex(written["value"])


def why(*outcomes: tuple[str, str]) -> str:
    """Why a search ends after these records; the last word counts."""
    failures = FailureCount()
    said = [failures.count(SimpleNamespace(outcome=outcome, reason=reason)) for outcome, reason in outcomes]
    return said[-1] if not any(said[:-1]) else "earlier"


FAILED, OTHER, FINISHED = ("failed", "ValueError: 7 images in /x/3.png"), ("failed", "KeyError: 'x'"), ("finished", "")


def test_a_search_whose_trials_all_fail_alike_ends():
    said = why(FAILED, ("failed", "ValueError: 9 images in /x/12.png"), FAILED)
    assert said == "The first 3 trials failed for the same reason: ValueError: 7 images in /x/3.png"
    assert why(FINISHED, *[FAILED] * 10).startswith("10 trials in a row failed for the same reason")


@pytest.mark.parametrize(
    "outcomes",
    [(FAILED, FAILED), (FAILED, OTHER, FAILED, OTHER), (FINISHED, FAILED, FAILED, FAILED),
     (FAILED, FAILED, FINISHED, FAILED), (FINISHED, *[FAILED] * 9, ("stopped", ""), *[FAILED] * 9)],
)  # fmt: skip
def test_some_failures_end_no_search(outcomes):
    assert why(*outcomes) == ""


class Tasks:
    """An orchestrator that always has a next trial."""

    finished = False

    def __init__(self):
        self.running: dict[str, set] = {}

    def next(self):
        task = SimpleNamespace(id=f"t{len(self.running)}")
        self.running[task.id] = set()
        return task


def test_nothing_is_handed_out_while_a_larger_share_is_waited_for():
    tasks, shares = Tasks(), ResourceAllocator(Share(1, 0.25), Share(4, 1))
    searcher = TuneSearcher(tasks, lambda task: {}, shares)
    assert searcher.suggest("a") == {"task": "t0", "spec": "{}", "cpus": 1, "gpus": 0.25}
    assert shares.retry("t0", "OutOfMemoryError: x", lost=False)
    # it is back in the queue, and has to be handed out itself
    del tasks.running["t0"]
    assert searcher.suggest("b") == {"task": "t0", "spec": "{}", "cpus": 1, "gpus": 0.5}
    assert searcher.suggest("c") is None
    shares.started("t0")
    assert searcher.suggest("d") == {"task": "t1", "spec": "{}", "cpus": 1, "gpus": 0.25}


@pytest.mark.parametrize("in_time", [True, False])
def test_when_time_is_up_running_trials_end_their_epochs_before_the_search_ends(in_time, monkeypatch):
    clock, stopped, said = SimpleNamespace(now=0.0), [], []
    monkeypatch.setattr(ray_tune, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.now))
    monkeypatch.setattr(ray_tune, "seconds_to_finish", lambda: 240.0)
    orchestrator = SimpleNamespace(stop=lambda: stopped.append(True), started=lambda name: None)
    shares = SimpleNamespace(started=lambda name: None)
    callback = TuneCallback(orchestrator, SimpleNamespace(), SimpleNamespace(), shares, note=said.append)
    trials = [SimpleNamespace(config={"task": name}) for name in "ab"]
    for trial in trials:
        callback.on_trial_start(0, [], trial)
    callback.on_step_begin(0, [])
    callback.finish_epochs()
    report = {"notes": [], "outcome": "running", "points": [], "payload": {}, "progress": 0.5}
    for trial in trials:
        clock.now += 120
        callback.on_step_begin(0, [])
        if in_time or trial is trials[0]:
            callback.on_trial_result(0, [], trial, report)
    clock.now += 0 if in_time else 1
    with pytest.raises(KeyboardInterrupt):
        callback.on_step_begin(0, [])
    assert stopped == [True] and said == ["SIGUSR1: the running trials end their epochs, then the search ends"]


ONCE_MORE = """import os, pathlib, time
            seen, end = pathlib.Path({folder!r}), time.monotonic() + 60
            (seen / str(os.getpid())).touch()
            while len(list(seen.iterdir())) < 2 and time.monotonic() < end:
                time.sleep(0.05)  # until both slots have a process: one alone could train everything
            return -(q * torch.log_softmax(outputs.logits, 1)).sum(1)"""


@pytest.mark.usefixtures("cluster")
def test_slots_that_wait_keep_their_processes(place, tricks_folder, monkeypatch):
    """At the end of each phase a slot waits; a new process would take longer than several of these trials."""
    monkeypatch.setattr(phases, "PHASES", small_phases(2, 2, 2))
    seen = place / "seen"
    seen.mkdir()
    body = ONCE_MORE.format(folder=str(seen))
    (tricks_folder / "always.py").write_text(TRICK.format(what="Cross-entropy.", body=body))
    (place / "alike.py").write_text(ALIKE)
    few = {"seeds": 2, "trials": 0, "start_points": False, "check_seeds": 0, "max_concurrent": 2}
    result = search.run("alike.py", name="kept", tricks=(str(tricks_folder),), **few)
    assert result.complete and len(journal(result.folder)) == 4 * 4
    assert len(list(seen.iterdir())) == 2

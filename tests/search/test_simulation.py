"""Searches to which everything happens that a seed draws; see `simulation`."""

import os
from pathlib import Path

import pytest

from search import outcome
from search.mlflow_tracker import Tracker
from search.mlflow_tracker.run_writer import RunWriter
from tests.search import memory_mlflow, simulation
from tests.search.memory_mlflow import MemoryMlflow
from tests.search.test_orchestrator import SPACE, World, record


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_nothing_is_lost_repeated_or_decided_otherwise(first):
    drivers = [simulation.simulate(seed) for seed in range(first, first + 25)]
    assert sum(drivers) > len(drivers), "no driver was ever replaced"
    stopped = {record["outcome"] for record in simulation.uninterrupted()[1].values()}
    assert "stopped" in stopped, "nothing was ever stopped early"


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_seeds():
    """As many as LONGTAIL_SEEDS says, for a night."""
    for seed in range(200, 200 + int(os.environ.get("LONGTAIL_SEEDS", "10000"))):
        simulation.simulate(seed)


def test_a_failure_names_the_seed_that_repeats_it(monkeypatch):
    monkeypatch.setattr(simulation, "_check", lambda search, same: pytest.fail("something was lost"))
    with pytest.raises(pytest.fail.Exception) as failure:
        simulation.simulate(3)
    assert failure.value.__notes__ == ["python -m tests.search.simulation --first 3 --seeds 1"]


@pytest.mark.parametrize("lost", ["write_trial", "end", "_write_recipe", "create_run"])
def test_a_tracker_that_loses_something_is_found_out(monkeypatch, lost):
    """The simulator's checks can fail; the last one is seen where MLflow does not answer."""
    if lost == "create_run":
        monkeypatch.setattr("search.mlflow_tracker.run_writer.RunWriter._put", _put_without_looking)
    else:
        monkeypatch.setattr(f"search.mlflow_tracker.run_writer.RunWriter.{lost}", lambda self, *_: None)
    with pytest.raises((AssertionError, KeyError)):
        for seed in range(40):
            simulation.simulate(seed)


def _put_without_looking(self, *arguments):
    self._unanswered.clear()
    return PUT(self, *arguments)


PUT = RunWriter._put


def test_mlflow_in_memory_takes_what_mlflow_takes(uri, tmp_path):
    """The same search in both, interrupted and resumed: the same runs with the same content."""
    world = World(tmp_path / "world", SPACE, seeds=2, trials=4, race=False)
    records = [
        record(request, "diverged" if number == 3 else "finished") for number, request in enumerate(world.play())
    ]
    records.insert(1, record(world.orchestrator.state.requests[records[1].trial], "failed"))

    def tracked(address: str, folder: Path) -> object:
        folder.mkdir()
        for number, status in ((3, "KILLED"), (len(records), "FINISHED"), (len(records), "FINISHED")):
            tracker = Tracker(address, "s", "digits-lt", folder)
            resume = status == "FINISHED"
            tracker.start({"trials": str(number)}, {"space": "s"}, choices=simulation.CHOICES, resume=resume)
            tracker.replay(records[:number])
            outcome._track(tracker, records[:number], folder, simulation.PAIRS, {}, {"looks": "0"})
            assert tracker.close(status) == []
        return memory_mlflow.content(address, "s")

    with MemoryMlflow(tmp_path).serving():
        ours = tracked(memory_mlflow.URI, tmp_path / "memory")
    assert ours == tracked(uri, tmp_path / "real")
    assert {name.split()[0] for name in ours} == {"search", "recipe", "trial"} and len(ours) > 6

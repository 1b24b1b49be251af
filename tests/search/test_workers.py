"""Workers that train a search through its folder: who takes a trial, what is lost, and that nothing depends on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import search
from search import phases
from search.commands import worker
from search.commands.worker import places
from search.option import SettingsError
from search.scheduling.journal import Journal
from search.settings import Settings
from search.workers import __main__ as command
from search.workers import queue
from search.workers.queue import DriverQueue, SessionOver, Silence, WorkerQueue
from tests.search import in_process
from tests.search.whole_searches import small_phases

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def driver(tmp_path):
    it = DriverQueue(tmp_path)
    yield it
    it.end(queue.STOPPED)


@pytest.fixture
def alive(tmp_path):
    """alive(): a worker with a beat."""
    beating = []

    def made() -> WorkerQueue:
        it = WorkerQueue(tmp_path)
        beating.append(it.beating())
        beating[-1].__enter__()
        return it

    yield made
    for each in beating:
        each.__exit__(None, None, None)


def events(driver: DriverQueue) -> list[tuple]:
    return [(event.kind, event.job, event.content) for event in driver.events()]


def test_a_trial_is_taken_once_and_the_first_one_first(driver, alive):
    first, second = alive(), alive()
    jobs = [driver.offer({"task": name}) for name in "abc"]
    taken = [each.take() for each in (first, second, first, second)]
    assert [job and job.config["task"] for job in taken] == ["a", "b", "c", None]
    assert events(driver) == [("taken", job, {}) for job in jobs]
    assert not any(map(driver.withdraw, jobs)) and driver.withdraw(driver.offer({"task": "d"}))
    assert first.take() is None


def test_reports_come_in_order_and_answers_to_the_one_that_waits(driver, alive):
    driver.offer({})
    job = alive().take()
    for number in range(3):
        job.report(number, {"number": number})
    assert job.answer(1) is None
    found = list(driver.events())
    assert [(event.kind, event.number) for event in found] == [("taken", 0), *(("report", n) for n in range(3))]
    assert [event.content["number"] for event in found[1:]] == [0, 1, 2] and events(driver) == []
    driver.answer(found[0].job, 1, True)
    driver.answer(found[0].job, 2, False)
    assert job.answer(0) is None and job.answer(1) is True and job.answer(2) is False


def test_a_worker_that_is_gone_or_silent_loses_its_trial(driver, alive, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(queue.Beat, "_run", lambda self: None)
    job = driver.offer({})
    it = WorkerQueue(driver._root.parent)
    with it.beating():
        taken = it.take()
        assert events(driver) == [("taken", job, {})]
        clock.now = queue.SILENCE_SECONDS
        assert events(driver) == []
        queue.write(driver._root / queue.WORKERS / f"{it.worker}.json", {"beat": 2})
        clock.now += queue.SILENCE_SECONDS
        assert events(driver) == []
        clock.now += queue.SILENCE_SECONDS + 0.1
        assert events(driver) == [("lost", job, {})]
        driver.close(job)
        # it was only slow, and hears that somebody else has the trial
        with pytest.raises(SessionOver):
            taken.report(0, {})
        queue.write(driver._root / queue.WORKERS / f"{it.worker}.json", {"beat": 3})
        job, taken = driver.offer({}), it.take()
        assert events(driver) == [("taken", job, {})]
    # gone by itself; a report that it has written before counts, though it is found later
    assert events(driver) == []
    taken.report(0, {"last": True})
    assert events(driver)[0] == ("report", job, {"last": True})
    assert events(driver) == [("lost", job, {})]


def test_a_beat_is_compared_by_the_clock_of_whoever_watches(monkeypatch):
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: clock.now))
    silence = Silence()
    assert silence.seconds("a", 7) == 0
    clock.now = 60.0
    assert silence.seconds("a", 7) == 10 and silence.seconds("b", 1) == 0 and silence.seconds("a", 8) == 0


def test_another_driver_ends_the_trials_of_the_one_before(driver, alive, tmp_path):
    driver.offer({})
    it = alive()
    job = it.take()
    second = DriverQueue(tmp_path)
    try:
        for call in (lambda: job.report(0, {}), lambda: job.answer(0)):
            with pytest.raises(SessionOver):
                call()
        assert it.take() is None
        second.offer({"task": "again"})
        assert it.take().config == {"task": "again"}
    finally:
        second.end(queue.COMPLETE)
    assert it.driver["ended"] == queue.COMPLETE and it.take() is None
    assert sorted(path.name for path in (tmp_path / queue.FOLDER).iterdir()) == [queue.DRIVER]


def settings(**more: object) -> Settings:
    return Settings(name="a", space="s", data="digits-lt", **more)


def test_places():
    assert places(settings(), 3, []) == [{}] * 3 and places(settings(cpus_per_trial=2.0), 5, []) == [{}] * 2
    assert places(settings(), 2, [], most=4) == [{}] * 4

    def gpus(*arguments: object, **more: object) -> list[str]:
        return [place["CUDA_VISIBLE_DEVICES"] for place in places(settings(**more), *arguments)]

    assert gpus(8, ["0", "1"], gpus_per_trial=1.0) == ["0", "1"]
    assert gpus(8, ["GPU-a", "GPU-b", "GPU-c"], gpus_per_trial=2.0) == ["GPU-a,GPU-b"]
    assert gpus(3, ["4", "5"], gpus_per_trial=1 / 3) == ["4", "4", "4"]
    with pytest.raises(SettingsError, match="asks for 1 CPUs and 1 GPUs, but this worker may use 8 CPUs and 0 GPUs"):
        gpus(8, [], gpus_per_trial=1.0)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(worker, "run", lambda options: seen.append(vars(options)) or 0)
    assert command.main(["s", "--output", "x", "--", "--space", "a.py", "--workers", "8"]) == 0
    assert seen[0] | {"prog": ""} == {
        "search": "s", "output": "x", "processes": None, "prog": "", "start": ["--space", "a.py", "--workers", "8"],
    }  # fmt: skip
    assert command.main(["s", "--processes", "0"]) == 2
    assert "--processes must be a whole number above 0, got '0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"address": "10.0.0.1:6379"}, "on the Ray cluster at 10.0.0.1:6379: leave --address out"),
        ({"gpus_per_trial": "auto"}, "--gpus-per-trial auto is measured by Ray"),
    ],
)
def test_what_needs_ray_is_refused(options, said, tmp_path):
    given = in_process.OPTIONS | {"data": "digits-lt", "output": str(tmp_path / "results")} | options
    with pytest.raises(SettingsError, match=said):
        search.run(in_process.SPACE, **given, workers=2)
    assert not (tmp_path / "results").exists()


WORKERS = """
import os, signal, sys, time
from pathlib import Path
from search.workers import process, queue
from trainables.trial import Trial

folder, step, count = Path(sys.argv[1]), Trial.step, 0

def killed(trial):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(trial)

def ended(trial):
    result = step(trial)
    if result["outcome"] == "running":  # at the rung of the first proposal, which nothing is compared with yet
        os.kill(os.getpid(), signal.SIGTERM)
    return result

while not (folder / "search.json").exists():
    time.sleep(0.05)
for crew in ([killed, ended], [step]):
    pids = {}
    for how in crew:
        pid = os.fork()
        if not pid:
            Trial.step = how
            os._exit(process.main([str(folder)]))
        pids[pid] = how.__name__
    for _ in crew:
        pid, status = os.wait()
        print(pids[pid], os.waitstatus_to_exitcode(status), flush=True)
        for beat in (folder / queue.FOLDER / queue.WORKERS).glob(f"*-{pid}-*.json"):
            beat.unlink()
"""
"""Two workers, of which one is killed in a trial and one is asked to end, and a third one that does the rest."""


VARYING = {"seconds", "seconds_saved", "started", "memory", "reused", "epochs_trained", "first_stage"}
"""Fields of a record that say when and how it was trained, and not what."""


def outcomes(folder: Path) -> dict[str, str]:
    """What was decided and measured, by trial; as text, in which NaN equals NaN."""
    records = Journal(folder / "journal.jsonl").records()
    return {
        trial: json.dumps({name: value for name, value in record.to_dict().items() if name not in VARYING})
        for trial, record in records.items()
    }


def test_workers_come_to_what_one_process_comes_to(tmp_path, monkeypatch):
    """The same trials, stops and winner, though one worker is killed and another one has to end."""
    alone = in_process.run(tmp_path / "alone", lag=3)
    assert alone.complete and "stopped" in set(alone.trials["outcome"])
    (tmp_path / "many").mkdir()
    output = tmp_path / "many" / "results"
    process = subprocess.Popen(
        [sys.executable, "-c", WORKERS, str(output / "s")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        monkeypatch.setattr(phases, "PHASES", small_phases(1, 1, 2))
        given = in_process.OPTIONS | {"data": in_process.features(tmp_path / "alone"), "output": str(output), "lag": 3}
        found = search.run(in_process.SPACE, **given | {"max_concurrent": None}, workers=2)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (sorted(out.splitlines()), err) == (["ended 0", "killed -9", "step 0"], "")
    assert found.complete and outcomes(found.folder) == outcomes(alone.folder)
    assert found.best["plan"] == alone.best["plan"]
    again = [event for event in Journal(found.folder / "journal.jsonl").events() if event["event"] == "again"]
    assert sorted(event["reason"].partition(" (")[0] for event in again) == [
        "its worker had to end", "worker process died; retrying from the last saved stage",
    ]  # fmt: skip
    assert json.loads((found.folder / "queue" / "driver.json").read_text())["ended"] == queue.COMPLETE

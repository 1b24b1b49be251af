"""Workers that train a search through its folder: who takes a trial, what is lost, and that nothing depends on it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import search
from analysis import files
from search import phases
from search.commands import worker
from search.commands.worker import process_environments
from search.option import SettingsError
from search.scheduling.journal import Journal
from search.settings import Settings
from search.workers import __main__ as command
from search.workers import process, queue
from search.workers.queue import DriverQueue, HeartbeatMonitor, Job, SessionOver, WorkerQueue
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
    """alive(): a worker with a heartbeat."""
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
    monkeypatch.setattr(queue.Heartbeat, "_run", lambda self: None)
    job = driver.offer({})
    it = WorkerQueue(driver._root.parent)
    with it.beating():
        taken = it.take()
        assert events(driver) == [("taken", job, {})]
        clock.now = queue.HEARTBEAT_TIMEOUT
        assert events(driver) == []
        queue.write(driver._root / queue.WORKERS / f"{it.worker}.json", {"heartbeat": 2})
        clock.now += queue.HEARTBEAT_TIMEOUT
        assert events(driver) == []
        clock.now += queue.HEARTBEAT_TIMEOUT + 0.1
        assert events(driver) == [("lost", job, {})]
        driver.close(job)
        # it was only slow, and hears that somebody else has the trial
        with pytest.raises(SessionOver):
            taken.report(0, {})
        queue.write(driver._root / queue.WORKERS / f"{it.worker}.json", {"heartbeat": 3})
        job, taken = driver.offer({}), it.take()
        assert events(driver) == [("taken", job, {})]
    # gone by itself; a report that it has written before counts, though it is found later
    assert events(driver) == []
    taken.report(0, {"last": True})
    assert events(driver)[0] == ("report", job, {"last": True})
    assert events(driver) == [("lost", job, {})]


def test_a_heartbeat_is_compared_by_the_clock_of_whoever_watches(monkeypatch):
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monitor = HeartbeatMonitor()
    assert monitor.age("a", 7) == 0
    clock.now = 60.0
    assert monitor.age("a", 7) == 10 and monitor.age("b", 1) == 0
    assert monitor.age("a") == 10, "a heartbeat that cannot be read is unchanged"
    assert monitor.age("a", 8) == 0


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


# ---------------------------------------- file systems that fail


@pytest.fixture
def broken(monkeypatch):
    """broken(part of a path): reading such a file fails from now on, until broken("")."""
    part, read = "", Path.read_bytes

    def failing(path: Path) -> bytes:
        if part and part in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    def choose(name: str) -> None:
        nonlocal part
        part = name

    monkeypatch.setattr(Path, "read_bytes", failing)
    return choose


def test_a_trial_that_was_taken_but_cannot_be_read_ends_the_process(driver, alive, broken):
    """The driver loses it with the process; passing it over would leave it taken for ever."""
    job, it = driver.offer({}), alive()
    broken("/taken/")
    with pytest.raises(OSError, match="Input/output error"):
        it.take()
    assert events(driver) == [("taken", job, {})]


def test_a_heartbeat_that_cannot_be_read_is_no_lost_worker(driver, alive, broken, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(queue.Heartbeat, "_run", lambda self: None)
    job, taken = driver.offer({}), alive().take()
    assert events(driver) == [("taken", job, {})]
    broken(f"{queue.WORKERS}/{taken.name.partition('@')[2]}")
    clock.now = queue.HEARTBEAT_TIMEOUT
    assert [events(driver) for _ in range(3)] == [[]] * 3
    clock.now += 1
    assert events(driver) == [("lost", job, {})]


def test_a_worker_keeps_what_it_knows_of_a_driver_whose_file_cannot_be_read(driver, alive, broken):
    it = alive()
    before = it.driver
    broken(queue.DRIVER)
    assert before is not None and it.driver == before


def test_a_withdrawal_that_nfs_repeats(driver, alive, monkeypatch):
    """The first removal succeeds, the repeated one finds no file: nobody has the trial."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: clock.now))
    jobs = [driver.offer({}) for _ in range(2)]
    taken = alive().take()
    (driver._place / "offered" / f"{jobs[1]}.json").unlink()
    assert [driver.withdraw(job) for job in jobs] == [False, False]
    clock.now = queue.HEARTBEAT_TIMEOUT + 1
    assert [driver.withdraw(job) for job in jobs] == [False, True]
    assert taken.name.startswith(jobs[0])


def test_a_driver_removes_what_killed_ones_have_left(tmp_path):
    workers = tmp_path / queue.FOLDER / queue.WORKERS
    workers.mkdir(parents=True)
    for name in ("old.json", "new.json"):
        (workers / name).write_text("{}")
    left = [files.beside(place) for place in (workers.parent / queue.DRIVER, workers / "old.json")]
    for path in (*left, workers / "old.json"):
        path.touch()
        os.utime(path, (0, 0))
    DriverQueue(tmp_path).end(queue.STOPPED)
    assert [path.name for path in workers.iterdir()] == ["new.json"]
    assert [path.name for path in workers.parent.glob(".*")] == []


@pytest.mark.parametrize("outcome", ["failed", "running"])
def test_a_process_whose_trial_has_failed_trains_no_other_one_though_the_driver_is_gone(outcome, tmp_path):
    result = {"points": [], "outcome": outcome, "done": False}
    trial = SimpleNamespace(step=lambda: result)
    job = Job(tmp_path / "gone", "000001@w", {"spec": json.dumps({"rungs": []})})
    if outcome == "failed":
        assert process.train(trial, job, lambda: False) is False
    else:
        with pytest.raises(SessionOver):
            process.train(trial, job, lambda: False)


# ---------------------------------------- the command


def session(name: str, ended: str) -> dict[str, str]:
    return {"session": name, "ended": ended}


@pytest.mark.parametrize(
    ("driver", "at_begin", "at_start", "code", "silent", "locked", "step"),
    [
        # nobody drives
        (None, None, None, None, False, False, worker.DRIVE),
        (None, None, None, None, False, True, worker.WAIT),
        (session("a", ""), None, None, None, False, False, worker.WAIT),
        (session("a", ""), None, None, None, True, False, worker.DRIVE),
        (session("a", ""), None, None, None, True, True, worker.WAIT),
        (session("a", queue.HANDED_OVER), None, None, None, False, False, worker.DRIVE),
        (session("a", queue.HANDED_OVER), None, None, None, False, True, worker.WAIT),
        # the search has ended, before this worker began or since
        (session("a", queue.COMPLETE), "a", None, None, False, False, 0),
        (session("a", queue.STOPPED), "a", None, None, False, False, worker.DRIVE),
        (session("a", queue.STOPPED), None, None, None, False, False, 1),
        (session("b", queue.STOPPED), "a", None, None, False, False, 1),
        # this worker's driver has ended
        (session("b", queue.COMPLETE), None, "a", 0, False, False, 0),
        (session("b", queue.STOPPED), None, "a", 1, False, False, 1),
        (session("b", queue.HANDED_OVER), None, "a", 75, False, False, worker.WAIT),
        (session("b", ""), None, "a", -9, False, False, worker.RETRY),
        # it has refused before it made a session: whatever the one before says, starting it again would not help
        (None, None, None, 2, False, False, 2),
        (session("a", queue.HANDED_OVER), None, "a", 1, False, False, 1),
        (session("a", queue.HANDED_OVER), None, "a", 2, False, False, 2),
        (session("a", queue.STOPPED), "a", "a", 2, False, False, 2),
        (session("a", ""), None, "a", 1, True, False, 1),
        (session("a", queue.HANDED_OVER), None, "a", -11, False, False, worker.RETRY),
        # another driver was faster
        (session("a", queue.HANDED_OVER), None, "a", 2, False, True, worker.WAIT),
        (session("b", ""), None, "a", 2, False, True, worker.WAIT),
    ],
)
def test_what_a_worker_does_about_its_driver(driver, at_begin, at_start, code, silent, locked, step):
    assert worker.next_step(driver, at_begin, at_start, code, silent, lambda: locked) == step


class FakePopen:
    """A process that ends when it is told to; the first one is being started when a signal comes."""

    made: list[FakePopen]

    def __init__(self, line: list[str], **_: object) -> None:
        self.pid, self.line, self.signals, self.ended = len(self.made) + 1, line, [], None
        self.made.append(self)
        if len(self.made) == 2:
            self.interrupt()

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def poll(self) -> int | None:
        return self.ended

    def wait(self) -> int:
        assert self.signals, "nobody tells it to end"
        return 0


@pytest.fixture
def crew(tmp_path, monkeypatch):
    """crew(): a worker of three processes that a signal interrupts while it starts the second one."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "search.json").touch()
    monkeypatch.setattr(worker.Worker, "_fitting", lambda self: [{}] * 3)
    it = worker.Worker(tmp_path, "s", None, [], "worker")
    monkeypatch.setattr(FakePopen, "made", [], raising=False)
    monkeypatch.setattr(FakePopen, "interrupt", lambda self: it.forward(signal.SIGUSR1), raising=False)
    monkeypatch.setattr(worker.subprocess, "Popen", FakePopen)
    return it


def test_a_signal_reaches_the_processes_that_are_being_started(crew):
    assert crew._keep_processes() is None
    assert [len(each.signals) for each in FakePopen.made] == [1, 0, 0]
    crew.wait(signal.SIGUSR1)
    assert [each.signals for each in FakePopen.made] == [[signal.SIGTERM]] * 3


def test_a_signal_reaches_the_driver_that_is_being_started(crew, monkeypatch):
    monkeypatch.setattr(worker.Settings, "stored", lambda *_: settings(workers=1))
    FakePopen.made.append(None)
    crew._drive()
    driver = FakePopen.made.pop()
    assert driver.signals == []
    crew.wait(signal.SIGUSR1)
    crew.wait(signal.SIGUSR1)
    assert driver.signals == [signal.SIGUSR1]


def test_a_worker_removes_the_heartbeat_of_its_own_process_alone(crew, tmp_path):
    """Its name is unique; host and number of a process are not, in containers."""
    workers = tmp_path / "s" / queue.FOLDER / queue.WORKERS
    workers.mkdir(parents=True)
    crew._keep_processes()
    names = [each.line[-2] for each in FakePopen.made]
    for name in (*names, f"{names[0]}0"):
        (workers / f"{name}.json").touch()
    FakePopen.made[0].ended = 1
    crew._keep_processes()
    assert {path.stem for path in workers.iterdir()} == {*names[1:], f"{names[0]}0"}
    assert FakePopen.made[-1].line[-2] not in names and FakePopen.made[-1].line[-1] == str(os.getpid())


@pytest.mark.parametrize(("options", "expected"), [(["--space", "a.py"], 1), ([], None)])
def test_a_task_that_starts_late_does_not_restart_a_search_that_was_stopped(
    options, expected, crew, tmp_path, monkeypatch, capsys
):
    DriverQueue(tmp_path / "s").end(queue.STOPPED)
    monkeypatch.setattr(worker.Worker, "_drive", lambda self: None)
    it = worker.Worker(tmp_path, "s", None, options, "worker")
    assert it.look() == expected
    said = f"to continue it: longtail-tune worker s --output {tmp_path}"
    assert (said in capsys.readouterr().err) == (expected == 1)


def settings(**more: object) -> Settings:
    return Settings(name="a", space="s", data="digits-lt", **more)


def test_process_environments():
    assert (
        process_environments(settings(), 3, []) == [{}] * 3
        and process_environments(settings(cpus_per_trial=2.0), 5, []) == [{}] * 2
    )
    assert process_environments(settings(), 2, [], most=4) == [{}] * 4

    def gpus(*arguments: object, **more: object) -> list[str]:
        return [place["CUDA_VISIBLE_DEVICES"] for place in process_environments(settings(**more), *arguments)]

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
    names = {}
    for how in crew:
        pid = os.fork()
        if not pid:
            Trial.step = how
            os._exit(process.main([str(folder), how.__name__, str(os.getppid())]))
        names[pid] = how.__name__
    for _ in crew:
        pid, status = os.wait()
        print(names[pid], os.waitstatus_to_exitcode(status), flush=True)
        queue.WorkerQueue(folder).remove(names[pid])
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

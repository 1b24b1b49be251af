"""MLflow as an index of the journal: killed, refused, cut off, deleted, doubled or damaged, it comes back the same."""

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import sqlite3
import threading
import time
import types
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from analysis.records import mlflow_runs, mlflow_store, reader
from analysis.records.schema import Point, Record
from search import mlflow_tracker
from search.commands.list import ELSEWHERE
from search.commands.sync import sync
from search.list import main as list_searches
from search.mlflow_tracker import Tracker, TrackingError, background
from search.scheduling.journal import Journal
from search.settings import Settings
from search.sync import main as sync_main
from search.workspace.lock import LOCK

PLAIN = Record(
    search="demo", trial="design-0-000", arm="design", recipe="r0", title="baseline", seed=0, split_seed=0,
    first_stage="fs", tricks=(), context="digits-lt", outcome="finished", choices={"stages": "train", "train/lr": 0.1},
    plan={"stages": ["train"]}, data="digits-lt", model="resnet8", imbalance=50.0, fingerprint="f", counts=(100, 2),
    val_counts=(30, 30), epochs=2.0, epochs_trained=2.0, images=204, steps=4, seconds=1.5, seconds_saved=0.0, reused=(),
    metrics={"final/accuracy": 0.61}, recalls=(0.9, 0.32), started=1_700_000_000.0,
    curve=(Point("train", 0, 1, 0.5, {"accuracy": 0.4}), Point("train", 0, 2, 1.0, {"accuracy": 0.61})),
)  # fmt: skip

BOTH = ("train/class_balanced", "train/cost_sensitive")

NOTHING = {"metrics": {}, "recalls": (), "curve": (), "epochs": 0.0, "imbalance": math.nan}
"""Of a trial whose process is gone before its first report."""


def after(seconds: int, **changes) -> Record:
    return dataclasses.replace(PLAIN, started=PLAIN.started + seconds, **changes)


BOTH_ON = {
    "recipe": "r1",
    "title": "a + b",
    "tricks": BOTH,
    "choices": {"stages": "train", "train/draw": "class_balanced"},
}

RECORDS = [
    PLAIN,
    after(1, trial="design-0-001", **BOTH_ON, outcome="failed", reason="its process is gone", **NOTHING),
    after(2, trial="design-0-001", **BOTH_ON, metrics={"final/accuracy": 0.5}),
    after(3, trial="adaptive-0000", arm="adaptive", seed=1000, outcome="stopped", stop={"rung": 0.25, "cut": 0.5}),
]
"""What a journal has; one trial failed first, and finished when the search was resumed."""

PAIRS = pd.DataFrame(
    {"a": [BOTH[0]], "b": [BOTH[1]], "verdict": ["conflict"], "b_given_a": [-0.28], "a_given_b": [-0.27]}
)


@pytest.fixture
def journal(uri: str, tmp_path: Path) -> Journal:
    """The folder of a search that was recorded, and an empty store in this directory."""
    settings = Settings(name="demo", space="space.py", data="digits-lt", tracking_uri=uri)
    settings.folder.mkdir(parents=True)
    settings.save()
    (settings.folder / "conflicts.csv").write_text("a,b\n")
    journal = Journal(settings.folder / "journal.jsonl")
    for record in RECORDS:
        journal.write("record", record=record.to_dict())
    return journal


def search(uri: str, folder: Path, resume: bool = False) -> Tracker:
    """What a search does with MLflow, from its start to its end."""
    tracker = Tracker(uri, "demo", "digits-lt", folder)
    tracker.start(
        {"trials": 3, "margin": 0.02}, {"space": "space.py"}, choices=["train/draw", "train/weight"], resume=resume
    )
    tracker.replay(RECORDS)
    tags = mlflow_tracker.conflict_tags(PAIRS)
    tracker.summary({}, tags, {"conflicts.csv": "a,b\n"}, replace=mlflow_tracker.FINDINGS)
    tracker.mark(PAIRS)
    return tracker


def contents(uri: str) -> dict[str, dict]:
    """Everything that the store says of the search, without ids and the times at which it was written."""
    client = reader.connect(uri)
    (experiment,) = mlflow_runs.experiments(client)
    found = mlflow_runs.pages(client, [experiment], "")
    names = {run.info.run_id: f"{run.data.tags['level']} {run.data.tags[run.data.tags['level']]}" for run in found}
    assert len(set(names.values())) == len(names), "a run is there twice"
    shown = {}
    for run in found:
        folder = mlflow_runs.local_folder(uri, run.info.artifact_uri)
        tags = dict(run.data.tags)
        tags["mlflow.parentRunId"] = names.get(tags.get("mlflow.parentRunId"), "")
        history = {
            name: [(point.step, repr(point.value), point.timestamp)
                   for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }  # fmt: skip
        shown[names[run.info.run_id]] = {
            "status": run.info.status,
            "start": run.info.start_time * (run.data.tags["level"] != "search"),
            "tags": tags,
            "params": run.data.params,
            "history": {name: sorted(set(points)) for name, points in history.items()},
            "artifacts": {file.name: file.read_text() for file in sorted(folder.iterdir())} if folder.is_dir() else {},
        }
    return shown


class Killed(BaseException):
    """Nothing after it happens, as after SIGKILL."""


class Mortal(mlflow_store.Client):
    """A client whose process is killed before one of its calls."""

    calls = 0
    fatal = 0

    def __getattr__(self, name):
        method = super().__getattr__(name)

        def call(*arguments, **options):
            Mortal.calls += 1
            if Mortal.fatal and Mortal.calls >= Mortal.fatal:
                raise Killed
            return method(*arguments, **options)

        return call


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Mortal]]:
    monkeypatch.setattr("search.mlflow_tracker.run_writer.Client", Mortal)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    Mortal.calls = Mortal.fatal = 0
    yield Mortal
    Mortal.fatal = 0


def killed(uri: str, folder: Path, resume: bool = False) -> None:
    """A search whose writer is killed somewhere."""
    try:
        tracker = search(uri, folder, resume)
    except Killed:
        return
    tracker._put("the end", lambda runs: runs.end("FINISHED"))
    tracker._writer._queue.put(None)
    tracker._writer.join()


@pytest.mark.parametrize("mended_by", ["sync", pytest.param("resume", marks=pytest.mark.slow)])
def test_a_writer_killed_before_any_of_its_calls(journal, uri, tmp_path, empty_store, mortal, mended_by):
    folder = journal.path.parent
    assert search(uri, folder).close() == []
    expected, calls = contents(uri), mortal.calls
    assert calls > 20 and len(expected) == 6
    assert expected["trial design-0-001"]["status"] == "FINISHED"

    for fatal in itertools.count(1):
        (tmp_path / str(fatal)).mkdir()
        mine = f"sqlite:///{shutil.copy(empty_store, tmp_path / str(fatal) / 'mlflow.db')}"
        (folder / mlflow_tracker.INDEX).unlink()
        mortal.calls, mortal.fatal = 0, fatal
        killed(mine, folder)
        survived = mortal.calls < fatal
        mortal.fatal = 0
        if survived:
            break
        if mended_by == "resume":
            assert search(mine, folder, resume=True).close() == []
            assert contents(mine) == expected, f"killed before call {fatal}"
            continue
        assert "as the journal has them" in sync("demo", tracking_uri=mine)
        found = contents(mine)
        kept = mlflow_tracker.SearchRun.read(folder)
        if not kept.concluded:  # killed before there were any results
            wanted = without_results(expected)
            assert without_results(found) == wanted, f"killed before call {fatal}"
            assert found["search demo"]["status"] == "KILLED"
        else:
            assert found == expected | {
                "search demo": expected["search demo"] | {"status": found["search demo"]["status"]}
            }
    assert fatal > 20


FOUND = ("conflict", "verdict", "gain", "pair/")


def without_results(found: dict[str, dict]) -> dict[str, dict]:
    left = json.loads(json.dumps(found))
    for run in left.values():
        for part in ("tags", "history"):
            run[part] = {name: value for name, value in run[part].items() if not name.startswith(FOUND)}
    left["search demo"] |= {"status": "", "artifacts": {}}
    return left


def test_runs_that_were_deleted_doubled_changed_or_put_in_by_hand(journal, uri):
    assert search(uri, journal.path.parent).close() == []
    expected = contents(uri)
    client = reader.connect(uri)
    (experiment,) = mlflow_runs.experiments(client)
    found = {run.data.tags["level"] + str(i): run for i, run in enumerate(mlflow_runs.pages(client, [experiment], ""))}
    trials = [run for name, run in found.items() if name.startswith("trial")]
    recipes = [run for name, run in found.items() if name.startswith("recipe")]
    client.delete_run(trials[0].info.run_id)
    client.delete_run(recipes[0].info.run_id)
    for run in (trials[1], recipes[1], next(run for name, run in found.items() if name.startswith("search"))):
        client.create_run(experiment, tags=run.data.tags, run_name=run.info.run_name)
    client.create_run(experiment, tags=trials[1].data.tags | {"trial": "never-ran"})
    client.set_tag(trials[2].info.run_id, "title", "another")
    client.log_metric(trials[1].info.run_id, "final/accuracy", 0.99, step=9)
    mlflow_runs.local_folder(uri, trials[2].info.artifact_uri).joinpath("record.json").unlink()
    with pytest.raises(AssertionError):
        contents(uri)
    sync("demo")
    assert contents(uri) == expected
    before = (journal.path.parent / mlflow_tracker.INDEX).read_text()
    assert "0 runs written, 0 runs moved" in sync("demo")
    assert (journal.path.parent / mlflow_tracker.INDEX).read_text() == before and contents(uri) == expected


@pytest.mark.parametrize("what", ["deleted", "empty", "half-made", "damaged", "text"])
def test_a_database_that_is_gone_or_spoilt_is_kept_and_written_again(journal, uri, tmp_path, what, capsys):
    assert search(uri, journal.path.parent).close() == []
    expected = contents(uri)
    file = tmp_path / "mlflow.db"
    # another file of the same name, as where a process has only just been started
    shutil.copy(file, tmp_path / "copy.db")
    file.unlink()
    if what == "empty":
        file.touch()
    elif what == "half-made":
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        os.utime(file, (1.7e9, 1.7e9))
    elif what == "damaged":
        content = bytearray((tmp_path / "copy.db").read_bytes())
        content[4096 * 20 : 4096 * 60] = b"\xff" * (4096 * 40)
        file.write_bytes(content)
    elif what == "text":
        file.write_text("no database at all\n" * 100)
    if what == "empty":
        os.utime(file, (1.7e9, 1.7e9))
    spoilt = file.read_bytes() if file.exists() else b""
    # every command says in one line what is the matter, and how it is mended
    for command in (list_searches, lambda _: export(), lambda _: report()):
        if what != "damaged":  # which is read where it is whole
            assert command([]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and "python -m search.sync --all" in said
    assert sync_main(["--all"]) == 0
    said = capsys.readouterr().out
    assert "demo: 3 trials of 2 recipes are in" in said
    kept = list(tmp_path.glob("mlflow.db.half-made-*" if what in ("empty", "half-made") else "mlflow.db.damaged-*"))
    if what == "deleted":
        assert kept == []
    else:
        assert [each.read_bytes() for each in kept] == [spoilt] and str(kept[0]) in said
    assert contents(uri) == expected


def export() -> int:
    from search import export

    return export.main(["--out", "never.yaml"])


def report() -> int:
    from analysis.report import page as report

    return report.main(["--out", "never.html"])


def test_a_database_deleted_while_the_search_runs(journal, uri, tmp_path, caplog):
    folder = journal.path.parent
    tracker = Tracker(uri, "demo", "digits-lt", folder)
    tracker.start({}, {})
    tracker.replay(RECORDS[:1])
    tracker.flush()
    (tmp_path / "mlflow.db").rename(tmp_path / "gone.db")
    tracker.replay(RECORDS[1:])
    began = time.monotonic()
    tracker.close("FINISHED")
    assert time.monotonic() - began < 20, "nobody brings a deleted database back: there is nothing to wait for"
    assert tracker.missing == (
        f"MLflow lacks trial design-0-001, trial adaptive-0000, the means over seeds, the end of the search: the "
        f"MLflow store {tmp_path / 'mlflow.db'} was deleted or replaced while the search ran. The journal has "
        "everything; write it later with: python -m search.sync demo"
    )
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and "Traceback" not in caplog.text
    assert not (tmp_path / "mlflow.db").exists()


def test_a_database_that_is_locked_for_a_while_loses_nothing(journal, uri, tmp_path, caplog):
    folder = journal.path.parent
    tracker = Tracker(uri, "demo", "digits-lt", folder)
    tracker.start({}, {})
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        tracker.replay(RECORDS)
        began = time.monotonic()
        tracker.close("KILLED", patience=1.0)
        assert time.monotonic() - began < 20
        assert "MLflow lacks trial design-0-000" in tracker.missing and "search.sync demo" in tracker.missing
        holder.execute("ROLLBACK")
    tracker._writer.join()
    assert "3 trials of 2 recipes are in" in sync("demo")
    assert len(reader.records(uri, "demo")[1]) == 3
    assert "Traceback" not in caplog.text


def test_only_a_standstill_ends_the_writing(journal, uri, monkeypatch):
    tracker = Tracker(uri, "demo", "digits-lt", journal.path.parent)
    tracker.start({}, {})
    tracker.flush()
    clock, real, shown, said = [0.0], mlflow_store.Client.__getattr__, threading.Event(), []
    fake = types.SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep)
    monkeypatch.setattr(background, "time", fake)
    monkeypatch.setattr(mlflow_store, "time", fake)

    def slow(self, name):  # two of these requests take longer than a standstill may
        shown.wait()
        clock[0] += 40.0
        return real(self, name)

    def tell(text):
        said.append(text)
        shown.set()

    monkeypatch.setattr(mlflow_store.Client, "__getattr__", slow)
    tracker.replay(RECORDS)
    assert tracker.close("FINISHED", patience=60.0, tell=tell) == []
    assert clock[0] > 400 and re.fullmatch(
        r"Writing to MLflow, \d+ requests answered, \d+ parts left \(Ctrl-C leaves the rest for later\) …", said[0]
    )
    monkeypatch.setattr(mlflow_store.Client, "__getattr__", real)
    assert len(reader.records(uri, "demo")[1]) == 3


def test_an_outage_is_waited_for_while_the_search_runs(journal, uri, monkeypatch, caplog):
    tracker = Tracker(uri, "demo", "digits-lt", journal.path.parent)
    tracker.start({}, {})
    away = threading.Event()
    away.set()
    real = mlflow_store.Client.__getattr__

    def down(self, name):
        if away.is_set():
            raise mlflow_store.StoreError("no MLflow server answers")
        return real(self, name)

    monkeypatch.setattr(mlflow_store.Client, "__getattr__", down)
    tracker.replay(RECORDS)
    time.sleep(1.2)
    away.clear()
    assert tracker.close() == []
    assert len(reader.records(uri, "demo")[1]) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "no MLflow server answers; the search continues, and the journal has everything"
    ]


def test_a_search_that_tracked_nothing_is_written_later(journal, uri, tmp_path):
    folder = journal.path.parent
    assert search("none", folder).close() == []
    assert not (tmp_path / "mlruns").exists()
    fields = json.loads((folder / "search.json").read_text())
    (folder / "search.json").write_text(json.dumps(fields | {"tracking_uri": "none"}))
    with pytest.raises(TrackingError, match=r"demo: the search was not tracked; name the store to write to with"):
        sync("demo")
    sync("demo", tracking_uri=uri)
    tracked = contents(uri)
    assert tracked["search demo"]["status"] == "FINISHED" and len(tracked) == 6


def test_a_search_of_which_nothing_is_kept_but_its_journal(journal, uri, capsys):
    sync("demo")
    assert "mlflow.json was missing; python run_search.py --resume demo computes" in capsys.readouterr().err
    assert len(reader.records(uri, "demo")[1]) == 3
    assert reader.settings(uri, "demo")["seeds"] == 5


def test_a_search_that_runs_is_not_synced(journal, uri, capsys):
    with FileLock(journal.path.parent / LOCK):
        assert sync_main(["demo"]) == 2
    assert capsys.readouterr().err == (
        "python -m search.sync: error: demo: the search is running, and writes to MLflow itself; sync it when it has "
        "ended\n"
    )
    assert sync_main(["dmeo"]) == 2
    assert "dmeo: no such search: did you mean 'demo'?" in capsys.readouterr().err
    assert sync_main([]) == 2 and sync_main(["--all", "--output", "elsewhere"]) == 2


def test_a_journal_line_that_is_no_record_is_said_in_a_sentence(journal, uri, capsys):
    journal.write("record", record={"schema": 99})
    assert sync_main(["demo"]) == 2
    assert capsys.readouterr().err.startswith(
        "python -m search.sync: error: a record of schema 99 cannot be read by schema 1"
    )


def test_the_list_says_whether_a_driver_is_alive(journal, uri, capsys):
    folder = journal.path.parent
    tracker = Tracker(uri, "demo", "digits-lt", folder)
    tracker.start({"output": "results"}, {})
    tracker.flush()
    lock = folder / LOCK

    def status() -> str:
        assert list_searches([]) == 0
        return capsys.readouterr().out.splitlines()[2].split()[-1]

    with FileLock(lock):
        assert status() == "running"
    assert status() == "interrupted"
    folder.rename(folder.with_name("elsewhere"))
    assert status() == ELSEWHERE
    folder.with_name("elsewhere").rename(folder)
    tracker.close("KILLED")
    assert status() == "interrupted"


def test_a_copied_project_reads_and_writes_its_own_artifacts(journal, uri, tmp_path, monkeypatch):
    assert search(uri, journal.path.parent).close() == []
    before = {path: path.read_bytes() for path in tmp_path.rglob("artifacts/*")}
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy, ignore=lambda folder, names: {"copy"} & set(names))
    for file in copy.rglob("record.json"):
        file.unlink()
    monkeypatch.chdir(copy)
    mine = f"sqlite:///{copy / 'mlflow.db'}"
    sync("demo", tracking_uri=mine)
    assert len(list(copy.rglob("record.json"))) == 3
    assert {path: path.read_bytes() for path in before} == before
    assert reader.records(mine, "demo")[1]["plan"].tolist() == [{"stages": ["train"]}] * 3


def test_the_best_of_an_arm_never_falls(journal, uri):
    tracker = Tracker(uri, "demo", "digits-lt", journal.path.parent)
    tracker.start({}, {})
    for number, (arm, accuracy) in enumerate(
        [("design", 0.6), ("design", 0.5), ("adaptive", 0.9), ("adaptive", 0.7), ("race", 0.65), ("confirm", 0.62)]
    ):
        tracker.log(after(number, trial=f"t{number}", seed=number, arm=arm, metrics={"final/accuracy": accuracy}))
    assert tracker.close() == []
    client, run_id = reader.connect(uri), reader.find(uri).run_id
    names = [name for name in client.get_run(run_id).data.metrics if "best" in name]
    assert sorted(names) == [f"best_trial/{arm}" for arm in ("adaptive", "confirm", "design", "race")]
    for name in names:
        values = [point.value for point in client.get_metric_history(run_id, name)]
        assert values == sorted(values)
    assert (reader.find(uri).best_accuracy, reader.find(uri).best_arm) == (0.62, "confirm")


def test_every_choice_of_the_space_is_a_parameter_of_every_run(uri, journal):
    assert search(uri, journal.path.parent).close() == []
    client = reader.connect(uri)
    (experiment,) = mlflow_runs.experiments(client)
    for level in ("recipe", "trial"):
        found = mlflow_runs.pages(client, [experiment], f"tags.level = '{level}'")
        assert {(run.data.params["train/draw"], run.data.params["train/weight"]) for run in found} == {
            ("none", "none"), ("class_balanced", "none")
        }  # fmt: skip
    assert reader.records(uri)[1]["choices"].tolist()[0] == PLAIN.choices


def test_names_in_other_scripts_do_not_meet(uri, journal):
    names = ("größe", "grüße", "gr__e", "段階", "a(1)", "a_1_")
    choices = {f"{name}/lr": number / 10 for number, name in enumerate(names, start=1)}
    curve = tuple(Point(name, 0, 1, 0.5, {"accuracy": 0.1 * number}) for number, name in enumerate(names))
    tracker = Tracker(uri, "demo", "digits-lt", journal.path.parent)
    tracker.start({}, {})
    tracker.log(after(0, choices=choices, curve=curve))
    pairs = PAIRS.loc[[0, 0]].assign(a=["größe/x", "grüße/x"], verdict=["conflict", "synergy"])
    tracker.summary(tags=mlflow_tracker.conflict_tags(pairs))
    assert tracker.close() == []
    (row,) = reader.records(uri)[1].to_dict("records")
    assert row["choices"] == choices
    client = reader.connect(uri)
    found = client.get_run(row["run_id"]).data.metrics
    assert [found[mlflow_store.key(f"{name}/accuracy")] for name in names] == [0.1 * n for n in range(len(names))]
    (experiment,) = mlflow_runs.experiments(client)
    tag = mlflow_store.key(mlflow_store.pair_name("größe/x", BOTH[1]))
    assert len(mlflow_runs.pages(client, [experiment], f"tags.`{tag}` = 'conflict'")) == 1


def test_a_start_that_failed_does_not_keep_the_name(uri, tmp_path):
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {}, resume=False)
    tracker.close("KILLED")
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {}, resume=False)
    tracker.replay(RECORDS)
    assert tracker.close() == []
    assert len(reader.searches(uri)) == 1

"""Whole searches, small ones: Ray, Optuna, MLflow, SQLite and training are the real ones."""

import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from unittest.mock import Mock

import numpy as np
import optuna
import pandas as pd
import pytest
import ray
import torch
import yaml
from mlflow import MlflowClient
from rich.console import Console

import run_search
import search
from search import agenda, export, phases, sync
from search.conductor import Recorder
from search.export import main as export_main
from search.run import WORKER_ENVIRONMENT, Search
from search.settings import Settings, SettingsError
from search.space_file import load_space
from search.tasks import Journal
from search.workspace import SPACE_HEAD
from spaces.domain import Space, Stage, log_uniform, one_of
from trainables.data import load
from trainables.leases import Lock
from trainables.plan import Plan
from trainables.stage_store import stage_keys

SPACE = """
from spaces.domain import Space, Stage, log_uniform, one_of

SPACE = Space(
    stages=[
        Stage("first", length=0.7, lr=log_uniform(0.03, 0.3, step="halves"), choose=[
            one_of(None, "cost_sensitive"), one_of(None, "class_balanced")]),
        one_of(Stage("finish", length=0.3, lr=0.05, carry="weights", keep=True),
               Stage("classifier", length=0.3, lr=0.05, carry="weights", choose=["classifier"])),
    ],
    screen=["first/cost_sensitive", "first/class_balanced", "classifier"],
)
"""

TRICK = '''
from dataclasses import dataclass

import torch

from trainables.registry import trick


@trick(seam="loss", family="test", source="none")
@dataclass(frozen=True)
class Broken:
    """{what}"""

    def build(self, facts):
        def loss(outputs, q, y, generator):
            {body}
        return loss
'''

ALIKE = """
from spaces.domain import Space, Stage, one_of

SPACE = Space(stages=[Stage("only", epochs=1, choose=["always", one_of(None, "class_balanced")])],
              screen=["only/class_balanced"])
"""

SMALL = {
    "seeds": 2, "trials": 6, "epochs_scale": 0.1, "max_concurrent": 2, "start_points": False, "check_seeds": 0,
}  # fmt: skip
FLAGS = [
    "--seeds", "2", "--trials", "6", "--epochs-scale", "0.1", "--max-concurrent", "2",
    "--no-start-points", "--no-checks",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all searches in this process; they leave it as they find it."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
             runtime_env={"env_vars": WORKER_ENVIRONMENT})  # fmt: skip
    yield
    assert ray.is_initialized(), "a search has shut the caller's Ray down"
    ray.shutdown()


@pytest.fixture
def place(tmp_path, uri) -> Path:
    """A working directory with a space and a store."""
    (tmp_path / "small.py").write_text(SPACE)
    return tmp_path


def journal(folder: Path) -> dict[str, dict]:
    """Records by trial."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return {event["record"]["trial"]: event["record"] for event in lines if event["event"] == "record"}


def results(records: dict[str, dict], arm: str = "design") -> dict[str, tuple]:
    return {
        name: (record["recipe"], record["metrics"], record["recalls"], [point["metrics"] for point in record["curve"]])
        for name, record in records.items()
        if record["arm"] == arm
    }


def texts(records: dict[str, dict]) -> dict[str, str]:
    """Comparable where a number is NaN."""
    return {name: json.dumps(record) for name, record in records.items()}


def runs(place: Path, name: str) -> list:
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("longtail/digits-lt")
    return list(client.search_runs([experiment.experiment_id], f"tags.search = '{name}'", max_results=1000))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, empty_store) -> Path:
    """One whole search by the command, race included (a short one), that several tests look at."""
    place = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_store, place / "mlflow.db")
    (place / "small.py").write_text(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(phases, "ROUNDS", (1, 1, 2))
        patch.setattr(phases, "CONTENDERS", 2)
        patch.setattr(phases, "FINALISTS", 1)
        arguments = ["--space", "small.py", *FLAGS, "--rung-score", "accuracy", "--rungs", "0.99", "--name", "whole"]
        assert run_search.main(arguments) == 0
    return place


def test_what_a_search_leaves(finished):
    folder = finished / "results" / "whole"
    there = {path.name for path in folder.iterdir()}
    assert there >= {"best.yaml", "conflicts.csv", "report.html", "journal.jsonl", "optuna.db", "search.json"}
    assert not there & {"ray", "__pycache__"}
    records = journal(folder)
    assert Counter(record["arm"] for record in records.values()) == {
        "design": 14, "adaptive": 6, "race": 3 + 2, "confirm": 4,
    }  # fmt: skip
    assert {record["outcome"] for record in records.values()} == {"finished"}
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["measured"]["arm"] == "confirm" and len(best["measured"]["values"]) == 2
    assert "test/accuracy" in next(r for r in records.values() if r["arm"] == "confirm")["metrics"]
    assert not any("test/accuracy" in r["metrics"] for r in records.values() if r["arm"] != "confirm")
    assert "first/class_balanced" in (folder / "conflicts.csv").read_text()
    assert (folder / "space.py").read_text() == SPACE


def test_no_stage_is_trained_twice(finished):
    distinct, trained, reused = {}, 0, 0
    for record in journal(finished / "results" / "whole").values():
        plan = Plan.from_dict(record["plan"])
        for stage, keys in zip(plan.stages, stage_keys(plan, {"seed": record["seed"]}), strict=True):
            distinct[keys[0]] = stage.epochs
        trained += record["epochs_trained"]
        reused += record["epochs"] - record["epochs_trained"]
    assert trained == sum(distinct.values())
    # the pairs with "classifier" take their first stage from those without: the search has something to re-use
    assert reused > 0


def test_the_driver_knows_the_keys_of_the_workers(finished):
    """Where they differ (threads, device), tasks wait for stages that are there."""
    stored = {path.parent.name for path in (finished / "results" / "stages").glob("*/*/manifest.json")}
    records = journal(finished / "results" / "whole")
    folder = finished / "results" / "whole"
    settings = Settings.stored(str(finished / "results"), "whole")
    made = Search(load_space(folder / "space.py"), settings, folder / "space.py", Console(), resume=True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # as a person's shell has it
    try:
        expected = set()
        for record in records.values():
            expected |= {keys[-1] for keys in made._keys(Plan.from_dict(record["plan"]), record["seed"])}
    finally:
        torch.set_num_threads(before)
    assert stored == expected


def test_mlflow_has_the_search_its_recipes_and_their_trials(finished):
    found = runs(finished, "whole")
    levels = {"search": [], "recipe": [], "trial": []}
    for run in found:
        levels[run.data.tags["level"]].append(run)
    records = journal(finished / "results" / "whole")
    assert len(levels["search"]) == 1 and len(levels["trial"]) == len(records)
    assert {run.data.tags["recipe"] for run in levels["recipe"]} == {record["recipe"] for record in records.values()}
    top = levels["search"][0].info.run_id
    recipes = {run.info.run_id: run.data.tags["recipe"] for run in levels["recipe"]}
    assert all(run.data.tags["mlflow.parentRunId"] == top for run in levels["recipe"])
    for run in levels["trial"]:
        record = records[run.data.tags["trial"]]
        assert recipes[run.data.tags["mlflow.parentRunId"]] == record["recipe"]
        assert run.data.metrics["final/accuracy"] == pytest.approx(record["metrics"]["final/accuracy"])
    assert {run.info.status for run in found} == {"FINISHED"}
    artifacts = {file.path for file in MlflowClient(f"sqlite:///{finished}/mlflow.db").list_artifacts(top)}
    assert artifacts >= {"best.yaml", "conflicts.csv", "conflicts.png", "report.html", "space.py"}


def test_optuna_has_the_truth(finished):
    study = optuna.load_study(study_name="whole", storage=f"sqlite:///{finished}/results/whole/optuna.db")
    asked = [trial for trial in study.trials if "arm" not in trial.user_attrs and trial.state.name != "FAIL"]
    assert [trial.state.name for trial in asked] == ["COMPLETE"] * 6
    records = journal(finished / "results" / "whole")
    values = sorted(r["metrics"]["final/accuracy"] for r in records.values() if r["arm"] == "adaptive")
    assert sorted(trial.value for trial in asked) == pytest.approx(values)
    assert [trial for trial in study.trials if trial.user_attrs.get("arm") == "design"]


@pytest.mark.slow
def test_a_search_with_everything_and_then_more_of_it(place, monkeypatch, capsys):
    monkeypatch.setattr(phases, "ROUNDS", (2, 1, 2))
    monkeypatch.setattr(phases, "CONTENDERS", 2)
    monkeypatch.setattr(phases, "FINALISTS", 1)
    monkeypatch.setattr(phases, "TUNED", (1, 1, 1))
    pair = "first/class_balanced×first/cost_sensitive"
    flags = [*FLAGS[:8], "--tune-baseline", "--check-seeds", "2", "--check-full-length", "--primary", pair]
    assert run_search.main(["--space", "small.py", *flags, "--name", "all"]) == 0
    folder = place / "results" / "all"
    records = journal(folder)
    assert {record["arm"] for record in records.values()} >= {"tune", "design", "adaptive", "race", "confirm", "around"}
    assert not [record for record in records.values() if record["outcome"] == "failed"]
    assert (folder / "path.csv").is_file() and (folder / "removals.csv").is_file()
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["measured"]["length"] == "measured at 10 % of the final length"
    assert "From the baseline up" in capsys.readouterr().out

    assert run_search.main(["--resume", "all"]) == 0
    assert "all is finished" in capsys.readouterr().out and journal(folder) == records
    assert run_search.main(["--resume", "all", "--trials", "+2"]) == 0
    more = {name for name in journal(folder) if name not in records}
    assert {"adaptive-0006", "adaptive-0007"} <= more and not [name for name in more if name.startswith("design")]
    assert Settings.stored("results", "all").trials == 8
    before = journal(folder)
    assert run_search.main(["--resume", "all", "--settle", "--settle-budget", "2"]) == 0
    settled = {name: r for name, r in journal(folder).items() if name not in before}
    assert {record["arm"] for record in settled.values()} <= {"design"}
    assert len({run.data.tags["trial"] for run in runs(place, "all") if run.data.tags["level"] == "trial"}) == len(
        journal(folder)
    )


def test_resuming_a_finished_search_runs_nothing_again(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    monkeypatch.setattr(phases, "ROUNDS", (1, 1, 2))
    monkeypatch.setattr(phases, "CONTENDERS", 2)
    monkeypatch.setattr(phases, "FINALISTS", 1)
    folder = finished / "results" / "whole"
    before, runs_before = (folder / "journal.jsonl").read_text(), {run.info.run_id for run in runs(finished, "whole")}
    best = (folder / "best.yaml").read_text()
    assert run_search.main(["--resume", "whole"]) == 0
    said = capsys.readouterr().out
    assert "whole is finished: nothing is left to run" in said and "--resume whole --trials +50" in said
    assert (folder / "journal.jsonl").read_text() == before
    assert {run.info.run_id for run in runs(finished, "whole")} == runs_before
    assert (folder / "best.yaml").read_text() == best
    assert "Best recipe" in said


def test_a_name_that_mlflow_knows_is_refused_and_leaves_nothing(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    arguments = ["--space", "small.py", *FLAGS, "--name", "whole", "--output", "elsewhere"]
    assert run_search.main(arguments) == 2
    assert "already holds a search 'whole' on digits-lt; choose another --name" in capsys.readouterr().err
    assert not (finished / "elsewhere" / "whole").exists()


def test_without_reuse_the_results_are_the_same(finished, place):
    result = search.run("small.py", name="anew", race=False, reuse=False, **SMALL | {"trials": 0})
    anew = journal(result.folder)
    assert results(anew) == results(journal(finished / "results" / "whole"))
    assert all(record["epochs_trained"] == record["epochs"] for record in anew.values())
    assert not (place / "results" / "stages").exists()


def test_a_space_made_in_python_is_searched_and_resumed(place, capsys):
    space = Space(
        stages=[Stage("only", epochs=1, lr=log_uniform(0.01, 0.3), choose=[one_of(None, "cost_sensitive")])],
        screen=["only/cost_sensitive"],
    )
    result = search.run(
        space, name="python", trials=3, seeds=2, race=False, max_concurrent=2, check_seeds=0, start_points=False
    )
    assert result.complete and len(result.trials) == 4 + 3
    assert result.best["title"] in ("baseline", "only/cost_sensitive")
    again = search.run(space, name="python", resume=True)
    assert again.complete and len(journal(again.folder)) == 7
    # and by the command, from the file that was kept
    assert run_search.main(["--resume", "python"]) == 0
    assert len(journal(again.folder)) == 7
    with pytest.raises(ValueError, match="--resume python: the space has changed"):
        search.run(dataclasses.replace(space, screen=[]), name="python", resume=True)
    with pytest.raises(ValueError, match="--resume python: --trials cannot change"):
        search.run(space, name="python", resume=True, trials=4)


def test_a_list_of_cells_and_primary_pairs_stay_with_the_search(place):
    (place / "cells.csv").write_text(
        "baseline\nfirst/cost_sensitive\nfirst/class_balanced\nfirst/cost_sensitive+first/class_balanced\n"
    )
    pair = "first/cost_sensitive x first/class_balanced"
    arguments = ["--space", "small.py", "--name", "listed", "--design", "list:cells.csv", "--primary", pair]
    assert run_search.main([*arguments, *FLAGS, "--trials", "0", "--no-race"]) == 0
    folder = place / "results" / "listed"
    kept = json.loads((folder / "search.json").read_text())
    assert kept["design"] == "list:cells.csv"
    assert kept["primary"] == ["first/class_balanced×first/cost_sensitive"]
    assert Counter(tuple(record["tricks"]) for record in journal(folder).values()) == {
        (): 2, ("first/cost_sensitive",): 2, ("first/class_balanced",): 2,
        ("first/class_balanced", "first/cost_sensitive"): 2,
    }  # fmt: skip
    table = pd.read_csv(folder / "conflicts.csv")
    assert table[["a", "b", "primary"]].to_numpy().tolist() == [["first/class_balanced", "first/cost_sensitive", True]]
    # the list may go: its copy is what the search goes on with
    (place / "cells.csv").unlink()
    assert run_search.main(["--resume", "listed"]) == 0
    assert len(journal(folder)) == 8
    assert run_search.main(["--resume", "listed", "--design", "pairs"]) == 2
    assert run_search.main(["--resume", "listed", "--primary", "first/cost_sensitive x classifier"]) == 2


BROKEN = """
from spaces.domain import Space, Stage, one_of

SPACE = Space(stages=[Stage("only", epochs=3, choose=[one_of(None, "{trick}", "softmax_focal")])],
              screen=["only/{trick}", "only/softmax_focal"])
"""


@pytest.mark.parametrize(
    "name, body, outcome, reason",
    [
        ("gives_nan", "return outputs.logits.sum(1) * float('nan')", "diverged", "loss"),
        ("raises", "raise RuntimeError('boom: it is a test')", "failed", "RuntimeError: boom: it is a test"),
    ],
)
def test_a_trick_that_goes_wrong_is_recorded_and_the_search_goes_on(place, name, body, outcome, reason, capsys):
    (place / "more").mkdir()
    (place / "more" / f"{name}.py").write_text(TRICK.format(what=name, body=body))
    (place / "broken.py").write_text(BROKEN.format(trick=name))
    arguments = ["--space", "broken.py", "--tricks", "more", "--name", name, "--max-concurrent", "2"]
    assert run_search.main([*arguments, "--seeds", "2", "--trials", "0", "--no-race", "--no-checks"]) == 0
    records = journal(place / "results" / name)
    outcomes = Counter((record["title"], record["outcome"]) for record in records.values())
    assert outcomes == {
        ("baseline", "finished"): 2, (f"only/{name}", outcome): 2, ("only/softmax_focal", "finished"): 2,
    }  # fmt: skip
    said = next(record["reason"] for record in records.values() if record["outcome"] == outcome)
    assert reason in said
    assert f"{outcome}: {said.splitlines()[0][:30]}" in capsys.readouterr().out
    statuses = Counter(
        (run.data.tags["outcome"], run.info.status) for run in runs(place, name) if run.data.tags["level"] == "trial"
    )
    assert statuses == {("finished", "FINISHED"): 4, (outcome, "FAILED" if outcome == "failed" else "FINISHED"): 2}


TINY = Space(stages=[Stage("only", epochs=1, choose=[one_of(None, "cost_sensitive")])], screen=["only/cost_sensitive"])
ONCE = {"seeds": 2, "trials": 0, "race": False, "max_concurrent": 2}


def test_a_search_in_which_everything_diverges_ends_with_1(place, capsys):
    (place / "more").mkdir()
    body = "return outputs.logits.sum(1) * float('nan')"
    (place / "more" / "always_nan.py").write_text(TRICK.format(what="NaN.", body=body))
    stage = "Stage('only', epochs=1, choose=['always_nan'])"
    (place / "nan.py").write_text(f"from spaces.domain import Space, Stage\nSPACE = Space(stages=[{stage}])\n")
    arguments = [
        "--space", "nan.py", "--tricks", "more", "--name", "nan", "--seeds", "2", "--trials", "0", "--no-race",
        "--no-checks",
    ]  # fmt: skip
    assert run_search.main(arguments) == 1
    assert {record["outcome"] for record in journal(place / "results" / "nan").values()} == {"diverged"}
    said = capsys.readouterr()
    assert "no trial" in said.out and said.err == ""
    assert {run.info.status for run in runs(place, "nan")} == {"FINISHED"}


@pytest.mark.slow
def test_a_listener_that_raises_does_not_end_the_search(place, monkeypatch, caplog):
    def broken(*_):
        raise OSError("the screen is gone")

    monkeypatch.setattr("search.display.Display.record", broken)
    result = search.run(TINY, name="deaf", **ONCE)
    assert result.complete and len(journal(result.folder)) == 4
    assert "design-0-000 could not be shown or tracked" in caplog.text


def test_a_full_disk_is_one_sentence_and_what_was_written_is_gone_on_with(place, monkeypatch, capsys):
    append, room = Journal._append, [3]  # the blocks that were asked for, and two records

    def full(self, line):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= 1
        append(self, line)

    (place / "tiny.py").write_text(f"{SPACE_HEAD}\nSPACE = {TINY!r}\n")
    options = ["--seeds", "2", "--trials", "0", "--no-race", "--no-checks", "--max-concurrent", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_append", full)
        assert run_search.main(["--space", "tiny.py", "--name", "full", *options]) == 2
    said = capsys.readouterr()
    assert "results/full/journal.jsonl: cannot be written (No space left on device)" in said.err
    assert said.err.count("\n") == 1 and "Traceback" not in said.out
    assert said.err.endswith("then resume the search: python run_search.py --resume full\n")
    before = journal(place / "results" / "full")
    assert len(before) == 2
    assert run_search.main(["--resume", "full"]) == 0
    after = journal(place / "results" / "full")
    assert len(after) == 4 and texts(before).items() <= texts(after).items()


def test_a_damaged_journal_is_one_sentence_and_its_remedy_works(place, capsys):
    (place / "tiny.py").write_text(f"{SPACE_HEAD}\nSPACE = {TINY!r}\n")
    options = ["--seeds", "2", "--trials", "0", "--no-race", "--no-checks", "--max-concurrent", "2"]
    assert run_search.main(["--space", "tiny.py", "--name", "hurt", *options]) == 0
    file = place / "results" / "hurt" / "journal.jsonl"
    whole, content = journal(file.parent), file.read_bytes()
    for damaged in (content.replace(b"accuracy", b"accur\xffcy", 1), content.replace(b"0.", b"0.9", 1)):
        file.write_bytes(damaged)
        capsys.readouterr()
        assert run_search.main(["--resume", "hurt"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("run_search.py: error: results/hurt/journal.jsonl: line 2 ") and said.count("\n") == 1
        assert file.read_bytes() == damaged
    subprocess.run(said.strip().rpartition("again: ")[2], shell=True, check=True, cwd=place)
    assert run_search.main(["--resume", "hurt"]) == 0
    after = journal(file.parent)
    assert {name: record["metrics"] for name, record in after.items()} == {
        name: record["metrics"] for name, record in whole.items()
    }


def test_a_store_that_goes_away_costs_no_result_and_is_written_later(place, monkeypatch, capsys, caplog):
    taken = agenda.Agenda.take

    def deleting(self, record):
        taken(self, record)
        if len(self.records) == 2:
            (place / "mlflow.db").rename(place / "away.db")

    monkeypatch.setattr(agenda.Agenda, "take", deleting)
    result = search.run(TINY, name="away", **ONCE)
    assert result.complete and result.best is not None
    said = capsys.readouterr().out
    assert 0 < said.index("Best recipe") < said.index("Where to look next") < said.index("MLflow lacks ")
    assert "mlflow.db was deleted or replaced while the search ran" in said and "Traceback" not in said + caplog.text
    assert said.rstrip().endswith("write it later with: python -m search.sync away")
    assert sync.main(["away"]) == 0
    tracked = runs(place, "away")
    trials = [run for run in tracked if run.data.tags["level"] == "trial"]
    assert {run.data.tags["trial"] for run in trials} == set(journal(result.folder))
    assert {run.info.status for run in tracked} == {"FINISHED"}
    (own,) = (run for run in tracked if run.data.tags["level"] == "search")
    assert own.data.tags["looks"] == "[]" and "Best recipe" in own.data.tags["mlflow.note.content"]


def test_an_error_in_the_driver_loses_nothing_and_says_how_to_go_on(place, monkeypatch, capsys):
    taken = agenda.Agenda.take

    def broken(self, record):
        taken(self, record)
        if len(self.records) == 2:
            raise OSError("no space left on device")

    monkeypatch.setattr(agenda.Agenda, "take", broken)
    with pytest.raises(Exception, match="no space left on device"):
        search.run(TINY, name="cut", **ONCE)
    assert "python run_search.py --resume cut" in capsys.readouterr().out
    before = journal(place / "results" / "cut")
    assert len(before) == 2 and {record["outcome"] for record in before.values()} == {"finished"}
    assert next(run for run in runs(place, "cut") if run.data.tags["level"] == "search").info.status == "KILLED"
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert run_search.main(["--resume", "cut"]) == 0
    after = journal(place / "results" / "cut")
    assert len(after) == 4 and texts(before).items() <= texts(after).items()


@pytest.mark.slow
def test_a_report_that_cannot_be_written_does_not_hide_the_results(place, monkeypatch, capsys):
    monkeypatch.setattr("search.summary.write_report", lambda *_: 1 / 0)
    result = search.run(TINY, name="mute", **ONCE)
    out = capsys.readouterr().out
    assert "report.html could not be written: division by zero" in out and "Best recipe" in out
    assert (result.folder / "best.yaml").exists()
    assert {run.info.status for run in runs(place, "mute")} == {"FINISHED"}


def test_data_that_change_between_two_runs_are_never_mixed(place, capsys):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 1), dtype=np.uint8)
    labels, names = np.arange(60) % 3, np.array(["ant", "bee", "cat"])
    np.savez(place / "own.npz", x=images, y=labels, classes=names)
    few = ONCE | {"seeds": 1, "check_seeds": 0, "start_points": False}
    assert search.run(TINY, name="changing", data="npz:own.npz", **few).complete
    folder = place / "results" / "changing"
    before = (folder / "journal.jsonl").read_bytes()
    labels[[1, 2]] = labels[[2, 1]]
    np.savez(place / "own.npz", x=images, y=labels, classes=names)
    capsys.readouterr()
    for more in ([], ["--trials", "+1"], ["--seeds", "+1"]):
        assert run_search.main(["--resume", "changing", *more]) == 2
        said = capsys.readouterr().err
        assert "bee has other images or labels than before (20, as before), cat has other images or labels" in said
    assert export_main(["--search", "changing"]) == 2
    assert "search 'changing': the data have changed: bee has other" in capsys.readouterr().err
    assert export_main(["--search", "changing", "--accept-changes", "--out", "own.yaml"]) == 0
    assert "bee has other" in yaml.safe_load((place / "own.yaml").read_text())["provenance"]["changed_since"][0]

    result = search.run(TINY, name="changing", resume=True, accept_changes=True)
    out = capsys.readouterr().out
    assert result.complete and result.name == "changing-2"
    assert "changing stays as it is; changing-2 starts with the same settings on fresh seed blocks." in out
    assert (folder / "journal.jsonl").read_bytes() == before
    old, new = (list(journal(place / "results" / name).values()) for name in ("changing", "changing-2"))
    assert {record["seed"] for record in old} == {0} and {record["seed"] for record in new} == {10_000}
    assert not {record["fingerprint"] for record in old} & {record["fingerprint"] for record in new}
    assert "the data have changed: bee has other" in (result.folder / "report.html").read_text(encoding="utf-8")
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("longtail/npz:own.npz")
    trials = client.search_runs([experiment.experiment_id], "tags.level = 'trial'")
    assert Counter(run.data.tags["search"] for run in trials) == {"changing": 2, "changing-2": 2}
    # and the new one goes on as any other
    assert run_search.main(["--resume", "changing-2"]) == 0
    assert "changing-2 is finished" in capsys.readouterr().out


def test_a_start_that_fails_leaves_its_name_free(place, monkeypatch, capsys):
    few = ONCE | {"seeds": 1, "check_seeds": 0, "start_points": False}
    with pytest.raises(ValueError, match="there is no "):
        search.run(TINY, name="again", data="npz:gone.npz", **few)
    assert not (place / "results" / "again").exists()
    for error in (KeyboardInterrupt("no luck"), RuntimeError("no luck")):
        with monkeypatch.context() as patch, pytest.raises(type(error), match="no luck"):
            # after MLflow has the search, before anything is trained
            patch.setattr("ray.tune.Tuner", Mock(side_effect=error))
            search.run(TINY, name="again", **few)
        assert not (place / "results" / "again").exists()
        assert runs(place, "again") == []
    assert search.run(TINY, name="again", **few).complete


def test_a_time_budget_ends_the_search_gracefully(place, capsys):
    result = search.run("small.py", name="brief", time_budget=0.01, **SMALL)
    assert not result.complete and result.best is None
    assert "python run_search.py --resume brief --time-budget 0.01\n" in capsys.readouterr().out
    before = journal(result.folder)
    assert run_search.main(["--resume", "brief"]) == 2
    said = capsys.readouterr().err
    assert "--resume brief: its budget is exhausted; to continue, grant as much again: --time-budget 0.01" in said
    assert journal(result.folder) == before and runs(place, "brief")[0].info.status == "KILLED"


def test_a_search_that_fails_alike_in_every_trial_says_why_and_ends(place, tricks_folder, capsys):
    (tricks_folder / "always.py").write_text(
        TRICK.format(what="Fails.", body="raise RuntimeError(f'boom {id(generator)}')")
    )
    (place / "alike.py").write_text(ALIKE)
    flags = ["--seeds", "4", "--trials", "4", "--max-concurrent", "1", "--no-start-points", "--no-checks", "--no-race"]
    arguments = ["--space", "alike.py", "--tricks", str(tricks_folder), *flags, "--name", "alike"]
    assert run_search.main(arguments) == 1
    said = capsys.readouterr().out
    assert "The first 3 trials failed for the same reason: RuntimeError: boom" in said
    assert "python run_search.py --resume alike" in said
    records = journal(place / "results" / "alike")
    assert [record["outcome"] for record in records.values()] == ["failed"] * 3
    assert not list(place.rglob("error.pkl"))


def test_a_full_disk_is_a_sentence_and_the_search_is_resumed(place, capsys, monkeypatch):
    write, room = Journal.write, [2]

    def full(self, event, **content):
        if event == "record":
            room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        write(self, event, **content)

    flags = ["--seeds", "2", "--trials", "0", "--epochs-scale", "0.1", "--max-concurrent", "2", "--no-start-points"]
    flags += ["--no-checks", "--no-race", "--name", "full"]
    monkeypatch.setattr(Journal, "write", full)
    assert run_search.main(["--space", "small.py", *flags]) == 1
    said = capsys.readouterr()
    assert "journal.jsonl cannot be written: No space left on device; make room" in said.out
    assert "Best recipe" in said.out and "--resume full" in said.out
    assert "Traceback" not in said.out + said.err
    monkeypatch.setattr(Journal, "write", write)
    assert len(journal(place / "results" / "full")) == 2
    assert run_search.main(["--resume", "full"]) == 0
    assert len(journal(place / "results" / "full")) == 14


def test_an_interrupt_waits_for_the_end_of_an_event(place, monkeypatch):
    """Ctrl-C never falls into a native call or a half-written journal entry."""
    seen = []
    take = Recorder._record

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        seen.append(take(self, *arguments))

    monkeypatch.setattr(Recorder, "_record", interrupted)
    result = search.run(TINY, name="once", **ONCE)
    assert not result.complete and len(seen) == len(journal(result.folder)) == 1
    # in the caller's Ray nothing is left behind that would hold a slot
    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_while_the_searcher_is_asked_is_one(place, monkeypatch, number):
    """Nothing runs then, so that Tune takes the search for finished."""
    hand_out, seen = agenda.Agenda.next, []

    def interrupted(self):
        if len(self.records) == 2 and not seen:
            seen.append(number)
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        return hand_out(self)

    monkeypatch.setattr(agenda.Agenda, "next", interrupted)
    (place / "tiny.py").write_text(f"{SPACE_HEAD}\nSPACE = {TINY!r}\n")
    options = ["--seeds", "2", "--trials", "0", "--no-race", "--no-checks", "--max-concurrent", "1"]
    assert run_search.main(["--space", "tiny.py", "--name", "asked", *options]) == 130
    assert seen and len(journal(place / "results" / "asked")) == 2


def test_two_drivers_never_run_one_search(finished, monkeypatch, capsys):
    """The second is refused before anything is touched, whatever it was to do; reading is free."""
    monkeypatch.chdir(finished)
    folder = Path("results/whole")
    with held(folder):
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        runs_before = {run.info.run_id: run.info.status for run in runs(finished, "whole")}
        for more in ([], ["--trials", "+3"], ["--time-budget", "5"]):
            assert run_search.main(["--resume", "whole", *more]) == 2
            said = capsys.readouterr()
            assert f"--resume whole: results/whole is in use by process {os.getpid()} on " in said.err
            assert said.err.count("\n") == 1 and ", started 20" in said.err and not said.out
        settings, space = Settings.stored("results", "whole"), folder / "space.py"
        settling = Search(load_space(space), settings, space, Console(), resume=True, settle=5)
        with pytest.raises(SettingsError, match="results/whole is in use by process"):
            settling.run()
        assert export.main(["--search", "whole", "--out", "other.yaml"]) == 0
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
        assert {run.info.run_id: run.info.status for run in runs(finished, "whole")} == runs_before
    Path("other.yaml").unlink()


@contextmanager
def held(folder: Path):
    lock = Lock(folder / "search.lock")
    assert lock.acquire()
    yield
    lock.release()


@pytest.fixture
def begin(place):
    """begin(…): the command in a process of its own, which does not outlive the test."""
    begun = []
    yield lambda *arguments: begun.append(command(place, *arguments)) or begun[-1]
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def command(place: Path, *arguments: str) -> subprocess.Popen:
    # a session of its own: the signal goes to the whole group, as from a keyboard
    return subprocess.Popen(
        [sys.executable, run_search.__file__, *arguments], cwd=place, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip


@pytest.mark.timeout(900)
def test_ctrl_c_keeps_what_is_done_and_the_resumed_search_ends_the_same(place, finished, begin):
    arguments = ["--space", "small.py", *FLAGS, "--no-race", "--name", "broken-off"]
    process = begin(*arguments)
    file = place / "results" / "broken-off" / "journal.jsonl"
    deadline = time.monotonic() + 400
    while not (file.exists() and file.read_text().count('"event": "record"') >= 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "fewer than three trials"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "To continue:\n  python run_search.py --resume broken-off\n" in out
    assert "Traceback" not in err, err
    # nothing of Ray's, MLflow's or Optuna's reaches the person
    assert not re.search(r"warning|deprecat|ray\.|INFO", err, re.IGNORECASE), err
    assert "\x1b" not in out, "colours without a terminal"
    assert re.search(r"^\[[\d:]+\] design: \d+/20 trials, ", out, re.MULTILINE), "no plain line"
    before = journal(file.parent)
    assert 3 <= len(before) < 20
    begun = {run.info.run_id: run.data.tags for run in runs(place, "broken-off")}
    assert {tags["trial"] for tags in begun.values() if tags["level"] == "trial"} == set(before)
    assert {run.info.status for run in runs(place, "broken-off") if run.data.tags["level"] == "search"} == {"KILLED"}

    assert run_search.main(["--resume", "broken-off"]) == 0
    after = journal(file.parent)
    assert texts(before).items() <= texts(after).items() and len(after) == 14 + 6
    assert results(after) == results(journal(finished / "results" / "whole"))
    found = runs(place, "broken-off")
    assert sorted(run.data.tags["trial"] for run in found if run.data.tags["level"] == "trial") == sorted(after)
    # the same runs go on: none is written a second time
    assert begun.keys() <= {run.info.run_id for run in found}
    recipes = [run.data.tags["recipe"] for run in found if run.data.tags["level"] == "recipe"]
    assert sorted(recipes) == sorted({record["recipe"] for record in after.values()})
    assert {run.info.status for run in found if run.data.tags["level"] == "search"} == {"FINISHED"}


def test_a_val_that_was_given_keeps_its_images_in_the_record(place, capsys):
    digits = load("digits-lt", imbalance=50, split_seed=0)
    splits = {f"x_{split}": getattr(digits, f"{split}_images").numpy() for split in ("train", "val")}
    labels = {f"y_{split}": getattr(digits, f"{split}_labels").numpy() for split in ("train", "val")}
    np.savez(place / "own.npz", **splits, **labels)
    result = search.run(
        TINY, name="given", data="npz:own.npz", trials=0, seeds=2, race=False, max_concurrent=2, check_seeds=0
    )
    records = journal(result.folder)
    assert len(records) == 4
    for record in records.values():
        assert len(record["correct"]) == 240
        assert fmean(record["correct"]) == pytest.approx(record["metrics"]["final/accuracy"])  # val is balanced
    # what was done to the data is told before anything is trained, and where the results are
    notice = "Data: npz:own.npz\n  test is cut from the training images: "
    said, page = capsys.readouterr().out, (result.folder / "report.html").read_text(encoding="utf-8")
    assert said.startswith(notice)
    assert said.rindex("Best recipe") < said.rindex(notice) < said.rindex("Where to look next")
    first = page.partition("<header>")[2].partition("</header>")[0]
    assert "<li>test is cut from the training images: " in first


def test_a_deployment_prior_is_kept_with_the_search(place, capsys):
    (place / "prior.csv").write_text("".join(f"{label},{10 - label}\n" for label in range(10)))
    arguments = {"trials": 0, "seeds": 1, "race": False, "max_concurrent": 2, "prior": "prior.csv"}
    result = search.run(TINY, name="weighed", data="digits-lt?val=realistic", **arguments)
    (place / "prior.csv").unlink()
    weights = np.arange(10, 0, -1) / 55
    for record in journal(result.folder).values():
        seen = record["metrics"]["final/prior_accuracy"]
        assert seen == pytest.approx(float(weights @ np.array(record["recalls"])))
        assert record["data"] == "digits-lt?val=realistic" and record["val_counts"][-1] == 1
    assert "final/prior_accuracy" in result.trials.columns
    # it goes on without the file
    assert run_search.main(["--resume", "weighed"]) == 0
    assert run_search.main(["--resume", "weighed", "--val", "balanced"]) == 2
    assert "--val balanced: a resumed search keeps its val" in capsys.readouterr().err

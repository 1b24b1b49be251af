"""Whole searches, small ones: Ray, Optuna, MLflow, SQLite and training are the real ones."""

import dataclasses
import json
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

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from rich.console import Console

import run_search
import search
from search import export, phases
from search.context import SearchContext
from search.phases.tune import Tune
from search.request import Request
from search.run import launch
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings, SettingsError
from search.workspace.space_file import load_space
from spaces.domain import Space, Stage, log_uniform, one_of
from tests.search.whole_searches import FLAGS, SMALL, SPACE, TINY, journal, results, runs, small_phases, texts
from trainables.data import load
from trainables.pipeline.keys import stage_keys
from trainables.pipeline.leases import Lock
from trainables.plan import Plan, Recipe

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, empty_store) -> Path:
    """One whole search by the command, race included (a short one), that several tests look at."""
    place = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_store, place / "mlflow.db")
    (place / "small.py").write_text(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(phases, "PHASES", small_phases(1, 1, 2))
        arguments = ["--space", "small.py", *FLAGS, "--rung-score", "accuracy", "--rungs", "0.99", "--name", "whole"]
        assert run_search.main(arguments) == 0
    return place


@pytest.mark.smoke
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
    made = SearchContext.make(load_space(folder / "space.py"), settings)
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # as a person's shell has it
    try:
        expected = set()
        for record in records.values():
            recipe = Recipe(Plan.from_dict(record["plan"]), {}, ())
            proposed = 0 if record["trial"].startswith("adaptive-") else None
            request = TrialRequest(
                record["trial"], record["arm"], record["arm"], recipe, record["seed"], (), number=proposed
            )
            expected |= {keys[-1] for keys in made.keys(request)}
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
    monkeypatch.setattr(phases, "PHASES", small_phases(2, 1, 2, Tune(1, 1, 1)))
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
    monkeypatch.setattr(phases, "PHASES", small_phases(1, 1, 2))
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
    with pytest.raises(ValueError, match="--resume python: --trials cannot change"):
        search.run(space, name="python", resume=True, trials=4)
    # a changed space continues with the trials that lie inside it
    assert search.run(dataclasses.replace(space, screen=[]), name="python", resume=True).complete
    assert len(journal(again.folder)) == 7


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
        settling = Request(load_space(space), settings, space, resume=True, extra_blocks=5)
        with pytest.raises(SettingsError, match="results/whole is in use by process"):
            launch(settling, Console())
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
        assert len(record["correct"]) == 440
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

"""Early stopping and objectives in whole searches: Ray, Optuna and MLflow are the real ones."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import yaml
from mlflow import MlflowClient
from sklearn.datasets import load_digits

import run_search
import search
from search import explain, export
from search.run import WORKER_ENVIRONMENT

LAG = 4
"""How many proposals behind the newest a proposal's knowledge lies."""
SPACE = """
from spaces.domain import Space, Stage, log_uniform, one_of

SPACE = Space(stages=[
    Stage("first", epochs=4, lr=log_uniform(0.003, 0.3, step="halves"), choose=[
        one_of(None, "class_balanced"), one_of(None, "label_smoothing")]),
    one_of(Stage("finish", epochs=2, carry="all", keep=True),
           Stage("classifier", epochs=2, carry="weights", choose=[
               "classifier", one_of("class_balanced", "square_root")])),
])
"""


EXPLAINED: list[str] = []
"""What the first search handed to `--explain`."""

FEW = ["--seeds", "1", "--no-race", "--no-start-points", "--no-checks", "--max-concurrent", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_store) -> Path:
    """A directory with a space, a store of MLflow and a Ray; the same for all searches here."""
    place = tmp_path_factory.mktemp("rungs")
    (place / "small.py").write_text(SPACE)
    shutil.copy(empty_store, place / "mlflow.db")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
             runtime_env={"env_vars": WORKER_ENVIRONMENT})  # fmt: skip
    yield place
    ray.shutdown()


@pytest.fixture(scope="module")
def stopped(place) -> Path:
    """A search by the command whose trials are tried as shortened plans, one at a time; its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        arguments = ["--space", "small.py", "--name", "short", *FEW, "--trials", "10"]
        rule = ["--rung-score", "shortened", "--rungs", "0.34,0.67", "--reduction-factor", "3", "--explain"]
        patch.setattr("search.commands.explain.show_stop", lambda console, record: EXPLAINED.append(record.trial))
        assert run_search.main([*arguments, *rule]) == 0
    return place / "results" / "short"


def records(folder: Path) -> dict[str, dict]:
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return {event["record"]["trial"]: event["record"] for event in events if event["event"] == "record"}


def test_shortened_plans_decide_who_goes_on(stopped):
    adaptive = [record for record in records(stopped).values() if record["arm"] == "adaptive"]
    outcomes = [record["outcome"] for record in adaptive]
    assert len(adaptive) == 10 and set(outcomes) == {"finished", "stopped"} and outcomes[:3] == ["finished"] * 3
    values: dict[float, dict[int, float]] = {0.34: {}, 0.67: {}}
    for place, record in enumerate(adaptive):
        tried = [point for point in record["curve"] if "shortened" in point["metrics"]]
        assert [point["progress"] for point in tried] == [0.34, 0.67][: len(tried)]
        for point in tried:
            values[point["progress"]][place] = point["metrics"]["shortened"]
            # halving by hand: of itself and those that its proposal knew, four or more, the best third goes on
            known = values[point["progress"]].items()
            here = [value for other, value in known if other <= place - LAG or other == place]
            cut = sorted(here, reverse=True)[max(1, len(here) // 3) - 1]
            assert (len(here) >= 4 and here[-1] < cut) == (record["stop"].get("rung") == point["progress"])
            if record["stop"].get("rung") == point["progress"]:
                assert record["stop"] == {
                    "rung": point["progress"], "score": "shortened", "value": here[-1], "cut": cut, "among": len(here),
                    "cohort": "all shortened plans", "epoch": point["epoch"],
                }  # fmt: skip
        if record["outcome"] == "finished":
            # of 4 and 2 epochs: 1 and 1, 3 and 1, and the plan itself
            assert (record["epochs"], record["stop"], len(tried)) == (2 + 4 + 6, {}, 2)
            assert record["curve"][-1]["metrics"]["accuracy"] == record["metrics"]["final/accuracy"]
        else:
            assert (record["epochs"], record["images"]) == ((2, 0) if len(tried) == 1 else (6, 0))


def test_no_shortened_stage_is_trained_twice(stopped):
    found = [record for record in records(stopped).values() if record["arm"] == "adaptive"]
    assert any("@0.34" in name for record in found for name in record["reused"])
    manifests = (stopped.parent / "stages").glob("*/*/state.json")
    states = [json.loads(path.read_text()) for path in manifests]
    kept = sum(state["epochs"] for state in states if state.get("kind") == "stage" and state["seed"] >= 1000)
    assert sum(record["epochs_trained"] for record in found) == kept


def test_mlflow_says_why(stopped, place):
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("longtail/digits-lt")
    query = "tags.search = 'short' and tags.level = 'trial' and tags.`stop/rung` = '0.34'"
    runs = {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id], query)}
    expected = {name: r for name, r in records(stopped).items() if r["stop"].get("rung") == 0.34}
    assert runs.keys() == expected.keys() and expected
    for name, run in runs.items():
        tags, stop = run.data.tags, expected[name]["stop"]
        assert {key: tags[f"stop/{key}"] for key in stop} == {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in stop.items()
        }
        assert tags["mlflow.note.content"] == expected[name]["reason"]
        assert tags["mlflow.note.content"].startswith("stopped at 34% of its plan: shortened ")
        assert run.info.status == "KILLED"


def test_another_process_opens_the_study_as_the_dashboard_does(stopped):
    code = (
        "import optuna, sys, json\n"
        "study = optuna.load_study(study_name=None, storage=f'sqlite:///{sys.argv[1]}')\n"
        "print(json.dumps([study.study_name, study.metric_names, [\n"
        "    [t.state.name, t.last_step, t.value, t.user_attrs.get('title'), 'arm' in t.user_attrs]\n"
        "    for t in study.trials]]))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, stopped / "optuna.db"], capture_output=True, text=True, check=True
    )
    name, metrics, trials = json.loads(said.stdout)
    assert (name, metrics) == ("short", ["accuracy"])
    told = [trial for trial in trials if trial[0] in ("COMPLETE", "PRUNED") and not trial[4]]
    found = [record for record in records(stopped).values() if record["arm"] == "adaptive"]
    assert len(told) == len(found)
    for (state, step, value, title, _), record in zip(told, found, strict=True):
        assert (state, title) == ({"finished": "COMPLETE", "stopped": "PRUNED"}[record["outcome"]], record["title"])
        if state == "PRUNED":
            # at the length of the plan that it was stopped after, with what it had there
            assert (step, value) == (record["stop"]["epoch"], record["stop"]["value"])
        else:
            assert value == record["metrics"]["final/accuracy"]


def test_it_is_explained(stopped, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert list(records(stopped)) == EXPLAINED
    assert explain.main([]) == 0
    out = capsys.readouterr().out
    found = {name: record for name, record in records(stopped).items() if record["arm"] == "adaptive"}
    stops = {name: record for name, record in found.items() if record["outcome"] == "stopped"}
    assert out.startswith(
        "search short: judged by shortened at 34%, 67% of the plan; the best 1/3 of a cohort continue, "
    )
    early = sum(record["stop"]["rung"] == 0.34 for record in stops.values())
    assert f"  34%, all shortened plans: 10 trials judged, {early} stopped\n" in out
    for name, record in stops.items():
        assert f"{name} {record['reason']} [{record['title']}]\n" in out
    best = max(found.values(), key=lambda record: record["curve"][0]["metrics"]["shortened"])
    assert explain.main([best["trial"], "--search", "short"]) == 0
    own = best["curve"][0]["metrics"]["shortened"]
    assert f"shortened {own:.1%}, rank 1 of the 10 trials that have reached this rung so far" in capsys.readouterr().out


@pytest.mark.slow
def test_one_slot_and_one_seed_make_the_same_search(stopped, place, capsys, monkeypatch):
    """Also in two parts, and with every stage from the store: what is re-used is judged as if it had been trained."""
    monkeypatch.chdir(place)
    few = {"seeds": 1, "race": False, "start_points": False, "check_seeds": 0, "max_concurrent": 1}
    rule = {"rung_score": "shortened", "rungs": (0.34, 0.67), "reduction_factor": 3.0}
    result = search.run("small.py", name="again", trials=6, **few, **rule)
    # its rungs hold what they held, its study and its starts go on
    assert run_search.main(["--resume", "again", "--trials", "+4"]) == 0
    first, second = records(stopped), records(result.folder)
    assert list(first) == list(second)
    for name, record in second.items():
        for key in ("recipe", "seed", "outcome", "stop", "reason", "metrics", "curve"):
            assert record[key] == first[name][key], (name, key)
        assert record["epochs_trained"] == 0
    assert any(record["stop"] for name, record in second.items() if name >= "adaptive-0006")
    assert "stopped at" not in capsys.readouterr().out  # unless --explain is given


def test_a_val_that_is_too_small_is_refused(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for objective in ("harmonic_mean", "both"):
        for more in ([], ["--dry-run"]):
            arguments = ["--space", "small.py", "--objective", objective, "--name", "refused", *more]
            assert run_search.main(arguments) == 2
            said = capsys.readouterr().err
            assert f"--objective {objective} needs at least 50 val images per class, because" in said
            assert "digits-lt has 44" in said
    assert not (place / "results" / "refused").exists()
    # what a search on such data found is not picked by it either
    assert export.main(["--search", "short", "--pick", "knee"]) == 2
    assert "--pick knee needs at least 50 val images per class" in capsys.readouterr().err
    assert export.main(["--search", "short", "--pick", "accuracy", "--out", "accurate.yaml"]) == 0


def test_both_objectives_end_in_a_front(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    digits = load_digits()
    images, rank = (digits.images * 15).astype(np.uint8), np.zeros(len(digits.target), dtype=int)
    for label in range(10):
        rank[digits.target == label] = np.arange((digits.target == label).sum())
    splits = {"val": rank < 50, "test": (rank >= 50) & (rank < 55), "train": (rank >= 55) & (rank < 75)}
    arrays = {f"x_{split}": images[rows] for split, rows in splits.items()}
    np.savez(place / "own.npz", **arrays, **{f"y_{split}": digits.target[rows] for split, rows in splits.items()})
    arguments = ["--space", "small.py", "--data", "npz:own.npz", "--name", "both", "--objective", "both"]
    assert run_search.main([*arguments, *FEW, "--trials", "4", "--children-per-start", "1"]) == 0
    folder = place / "results" / "both"
    found = records(folder)
    # nothing is stopped where there are two
    assert {record["outcome"] for record in found.values()} == {"finished"}
    points = {
        record["recipe"]: (record["metrics"]["final/accuracy"], record["metrics"]["final/smoothed_harmonic_mean"])
        for record in found.values() if record["arm"] == "adaptive"
    }  # fmt: skip
    assert len(points) > 1
    capsys.readouterr()
    for pick, part in (("accuracy", 0), ("harmonic_mean", 1)):
        assert export.main(["--search", "both", "--pick", pick, "--out", f"{pick}.yaml"]) == 0
        best = yaml.safe_load((place / f"{pick}.yaml").read_text())
        if best["recipe"] in points:
            assert points[best["recipe"]][part] >= max(point[part] for point in points.values())
    assert export.main(["--search", "both", "--pick", "knee", "--out", "knee.yaml"]) == 0
    picked = yaml.safe_load((place / "knee.yaml").read_text())
    assert picked["recipe"] == yaml.safe_load((folder / "best.yaml").read_text())["recipe"]
    assert picked["measured"]["smoothed_harmonic_mean"]["mean"] > 0

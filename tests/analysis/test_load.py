"""MLflow to one checked table, on a real sqlite store."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.records import mlflow_runs, reader
from analysis.records.schema import Point, Record, RecordError, history
from search.mlflow_tracker import Tracker

PLAIN = Record(
    search="demo", trial="t0", arm="design", recipe="r0", title="baseline", seed=0, split_seed=0, first_stage="fs0",
    tricks=(), context="digits-lt, 2 epochs", outcome="finished",
    choices={"train/weight": None, "train/lr": 0.1, "train/draw": "class_balanced", "train/views": 2, "flip": True},
    plan={"stages": ["train"]}, data="digits-lt", model="resnet8", imbalance=50.0, fingerprint="f", counts=(100, 2),
    per_class={"logits_magnitude": [1.5, math.nan]}, class_names=("ant", "bee"),
    val_counts=(30, 30), epochs=2.0, epochs_trained=2.0, images=204, steps=4, seconds=1.53, seconds_saved=0.25,
    reused=("train",), metrics={"final/accuracy": 0.61, "final/harmonic_mean": 1 / 3}, recalls=(0.9, 0.32),
    curve=(Point("train", 0, 1, 0.5, {"accuracy": 0.4}), Point("train", 0, 2, 1.0, {"accuracy": 0.61})),
    reason="", started=1_700_000_000.125,
)  # fmt: skip


def trial(name: str, accuracy: float = 0.6, **changes) -> Record:
    changes.setdefault("metrics", {"final/accuracy": accuracy})
    return dataclasses.replace(PLAIN, trial=name, **changes)


RECORDS = [
    PLAIN,
    dataclasses.replace(
        PLAIN,
        trial="t1",
        arm="race",
        recipe="r1",
        title="train/a + b",
        tricks=("train/a", "b"),
        seed=3,
        started=1.7e9 + 1,
    ),
    dataclasses.replace(
        PLAIN,
        trial="t2",
        outcome="diverged",
        metrics={"final/accuracy": math.nan},
        recalls=(),
        curve=(),
        started=1.7e9 + 2,
    ),
    dataclasses.replace(
        PLAIN, trial="t3", outcome="failed", metrics={}, recalls=(), reason="worker lost", started=1.7e9 + 3
    ),
    dataclasses.replace(
        PLAIN,
        trial="t4",
        arm="check",
        setting="lr*3",
        correct=(1, 0, 1) * 4000,
        families={"class_balanced": "re-sampling"},
        gpus=0.25,
        memory=2.5e9,
        started=1.7e9 + 4,
    ),
    dataclasses.replace(
        PLAIN,
        trial="t5",
        arm="adaptive",
        outcome="stopped",
        stop={"rung": 0.5, "score": "accuracy", "value": 0.61, "cut": 0.7, "among": 7, "cohort": "a > b", "epoch": 15},
        reason="below the cut",
        started=1.7e9 + 5,
    ),
]


def write(uri: str, *records: Record, search: str = "demo", data: str = "digits-lt") -> None:
    tracker = Tracker(uri, search, data)
    tracker.start({"imbalance": 50}, {})
    for record in records:
        tracker.log(record)
    assert tracker.close() == []


def test_what_was_logged_is_read_back(uri):
    write(uri, *RECORDS)
    name, found = reader.records(uri)
    expected = reader.frame(RECORDS)
    assert name == "demo"
    assert list(found.columns) == list(expected.columns)
    assert found["run_id"].str.len().gt(0).all()
    pd.testing.assert_frame_equal(found.drop(columns="run_id"), expected.drop(columns="run_id"))
    assert found["tricks"].tolist()[1] == ("train/a", "b")
    # "none" is how MLflow is told that a choice was not made
    assert found["choices"].tolist()[0] == {k: v for k, v in PLAIN.choices.items() if v is not None}


def test_curves_are_read_back(uri):
    write(uri, *RECORDS)
    _, trials = reader.records(uri)
    found = reader.curves(trials)
    expected = reader.curves(reader.frame(RECORDS))
    pd.testing.assert_frame_equal(found.drop(columns="run_id"), expected.drop(columns="run_id"))
    assert reader.curves(trials[:1])["value"].tolist() == [0.4, 0.61]
    assert reader.curves(trials, ["loss"]).empty


def test_a_later_stage_speaks_where_two_meet_and_members_are_averaged():
    points = (
        Point("first", 0, 2, 0.5, {"accuracy": 0.1}),
        Point("second", 0, 2, 0.5, {"accuracy": 0.4}),
        Point("second", 1, 2, 0.5, {"accuracy": 0.6}),
    )
    assert history(points, "accuracy") == [(2, 0.5)]
    assert history(points, "accuracy", "first") == [(2, 0.1)]
    assert history(points, "loss") == []


def test_the_settings_are_read_back(uri):
    write(uri, *RECORDS)
    assert reader.settings(uri, "demo") == {"imbalance": 50}


def test_records_are_read_from_their_runs_while_a_search_goes_on(uri, tmp_path):
    """`records.jsonl` is of the search's last end: later trials, and those that ran again, are read one by one."""
    write(uri, *RECORDS)
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    again = dataclasses.replace(RECORDS[3], outcome="finished", metrics={"final/accuracy": 0.5}, started=1.7e9 + 9)
    tracker.replay([*RECORDS, again, trial("t6", started=1.7e9 + 10)])
    tracker.flush()
    written = next(tmp_path.rglob("records.jsonl")).read_text().splitlines()
    assert [Record.from_json(line) for line in written][1:2] == [RECORDS[1]] and len(written) == len(RECORDS)
    expected = reader.frame([*RECORDS[:3], *RECORDS[4:], again, trial("t6", started=1.7e9 + 10)])
    found = reader.records(uri)[1]
    pd.testing.assert_frame_equal(found.drop(columns="run_id"), expected.drop(columns="run_id"))
    tracker.close()
    assert len(next(tmp_path.rglob("records.jsonl")).read_text().splitlines()) == len(expected)


def test_artifacts_that_are_gone_are_named(uri, tmp_path):
    write(uri, *RECORDS)
    for file in [*tmp_path.rglob("record.json"), *tmp_path.rglob("records.jsonl")]:
        file.unlink()
    with pytest.raises(reader.LoadError, match=r"record.json of run .* cannot be read from .* -m search.sync demo"):
        reader.records(uri, "demo")


def test_a_store_of_an_earlier_version_is_read(uri):
    """Its trials have a `record.json` each, and the search's run has no `records.jsonl`."""
    client = reader.connect(uri)
    experiment = mlflow_runs.experiment(client, "digits-lt")
    texts = {}
    for run in json.loads(Path(__file__).with_name("store_before.json").read_text(encoding="utf-8")):
        made = client.create_run(experiment, run["start"], run["tags"], run["name"])
        metrics = [(name, math.nan if value is None else value, 0, 0) for name, value in run["metrics"].items()]
        mlflow_runs.log(client, made.info.run_id, metrics=metrics, params=run["params"])
        for name, text in run["artifacts"].items():
            mlflow_runs.write_artifact(client, made, name, text)
        client.set_terminated(made.info.run_id, run["status"])
        texts |= {run["tags"].get("trial", ""): run["artifacts"].get("record.json")}
    assert reader.searches(uri)["trials"].item() == 6
    found = reader.records(uri, "demo")[1]
    assert found["trial"].tolist() == ["t0", "t2", "t4"]
    expected = reader.frame(Record.from_json(texts[name]) for name in ("t0", "t2", "t4"))
    pd.testing.assert_frame_equal(found.drop(columns="run_id"), expected.drop(columns="run_id"))
    first = found.to_dict("records")[0]
    assert first["plan"] == {"stages": [{"name": "train"}]} and first["class_names"] == ("ant", "bee")
    assert first["per_class"]["logits_magnitude"][0] == 1.5 and math.isnan(first["per_class"]["logits_magnitude"][1])
    assert (first["imbalance"], first["steps"], first["final/accuracy"]) == (50.0, 4, 0.61)
    assert found["correct"].map(len).tolist() == [0, 0, 60] and found["setting"].tolist() == ["", "", "lr*3"]
    # a search that is resumed keeps these runs
    write(uri, *(Record.from_json(texts[name]) for name in ("t0", "t2", "t4")))
    again = reader.records(uri, "demo")[1]
    pd.testing.assert_frame_equal(again, found)
    assert client.get_run(first["run_id"]).data.tags["digest"] not in (None, "a1b0813fd7c46cc9")


def test_a_field_is_declared_in_one_line(tmp_path, empty_store):
    """One line in the schema: the field is in the journal's dict, in MLflow, and in the data frame, both ways."""
    root = Path(__file__).resolve().parents[2]
    for package in ("analysis", "search", "spaces", "trainables"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    schema = tmp_path / "analysis" / "records" / "schema.py"
    last = "    schema: Annotated[int, TAG] = SCHEMA\n"
    declared = last + '    dummy: Annotated[tuple[float, ...], TAG, Stored("metric", "dummy/{item}")] = ()\n'
    assert schema.read_text().count(last) == 1
    schema.write_text(schema.read_text().replace(last, declared))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    fields = {**PLAIN.to_dict(), "dummy": [0.5, 2.0]}
    script = f"""
import json
from analysis.records import reader
from analysis.records.schema import Record
from contextlib import closing
from search.mlflow_tracker import Tracker

uri = "sqlite:///{tmp_path}/mlflow.db"
record = Record.from_dict(json.loads({json.dumps(json.dumps(fields))}))
with closing(Tracker(uri, "demo", "digits-lt")) as tracker:
    tracker.start({{}}, {{}})
    tracker.log(record)
trials = reader.records(uri)[1]
run = reader.connect(uri).get_run(trials["run_id"].item())
found = [record.to_dict()["dummy"], trials["dummy"].item(), reader.frame([record])["dummy"].item()]
print(json.dumps([found, run.data.tags["dummy"], [run.data.metrics["dummy/0"], run.data.metrics["dummy/1"]]]))
"""
    run = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(run, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout.decode().splitlines()[-1]) == [[[0.5, 2.0]] * 3, "[0.5, 2.0]", [0.5, 2.0]]


def test_the_latest_search_is_read_unless_one_is_named(uri):
    write(uri, trial("t0"), search="older")
    write(uri, trial("t0"), trial("t1"), search="newer", data="cifar10-lt")
    assert reader.records(uri)[0] == "newer"
    name, found = reader.records(uri, "older")
    assert (name, len(found)) == ("older", 1)
    table = reader.searches(uri)
    assert table["name"].tolist() == ["newer", "older"]
    assert table["data"].tolist() == ["cifar10-lt", "digits-lt"]
    assert table["trials"].tolist() == table["finished"].tolist() == [2, 1]
    assert table["status"].tolist() == ["FINISHED"] * 2
    assert reader.find(uri, "older").params == {"imbalance": "50"}


def test_searches_beyond_one_page_are_read_whole(uri, monkeypatch):
    write(uri, *(trial(f"t{i}", seed=i) for i in range(5)))
    monkeypatch.setattr(mlflow_runs, "PAGE", 2)
    assert reader.records(uri)[1]["seed"].tolist() == [0, 1, 2, 3, 4]


def test_an_unknown_search_offers_the_nearest(uri):
    with pytest.raises(reader.LoadError, match="holds no search; run one first"):
        reader.records(uri)
    write(uri, trial("t0"), search="digits-2026")
    with pytest.raises(reader.LoadError, match=r"no search 'digit-2026' in .*; did you mean 'digits-2026'\?"):
        reader.records(uri, "digit-2026")
    with pytest.raises(reader.LoadError, match=r"no search 'q' in .*; it holds digits-2026"):
        reader.find(uri, "q")


def test_reading_never_creates_a_store(tmp_path):
    with pytest.raises(
        reader.LoadError, match=r"there is no MLflow store at .*mlflow.db; run a search .* --tracking-uri"
    ):
        reader.searches(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["./mlruns", "file:./mlruns"])
def test_a_folder_is_no_store(address):
    with pytest.raises(
        reader.LoadError, match=r"no longer opens folders .* --tracking-uri sqlite:///.*/mlruns/mlflow.db"
    ):
        reader.searches(address)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"arm": "De sign"}, "trial 't0': arm must be a lower-case word, got 'De sign'"),
        ({"outcome": "ok"}, "outcome must be one of finished, stopped, diverged, failed, got 'ok'"),
        ({"schema": 99}, "a record of schema 99 cannot be read by schema 1; use the version of longtail-tune that"),
        ({"seed": "many"}, "the record of trial 't0' cannot be read: seed: Input should be a valid integer"),
        ({"unheard_of": 1}, "unheard_of: Unexpected keyword argument"),
        ({"metrics": {"final/accuracy": "high"}}, "metrics.final/accuracy"),
        ({"metrics": {"final/accuracy": 74.0}}, r"trial 't0': final/accuracy must be a fraction in \[0, 1\], got 74"),
        (None, "a record that is not JSON cannot be read"),
    ],
)
def test_records_that_no_search_writes_are_refused(uri, tmp_path, fields, match):
    write(uri, trial("t0"))
    next(tmp_path.rglob("records.jsonl")).unlink()
    (file,) = tmp_path.rglob("record.json")
    file.write_text("[" if fields is None else json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(reader.LoadError, match=f"record.json of run .*{match}"):
        reader.records(uri)


def test_a_trial_that_is_in_the_store_twice_is_refused(uri):
    write(uri, trial("t0"), trial("t1"))
    client, found = reader.connect(uri), reader.find(uri)
    (run,) = mlflow_runs.pages(client, [found.experiment_id], "tags.trial = 't0'")
    client.set_tag(run.info.run_id, "trial", "t1")
    with pytest.raises(reader.LoadError, match=r"trial 't1' is in the store twice; repair that with: python -m search"):
        reader.records(uri)


def test_a_search_without_trials_is_an_empty_table(uri):
    write(uri)
    name, found = reader.records(uri)
    assert (name, len(found)) == ("demo", 0)
    assert set(reader.COLUMNS) <= set(found.columns)
    assert math.isnan(reader.searches(uri)["best_accuracy"].item())
    assert len(reader.ranking(found)) == 0


def ranked(*records: Record) -> list[dict]:
    return reader.ranking(reader.frame(records)).to_dict("records")


def raced(recipe: str, seed: int, accuracy: float, arm: str = "race", **changes) -> Record:
    title = "baseline" if recipe == "r0" else recipe
    return trial(f"{recipe}-{arm}-{seed}", accuracy, recipe=recipe, title=title, arm=arm, seed=seed, **changes)


def test_the_gain_is_paired_by_seed():
    best, plain = ranked(
        raced("r0", 1, 0.50), raced("r0", 2, 0.60), raced("r0", 3, 0.70), raced("r0", 0, 0.99, "design"),
        raced("r1", 1, 0.60), raced("r1", 2, 0.71), raced("r1", 3, 0.79),
    )  # fmt: skip
    # By hand: gains 0.10, 0.11, 0.09; sd 0.01; t(2 df, 97.5 %) = 4.3027; half-width 0.02484.
    assert (best["title"], best["gain_seeds"], best["arm"]) == ("r1", 3, "race")
    assert best["gain"] == pytest.approx(0.10)
    assert best["gain_low"] == pytest.approx(0.07516, abs=1e-5)
    assert best["gain_high"] == pytest.approx(0.12484, abs=1e-5)
    assert plain["gain_seeds"] == 0 and math.isnan(plain["gain"])


def test_who_raced_longer_leads_and_who_never_raced_follows():
    order = ranked(
        raced("r1", 1, 0.70), raced("r1", 2, 0.70),
        raced("dropped", 1, 0.80),
        raced("lucky", 1, 0.99, "adaptive"),
    )  # fmt: skip
    assert [row["title"] for row in order] == ["r1", "dropped", "lucky"]
    assert math.isnan(order[0]["gain"])


def test_the_confirmed_winner_leads_and_the_baseline_keeps_its_place():
    order = ranked(
        raced("r0", 1, 0.50), raced("r0", 9, 0.75, "confirm"),
        raced("r1", 1, 0.80), raced("r1", 9, 0.70, "confirm"),
        raced("second", 1, 0.79),
    )  # fmt: skip
    assert [row["title"] for row in order] == ["r1", "second", "baseline"]
    assert [row["mean"] for row in order] == [0.70, 0.79, 0.75]
    assert order[0]["gain"] == pytest.approx(-0.05)


def test_diverged_trials_are_counted_and_not_averaged():
    (row,) = ranked(
        raced("r1", 1, 0.7), raced("r1", 2, 0.0, outcome="diverged"), raced("r1", 3, 0.2, outcome="stopped")
    )
    assert (row["seeds"], row["diverged"], row["mean"]) == (1, 1, 0.7)
    assert math.isnan(row["low"])


def test_the_baseline_is_the_one_of_the_design():
    trials = reader.frame(
        [raced("r0", 0, 0.5, "design"), raced("r0", 1, 0.5, "design")]
        + [trial(f"a{i}", recipe="other-lr", arm="adaptive", seed=i) for i in range(5)]
    )
    assert reader.baseline(trials) == "r0"
    assert reader.baseline(trials.iloc[:0]) == ""


def test_of_two_confirmed_recipes_the_race_decides():
    """Trials were added to a finished search: the second winner was chosen by the race, not by its confirmation."""
    rows = [trial(f"{arm}-{recipe}-{seed}", value, arm=arm, recipe=recipe, title=recipe, seed=seed)
            for recipe, raced, confirmed in (("old", 0.60, 0.70), ("new", 0.65, 0.66))
            for arm, value, seeds in (("race", raced, (2000, 2001)), ("confirm", confirmed, (3000, 3001)))
            for seed in seeds]  # fmt: skip
    assert [(row["recipe"], row["mean"]) for row in ranked(*rows)] == [("new", 0.66), ("old", 0.70)]


def test_the_ranking_refuses_the_test_split_and_unknown_metrics():
    trials = reader.frame([PLAIN])
    with pytest.raises(RecordError, match="metric 'test/accuracy' is of the test split, which may not choose"):
        reader.ranking(trials, "test/accuracy")
    with pytest.raises(RecordError, match=r"no trial has the metric 'final/acuracy'; did you mean 'final/accuracy'\?"):
        reader.ranking(trials, "final/acuracy")

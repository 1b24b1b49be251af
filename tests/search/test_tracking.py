"""Records to MLflow, on a real sqlite store."""

import dataclasses
import json
import logging
import math
import os
import shutil
import sqlite3
import threading
from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.records import mlflow_runs, reader
from analysis.records.mlflow_index import ELSEWHERE
from analysis.records.schema import Point, Record, RecordError
from search.list import main as list_searches
from search.mlflow_tracker import Tracker, TrackingError, check, conflict_tags, default_uri, prepare, where_to_look
from search.mlflow_tracker.background import BackgroundWriter, Job

PLAIN = Record(
    search="demo", trial="t0", arm="design", recipe="r0", title="baseline", seed=0, split_seed=0, first_stage="fs0",
    tricks=(), context="digits-lt, 2 epochs", outcome="finished",
    choices={"train/weight": None, "train/lr": 0.1, "train/draw": "class_balanced"}, plan={"stages": ["train"]},
    data="digits-lt", model="resnet8", imbalance=50.0, fingerprint="f", counts=(100, 2), val_counts=(30, 30),
    epochs=2.0, epochs_trained=2.0, images=204, steps=4, seconds=1.5, seconds_saved=0.0, reused=(),
    metrics={"final/accuracy": 0.61, "final/harmonic_mean": 0.5}, recalls=(0.9, 0.32),
    curve=(Point("train", 0, 1, 0.5, {"accuracy": 0.4}), Point("train", 0, 2, 1.0, {"accuracy": 0.61})),
    started=1_700_000_000.0,
)  # fmt: skip


def trial(name: str, accuracy: float = 0.6, **changes) -> Record:
    metrics = {"final/accuracy": accuracy, "final/harmonic_mean": accuracy - 0.1}
    changes.setdefault("metrics", metrics)
    return dataclasses.replace(PLAIN, trial=name, **changes)


def write(uri: str, *records: Record, search: str = "demo", status: str = "FINISHED") -> list[str]:
    tracker = Tracker(uri, search, "digits-lt")
    tracker.start({"trials": len(records)}, {"space": "demo.py"})
    for record in records:
        tracker.log(record)
    return tracker.close(status)


def runs(uri: str, level: str) -> dict:
    client = reader.connect(uri)
    (experiment,) = mlflow_runs.experiments(client)
    name = {"search": "search", "recipe": "recipe", "trial": "trial"}[level]
    return {run.data.tags[name]: run for run in mlflow_runs.pages(client, [experiment], f"tags.level = '{level}'")}


def test_three_levels_of_runs_with_their_tags(uri):
    assert write(uri, trial("t0"), trial("t1", 0.64, seed=1, started=PLAIN.started + 5)) == []
    (search,), (recipe,) = runs(uri, "search").values(), runs(uri, "recipe").values()
    trials = runs(uri, "trial")
    assert search.info.run_name == search.data.tags["mlflow.runName"] == "demo"
    assert search.data.params == {"trials": "2"} and search.data.tags["space"] == "demo.py"
    assert recipe.data.tags["mlflow.parentRunId"] == search.info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {recipe.info.run_id}
    tags = trials["t1"].data.tags
    assert (tags["arm"], tags["recipe"], tags["seed"], tags["outcome"]) == ("design", "r0", "1", "finished")
    assert (tags["first_stage"], tags["tricks"], tags["search"]) == ("fs0", "[]", "demo")
    assert trials["t1"].data.params == {
        "train/weight": "none", "train/lr": "0.1", "train/draw": "class_balanced", "data": "digits-lt",
        "model": "resnet8", "imbalance": "50.0", "epochs": "2.0", "seed": "1",
    }  # fmt: skip
    assert trials["t1"].info.end_time - trials["t1"].info.start_time == 1500


def test_the_recipe_run_carries_the_mean_and_its_interval(uri):
    write(uri, *(trial(f"t{seed}", accuracy, seed=seed) for seed, accuracy in enumerate((0.60, 0.62, 0.64))))
    (recipe,) = runs(uri, "recipe").values()
    # By hand: sd 0.02, t(2 df, 97.5 %) = 4.3027, half-width h = 4.3027 × 0.02 / √3 = 0.04968; by Wilson's method with
    # w = h² / (0.62 × 0.38) = 0.010477, (0.62 + w / 2) / (1 + w) ± √(0.2356 w + w² / 4) / (1 + w).
    assert recipe.data.metrics["final/accuracy"] == pytest.approx(0.62)
    assert recipe.data.metrics["final/accuracy_low"] == pytest.approx(0.56930, abs=2e-5)
    assert recipe.data.metrics["final/accuracy_high"] == pytest.approx(0.66818, abs=2e-5)
    assert recipe.data.metrics["seeds"] == 3


def test_fresh_seeds_speak_for_a_recipe_once_there_are_any(uri):
    write(uri, trial("t0", 0.70), trial("t1", 0.60, arm="race", seed=100), trial("t2", 0.1, arm="adaptive", seed=7))
    (recipe,) = runs(uri, "recipe").values()
    assert recipe.data.metrics["final/accuracy"] == 0.60
    assert recipe.data.metrics["seeds"] == 1
    assert "final/accuracy_low" not in recipe.data.metrics
    assert recipe.data.tags["arm_counted"] == "race" and recipe.data.tags["arm"] == "adaptive,design,race"


def test_the_test_split_has_its_own_numbers(uri):
    measured = {"final/accuracy": 0.58, "test/accuracy": 0.55}
    write(uri, trial("t0", 0.6), trial("t1", arm="confirm", seed=200, metrics=measured))
    (recipe,) = runs(uri, "recipe").values()
    assert recipe.data.metrics["final/accuracy"] == 0.58 and recipe.data.metrics["test/accuracy"] == 0.55


def test_curves_are_histories_with_the_epoch_as_step(uri):
    members = (
        Point("balanced", 0, 3, 0.9, {"accuracy": 0.5}),
        Point("balanced", 1, 3, 0.9, {"accuracy": 0.7}),
        Point("final", 0, 4, 1.0, {"accuracy": 0.8}),
    )
    write(uri, trial("t0", curve=PLAIN.curve + members))
    run_id = runs(uri, "trial")["t0"].info.run_id
    history = reader.connect(uri).get_metric_history

    def points(key: str) -> list[tuple[int, float]]:
        return [(point.step, round(point.value, 9)) for point in history(run_id, key)]

    assert points("val/accuracy") == [(1, 0.4), (2, 0.61), (3, 0.6), (4, 0.8)]
    assert points("train/accuracy") == [(1, 0.4), (2, 0.61)]
    assert points("balanced/accuracy") == [(3, 0.6)]
    assert points("stage_final/accuracy") == [(4, 0.8)]
    assert points("final/accuracy") == [(4, 0.6)]
    assert points("recall/1") == [(4, 0.32)]
    assert points("cost/steps") == [(4, 4.0)]


def test_outcomes_become_the_status_of_the_run(uri):
    broken = {"metrics": {"final/accuracy": math.nan}, "recalls": (), "curve": ()}
    write(
        uri,
        trial("t0"),
        trial("t1", outcome="stopped"),
        trial("t2", outcome="diverged", reason="loss nan in epoch 1", **broken),
        trial("t3", outcome="failed", **(broken | {"metrics": {}})),
    )
    status = {name: run.info.status for name, run in runs(uri, "trial").items()}
    assert status == {"t0": "FINISHED", "t1": "KILLED", "t2": "FINISHED", "t3": "FAILED"}
    assert runs(uri, "trial")["t2"].data.tags["reason"] == "loss nan in epoch 1"
    assert runs(uri, "recipe")["r0"].data.metrics["seeds"] == 1


def test_the_whole_record_and_the_plan_are_artifacts_beside_the_store(uri, tmp_path):
    write(uri, trial("t0"))
    (record,) = tmp_path.glob("mlruns/longtail-digits-lt/*/artifacts/record.json")
    assert Record.from_dict(json.loads(record.read_text())) == trial("t0")
    (plan,) = tmp_path.glob("mlruns/longtail-digits-lt/*/artifacts/plan.json")
    assert json.loads(plan.read_text()) == {"stages": ["train"]}
    default_uri()  # Our own artifacts do not look like an old store.


def test_resuming_continues_the_same_runs(uri):
    write(uri, trial("t0", 0.6), trial("t1", 0.62, seed=1), status="KILLED")
    before = {level: {k: v.info.run_id for k, v in runs(uri, level).items()} for level in ("search", "recipe", "trial")}
    assert runs(uri, "search")["demo"].info.status == "KILLED"

    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({"trials": 9, "new": "x"}, {})
    assert runs(uri, "search")["demo"].info.status == "RUNNING" and tracker.before == "KILLED"
    for record in (trial("t0", 0.6), trial("t1", 0.62, seed=1), trial("t2", 0.64, seed=2)):
        tracker.log(record)
        tracker.log(record)
    assert tracker.close() == []

    after = {level: {k: v.info.run_id for k, v in runs(uri, level).items()} for level in ("search", "recipe", "trial")}
    assert after["search"] == before["search"] and after["recipe"] == before["recipe"]
    assert {name: after["trial"][name] for name in ("t0", "t1")} == before["trial"]
    assert len(reader.records(uri)[1]) == 3
    assert runs(uri, "recipe")["r0"].data.metrics["seeds"] == 3
    search = runs(uri, "search")["demo"]
    assert search.data.params == {"trials": "2", "new": "x"}
    assert json.loads(search.data.tags["resumed"]) == {"trials": "9"}
    assert search.data.metrics == {"trials": 3, "trials_finished": 3, "best_trial/design": 0.64}
    assert (search.data.tags["best_accuracy"], search.data.tags["best_arm"]) == ("0.62", "design")
    assert search.info.status == "FINISHED"


def test_what_only_tunes_checks_or_surrounds_leads_nothing(uri):
    write(uri, trial("t0", 0.9, arm="tune"), trial("t1", 0.95, arm="around", recipe="r1", title="less"))
    assert "best_accuracy" not in runs(uri, "search")["demo"].data.tags
    shown = runs(uri, "recipe")["r1"].data
    assert shown.metrics["final/accuracy"] == 0.95 and shown.tags["arm_counted"] == "around"


def test_a_trial_that_was_cut_off_while_it_was_written_is_completed(uri):
    write(uri, trial("t0"), trial("t1", seed=1))
    run_id = runs(uri, "trial")["t1"].info.run_id
    reader.connect(uri).update_run(run_id, status="RUNNING")
    assert list(reader.records(uri)[1]["trial"]) == ["t0"]
    write(uri, trial("t1", seed=1))
    assert runs(uri, "trial")["t1"].info.run_id == run_id
    assert list(reader.records(uri)[1]["trial"]) == ["t0", "t1"]


def test_a_failed_trial_that_ran_again_takes_its_run_over(uri):
    write(uri, trial("t0", outcome="failed", metrics={}))
    write(uri, trial("t0", 0.6))
    (row,) = reader.records(uri)[1].to_dict("records")
    assert (row["outcome"], row["final/accuracy"]) == ("finished", 0.6)


def test_a_taken_name_is_refused_unless_it_is_continued(uri):
    write(uri, trial("t0"))
    with pytest.raises(TrackingError, match=r"already holds a search 'demo' on digits-lt; .* --resume demo"):
        Tracker(uri, "demo", "digits-lt").start({}, {}, resume=False)


def test_many_classes_stay_within_the_limits(uri):
    recalls = tuple(0.5 for _ in range(3000))
    names, whole = tuple(f"class {index}" for index in range(3000)), (5,) * 3000
    large = {"recalls": (*recalls[1:], math.nan), "counts": whole, "val_counts": whole, "class_names": names}
    write(uri, trial("t0", **large), trial("t1", seed=1, recalls=recalls[:200], class_names=("ant", "bee")))
    metrics = {name: run.data.metrics for name, run in runs(uri, "trial").items()}
    assert "recall/0" not in metrics["t0"] and "recall/199" in metrics["t1"]
    assert runs(uri, "trial")["t0"].data.tags["counts"] == ELSEWHERE
    found = reader.records(uri)[1].set_index("trial")
    assert (found["counts"]["t0"], found["val_counts"]["t0"], found["class_names"]["t0"]) == (whole, whole, names)
    assert found["class_names"]["t1"] == ("ant", "bee")


def test_a_record_that_has_unknown_numbers_is_json_that_every_reader_accepts(uri):
    write(uri, trial("t0", recalls=(0.9, math.nan)))
    run = runs(uri, "trial")["t0"]
    text = mlflow_runs.read_artifact(reader.connect(uri), run, "record.json")

    def refuse(name: str) -> None:
        raise ValueError(name)

    record = Record.from_dict(json.loads(text, parse_constant=refuse))
    assert record.recalls[0] == 0.9 and math.isnan(record.recalls[1])
    assert math.isnan(reader.records(uri)[1]["recall/1"].item())


def test_data_may_be_called_anything(uri):
    tracker = Tracker(uri, "demo", "folder:Bob's 100 % \\photos")
    tracker.start({}, {})
    tracker.log(trial("t0", data=tracker.data))
    assert tracker.close() == []
    assert reader.records(uri)[1]["data"].item() == reader.searches(uri)["data"].item() == tracker.data


def test_long_plans_are_logged_in_several_batches(uri):
    choices = {f"stage/number_{i}": i for i in range(250)} | {"stage/long": "x" * 9000}
    curve = tuple(Point("s", 0, e, e / 2000, {"accuracy": 0.5}) for e in range(2000))
    write(uri, trial("t0", choices=choices, curve=curve))
    run = runs(uri, "trial")["t0"]
    assert len(run.data.params) == 251 + 5
    assert len(reader.curves(reader.records(uri)[1])) == 2000


PAIRS = pd.DataFrame(
    {
        "a": ["train/class_balanced", "x"],
        "b": ["train/cost_sensitive", "y(2)"],
        "verdict": ["conflict", "not applicable"],
        "b_given_a": [-0.28, math.nan],
        "a_given_b": [-0.27, math.nan],
    }
)


def test_verdicts_are_tags_of_the_search_run(uri):
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    tracker.summary({}, conflict_tags(PAIRS), {"conflicts.csv": "a,b\n"})
    tracker.summary(artifacts={"best.yaml": b"recipe: x\n"})
    assert tracker.close() == []
    search = runs(uri, "search")["demo"]
    key = "conflict/train/class_balanced--train/cost_sensitive"
    assert search.data.tags[key] == "conflict"
    assert search.data.tags["conflict/x--y.x28.2.x29."] == "not applicable"
    # one metric of each pair would be one chart of each pair
    assert not [name for name in search.data.metrics if name.startswith("conflict")]
    names = {file.path for file in reader.connect(uri).list_artifacts(search.info.run_id)}
    assert names == {"conflicts.csv", "best.yaml"}
    experiment = search.info.experiment_id
    assert mlflow_runs.pages(reader.connect(uri), [experiment], f"tags.`{key}` = 'conflict'")


def test_what_a_former_winner_needed_goes_away(uri):
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    tracker.summary({}, {"removal/a": "needed", "removal/b": "unknown", "kept": "yes"})
    tracker.summary({}, {"removal/b": "needed"}, replace=("removal/",))
    assert tracker.close() == []
    tags = runs(uri, "search")["demo"].data.tags
    assert {k: v for k, v in tags.items() if k.startswith(("removal/", "kept"))} == {
        "removal/b": "needed",
        "kept": "yes",
    }


def test_one_query_finds_every_search_and_recipe_with_a_conflict(uri):
    import mlflow

    both = ("train/class_balanced", "train/cost_sensitive")
    for name, verdict in (("one", "conflict"), ("two", "unresolved"), ("three", "conflict")):
        tracker = Tracker(uri, name, "digits-lt")
        tracker.start({}, {})
        tracker.log(trial("t0", search=name, recipe="r-both", tricks=both))
        tracker.log(trial("t1", search=name, recipe="r-single", tricks=both[:1]))
        tracker.log(trial("t2", search=name, recipe="r-lr", tricks=both, arm="check", setting="lr/3"))
        table = PAIRS.assign(verdict=[verdict, "not applicable"])
        tracker.summary({}, conflict_tags(table), {"conflicts.csv": "a,b\n"})
        tracker.mark(table)
        assert tracker.close() == []
    key = "conflict/train/class_balanced--train/cost_sensitive"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        query = f"tags.level = 'search' and tags.`{key}` = 'conflict'"
        found = mlflow.search_runs(experiment_names=["longtail/digits-lt"], filter_string=query)
        assert sorted(found["tags.search"]) == ["one", "three"]
        recipes = mlflow.search_runs(
            experiment_names=["longtail/digits-lt"],
            filter_string=f"tags.level = 'recipe' and tags.`{key}` = 'conflict'",
        )
        assert recipes["tags.recipe"].tolist() == ["r-both", "r-both"]
    finally:
        mlflow.set_tracking_uri(before)
    one = runs(uri, "search")["one"]
    assert {file.path for file in reader.connect(uri).list_artifacts(one.info.run_id)} == {
        "conflicts.csv", "records.jsonl"
    }  # fmt: skip


def test_verdicts_reach_recipes_of_a_search_that_goes_on(uri):
    both = ("train/class_balanced", "train/cost_sensitive")
    write(uri, trial("t0", recipe="r-both", tricks=both))
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    tracker.replay([trial("t0", recipe="r-both", tricks=both)])
    tracker.mark(PAIRS)
    assert tracker.close() == []
    experiment = runs(uri, "search")["demo"].info.experiment_id
    recipe = next(iter(mlflow_runs.pages(reader.connect(uri), [experiment], "tags.level = 'recipe'")))
    assert recipe.data.tags["conflict/train/class_balanced--train/cost_sensitive"] == "conflict"


def test_what_is_still_to_be_tried_again_is_missing_when_the_writer_is_given_up():
    client = SimpleNamespace(
        uri="http://memory.test", answered=0.0, answers=0, close=lambda: None, search_experiments=lambda **_: []
    )
    answer = threading.Event()
    calls = Counter()

    def fails(name: str) -> Job:
        def run(runs: object) -> None:
            calls[name] += 1
            if calls[name] == 2:
                answer.wait()
            raise ValueError("refused")

        return Job(name, run)

    writer = BackgroundWriter(SimpleNamespace(client=client), Job("", lambda runs: None))
    for name in ("trial 1", "trial 2"):
        writer.put(fails(name))
    assert writer.close([], patience=0.0, tell=lambda text: None) == ["trial 2", "trial 1"]
    answer.set()
    writer.join()


def test_errors_of_the_writer_are_told_and_do_not_raise(uri, caplog):
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    bad = trial("t1", metrics={"final/loss": "high"})
    with caplog.at_level(logging.WARNING):
        tracker.log(bad)
        tracker.log(trial("t2"))
        errors = tracker.close()
    assert errors == ["trial t1"] and tracker.close() == errors
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("search.mlflow_tracker")]
    assert len(lines) == 1
    assert lines[0].startswith("MLflow did not take trial t1 (ValueError: could not convert string to float: 'high')")
    assert tracker.missing.startswith("MLflow lacks trial t1: MLflow did not take trial t1 (ValueError: could not")
    assert tracker.missing.endswith("write it later with: python -m search.sync demo")
    assert list(reader.records(uri)[1]["trial"]) == ["t2"]


def test_what_fails_once_is_written_on_the_second_attempt(uri, monkeypatch):
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    real, calls = tracker._runs.client.log_batch, []

    def locked(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("database is locked")
        return real(*arguments, **options)

    monkeypatch.setattr(tracker._runs.client, "log_batch", locked)
    tracker.log(trial("t0"))
    tracker.flush()
    assert tracker.close() == []
    assert list(reader.records(uri)[1]["trial"]) == ["t0"]


def test_a_search_that_is_interrupted_ends_its_run_as_killed(uri):
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    tracker.log(trial("t0"))
    tracker.close("KILLED")
    assert runs(uri, "search")["demo"].info.status == "KILLED"
    assert list(reader.records(uri)[1]["trial"]) == ["t0"]


def test_log_before_start_and_after_close_is_refused(uri):
    tracker = Tracker(uri, "demo", "digits-lt")
    with pytest.raises(TrackingError, match=r"search 'demo' is not open in MLflow: call start\(\)"):
        tracker.log(trial("t0"))
    tracker.close()


def test_names_are_checked(uri):
    with pytest.raises(TrackingError, match=r"name of the search: no slash, quote, .* got \"it's\""):
        Tracker(uri, "it's", "digits-lt")


def test_default_uri_is_the_store_of_a_bare_mlflow_ui(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_uri() == f"sqlite:////{str(tmp_path)[1:]}/mlflow.db"
    assert where_to_look(default_uri()) == "mlflow ui"
    assert not any(tmp_path.iterdir())


def test_a_stray_store_of_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns" / "123").mkdir(parents=True)
    (tmp_path / "mlruns" / "123" / "meta.yaml").touch()
    with pytest.raises(TrackingError, match=r"mlruns/123/meta.yaml is left .* move ./mlruns away .* --tracking-uri"):
        default_uri()


@pytest.mark.parametrize("what", ["folder", "missing", "sign"])
def test_a_store_that_cannot_be_written_is_refused(what, tmp_path):
    place = {"folder": tmp_path / "d", "missing": tmp_path / "no" / "mlflow.db", "sign": tmp_path / "50%.db"}[what]
    (tmp_path / "d").mkdir()
    match = {"folder": "is a folder", "missing": "there is no folder", "sign": "holds one of"}[what]
    with pytest.raises(TrackingError, match=rf"the MLflow store cannot be written: .*{match}.*--tracking-uri"):
        Tracker(f"sqlite:///{place}", "demo", "digits-lt")
    check("postgresql://elsewhere/db")  # Only files can be looked at without connecting.


@pytest.mark.parametrize(
    ("read_only", "match"), [("mlflow.db", "mlflow.db is read-only"), ("", "the folder .* is read-only")]
)
def test_a_read_only_store_is_refused(read_only, match, tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").touch()
    refused = str(tmp_path / read_only)
    # Tests may run as root, whom no permission stops.
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != refused)
    with pytest.raises(TrackingError, match=match):
        check(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, whatever its name says\n" * 50)
    with pytest.raises(TrackingError, match=r"cannot be opened: .*file is not a database.*--tracking-uri"):
        prepare(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_store_of_another_mlflow_is_refused_with_mlflows_own_advice(uri, tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    shutil.move(tmp_path / "mlflow.db", tmp_path / "old.db")
    with pytest.raises(TrackingError, match=r"out-of-date database schema.*mlflow db upgrade"):
        prepare(f"sqlite:///{tmp_path / 'old.db'}")


def test_a_deleted_experiment_is_refused(uri):
    write(uri, trial("t0"))
    client = reader.connect(uri)
    client.delete_experiment(client.get_experiment_by_name("longtail/digits-lt").experiment_id)
    with pytest.raises(TrackingError, match=r"experiment 'longtail/digits-lt' was deleted .* restore"):
        Tracker(uri, "demo", "digits-lt").start({}, {})


def test_a_server_that_does_not_answer_is_refused_at_once():
    tracker = Tracker("http://127.0.0.1:9", "demo", "digits-lt")
    with pytest.raises(TrackingError, match=r"no MLflow server answers at http://127.0.0.1:9 .* --tracking-uri"):
        tracker.start({}, {})
    assert tracker.close() == []


def test_the_list_of_searches(uri, capsys):
    assert list_searches([]) == 0
    assert "no search yet" in capsys.readouterr().out
    write(uri, trial("t0", 0.614), trial("t1", seed=1, outcome="stopped"))
    assert list_searches(["--tracking-uri", uri]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"searches in {uri}"
    assert out.splitlines()[1].split() == ["search", "data", "started", "(UTC)", "trials", "finished", "best", "status"]
    words = out.splitlines()[2].split()
    assert words[:2] + words[4:] == ["demo", "digits-lt", "2", "1", "61.4", "%", "(design)", "finished"]


def test_the_list_without_a_store_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert list_searches([]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"python -m search.list: error: there is no MLflow store at {tmp_path / 'mlflow.db'}; run a search"
    )
    assert error.count("\n") == 1


def test_the_best_is_the_leader_of_the_ranking(uri):
    write(
        uri,
        trial("t0", 0.60),
        trial("t1", 0.95, recipe="r1", title="lucky", arm="adaptive", seed=9),
        trial("t2", 0.70, recipe="r2", title="raced", arm="race", seed=100),
        trial("t3", 0.65, recipe="r0", arm="race", seed=100),
    )
    assert reader.searches(uri)["best_accuracy"].item() == 0.70
    assert reader.ranking(reader.records(uri)[1])["title"].tolist() == ["raced", "baseline", "lucky"]
    with pytest.raises(RecordError, match="of the test split, which may not choose anything"):
        reader.ranking(reader.records(uri)[1], "test/accuracy")

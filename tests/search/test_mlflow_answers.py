"""What MLflow's run table, its charts and the search's own run answer by themselves."""

import base64
import dataclasses
import io
import json
import zlib

import pandas as pd
import pytest
from PIL import Image

from analysis.records import mlflow_runs, reader
from search.mlflow_tracker import Tracker, conflict_tags, conflicts_in, saved_view
from search.mlflow_tracker.names import distinct_name, recipe_name
from tests.search.test_tracking import PLAIN, runs, trial

PLAN = {"stages": [{"name": "first"}, {"name": "late"}]}
A, B = "first/focal", "late/class_balanced"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("baseline", "baseline"),
        ("baseline, with a plain late stage", "baseline, with a plain late stage"),
        ("first/focal + late/class_balanced, lr/3", "focal + late/class_balanced, lr/3"),
        ("classifier/classifier", "classifier"),
        ("MiSLAS-like: first/mixup + late/focal", "MiSLAS-like"),
        ("baseline at the winner's numbers", "baseline, the winner's numbers"),
        ("first/a + first/b + first/c + late/d", "a + b + 2 more"),
    ],
)
def test_a_recipe_is_named_by_its_tricks(title, name):
    assert recipe_name(dataclasses.replace(PLAIN, title=title, plan=PLAN)) == name


def test_no_two_recipes_of_a_search_have_one_name():
    taken: dict[str, str] = {}
    ids = ["3767aaaaaa", "3767bbbbbb", "3767cccccc"]
    names = [distinct_name("focal", recipe, taken) for recipe in ids]
    assert names == ["focal", "focal #3767", "focal #3767cccccc"]
    assert [distinct_name("focal", recipe, taken) for recipe in ids] == names  # a search that is resumed


def cells() -> list:
    """Three seeds of the four cells; of the pair on one seed less."""
    values = {
        "r00": ((), "baseline", (0.60, 0.62, 0.64)),
        "r10": ((A,), A, (0.70, 0.74, 0.72)),
        "r01": ((B,), B, (0.65, 0.66, 0.67)),
        "r11": ((A, B), f"{A} + {B}", (0.60, 0.66)),
    }
    return [
        trial(f"{recipe}-{seed}", value, recipe=recipe, tricks=tricks, title=title, seed=seed, plan=PLAN, context="")
        for recipe, (tricks, title, seeds) in values.items()
        for seed, value in enumerate(seeds)
    ]


PAIRS = pd.DataFrame(
    {
        "a": [A], "b": [B], "verdict": ["conflict"], "context": [""],
        "b_given_a": [-0.09], "b_given_a_low": [-0.13], "b_given_a_high": [-0.05],
        "a_given_b": [-0.02], "a_given_b_low": [-0.06], "a_given_b_high": [0.02],
    }
)  # fmt: skip


def png() -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (1500, 300), "white").save(picture, "PNG")
    return picture.getvalue()


def test_which_tricks_conflict_is_answered_by_recipes_chart_and_search(uri):
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    assert runs(uri, "search")["demo"].data.tags["conflicts"] == "not known yet"
    tracker.replay(cells())
    found = {"conflicts": conflicts_in([(A, B, "conflict")]), "mlflow.note.content": "**Avoid.** Both."}
    tracker.summary({}, conflict_tags(PAIRS) | found, {"conflicts.png": png()})
    tracker.mark(PAIRS)
    assert tracker.close() == []

    recipes = runs(uri, "recipe")
    pair = recipes["r11"].data
    assert pair.tags["mlflow.runName"] == "focal + late/class_balanced"
    assert pair.tags["conflicts"] == "focal × class_balanced" and pair.tags["verdict"] == "conflict"
    # the smaller of the two changes, with its own interval
    worst = [pair.metrics[f"pair/worst_change{end}"] for end in ("", "_low", "_high")]
    assert worst == [-0.09, -0.13, -0.05]
    assert recipes["r10"].data.tags["conflicts"] == "none" and "verdict" not in recipes["r10"].data.tags
    # By hand: gains 0.10, 0.12, 0.08, mean 0.10, sd 0.02, t(2 df, 97.5 %) = 4.3027, half-width 0.04968.
    gain = [recipes["r10"].data.metrics[name] for name in ("gain", "gain_low", "gain_high")]
    assert gain == pytest.approx([0.10, 0.05032, 0.14968], abs=2e-5)
    assert "gain" not in recipes["r00"].data.metrics  # over itself

    search = runs(uri, "search")["demo"]
    assert search.data.tags["conflicts"] == "focal × class_balanced"
    client = reader.connect(uri)
    images = sorted(file.path for file in client.list_artifacts(search.info.run_id, "images"))
    assert [path.partition("+step+")[0] for path in images] == ["images/conflicts"] * 2
    assert search.data.tags["mlflow.loggedImages"] == "True"
    small = mlflow_runs.local_folder(uri, search.info.artifact_uri) / images[0]
    with Image.open(small) as shown:
        assert (shown.format, shown.size) == ("WEBP", (1024, 205))

    experiment = client.get_experiment(search.info.experiment_id)
    for view in saved_view.VIEWS:
        assert saved_view.link(experiment.experiment_id, "demo", view) in search.data.tags["mlflow.note.content"]
        kept = json.loads(experiment.tags[saved_view.PREFIX + saved_view.view_id("demo", view)])
        assert kept["name"] == f"demo: {view}"
        state = json.loads(zlib.decompress(base64.b64decode(kept["state"].removeprefix("deflate;"))))
        listed = mlflow_runs.pages(client, [experiment.experiment_id], state["searchFilter"])
        expected = {"r11"} if view == "which tricks conflict" else set(recipes)
        assert {run.data.tags["recipe"] for run in listed} == expected


def models_of(uri: str) -> dict:
    client = reader.connect(uri)
    (experiment,) = (e.experiment_id for e in client.search_experiments() if e.name.startswith("longtail/"))
    return {model.tags["role"]: model for model in client.search_logged_models([experiment])}


def test_winner_and_baseline_are_models_with_their_numbers_on_their_data(uri):
    records = [dataclasses.replace(record, fingerprint=f"split{record.seed}") for record in cells()]
    confirmed = trial(
        "r10-confirm", 0.7, recipe="r10", title=A, tricks=(A,), seed=7, arm="confirm", fingerprint="split7", plan=PLAN
    )
    confirmed.metrics["test/accuracy"] = 0.69
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    tracker.replay([*records, confirmed])
    tracker.summary({}, {}, {})
    assert tracker.close() == []

    models, recipes, trials = models_of(uri), runs(uri, "recipe"), runs(uri, "trial")
    assert set(models) == {"winner", "baseline"}
    winner = models["winner"]
    assert winner.name == "demo winner" and str(winner.status) == "READY" and winner.tags["recipe"] == "r10"
    assert winner.source_run_id == recipes["r10"].info.run_id
    assert [each.model_id for each in recipes["r10"].outputs.model_outputs] == [winner.model_id]
    numbers = {(metric.run_id, metric.key): metric for metric in winner.metrics}
    tested = numbers[trials["r10-confirm"].info.run_id, "test/accuracy"]
    assert (tested.value, tested.dataset_name, tested.dataset_digest) == (0.69, confirmed.data, "split7")
    measured = {
        metric.dataset_digest: metric.value for metric in models["baseline"].metrics
        if metric.key == "final/accuracy" and metric.dataset_digest
    }  # fmt: skip
    assert measured == {"split0": 0.60, "split1": 0.62, "split2": 0.64}
    # the inputs of the runs are these splits, and the trials' own numbers are as before
    inputs = runs(uri, "search")["demo"].inputs.dataset_inputs
    assert {each.dataset.digest for each in inputs} == {"split0", "split1", "split2", "split7"}
    (own,) = trials["r10-confirm"].inputs.dataset_inputs
    assert own.dataset.digest == "split7" and own.tags[0].value == "train, val, test"
    client = reader.connect(uri)
    history = client.get_metric_history(trials["r10-confirm"].info.run_id, "final/accuracy")
    assert [point.value for point in history] == [0.7]

    # the same again writes nothing; another winner takes the place of the first
    again = Tracker(uri, "demo", "digits-lt")
    again.start({}, {})
    again.replay([*records, confirmed])
    again.summary({}, {}, {})
    again.flush()
    assert {model.model_id for model in models_of(uri).values()} == {model.model_id for model in models.values()}
    better = trial("r01-confirm", 0.9, recipe="r01", title=B, tricks=(B,), seed=7, arm="confirm", plan=PLAN)
    again.replay([better])
    again.summary({}, {}, {})
    assert again.close() == []
    after = models_of(uri)
    assert after["winner"].tags["recipe"] == "r01" and after["baseline"].model_id == models["baseline"].model_id


def test_a_pair_that_is_no_longer_judged_loses_its_numbers(uri):
    for table in (PAIRS, PAIRS.assign(verdict="not applicable", b_given_a=float("nan"))):
        tracker = Tracker(uri, "demo", "digits-lt")
        tracker.start({}, {})
        tracker.replay(cells())
        tracker.mark(table)
        assert tracker.close() == []
    pair = runs(uri, "recipe")["r11"].data
    assert "verdict" not in pair.tags and pair.tags["conflicts"] == "none"
    assert pair.metrics["pair/worst_change"] != pair.metrics["pair/worst_change"]  # not a number


def test_views_of_old_searches_make_room():
    tags = {
        saved_view.PREFIX + saved_view.view_id(f"s{number}", view): json.dumps({"createdAt": number})
        for number in range(12)
        for view in saved_view.VIEWS
    }
    gone = saved_view.superseded(tags | {saved_view.PREFIX + "of-a-person": "{}"}, "s11")
    expected = {
        saved_view.PREFIX + saved_view.view_id(f"s{number}", view) for number in (0, 1) for view in saved_view.VIEWS
    }
    assert set(gone) == expected


def test_a_view_fits_into_a_tag_and_shows_what_differs():
    records = [
        dataclasses.replace(PLAIN, arm="adaptive", choices={"first/weight": "focal", "first/lr": 0.1}),
        dataclasses.replace(PLAIN, choices={"first/draw": None, "first/mix": "cutmix", "stages": "first"}),
        dataclasses.replace(PLAIN, choices={"first/draw": "class_balanced", "first/mix": "cutmix", "stages": "first"}),
    ]
    assert saved_view.trick_columns(records) == ["stages", "first/mix", "first/draw", "first/weight"]
    long = [f"stage/{'x' * 900}{number}{'y' * number}" for number in range(40)]
    assert len(saved_view.saved_view("demo", "all recipes", long, 1)) <= 5000

"""`search.export` on records made by hand, in a real store."""

import dataclasses
import math
import shutil
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from analysis.records import reader
from analysis.records.schema import Decisions, Record
from search.commands import export
from search.commands.export import ExportError, document
from search.export import main
from search.mlflow_tracker import Tracker
from spaces.domain import Space, Stage, one_of
from trainables.data import load as digits
from trainables.data import standard
from trainables.final.recipe import read_recipe
from trainables.plan import build, defaults
from trainables.train import main as final_training

TRICKS = [one_of(None, "cost_sensitive"), one_of(None, "class_balanced")]
SPACE = Space(stages=[Stage("first", length=1, choose=TRICKS)])


def recipe(*labels):
    return build(SPACE, defaults(labels), standard("digits-lt"))


BASE, ONE, TWO = recipe(), recipe("first/cost_sensitive"), recipe("first/cost_sensitive", "first/class_balanced")


DATA = {seed: digits("digits-lt", imbalance=50, split_seed=seed) for seed in (0, 1, 2, 3000, 3001)}


def record(made, seed: int, value: float, arm="design", outcome="finished") -> Record:
    return Record(
        search="demo", trial=f"{arm}-{made.plan.id}-{seed}", arm=arm, recipe=made.plan.id, title=made.title, seed=seed,
        split_seed=seed, first_stage=f"fs{seed}", tricks=made.labels, context="", outcome=outcome, choices=made.choices,
        plan=made.plan.to_dict(), data="digits-lt", model="resnet8", imbalance=50.0, fingerprint=DATA[seed].fingerprint,
        counts=tuple(DATA[seed].counts.tolist()), val_counts=(24,) * 10, epochs=30, epochs_trained=30, images=1,
        steps=1, seconds=1.0, seconds_saved=0.0, reused=(),
        metrics={"final/accuracy": value} if outcome == "finished" else {}, started=1_700_000_000.0 + seed,
    )  # fmt: skip


RECORDS = [
    *(record(BASE, seed, value) for seed, value in enumerate((0.60, 0.62, 0.64))),
    *(record(ONE, seed, value) for seed, value in enumerate((0.70, 0.72, 0.74))),
    *(record(TWO, seed, value) for seed, value in enumerate((0.50, 0.52, 0.54))),
    *(record(BASE, 3000 + seed, value, "confirm") for seed, value in enumerate((0.61, 0.65))),
    *(record(ONE, 3000 + seed, value, "confirm") for seed, value in enumerate((0.69, 0.75))),
]
PLANS = {made.plan.id: made.plan.to_dict() for made in (BASE, ONE, TWO)}


def best(records=RECORDS, **more) -> dict:
    return document(reader.frame(records), PLANS.__getitem__, **more)


def test_a_recipe_names_precision_confusions_and_calibration(tmp_path):
    names = tuple(map(str, range(10)))
    predicted = (30, 18, *(24,) * 8)
    fitted = {"temperature": 1.5, "calibration_error_uncalibrated": 0.2, "calibrated_error": 0.05}

    def complete(row: Record) -> Record:
        metrics = row.metrics | {f"final/{name}": value for name, value in fitted.items()}
        said = Decisions(predicted, ((1, 0, 6),))
        return dataclasses.replace(
            row, decisions=said, recalls=(1.0, 0.75, *(1.0,) * 8), class_names=names, metrics=metrics
        )

    measured = best([complete(row) for row in RECORDS])["measured"]
    assert measured["calibration"] | fitted == measured["calibration"]
    assert measured["precision"][0] | {"class": "0", "mean": 0.8} == measured["precision"][0]  # 24 of 30
    (mistake,) = measured["confusions"]
    assert (mistake["true"], mistake["predicted"], mistake["images"]) == ("1", "0", 12)  # two seeds
    assert mistake["share"]["mean"] == 0.25
    assert "precision" not in best()["measured"]  # records of earlier versions
    export.write(best([complete(row) for row in RECORDS]), tmp_path / "best.yaml")
    assert read_recipe(tmp_path / "best.yaml")["measured"]["confusions"] == [mistake]


def test_the_best_recipe_with_its_numbers_by_hand():
    found = best()
    assert (found["recipe"], found["title"]) == (ONE.plan.id, "first/cost_sensitive")
    measured = found["measured"]
    assert (measured["arm"], measured["seeds"], measured["values"]) == ("confirm", [3000, 3001], [0.69, 0.75])
    # two values: mean 0.72, t(1) = 12.7062, s = 0.042426, half width 12.7062 · 0.042426 / √2 = 0.381186
    assert measured["mean"] == pytest.approx(0.72)
    # by Wilson's method, w = 0.381186² / (0.72 · 0.28) = 0.72074: (0.72 + w / 2) / (1 + w) = 0.62785 and
    # √(0.2016 w + w² / 4) / (1 + w) = 0.30485
    assert measured["low"] == pytest.approx(0.62785 - 0.30485, abs=1e-5)
    assert measured["high"] == pytest.approx(0.62785 + 0.30485, abs=1e-5)
    # prediction of one more: 12.7062 · 0.042426 · √1.5 = 0.660233, and no accuracy is above 1
    assert measured["prediction"] == {"low": pytest.approx(0.72 - 0.660233, abs=1e-5), "high": 1.0}
    # paired with the baseline of the same arm: 0.08 and 0.10
    gain = measured["gain_over_baseline"]
    assert (gain["mean"], gain["seeds"]) == (pytest.approx(0.09), 2)
    assert found["provenance"]["fingerprints"] == sorted(DATA[seed].fingerprint for seed in (3000, 3001))


def test_another_rank_and_a_recipe_by_its_id():
    ranked = [best(rank=rank)["recipe"] for rank in (1, 2, 3)]
    assert sorted(ranked) == sorted(PLANS) and ranked[0] == ONE.plan.id
    assert best(recipe=TWO.plan.id)["title"] == "first/cost_sensitive + first/class_balanced"


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"rank": 4}, "--rank must be 1 to 3 (that many recipes have finished), got 4"),
        ({"rank": 0}, "--rank must be 1 to 3 (that many recipes have finished), got 0"),
        ({"recipe": "nothing"}, f"no finished recipe has the id 'nothing'; the best is '{ONE.plan.id}'"),
    ],
)
def test_what_is_not_there_is_refused(more, sentence):
    with pytest.raises(ExportError) as caught:
        best(**more)
    assert str(caught.value) == sentence


def test_how_the_trials_computed_goes_along():
    usual = {
        "precision": "fp32",
        "channels_last": "auto",
        "fused_members": "off",
        "graph": "off",
        "fused_trials": "off",
    }
    assert best()["numerics"] == usual
    assert best(settings={"precision": "bf16", "trials": 4})["numerics"] == usual | {"precision": "bf16"}


def test_the_looks_of_a_search_are_judged_at_their_shares(uri, tmp_path, monkeypatch):
    """Further blocks that a search ran after looking lie in the store as a tag."""
    with closing(Tracker(uri, "demo", "digits-lt")) as tracker:
        tracker.start({"margin": 0.02, "primary": "first/cost_sensitive×first/class_balanced"}, {"looks": "[2]"})
        for one in RECORDS:
            tracker.log(one)
    asked = []
    monkeypatch.setattr(export, "verdict_table", lambda trials, **given: asked.append(given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["--tracking-uri", uri, "--out", str(tmp_path / "best.yaml")])
    pair = "first/cost_sensitive×first/class_balanced"
    assert asked == [{"margin": 0.02, "primary": pair, "firsts": [2]}]


def test_nothing_finished():
    with pytest.raises(ValueError, match="no trial"):
        best([record(BASE, 0, 0.0, outcome="diverged")])


def test_one_seed_is_unknown_and_not_zero():
    measured = best([record(ONE, 0, 0.7)])["measured"]
    assert measured["mean"] == 0.7 and measured["low"] is None and measured["prediction"]["low"] is None
    assert measured["gain_over_baseline"] == {"mean": None, "low": None, "high": None, "seeds": 0}


def test_verdicts_that_concern_the_recipe():
    row = {"a": "first/class_balanced", "b": "first/cost_sensitive", "verdict": "conflict", "reason": "because"}
    conflicts = pd.DataFrame([row])
    assert best(conflicts=conflicts)["conflicts"] == []
    assert best(conflicts=conflicts, recipe=TWO.plan.id)["conflicts"] == [
        {"pair": "first/class_balanced × first/cost_sensitive", "verdict": "conflict", "reason": "because"}
    ]


def test_what_is_written_is_read_by_the_final_training(tmp_path):
    file = tmp_path / "best.yaml"
    export.write(best(), file)
    head = file.read_text().splitlines()[:2]
    assert head == [f"# Recipe {ONE.plan.id} of the search demo: first/cost_sensitive",
                    "# python -m trainables.train best.yaml"]  # fmt: skip
    read = read_recipe(file)
    assert read["plan"] == ONE.plan.to_dict() and read["measured"]["values"] == [0.69, 0.75]


@pytest.fixture(scope="module")
def logged(tmp_path_factory, empty_store) -> str:
    """A store with one search."""
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('export'))}"
    with closing(Tracker(uri, "demo", "digits-lt")) as tracker:
        tracker.start({"margin": 0.02}, {})
        for one in RECORDS:
            tracker.log(one)
    return uri


def test_the_command(logged, tmp_path, capsys):
    out = tmp_path / "best.yaml"
    assert main(["--tracking-uri", logged, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"search demo in {logged}" in said and f"written to {out}" in said
    assert f"recipe {ONE.plan.id}: first/cost_sensitive, accuracy on val 72.0 %" in said
    written = yaml.safe_load(out.read_text())
    assert written["plan"] == ONE.plan.to_dict()
    assert not any(math.isnan(v) for v in written["measured"]["values"])


def test_the_verdicts_are_those_of_every_look_at_its_share(uri, tmp_path, monkeypatch):
    with closing(Tracker(uri, "looked", "digits-lt")) as tracker:
        tracker.start({"margin": 0.02, "primary": "first/class_balanced×first/cost_sensitive"}, {})
        for one in RECORDS:
            tracker.log(one)
        tracker.summary({}, {"looks": "[1]"})
    assert reader.looks(uri, "looked") == [1]
    asked = []
    monkeypatch.setattr(export, "verdict_table", lambda trials, **given: asked.append(given))
    assert main(["--tracking-uri", uri, "--out", str(tmp_path / "best.yaml")]) == 0
    assert asked == [{"margin": 0.02, "primary": "first/class_balanced×first/cost_sensitive", "firsts": [1]}]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--rank", "9"], "--rank must be 1 to 3"),
        (["--recipe", "nothing"], "no finished recipe has the id 'nothing'"),
        (["--search", "demi"], "demi"),
        (["--out", "/proc/best.yaml"], "/proc/best.yaml"),
    ],
)
def test_bad_input(logged, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["--tracking-uri", logged, *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m search.export: error: ") and sentence in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_not_there(tmp_path, capsys):
    assert main(["--tracking-uri", f"sqlite:///{tmp_path}/none.db", "--out", str(tmp_path / "best.yaml")]) == 2
    assert "none.db" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_records_keep_their_plan(logged):
    assert ONE.plan.to_dict() in reader.records(logged, "demo")[1]["plan"].tolist()
    assert dataclasses.asdict(RECORDS[0])["plan"] == BASE.plan.to_dict()


def test_a_search_that_was_shorter_than_the_final_training_says_so():
    assert best(settings={"final_share": 0.25})["measured"]["length"] == "measured at 25 % of the final length"
    assert "length" not in best(settings={"final_share": 1.0})["measured"] and "length" not in best()["measured"]


@pytest.mark.parametrize(
    "why, share, marked",
    [("shown at lr/3, lr*3 too", 0.4, True), ("shown at lr/3, lr*3, full length too", 0.4, False), ("", 1.0, False)],
)
def test_verdicts_below_the_final_length_are_marked(why, share, marked):
    row = {"a": "first/class_balanced", "b": "first/cost_sensitive", "verdict": "conflict", "reason": "because",
           "holds": "final", "holds_why": why}  # fmt: skip
    found = best(recipe=TWO.plan.id, conflicts=pd.DataFrame([row]), settings={"final_share": share})["conflicts"][0]
    assert found.get("length") == ("measured at 40 % of the final length" if marked else None)


def test_a_verdict_says_where_it_holds():
    conflicts = pd.DataFrame([
        {"a": "first/class_balanced", "b": "first/cost_sensitive", "verdict": "conflict", "reason": "why",
         "holds": "final", "holds_why": "shown at lr/3, lr*3 too"},
    ])  # fmt: skip
    found = best(recipe=TWO.plan.id, conflicts=conflicts)["conflicts"]
    assert found == [{"pair": "first/class_balanced × first/cost_sensitive", "verdict": "conflict", "reason": "why",
                      "holds": "final: shown at lr/3, lr*3 too"}]  # fmt: skip


# --- data, code and places --------------------------------------------------------------------------------


@pytest.fixture
def photos(uri, tmp_path):
    """A search of the user's own images in a store; their folder."""
    for label, (name, count) in enumerate({"ant": 30, "bee": 12}.items()):
        (tmp_path / "data" / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.RandomState(100 * label + number).randint(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "photos" / name / f"{number}.png")
    with closing(Tracker(uri, "own", "folder:photos")) as tracker:
        tracker.start({"margin": 0.02, "data_root": str(tmp_path / "data")}, {})
        for seed in range(2):
            data = digits("folder:photos", root=str(tmp_path / "data"), split_seed=seed)
            val = tuple(data.val_labels.bincount(minlength=2).tolist())
            tracker.log(
                dataclasses.replace(
                    record(BASE, seed, 0.6 + seed / 10), data="folder:photos", imbalance=data.imbalance,
                    fingerprint=data.fingerprint, counts=tuple(data.counts.tolist()), val_counts=val,
                )
            )  # fmt: skip
    return tmp_path / "data" / "photos"


def test_a_recipe_says_which_data_it_was_found_on_without_places_or_a_cut(photos, tmp_path):
    (tmp_path / "out").mkdir()
    assert main(["--search", "own", "--out", "out/best.yaml"]) == 0
    text = (tmp_path / "out" / "best.yaml").read_text()
    written = yaml.safe_load(text)
    assert str(tmp_path) not in text and written["provenance"]["data_root"] == "../data"
    assert written["data"]["imbalance"] is None  # a tail of their own is not cut, however it grows
    images = written["data"]["images"]
    assert list(images) == ["train", "val", "test"] and "counts" not in written["data"]
    assert (written["data"]["classes"], [sum(each) for each in zip(*images.values(), strict=True)]) == (
        ["ant", "bee"],
        [30, 12],
    )
    assert len(written["data"]["fingerprint"]) == 16
    assert read_recipe(tmp_path / "out" / "best.yaml")["provenance"]["data_root"] == str(tmp_path / "data")


@pytest.mark.parametrize("gone", [False, True])
def test_the_identity_of_other_data_is_not_given_for_that_of_the_search(gone, photos, tmp_path, capsys):
    if gone:
        shutil.rmtree(photos)
    else:
        shutil.move(photos / "ant" / "0.png", photos / "bee" / "100.png")
    assert main(["--search", "own"]) == 0
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["data"] == {"name": "folder:photos", "imbalance": None}
    train = ["best.yaml", "--tracking-uri", "none", "--no-program", "--epochs-scale", "0.05"]
    assert final_training(train) == 2
    printed = capsys.readouterr().err
    if gone:
        assert "folder:photos: there is no" in printed
    else:
        assert "how many images each class had was not noted; take the old data again" in printed
        assert final_training([*train, "--new-data"]) == 0


def test_own_code_is_noted_by_its_hash_and_only_where_the_plan_runs_it(tmp_path):
    settings = {"tricks": [str(tmp_path)], "data": "digits-lt"}
    assert best(settings=settings)["provenance"]["tricks"] == []
    (tmp_path / "mine.py").write_text("def net(num_classes):\n    raise SystemExit\n")
    own = [dataclasses.replace(one, model=f"{tmp_path / 'mine.py'}:net") for one in RECORDS]
    found = best(own)
    assert set(found["provenance"]["code"]) == {"mine"}
    export.write(found, tmp_path / "best.yaml")
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["model"] == "mine.py:net"


def test_a_title_cannot_leave_its_comment(tmp_path):
    found = best() | {"title": "a\nformat: 2"}
    export.write(found, tmp_path / "two words.yaml")
    head = (tmp_path / "two words.yaml").read_text().splitlines()[:3]
    assert head[0].endswith("a format: 2") and head[1] == "# python -m trainables.train 'two words.yaml'"
    assert read_recipe(tmp_path / "two words.yaml")["title"] == "a\nformat: 2"

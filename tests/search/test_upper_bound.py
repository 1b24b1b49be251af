"""Upper bound and relative accuracy: the numbers, the balanced data, and the command over a finished search."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.records import reader
from analysis.stats.intervals import UNKNOWN
from search.option import SettingsError
from search.recipes.written import stages_of
from search.scheduling.journal import Journal
from search.settings import Settings
from search.upper_bound import __main__ as upper_bound
from search.upper_bound import command
from search.upper_bound.measures import measured, note, ratio
from spaces.domain import Space, Stage, one_of, trick
from spaces.recipes import published, published_systems
from tests.search import in_process
from trainables.data import DataError, load, standard, with_balanced_train
from trainables.plan import build, defaults


def blocks(*accuracies: float) -> pd.DataFrame:
    """Trials of a recipe, one for each seed block from 0 on."""
    return pd.DataFrame({"seed": range(len(accuracies)), "final/accuracy": accuracies})


def test_measures_are_those_of_the_survey():
    # ImageNet-LT, table 3: softmax 45.5 over its upper bound 57.3 is 79.4 %
    one = measured("softmax", blocks(0.455), blocks(0.573), blocks(0.573))
    assert round(one.relative[0], 3) == 0.794 and math.isnan(one.relative[1])
    # a method that is worse than plain training on balanced data is measured by plain training
    worse = measured("method", blocks(0.4, 0.5), blocks(0.5, 0.5), blocks(0.5, 0.7))
    assert worse.by_itself is False and worse.upper[0] == pytest.approx(0.6)
    assert worse.relative[0] == pytest.approx(0.45 / 0.6)
    better = measured("method", blocks(0.4, 0.5), blocks(0.8, 1.0), blocks(0.5, 0.7))
    assert better.by_itself and better.upper[0] == pytest.approx(0.9)
    # Student's interval of 0.8 and 1.0 would end at 2.2
    assert 0 < better.upper[1] < 0.9 < better.upper[2] <= 1


def test_a_bound_is_unknown_where_either_training_on_balanced_data_failed():
    for own, plain, whose in (
        (blocks(0.8, 0.9), blocks(), "of the baseline"),
        (blocks(), blocks(0.8), "of the recipe"),
    ):
        found = measured("method", blocks(0.4, 0.5), own, plain)
        assert found.by_itself is None and found.accuracy[0] == pytest.approx(0.45)
        assert all(math.isnan(number) for number in (*found.upper, *found.relative))
        assert f"no training {whose} on balanced data has finished" in note(found)


def test_the_interval_of_a_ratio_is_paired_within_blocks():
    # r = 0.6 / 0.8 = 0.75; residuals (0.5 − 0.75 · 0.7, 0.7 − 0.75 · 0.9) / 0.8 = ∓ 0.025 / 0.8 · 1
    found, paired = ratio({3: 0.5, 4: 0.7}, {3: 0.7, 4: 0.9})
    assert paired and found.value == pytest.approx(0.75) and found.df == 1
    residuals = np.array([0.5 - 0.75 * 0.7, 0.7 - 0.75 * 0.9]) / 0.8
    assert residuals.tolist() == pytest.approx([-0.03125, 0.03125])
    assert found.error == pytest.approx(0.03125 * math.sqrt(2) / math.sqrt(2))
    apart, paired = ratio({0: 0.5, 1: 0.7}, {3: 0.7, 4: 0.9})
    # independent errors of 0.1 each: √(0.1² + (0.75 · 0.1)²) / 0.8
    assert not paired and apart.error == pytest.approx(0.125 / 0.8) and apart.df == 1
    assert ratio({}, {3: 0.7}) == (UNKNOWN, False)


def test_a_balanced_set_is_as_large_as_the_tail_and_has_its_val():
    tail, equal = load("digits-lt", imbalance=100), load("digits-lt?train=balanced", imbalance=100)
    each = int(tail.counts.sum()) // 10
    assert equal.counts.tolist() == [each] * 10 and equal.imbalance == 1.0
    assert equal.val_images.equal(tail.val_images) and equal.fingerprint != tail.fingerprint
    assert f"{each} images of each class" in equal.notes[-1]
    with pytest.raises(DataError, match="option train must be long-tailed or balanced, got 'even'"):
        load("digits-lt?train=even")
    assert with_balanced_train("csv:a.csv?val=3") == "csv:a.csv?val=3&train=balanced"


def test_own_data_are_balanced_where_they_can_be(tmp_path: Path):
    balanced = in_process.features(tmp_path)  # 30 images of each of 3 classes
    tail, equal = load(balanced, imbalance=5), load(f"{balanced}?train=balanced", imbalance=5)
    assert tail.counts.max() / tail.counts.min() > 4
    assert equal.counts.tolist() == [int(tail.counts.sum()) // 3] * 3
    assert equal.val_labels.equal(tail.val_labels)
    labels = np.repeat(np.arange(3), (60, 30, 10))
    rows = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    np.savez(tmp_path / "tail.npz", x_train=rows, y_train=labels)
    # a tenth for test and a fifth of the rest for val leave 39, 20 and 7: the mean is 22, and class 2 has 7
    with pytest.raises(DataError, match=r"needs 2\d images of every class, and class 2 has \d"):
        load(f"features:{tmp_path / 'tail.npz'}?train=balanced")


def test_plans_are_written_as_stages_that_give_them_again():
    digits = standard("digits-lt")
    for one in (*published(digits.lr), *published_systems(digits.lr)):
        plan = build(one.space, defaults(one.labels), digits).plan
        assert build(Space(stages_of(plan)), defaults(), digits).plan == plan, one.name


SPACE = Space(
    stages=[
        Stage("first", epochs=2, choose=[one_of(None, "cost_sensitive"), one_of(None, trick("balanced_softmax"))]),
        one_of(
            Stage("finish", epochs=1, carry="all", keep=True),
            Stage("deferred", epochs=1, carry="all", keep=True, choose=["class_balanced"]),
        ),
    ],
    screen=["first/cost_sensitive", "first/balanced_softmax", "deferred"],
)
ONLY_THE_DESIGN = {"trials": 0, "race": False}


def test_a_search_is_measured_and_measured_again(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    in_process.run(tmp_path, SPACE, **ONLY_THE_DESIGN)
    asked = ["--search", "s", "--output", str(tmp_path / "results")]
    with pytest.raises(SettingsError, match="--recipe defered: did you mean 'deferred'"):
        command.measure(Settings.stored(str(tmp_path / "results"), "s"), ["defered"])
    settings = Settings.stored(str(tmp_path / "results"), "s")
    records = Journal(settings.folder / "journal.jsonl").records()
    best = reader.ranking(reader.frame(records.values()))["title"].iloc[0]
    chosen = [method.title for method in command.methods_of(settings) if method.chosen]
    assert chosen == [best for _ in range(best != "baseline")]  # there is no confirm arm
    aside = {
        trial: replace(record, set_aside="outside" if "deferred" in record.tricks else "")
        for trial, record in records.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "records", lambda journal: aside)
        left = [method.title for method in command.methods_of(settings)]
        assert {"first/cost_sensitive", "first/balanced_softmax"} < {*left} and "deferred" not in " ".join(left)
    assert upper_bound.main([*asked, "--dry-run"]) == 0
    assert "s-balanced: 8 trials" in capsys.readouterr().out
    with in_process.without_ray():
        assert upper_bound.main([*asked, "--page", "page.md"]) == 0
    first = capsys.readouterr().out
    for title in ("baseline", "first/cost_sensitive", "first/balanced_softmax", "deferred"):
        assert f"| {title} |" in first
    assert ("chosen by this accuracy" in first) == bool(chosen)
    journal = tmp_path / "results" / "s-balanced" / "journal.jsonl"
    trained = journal.read_text()
    balanced = search_records(journal)
    assert len(balanced) == 8 and all(len(set(record["counts"])) == 1 for record in balanced)
    assert not any(name.startswith("test/") for record in balanced for name in record["metrics"])
    with in_process.without_ray():
        assert upper_bound.main([*asked, "--page", "again.md"]) == 0
    assert journal.read_text() == trained
    assert Path("again.md").read_text() == Path("page.md").read_text()
    # the baseline's own numbers, from the records
    tail = search_records(tmp_path / "results" / "s" / "journal.jsonl")
    mean_of = [
        np.mean([r["metrics"]["final/accuracy"] for r in records if not r["tricks"] and r["arm"] == "design"])
        for records in (tail, balanced)
    ]
    row = next(line for line in first.splitlines() if line.startswith("| baseline |"))
    cells = [cell.strip().split(" ")[0] for cell in row.split("|")]
    assert [float(cells[2]), float(cells[4])] == pytest.approx([100 * value for value in mean_of], abs=0.051)
    assert float(cells[5]) == pytest.approx(100 * mean_of[0] / mean_of[1], abs=0.051)
    with in_process.without_ray():
        assert upper_bound.main([*asked, "--recipe", "deferred"]) == 2
    assert "balanced trainings of other recipes" in capsys.readouterr().err


def search_records(journal: Path) -> list[dict]:
    return [record.to_dict() for record in Journal(journal).records().values()]


def test_a_search_whose_data_cannot_be_balanced_is_refused(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((150, 4)).astype(np.float32)
    np.savez("tail.npz", x_train=rows, y_train=np.repeat(np.arange(3), (100, 40, 10)))
    in_process.run(tmp_path, SPACE, data="features:tail.npz", imbalance=None, **ONLY_THE_DESIGN)
    capsys.readouterr()
    assert upper_bound.main(["--search", "s", "--output", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert "a balanced training set as large as this long tail" in said and "Traceback" not in said
    assert not (tmp_path / "results" / "s-balanced").exists()

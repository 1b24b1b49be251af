"""Published tables beside ours: the tables themselves, the comparison, and the command."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from search import papers as command
from search import phases
from search.commands import papers
from search.commands.papers import compare, direction, estimate
from search.scheduling.journal import Journal
from search.settings import Settings
from spaces.domain import Space, SpaceError, Stage, recipe
from spaces.papers.tables import Fact, Row, Setting, Table
from tests.search import in_process
from trainables.data import standard
from trainables.plan import build, defaults

TABLES = papers.tables()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_row_is_a_recipe_and_every_fact_a_difference(table):
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    for row in table.rows:
        assert len(row.published) == len(table.settings)
        plans = [build(Space(row.stages), defaults(), standard(setting.data)).plan for setting in table.settings]
        assert all(plan.stages for plan in plans)
    for fact in table.facts:
        assert sum(fact.weights.values()) == 0 and set(fact.weights) <= set(names) and fact.sign in (-1, 0, 1)


@pytest.mark.parametrize(
    ("table", "fact", "values"),
    [
        # differences of Zhang et al. 2021, worked out by hand from tables 6 to 10
        ("bag_of_tricks/6", 0, (0.72, 2.59, 1.45, 1.78)),
        ("bag_of_tricks/6", 1, (-2.27, -1.09, -1.02, -0.99)),
        ("bag_of_tricks/9", 0, (-0.19, -0.36, -0.09, -0.04)),
        ("bag_of_tricks/9", 1, (-5.06, -4.33, -2.90, -3.37)),
        ("bag_of_tricks/10", 0, (2.75, 0.66, 4.33, 4.01)),
        ("bag_of_tricks/7", 1, (1.14, 3.44, 2.17, 2.23)),
    ],
)
def test_published_differences(table, fact, values):
    found = [TABLES[table].value(TABLES[table].facts[fact], column) for column in range(4)]
    assert found == pytest.approx(list(values), abs=1e-9)


def test_what_a_paper_concludes_is_what_its_numbers_say():
    for table in TABLES.values():
        for fact in table.facts:
            values = [table.value(fact, column) for column in range(len(table.settings))]
            known = [value for value in values if value is not None]
            assert all(value * fact.sign > 0 for value in known if fact.sign), (table.id, fact.text, values)
            assert all(abs(value) < 0.5 for value in known if not fact.sign), (table.id, fact.text, values)


SMALL = Table(
    "test/1", "a table", "nobody", "error", (Setting("digits", "digits-lt", None, "resnet8"),),
    (
        Row("baseline", "plain", (Stage("only", length=0.1),), (30.0,)),
        Row("mixed", "mixup", (Stage("only", length=0.1, choose=["input_mixup"]),), (20.0,)),
        Row("unknown", "unknown", (Stage("only", length=0.1, choose=["cost_sensitive"]),), (None,)),
    ),
    (
        Fact("Mixup helps.", {"mixed": 1.0, "baseline": -1.0}, 1),
        Fact("Mixup hurts.", {"mixed": 1.0, "baseline": -1.0}, -1),
        Fact("Mixup does nothing.", {"mixed": 1.0, "baseline": -1.0}, 0),
    ),
    ("A note.",),
)  # fmt: skip


def trials(values: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": "design", "outcome": "finished", "context": "", "seed": seed, "final/accuracy": value,
             "tricks": () if name == "baseline" else (f"recipe:{name}",)}
            for name, of_row in values.items() for seed, value in enumerate(of_row)
        ]
    )  # fmt: skip


def settings(**changed) -> Settings:
    return Settings(name="s", space="s", data="digits-lt", **changed)


def test_rows_and_facts_are_paired_within_blocks():
    baseline, mixed = [0.700, 0.694, 0.703, 0.699], [0.801, 0.797, 0.803, 0.799]
    found = compare(SMALL, 0, settings(seeds=4), "resnet8", 0.01, trials({"baseline": baseline, "mixed": mixed}))
    row = found.rows[1]
    gain = 100 * (np.array(mixed) - np.array(baseline))
    low, high = stats.t.interval(0.95, 3, gain.mean(), stats.sem(gain))
    assert row.gain.interval(0.95) == pytest.approx((low, high)) and row.gain.value == pytest.approx(gain.mean())
    assert row.ours.value == pytest.approx(100 - 100 * np.mean(mixed)) and row.published_gain == 10.0
    assert row.verdict == "reproduced, same direction" and found.rows[0].verdict == "reproduced"
    assert [fact.verdict for fact in found.facts] == ["holds", "other direction", "does not hold"]
    assert found.conditions == () and found.lost == ("unknown: 0 of 4 seeds",)


def test_a_number_far_off_is_not_reproduced_and_another_length_never():
    values = {"baseline": [0.50, 0.51, 0.49], "mixed": [0.50, 0.515, 0.495]}
    same = compare(SMALL, 0, settings(seeds=3), "resnet8", 0.02, trials(values))
    assert same.rows[1].verdict == "not reproduced, not resolved"
    shorter = compare(SMALL, 0, settings(seeds=3, epochs_scale=0.5), "resnet20", 0.02, trials(values))
    assert shorter.rows[1].verdict == "not resolved"
    assert shorter.conditions == (
        "other network (resnet20, published: resnet8)", "not at equal length (0.5 of the published epochs)",
    )  # fmt: skip
    assert shorter.facts[2].verdict == "holds"  # all of the interval lies within the margin


def test_lost_seeds_are_told_and_leave_whole_blocks():
    values = {"baseline": [0.5, 0.6, 0.7], "mixed": [0.6, math.nan, 0.8]}
    table = trials(values)
    table.loc[table["final/accuracy"].isna(), "outcome"] = "failed"
    found = compare(SMALL, 0, settings(seeds=3), "resnet8", 0.01, table)
    assert found.lost == ("mixup: 2 of 3 seeds", "unknown: 0 of 3 seeds")
    assert found.rows[1].gain.blocks == 2 and found.rows[1].gain.value == pytest.approx(10.0)


def test_a_row_without_any_result_stays_in_the_table():
    for values in ({"baseline": [0.5, 0.6]}, {"mixed": [0.5, 0.6]}):
        found = compare(SMALL, 0, settings(seeds=2), "resnet8", 0.01, trials(values))
        assert [row.title for row in found.rows] == ["plain", "mixup", "unknown"]
        assert found.rows[1].verdict.endswith("not resolved") and found.facts[0].verdict == "not resolved"
        assert len(found.lost) == 2 and all("0 of 2 seeds" in line for line in found.lost)


def test_a_row_that_the_data_cannot_train_is_left_out_and_told():
    partly = Row("partly", "last block", (Stage("only", length=0.1, choose=["last_block"]),), (10.0,))
    fact = Fact("The last block is enough.", {"partly": 1.0, "baseline": -1.0}, 1)
    table = dataclasses.replace(SMALL, rows=(*SMALL.rows, partly), facts=(*SMALL.facts, fact))
    space, refused = papers._trainable(table, 0, {"data": "digits-lt", "model": "resnet8", "name": "s"})
    assert [found.name for found in space.recipes] == ["mixed", "unknown"]
    assert list(refused) == ["partly"] and "trained" in refused["partly"]
    values = {"baseline": [0.7, 0.6], "mixed": [0.8, 0.7], "unknown": [0.7, 0.7]}
    found = compare(table, 0, settings(seeds=2), "resnet8", 0.01, trials(values), refused)
    assert found.lost == (f"last block: {refused['partly']}",)
    assert [row.title for row in found.rows] == ["plain", "mixup", "unknown"] and len(found.facts) == len(SMALL.facts)


def test_one_block_resolves_nothing():
    assert direction(estimate([3.0]), 1.0) == "not resolved"
    found = compare(SMALL, 0, settings(seeds=1), "resnet8", 0.01, trials({"baseline": [0.7], "mixed": [0.5]}))
    assert found.rows[1].verdict == "not resolved"


def test_another_seed_is_another_search():
    names = [papers._search(SMALL, {"seed": seed})[1]["name"] for seed in (0, 3)]
    assert names == ["test-1-digits-lt", "test-1-digits-lt-seed3"]


@pytest.mark.parametrize(
    ("given", "column"),
    [
        ({}, 0),
        ({"data": "cifar100-lt"}, 2),
        ({"data": "cifar100-lt", "imbalance": 50.0}, 3),
        ({"data": "cifar100-lt", "imbalance": 20.0}, 2),
        ({"data": "features:f.npz", "imbalance": 100.0}, 0),
        ({"data": "features:f.npz", "imbalance": 50.0, "column": "cifar100-lt"}, 3),
    ],
)
def test_the_column_that_is_compared(given, column):
    found, options = papers._search(TABLES["bag_of_tricks/4"], given)
    assert found == column and "column" not in options


def test_what_was_trained_before_an_interruption_gets_its_page(tmp_path, monkeypatch):
    other = dataclasses.replace(SMALL, id="test/2")
    monkeypatch.setattr(papers, "tables", lambda: {SMALL.id: SMALL, other.id: other})
    done = compare(SMALL, 0, settings(seeds=2), "resnet8", 0.01, trials({"baseline": [0.5, 0.6], "mixed": [0.6, 0.7]}))
    part = compare(other, 0, settings(seeds=2), "resnet8", 0.01, trials({"baseline": [0.5]}))
    monkeypatch.setattr(papers, "_train", lambda table, given: (done, False) if table is SMALL else (part, True))
    assert command.main(["--table", "test", "--pages", str(tmp_path)]) == 130
    page = (tmp_path / "test.md").read_text()
    assert "## test/1" in page and "## test/2" in page
    assert "Incomplete: plain: 1 of 2 seeds; mixup: 0 of 2 seeds" in page


def test_the_command_trains_a_table_continues_and_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(papers, "tables", lambda: {SMALL.id: SMALL})
    line = ["--table", "test", "--pages", "pages", "--tracking-uri", "none", "--epochs-scale", "0.3"]
    assert command.main([*line, "--seeds", "1", "--dry-run"]) == 0
    assert "test/1: 3 trials, at most 9 epochs, search test-1-digits-lt-x0.3" in capsys.readouterr().out
    with in_process.without_ray(*phases.PHASES):
        assert command.main([*line, "--seeds", "1"]) == 0
        assert "(no interval)" in (tmp_path / "pages" / "test.md").read_text()
        capsys.readouterr()
        assert command.main([*line, "--seeds", "2"]) == 0
    page = (tmp_path / "pages" / "test.md").read_text()
    assert "Measured over 2 seed blocks, search `test-1-digits-lt-x0.3`." in page
    assert "Conditions: **not at equal length (0.3 of the published epochs)**" in page
    assert "| mixup | 20.00 | " in page and "| +10.00 | " in page and "A note." in page
    assert "longtail-tune papers --table test/1 --epochs-scale 0.3 --seeds 2 --tracking-uri none" in page


def test_upper_bounds_stand_beside_the_accuracies_and_grow_with_the_seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setting = Setting("features", in_process.features(tmp_path), 5.0, "linear")
    rows = (
        Row("baseline", "plain", (Stage("only", epochs=2),), (45.0,)),
        Row("weighted", "weighted", (Stage("only", epochs=2, choose=["cost_sensitive"]),), (50.0,)),
    )
    table = Table("test/bounds", "a table", "nobody", "accuracy", (setting,), rows, bounds={"baseline": 60.0})
    monkeypatch.setattr(papers, "tables", lambda: {table.id: table})
    line = ["--table", "test", "--pages", "pages", "--tracking-uri", "none", "--tricks", "one", "--tricks", "two"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with in_process.without_ray(*phases.PHASES):
        for seeds in ("2", "3"):
            assert command.main([*line, "--seeds", seeds]) == 0
    page = (tmp_path / "pages" / "test.md").read_text()
    assert "--tricks one --tricks two " in page
    (search, balanced) = sorted((tmp_path / "results").glob("test-bounds-*"))
    assert balanced.name == f"{search.name}-balanced"
    accuracies = [by_row(folder / "journal.jsonl") for folder in (search, balanced)]
    assert [len(values) for each in accuracies for values in each.values()] == [3] * 4
    (tail, level) = ({name: np.mean(values) for name, values in each.items()} for each in accuracies)
    for name, published in (("plain", ["60.00", "75.00"]), ("weighted", ["–", "–"])):
        cells = [
            cell.strip() for cell in next(row for row in page.splitlines() if row.startswith(f"| {name} |")).split("|")
        ]
        assert [cells[7], cells[9]] == published
        bound = max(level[name], level["plain"])
        ours = [float(cells[number].split()[0]) for number in (8, 10)]
        assert ours == pytest.approx([100 * bound, 100 * tail[name] / bound], abs=0.051)
    assert "(biased upwards)" in page


def test_data_without_a_balanced_set_have_a_table_without_upper_bounds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((150, 4)).astype(np.float32)
    np.savez("tail.npz", x_train=rows, y_train=np.repeat(np.arange(3), (100, 40, 10)))
    plain = Row("baseline", "plain", (Stage("only", epochs=1),), (45.0,))
    table = dataclasses.replace(
        SMALL, settings=(Setting("tail", "features:tail.npz", None, "linear"),), rows=(plain,), facts=(), bounds={}
    )
    monkeypatch.setattr(papers, "tables", lambda: {table.id: table})
    with in_process.without_ray(*phases.PHASES):
        assert command.main(["--table", "test", "--pages", "pages", "--tracking-uri", "none", "--seeds", "1"]) == 0
    page = (tmp_path / "pages" / "test.md").read_text()
    assert "Incomplete: upper bounds were not measured: upper bound of test-1-features-tail.npz:" in page
    assert "as large as this long tail" in page and page.count("| – | – | – | – | – |") == 1


def by_row(journal) -> dict[str, list[float]]:
    """Accuracies of the trials by row: the baseline's have no label."""
    found: dict[str, list[float]] = {}
    for record in Journal(journal).records().values():
        found.setdefault("weighted" if record.tricks else "plain", []).append(record.metrics["final/accuracy"])
    return found


def test_bad_input(capsys):
    assert command.main(["--table", "bag_of_trick/10"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert command.main(["--table", "bag_of_tricks/10", "--column", "cifar1000-lt"]) == 2
    assert "bag_of_tricks/10 has cifar10-lt, cifar100-lt" in capsys.readouterr().err
    for wrong, words in (
        ([Stage("only", epochs=1)], "expected recipe("),
        ([recipe("same", Stage("only", epochs=1)), recipe("same", Stage("only", epochs=1))], "named twice"),
        ([recipe("first", Stage("only", epochs=1))], "has the name of a stage"),
    ):
        with pytest.raises(SpaceError, match=words.replace("(", r"\(")):
            Space(stages=[Stage("first", epochs=1)], recipes=wrong)
    with pytest.raises(SpaceError, match="one Stage or several"):
        recipe("empty")

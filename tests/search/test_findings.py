"""What a search says at its end beside its best recipe: looks, checks, nominations, what surrounds the winner."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.conflicts import at_looks, pairwise, verdict_table
from search.console.summary import (
    _conflicts,
    _marks,
    _tables,
    conflict_table,
    finished,
    further_steps,
    how_to_resume,
)
from search.outcome import save_tables
from search.phases.ablation import Ablation
from search.phases.candidates import Candidates
from search.settings import Settings

PAIR = "a×b"
CELLS = ((), ("a",), ("b",), ("a", "b"))


def rows(arm: str, means: tuple[float, ...], blocks: int, first: int = 0, **more) -> pd.DataFrame:
    """Four cells over blocks, with noise of a point."""
    generator = np.random.default_rng(first + 7)
    return pd.DataFrame([
        {"arm": arm, "seed": first + block, "first_stage": f"{on}{first + block}", "tricks": on, "context": "",
         "outcome": "finished", "setting": "", "started": 0.0, "recipe": "+".join(on),
         "final/accuracy": mean + 0.01 * generator.normal(), **more}
        for block in range(blocks) for on, mean in zip(CELLS, means, strict=True)
    ])  # fmt: skip


CONFLICT, ADDITIVE = (0.6, 0.75, 0.74, 0.55), (0.6, 0.65, 0.64, 0.69)
DESIGN = rows("design", CONFLICT, 5)


def checked(down: tuple[float, ...], up: tuple[float, ...], blocks: int = 3) -> pd.DataFrame:
    return pd.concat([
        DESIGN, rows("check", down, blocks, setting="lr/3"), rows("check", up, blocks, setting="lr*3"),
    ], ignore_index=True)  # fmt: skip


@pytest.mark.parametrize(
    "down, up, word, why",
    [
        (CONFLICT, CONFLICT, "robust", "also shown at a third of the learning rate, three times the learning rate"),
        (CONFLICT, ADDITIVE, "at these settings", "not shown at three times the learning rate ("),
    ],
)
def test_a_conflict_is_final_where_it_holds_at_all_three_rates(down, up, word, why):
    trials = checked(down, up)
    row = verdict_table(trials, margin=0.02).iloc[0]
    assert (row["verdict"], row["holds"]) == ("conflict", word) and row["holds_why"].startswith(why)


def test_without_checks_a_verdict_holds_at_these_settings_only():
    row = verdict_table(DESIGN, margin=0.02).iloc[0]
    assert row["holds"] == "at these settings" and row["holds_why"] == "not run at other learning rates"


def test_checks_that_were_cut_after_one_block_do_not_cost_the_table(capsys):
    trials = checked(CONFLICT, CONFLICT, blocks=1)
    table = conflict_table(Console(), trials, 0.02)
    assert table is not None and table["holds"].item() == "at these settings"
    assert "too few seeds at other settings: the check arm has 1 block" in table["holds_why"].item()


def test_a_pair_that_is_free_needs_no_check():
    design = rows("design", ADDITIVE, 8)
    row = verdict_table(design, margin=0.05).iloc[0]
    assert row["verdict"] == "better together" and row["holds"] == "at these settings"
    idle = rows("design", (0.6,) * 4, 8)
    row = verdict_table(idle, margin=0.05).iloc[0]
    assert row["verdict"] == "compatible" and row["holds"] == ""


def test_every_look_at_primary_pairs_is_judged_at_its_share():
    trials = pd.concat([rows("design", ADDITIVE, 3), rows("design", ADDITIVE, 4, first=10)], ignore_index=True)
    first = at_looks(trials[trials["seed"] < 10], margin=0.02, primary=[PAIR])
    second = at_looks(trials, margin=0.02, primary=[PAIR], firsts=[10])
    assert (first["look"].item(), second["look"].item()) == (1, 2)
    expected = pairwise(trials, margin=0.02, primary=[PAIR], look=2, earlier=first)
    pd.testing.assert_frame_equal(second, expected)
    # blocks that were added after a look are another one, also where nothing was declared
    assert at_looks(trials, margin=0.02, firsts=[10])["look"].item() == 2
    assert pd.isna(at_looks(trials, margin=0.02)["look"].item())


def test_what_an_earlier_look_has_shown_stays_shown():
    later = rows("design", (0.6, 0.6, 0.6, 0.75), 5, first=10)
    table = at_looks(pd.concat([DESIGN, later], ignore_index=True), margin=0.02, primary=[PAIR], firsts=[10])
    assert table["verdict"].item() == "conflict" and "shown at look 1" in table["reason"].item()


def of_phases(trials, winner: str | None) -> tuple[dict, dict]:
    """Tables and tags of the phases that leave some."""
    plan = None if winner is None else SimpleNamespace(plan=SimpleNamespace(id=winner))
    state = SimpleNamespace(margin=0.02, winner=plan)
    tables, tags = {}, {}
    for phase in (Candidates(), Ablation()):
        found = phase.tables(state, trials)
        tables |= found
        tags |= phase.tags(found)
    return tables, tags


def test_the_tables_of_phases_in_words_files_and_tags(tmp_path):
    around = pd.DataFrame([
        {"arm": "around", "context": "around:w", "outcome": "finished", "started": 1.0, "recipe": "+".join(on),
         "seed": 6000 + block, "tricks": on, "final/accuracy": value + 0.001 * block}
        for block in range(3) for on, value in ((("a", "b"), 0.9), (("a",), 0.899), (("b",), 0.7), ((), 0.6))
    ])  # fmt: skip
    nominated = rows("nominated", CONFLICT, 4, first=7000, context="nominated:a×b")
    cut = rows("nominated", CONFLICT, 1, first=7000, context="nominated:c×d")
    tables, tags = of_phases(pd.concat([DESIGN, around, nominated, cut], ignore_index=True), "w")
    assert tags == {"nominated/a--b": "conflict", "removal/a": "needed", "removal/b": "may be removed"}
    save_tables(tables, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"nominated.csv", "removals.csv", "path.csv"}
    words = "\n".join(_tables(tables))
    assert "Nominated by the adaptive arm, run on 4 fresh seeds: a × b: conflict" in words
    assert "needed: a (+20.0); may be removed: b (+0.1)" in words
    assert "From the baseline up: 60.1 % → + a 90.0 % → + b 90.1 %" in words


def test_the_table_fits_a_narrow_terminal_and_says_what_its_words_mean():
    trials = checked(CONFLICT, CONFLICT).assign(data="digits-lt", imbalance=50.0, model="resnet8")
    renamed = {"a": "representation/class_balanced", "b": "representation/label_aware_smoothing"}
    trials["tricks"] = [tuple(renamed[label] for label in on) for on in trials["tricks"]]
    table = verdict_table(trials, margin=0.02, primary=["×".join(renamed.values())])
    console = Console(width=80, record=True)
    console.print(_conflicts(table, trials, 80))
    shown = console.export_text()
    assert "…" not in shown
    for part in (
        "class_balanced",
        "label_aware_smoothing",
        "B added to A",
        "A added to B",
        "declared, sign flip",
        "robust",
    ):
        assert part in shown
    assert "shown at a third and at three times" in _marks(table)
    assert "declared were named by --primary" in _marks(table)
    free = table.assign(holds="", sign_flip=False, primary=False)
    assert _marks(free) == ""


@pytest.mark.parametrize(
    "verdict, settling, said",
    [
        ("unresolved", False, "--settle"),
        ("unresolved", True, ""),
        ("conflict", True, "other learning rates"),
        ("conflict", False, ""),
    ],
)
def test_what_may_be_done_about_declared_pairs(verdict, settling, said):
    table = pd.DataFrame([{"primary": True, "verdict": verdict, "holds_why": "not run at other learning rates"}])
    settings = Settings(name="mine", space="s", data="digits-lt")
    lines = list(further_steps(table, settings, settling, True))
    assert len(lines) == bool(said) and all(said in line and "--resume mine" in line for line in lines)
    assert list(further_steps(table, settings, settling, False)) == []
    assert list(further_steps(table.assign(primary=False), settings, settling, True)) == []


def test_without_tables_nothing_is_said_and_nothing_left(tmp_path):
    tables, tags = of_phases(DESIGN, None)
    assert list(_tables(tables)) == [] and tags == {}
    (tmp_path / "path.csv").write_text("of a former winner")
    save_tables(tables, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_finished_search_says():
    settings = Settings(name="mine", space="s", data="digits-lt")
    assert "python run_search.py --resume mine --trials +50" in finished(settings)
    assert "--output there --seeds +2" in finished(dataclasses.replace(settings, output="there"))
    said = finished(settings, ["a × b asks for 40 further blocks, more than 20"])
    assert said.splitlines()[0] == "No primary pair gets further seeds."
    assert said.splitlines()[1] == "  a × b asks for 40 further blocks, more than 20"


def test_what_a_search_says_that_was_cut():
    settings = Settings(name="mine", space="s", data="digits-lt")
    assert how_to_resume(settings).endswith("python run_search.py --resume mine")
    # without it the further blocks would stay half run
    assert how_to_resume(settings, settling=True).endswith("python run_search.py --resume mine --settle")

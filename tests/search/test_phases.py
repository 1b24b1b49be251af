"""A phase is one file and one line: its trials, its table, its tag and its line of the preview need nothing else."""

import csv
import dataclasses
import json

import pandas as pd
import pytest
from mlflow import MlflowClient

import search
from analysis.console import Console
from search import phases
from search.console import preview
from search.context import SearchContext
from search.phases.phase import Phase
from search.recipes.factory import RecipeFactory
from search.settings import Settings
from tests.search.whole_searches import TINY, journal, runs, small_phases
from trainables.data import standard


class Echo(Phase):
    """The baseline once more, on seeds of its own."""

    name, arm, description = "echo", "echo", "echo: the baseline once more"
    after = ("design",)
    first_seed = 8_000

    def plan(self, state):
        return self.over_blocks(state, [state.factory.baseline], seeds=2)

    def tables(self, state, trials):
        own = trials[trials["arm"] == self.arm]
        return {"echoes": pd.DataFrame({"seed": own["seed"], "accuracy": own["final/accuracy"]})}

    def tags(self, tables):
        return {"echoes": str(len(tables["echoes"]))}

    def max_trials(self, settings, factory):
        return 2


@pytest.fixture
def echo(monkeypatch) -> None:
    monkeypatch.setattr(phases, "PHASES", (*small_phases(1, 1, 1), Echo()))


def test_no_two_phases_share_a_name_or_judge_on_seeds_that_nominated():
    names = [phase.name for phase in phases.PHASES]
    assert len(set(names)) == len(names)
    for phase in phases.PHASES:
        assert set(phase.after) <= set(names[: names.index(phase.name)]), "a phase comes after those it depends on"
    blocks = {}
    for phase in phases.PHASES:
        blocks.setdefault(phase.first_seed, []).append(phase.name)
    assert [sorted(shared) for shared in blocks.values() if len(shared) > 1] == [
        ["check", "design", "verdicts"], ["adaptive", "start"], ["final", "race"],
    ]  # fmt: skip
    assert all(first % 1_000 == 0 and first != 5_000 for first in blocks)


def test_a_further_phase_is_in_the_preview(echo, tmp_path):
    settings = Settings(name="x", space="s", data="digits-lt", trials=0, seeds=1, race=False, output=str(tmp_path))
    console = Console(width=160, record=True)
    preview.show(console, SearchContext.make(TINY, settings))
    row = next(line for line in console.export_text().splitlines() if "echo" in line)
    assert [cell.strip() for cell in row.split("│")][4] == "2"


@pytest.mark.usefixtures("cluster", "echo")
def test_the_trials_and_the_table_of_a_further_phase_are_everywhere(place):
    few = {"seeds": 1, "trials": 0, "race": False, "start_points": False, "check_seeds": 0, "max_concurrent": 2}
    result = search.run(TINY, name="more", **few)
    records = journal(result.folder)
    echoes = {name: record for name, record in records.items() if record["arm"] == "echo"}
    assert {record["seed"] for record in echoes.values()} == {8000, 8001} and len(records) == 4
    accuracies = sorted(record["metrics"]["final/accuracy"] for record in echoes.values())
    with (result.folder / "echoes.csv").open(newline="") as file:
        assert sorted(float(row["accuracy"]) for row in csv.DictReader(file)) == pytest.approx(accuracies)
    found = json.loads((result.folder / "findings.json").read_text())
    assert sorted(row["accuracy"] for row in found["tables"]["echoes"]) == pytest.approx(accuracies)
    assert sorted(result.tables["echoes"]["seed"]) == [8000, 8001]
    assert (result.folder / "report.html").is_file()
    tracked = runs(place, "more")
    (own,) = (run for run in tracked if run.data.tags["level"] == "search")
    assert own.data.tags["echoes"] == "2"
    assert {run.data.tags["arm"] for run in tracked if run.data.tags["level"] == "trial"} == {"design", "echo"}
    artifacts = MlflowClient(f"sqlite:///{place}/mlflow.db").list_artifacts(own.info.run_id)
    assert "echoes.csv" in {item.path for item in artifacts}


@pytest.mark.parametrize(("provides", "published"), [(("images",), 5), (("images", "trained"), 7)])
def test_settings_of_a_phase_are_declared_where_it_is_registered(provides, published):
    race = dataclasses.replace(next(phase for phase in phases.PHASES if phase.name == "race"), contenders=2)
    factory = RecipeFactory(TINY, dataclasses.replace(standard("digits-lt"), provides=provides))
    assert race.max_trials(Settings(name="s", space="s", data="d"), factory) == (2 + 1 + published) * 3

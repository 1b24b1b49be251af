"""What tests of whole searches have in common: small spaces, options that keep them short, readers of what is left."""

import json
from pathlib import Path

from mlflow import MlflowClient

from search.phases import PHASES
from search.phases.phase import Phase
from search.phases.race import Confirm, Final, Race
from spaces.domain import Space, Stage, one_of

SPACE = """
from spaces.domain import Space, Stage, log_uniform, one_of

SPACE = Space(
    stages=[
        Stage("first", length=0.7, lr=log_uniform(0.03, 0.3, step="halves"), choose=[
            one_of(None, "cost_sensitive"), one_of(None, "class_balanced")]),
        one_of(Stage("finish", length=0.3, lr=0.05, carry="weights", keep=True),
               Stage("classifier", length=0.3, lr=0.05, carry="weights", choose=["classifier"])),
    ],
    screen=["first/cost_sensitive", "first/class_balanced", "classifier"],
)
"""

TRICK = '''
from dataclasses import dataclass

import torch

from trainables.registry import trick


@trick(seam="loss", family="test", source="none")
@dataclass(frozen=True)
class Broken:
    """{what}"""

    def build(self, facts):
        def loss(outputs, q, y, generator):
            {body}
        return loss
'''

UNHURRIED = '''
import os
import time
from dataclasses import dataclass

import torch
import trainables

from trainables.registry import trick


@trick(seam="draw", family="test", source="none")
@dataclass(frozen=True)
class Unhurried:
    """Every image once, with a pause before, so that a test can act while a trial runs."""

    def build(self, facts):
        def draw(progress, generator):
            {body}
            time.sleep({seconds})
            return torch.randperm(len(facts.labels), generator=generator)
        return draw
'''

ALIKE = """
from spaces.domain import Space, Stage, one_of

SPACE = Space(stages=[Stage("only", epochs=1, choose=["always", one_of(None, "class_balanced")])],
              screen=["only/class_balanced"])
"""

SMALL = {
    "seeds": 2, "trials": 6, "epochs_scale": 0.1, "max_concurrent": 2, "start_points": False, "check_seeds": 0,
}  # fmt: skip
FLAGS = [
    "--seeds", "2", "--trials", "6", "--epochs-scale", "0.1", "--max-concurrent", "2",
    "--no-start-points", "--no-checks",
]  # fmt: skip


def journal(folder: Path) -> dict[str, dict]:
    """Records by trial."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return {event["record"]["trial"]: event["record"] for event in lines if event["event"] == "record"}


def results(records: dict[str, dict], arm: str = "design") -> dict[str, tuple]:
    return {
        name: (record["recipe"], record["metrics"], record["recalls"], [point["metrics"] for point in record["curve"]])
        for name, record in records.items()
        if record["arm"] == arm
    }


def texts(records: dict[str, dict]) -> dict[str, str]:
    """Comparable where a number is NaN."""
    return {name: json.dumps(record) for name, record in records.items()}


def runs(place: Path, name: str) -> list:
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("longtail/digits-lt")
    return list(client.search_runs([experiment.experiment_id], f"tags.search = '{name}'", max_results=1000))


TINY = Space(stages=[Stage("only", epochs=1, choose=[one_of(None, "cost_sensitive")])], screen=["only/cost_sensitive"])
ONCE = {"seeds": 2, "trials": 0, "race": False, "max_concurrent": 2}


def small_phases(race: int, final: int, confirm: int, *others: Phase) -> tuple[Phase, ...]:
    """The phases of a search with a race of two contenders and one finalist.

    Args:
        race: Seeds of the race, as the two after it.
        final: Seeds of the final.
        confirm: Seeds of the confirmation.
        others: Further phases with other numbers than usual.
    """
    first = Race(contenders=2, seeds=race)
    small = {phase.name: phase for phase in (first, Final(first, 1, final), Confirm(confirm), *others)}
    return tuple(small.get(phase.name, phase) for phase in PHASES)

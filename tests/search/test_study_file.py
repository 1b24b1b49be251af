"""The copy of the study that people look at: it follows the study, whatever happens to the file."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.scheduling import study_file
from search.scheduling.sampler import Sampler
from spaces.domain import Space, Stage, log_uniform, one_of
from trainables.data import standard

SPACE = Space(
    stages=[Stage("only", length=1, lr=log_uniform(0.01, 0.3, step="thirds"), choose=[one_of(None, "cost_sensitive")])]
)


def make(file: Path) -> Sampler:
    return Sampler(SPACE, standard("digits-lt"), 1.0, file, "mine", 0)


def step(sampler: Sampler, draw: int, outcome: str = "finished") -> None:
    """One proposal that runs while the file is written, and then ends."""
    number = sampler.ask(draw).number
    assert sampler.keep() == ""
    sampler.tell(number, outcome, 0.5 + draw / 100, [(3, 0.25), (6, 0.5)])
    assert sampler.keep() == ""


def contents(study: optuna.Study) -> list[tuple]:
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.intermediate_values, t.user_attrs, t.system_attrs)
        for t in study.get_trials()
    ]


def read(file: Path) -> optuna.Study:
    storage = optuna.storages.RDBStorage("sqlite://", {"creator": lambda: sqlite3.connect(file)})
    return optuna.load_study(study_name="mine", storage=storage)


@pytest.fixture
def played(tmp_path) -> Sampler:
    sampler = make(tmp_path / "optuna.db")
    for draw, outcome in enumerate(("finished", "stopped", "diverged", "finished")):
        step(sampler, draw, outcome)
    return sampler


def test_it_holds_what_the_study_holds(played, tmp_path):
    loaded = read(tmp_path / "optuna.db")
    assert contents(loaded) == contents(played.study)
    assert loaded.metric_names == ["accuracy"] and loaded.best_value == 0.53
    number = played.ask(4).number
    played.keep()
    assert read(tmp_path / "optuna.db").trials[number].state == TrialState.RUNNING
    assert os.listdir(tmp_path) == ["optuna.db"]


@pytest.mark.parametrize(
    "name", ["what?now", "a#b", "50%3F", "{x} {SCHEMA_VERSION}", "'quoted' \"twice\"", "ä × ?mode=ro"]
)
def test_any_path(tmp_path, name):
    for folder in (tmp_path / f"{name}1", tmp_path / f"{name}2"):
        folder.mkdir()
        step(make(folder / "optuna.db"), 0)
        assert os.listdir(folder) == ["optuna.db"]
        assert len(read(folder / "optuna.db").trials) == 1
    assert len(os.listdir(tmp_path)) == 2


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:3000])


def in_the_middle(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096:30000] = os.urandom(30000 - 4096)
    file.write_bytes(content)


def another(file: Path) -> None:
    file.unlink()
    other = optuna.create_study(storage=f"sqlite:///{file}", study_name="mine")
    other.add_trial(optuna.trial.create_trial(value=1.0))


DAMAGE = {
    "gone": Path.unlink, "empty": lambda file: file.write_bytes(b""), "cut": half, "holes": in_the_middle,
    "text": lambda file: file.write_text("no database\n" * 999), "another study": another,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("resumed", [False, True])
def test_a_damaged_file_is_replaced(played, tmp_path, damage, resumed):
    file = tmp_path / "optuna.db"
    DAMAGE[damage](file)
    if resumed:
        played._file = study_file.StudyFile(file, played.study, ["accuracy"])
    step(played, 4)
    step(played, 5)
    assert contents(read(file)) == contents(played.study) and len(played.study.trials) == 6


def test_a_file_that_agrees_is_gone_on_with(played, tmp_path):
    file = tmp_path / "optuna.db"
    before = file.stat().st_ino
    played._file = study_file.StudyFile(file, played.study, ["accuracy"])
    step(played, 4)
    assert file.stat().st_ino == before and contents(read(file)) == contents(played.study)


def test_what_a_killed_process_was_doing_to_the_old_file_is_not_done_to_the_new_one(played, tmp_path):
    """A rollback journal beside the file would be rolled back into whatever lies there under the name."""
    file = tmp_path / "optuna.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("UPDATE trial_values SET value = 0.9")
        connection.execute("CREATE TABLE filler AS SELECT hex(randomblob(9000)) FROM trials")
        hot = (tmp_path / "optuna.db-journal").read_bytes()
        connection.rollback()
    connection.close()
    assert hot
    (tmp_path / "optuna.db-journal").write_bytes(hot)
    file.write_bytes(b"")
    step(played, 4)
    assert contents(read(file)) == contents(played.study)


def test_a_file_that_somebody_has_locked_holds_nothing_up(played, tmp_path):
    file = tmp_path / "optuna.db"
    holder = sqlite3.connect(file)
    holder.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    step(played, 4)
    assert time.monotonic() - began < 20, "Optuna alone would wait for more than a minute"
    holder.rollback()
    holder.close()
    assert contents(read(file)) == contents(played.study)


def test_a_file_that_cannot_be_written_is_told_of_and_written_later(played, tmp_path, monkeypatch):
    file = tmp_path / "optuna.db"
    file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        number = played.ask(4).number
        said = played.keep()
        assert said.startswith(f"{file} could not be written ([Errno 28] No space left on device); the search does not")
    played.tell(number, "finished", 0.5, [])
    assert played.keep() == said and not file.exists(), "it is not tried again at every event"
    assert played.keep(at_once=True) == "" and contents(read(file)) == contents(played.study)
    assert os.listdir(tmp_path) == ["optuna.db"]

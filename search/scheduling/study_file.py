"""The study as a file, `results/<search>/optuna.db`: for `optuna-dashboard` and for people.

The search writes it and never reads a decision from it: proposals come from the study in memory, which is rebuilt from
the journal. So a file that was deleted, damaged or locked by somebody else is replaced, and costs the search nothing.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from analysis import files

log = logging.getLogger(__name__)

LOCK_SECONDS = 1.0
"""How long a file that somebody else has locked is waited for, before it is replaced."""

PAUSE_SECONDS = 30.0
"""Until a file that could not be written is tried again."""

PROBLEMS = (SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError, OSError, KeyError, ValueError)


class StudyFile:
    """An SQLite file that follows a study."""

    def __init__(self, path: Path, study: optuna.Study, metrics: Sequence[str]) -> None:
        self.path, self._study, self._metrics = path, study, list(metrics)
        self._storage: RDBStorage | None = None
        self._kept: list[tuple[int, bool]] = []  # by number: id in the file, whether it is finished there
        self._mark: tuple[int, ...] = ()  # of the file as it was left
        self._not_before = 0.0
        self.problem = ""
        """Why the file is not up to date, in one line; empty where it is."""

    def write(self, at_once: bool = False) -> None:
        """Brings the file up to date; what goes wrong is noted (`problem`) and tried again later.

        Args:
            at_once: Whether to try even shortly after it went wrong.
        """
        if not at_once and time.monotonic() < self._not_before:
            return
        try:
            try:
                # asked here, because Optuna would try a locked file five times
                with closing(_connect(self.path)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                if self._storage is None or self._mark != _mark(self.path):
                    self._adopt()
                self._append()
            except PROBLEMS:
                self._replace()
        except PROBLEMS as error:
            self._storage = None
            self.problem = (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
            self._not_before = time.monotonic() + PAUSE_SECONDS
        else:
            self.problem, self._mark = "", _mark(self.path)

    def _adopt(self) -> None:
        """Goes on with the file of an earlier run, as far as it agrees with the study.

        Raises:
            ValueError: It does not agree.
        """
        storage = _open(self.path)
        study = storage.get_study_id_from_name(self._study.study_name)
        there = storage.get_all_trials(study, deepcopy=False)
        ours = self._study.get_trials(deepcopy=False)
        if storage.get_study_directions(study) != self._study.directions or len(there) > len(ours):
            raise ValueError("the file holds another study")
        if not all(map(_agree, there, ours)):
            raise ValueError("the file holds another study")
        self._storage, self._id = storage, study
        keys = (storage.get_trial_id_from_study_id_trial_number(study, trial.number) for trial in there)
        self._kept = [(key, trial.state.is_finished()) for key, trial in zip(keys, there, strict=True)]

    def _append(self) -> None:
        """Writes the trials that are new, or finished since."""
        assert self._storage is not None
        for trial in self._study.get_trials(deepcopy=False):
            finished = trial.state.is_finished()
            if trial.number == len(self._kept):
                self._kept.append((self._storage.create_new_trial(self._id, trial), finished))
            elif finished and not self._kept[trial.number][1]:
                key = self._kept[trial.number][0]
                for step, value in trial.intermediate_values.items():
                    self._storage.set_trial_intermediate_value(key, step, value)
                self._storage.set_trial_state_values(key, trial.state, trial.values)
                self._kept[trial.number] = key, True

    def _replace(self) -> None:
        """Writes a file beside the old one and moves it into its place."""
        beside = files.beside(self.path)
        try:
            beside.touch()
            self._storage, self._kept = _open(beside), []
            study = optuna.create_study(
                storage=self._storage, study_name=self._study.study_name, directions=self._study.directions
            )
            self._id = self._storage.get_study_id_from_name(self._study.study_name)
            with warnings.catch_warnings():
                # what the dashboard's axes are called: nothing depends on it
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(self._metrics)
            self._append()
            for left in ("-journal", "-wal", "-shm"):
                # SQLite would roll the new file back to what a killed process was doing to the old one
                self.path.with_name(self.path.name + left).unlink(missing_ok=True)
            os.replace(beside, self.path)
            self._storage = _open(self.path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise


def _open(path: Path) -> RDBStorage:
    """The storage in an SQLite file that is there, whatever signs its path holds; nothing is kept open."""
    return RDBStorage("sqlite://", {"creator": lambda: _connect(path), "poolclass": NullPool})


def _mark(path: Path) -> tuple[int, ...]:
    """By which it shows that somebody else has written to a file."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", timeout=LOCK_SECONDS, uri=True)


def _agree(old: FrozenTrial, new: FrozenTrial) -> bool:
    """Whether a trial in the file is one of the study, perhaps at an earlier time; notes of the dashboard may stay."""
    ended = old.state.is_finished()
    return (
        (old.params, old.distributions, old.user_attrs) == (new.params, new.distributions, new.user_attrs)
        and new.system_attrs.items() <= old.system_attrs.items()
        and (not ended or (old.state, old.values) == (new.state, new.values))
        and (not ended or old.intermediate_values == new.intermediate_values)
    )

"""Trains seeds of a recipe so that nothing is lost: what is trained lies in `<out>/unfinished` until all is done."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from analysis.files import to_json, write
from trainables.data import LongTailed
from trainables.final import data_identity
from trainables.final.artifacts import TrainedSeed
from trainables.final.errors import TrainError
from trainables.final.recipe import Data
from trainables.final.reliability.sections import MEASURED
from trainables.final.setup import CheckpointPolicy, TrainingSetup
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.plan import Plan
from trainables.training.acceleration.batch_sharding import BatchSharding
from trainables.training.numerics import Numerics

UNFINISHED = "unfinished"
"""Folder, in the output's, of a training that is not done: its settings and a stage store. Gone when it is done."""

_SETTINGS = "settings.json"

Show = Callable[[float, str, int, float], None]
"""(fraction done, stage, epochs of it, training loss) -> None."""


class TrainingStopped(Exception):
    """The training was asked to stop, and has saved what was trained."""


class GracefulStop:
    """Handles Ctrl-C and termination: the first asks to stop after the epoch, the second stops at once.

    Args:
        tell: Called with a message when the first one comes.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.asked = False
        self._tell = tell
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._tell("stopping after this epoch, which is then saved; once more stops at once")


class UnfinishedRun:
    """The folder of an unfinished training.

    Args:
        out: Folder of the model.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / UNFINISHED
        self._out = out

    @property
    def store(self) -> StageStore:
        """Store of the stages that have been trained so far."""
        return StageStore(self.path / "stages")

    def start(self, settings: Mapping[str, Any]) -> None:
        """Starts a training.

        Raises:
            TrainError: The folder holds another training, finished or not.
        """
        if (self.path / _SETTINGS).is_file():
            raise TrainError(
                f"{self._out} holds a training that is not finished: continue it with --resume, choose another --out, "
                f"or remove {self.path}"
            )
        if (self._out / MEASURED).is_file():
            raise TrainError(
                f"{self._out} holds a model that is finished and is not overwritten: choose another --out, or "
                "remove that folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_settings(settings)

    def settings(self) -> dict[str, Any]:
        """Reads the settings of the training in this folder.

        Raises:
            TrainError: There is none, or its settings are damaged.
        """
        file = self.path / _SETTINGS
        if not file.is_file():
            raise TrainError(f"--resume: {self._out} holds no unfinished training; leave --resume out to start one")
        try:
            noted: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            Data.model_validate(noted["data"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise TrainError(
                f"--resume: {file} is damaged; remove {self.path} and start again without --resume"
            ) from error
        return noted

    def check_data(self, now: Mapping[str, Any]) -> dict[str, Any]:
        """Checks that the data of the training in this folder are unchanged, and returns them.

        Args:
            now: The data as they are now, from `data_identity.identity`.

        Raises:
            TrainError: They have changed, so that two data sets would be mixed.
        """
        data: dict[str, Any] = self.settings()["data"]
        found = data_identity.change(data, now)
        if found is not None:
            raise TrainError(
                f"--resume: the data have changed since this training began: {found.text}; take the old data again, or "
                "train on the new ones from the start with another --out"
            )
        return data

    def resume(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Resumes a training; returns its settings as they were written.

        Raises:
            TrainError: There is none, or it had other settings.
        """
        noted = self.settings()
        for key, value in settings.items():
            # a training of an earlier version lacks what that did not know, and differs in its code
            if (key in noted or key == "code") and noted.get(key) != json.loads(to_json(value)):
                if key == "code":
                    raise TrainError(
                        f"--resume: what {self._out} holds was trained by other code (this project's, a trick's, the "
                        "network's or torch's), and would not end with the same weights; take that again, or choose "
                        "another --out"
                    )
                raise TrainError(
                    f"--resume: {self._out} was started with another {key} ({_short(noted.get(key))}, now "
                    f"{_short(value)}); give the same, or choose another --out"
                )
        return noted

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings."""
        write(self.path / _SETTINGS, to_json(settings, indent=1))

    def clear(self) -> None:
        """Removes it when the training is done."""
        shutil.rmtree(self.path, ignore_errors=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def device() -> torch.device:
    """The GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Name of the device that training uses."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({torch.get_num_threads()} threads)"


def pipeline_of(
    recipe: Mapping[str, Any],
    plan: Plan,
    seed: int,
    data: LongTailed,
    setup: TrainingSetup,
    store: StageStore | None,
    policy: CheckpointPolicy,
    evaluate: bool = False,
    rank: int = 0,
    numerics: Numerics | None = None,
) -> Pipeline:
    """The pipeline of one seed, in the worker of that rank.

    `numerics` stands in for the precision of `setup`, where training repeats a search.
    """
    return Pipeline(
        plan,
        data,
        recipe["model"],
        seed,
        device(),
        store=store,
        evaluate=evaluate,
        numerics=numerics or Numerics(precision=setup.precision),
        save_seconds=policy.seconds,
        sharding=BatchSharding(setup.accumulate, setup.workers, rank),
    )


def train(pipeline: Pipeline, seed: int, policy: CheckpointPolicy, stop: Callable[[], bool], show: Show) -> TrainedSeed:
    """Trains one seed to its end.

    Raises:
        TrainingStopped: A stop was requested; everything trained so far is saved.
        Diverged: The loss is no longer finite.
    """
    while not pipeline.finished:
        pipeline.advance()
        stage, epoch, loss = pipeline.executor.now
        show(pipeline.progress, stage, epoch, loss)
        if policy.epochs and epoch and epoch % policy.epochs == 0:
            pipeline.executor.save_unfinished()
        if stop() and not pipeline.finished:
            pipeline.executor.save_unfinished()
            raise TrainingStopped
    return TrainedSeed(seed, pipeline, pipeline.cost.seconds + pipeline.cost.seconds_saved)

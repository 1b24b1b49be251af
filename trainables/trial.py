"""One trial as Ray runs it: a `Trainable` around the pipeline.

The only file of a trial that imports Ray. One process serves many trials (`reset_config`); everything that a trial
depends on is made from its `TrialSpec`, so the fifth trial of a process equals the first of another.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from ray.tune import PlacementGroupFactory, Trainable

from trainables.data import DataError
from trainables.deployment import Deployment
from trainables.evaluation.summary import per_class
from trainables.pipeline import confirmation
from trainables.pipeline.footprint import Footprint, footprint
from trainables.pipeline.joint_seeds import JointSeeds
from trainables.pipeline.pipeline import Diverged, Pipeline, Point
from trainables.pipeline.storage import StoreFull
from trainables.pipeline.store import StageStore
from trainables.plan import Plan
from trainables.registry import discover
from trainables.training.acceleration import memory
from trainables.training.numerics import Numerics
from trainables.trial_spec import TrialSpec, cached_data, spec_of

REPORT_SECONDS = 1.0
"""A trial reports at rungs, at its end, and otherwise about this often: each report costs the driver some 50 ms."""


def pick_device(device: str) -> torch.device:
    """The device by name; "auto" is CUDA where this process sees one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def folder_of(place: str) -> str:
    """A folder of tricks on this machine."""
    module, colon, number = place.partition(":")
    if not colon or not module.isidentifier() or not number.isdigit():
        return place
    return str(Path(importlib.import_module(module).__path__[0], number))


def footprint_of(fields: dict[str, Any]) -> Footprint:
    """Measures memory and time of a trial on its device.

    Args:
        fields: `TrialSpec.to_dict()`.
    """
    spec = spec_of(fields)
    discover(*map(folder_of, spec.tricks))
    data = cached_data(spec.data, spec.root, spec.imbalance, spec.split_seed)
    plan, numerics = Plan.from_dict(spec.plan), Numerics.of(spec.numerics)
    return footprint(plan, data, spec.model, pick_device(spec.device), numerics)


def pipeline_of(spec: TrialSpec, share: float = 1.0) -> Pipeline:
    """The pipeline of a trial, or of its plan shortened to a share of its epochs.

    Raises:
        DataError: The data are not those of the search any more.
    """
    discover(*map(folder_of, spec.tricks))
    plan = Plan.from_dict(spec.plan)
    data = cached_data(spec.data, spec.root, spec.imbalance, spec.split_seed)
    # streamed files are known by their times of change, which copies on other machines have of their own
    if spec.fingerprint not in ("", data.fingerprint) and isinstance(data.train_images, torch.Tensor):
        raise DataError(
            f"{spec.data}: images or labels have changed since the search was started, and its trials must be trained "
            "on the same; undo that, and resume it"
        )
    together = [
        (seed, cached_data(spec.data, spec.root, spec.imbalance, seed).fingerprint) for seed in spec.joint_seeds
    ]
    return Pipeline(
        plan if share == 1 else plan.shortened(share),
        data,
        spec.model,
        spec.seed,
        pick_device(spec.device),
        store=None if spec.store is None else StageStore(spec.store),
        numerics=Numerics.of(spec.numerics),
        deployment=Deployment.from_dict(spec.deployment),
        joint_seeds=together,
    )


def joint_seeds_of(spec: TrialSpec, share: float, lead: Pipeline) -> JointSeeds:
    """The pipeline of a trial with those of the seeds that are trained with it."""

    def alone(seed: int) -> TrialSpec:
        return dataclasses.replace(spec, seed=seed, split_seed=seed, fingerprint="")

    def others() -> list[Pipeline | None]:
        return [None if seed == spec.seed else pipeline_of(alone(seed), share) for seed in spec.joint_seeds]

    return JointSeeds(lead, others)


def shortened_to(spec: TrialSpec) -> tuple[float, ...]:
    """The rungs to which a trial's plan is shortened: none that leaves a plan of few epochs as long as it is."""
    plan = Plan.from_dict(spec.plan)
    return tuple(rung for rung in spec.rungs if spec.shortened and plan.shortened(rung).cost < plan.cost)


class TrialFailed(Exception):
    """Ends the process of a trial that has reported its error."""


class _Notes(logging.Handler):
    """Collects warnings for the driver: nobody reads the output of this process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message."""
        self._texts.append(record.getMessage())

    def take(self) -> list[str]:
        """The messages since the last call."""
        texts, self._texts = self._texts, []
        return texts


def failure_of(error: BaseException) -> str:
    """An error in one line: its kind and the first line of its text; of a full store the sentence alone."""
    if isinstance(error, StoreFull):
        return f"{error.strerror}{error.remedy}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Trial(Trainable):  # type: ignore[misc]
    """Trains a plan, reporting at rungs and about once a second.

    Every result carries `score` (the last accuracy on val, 0 before the first), `progress` in [0, 1],
    `points` (the evaluations since the last report), `outcome`, `payload` (what the record needs) and `notes` (what was
    warned of). An error is a result as well, whose outcome is "failed" and whose `failure` says why. The step after it
    raises, so that Ray ends this process: what an error leaves of a GPU's context is not for another trial.

    A re-used stage has its whole history at once. It is reported like that of a trained one, no further than the next
    rung: so a trial is stopped where it would have been stopped, and later ones are judged by what it has shown there.

    With `shortened`, the plan comes after its shortened versions, each a pipeline of its own. One is reported as a
    single point, at the rung, with the metric "shortened". They count in the trial's epochs and seconds; images and
    steps are those of the plan itself, at which recipes are compared.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Resources that Ray reserves for a trial: "cpus" and "gpus" of its configuration."""
        gpus = {"GPU": config["gpus"]} if config.get("gpus") else {}
        return PlacementGroupFactory([{"CPU": config.get("cpus", 1), **gpus}])

    def setup(self, config: dict[str, Any]) -> None:
        """Makes the pipeline."""
        self._notes = _Notes()
        logging.getLogger("trainables").addHandler(self._notes)
        self.reset_config(config)

    def cleanup(self) -> None:
        """Leaves the process as it was."""
        logging.getLogger("trainables").removeHandler(self._notes)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Makes the pipeline of the next trial; nothing of the last one stays."""
        self._failure, self._failure_reported = "", False
        try:
            self._prepare(new_config)
        except Exception as error:
            self._failure = failure_of(error)
        return True

    def _prepare(self, config: dict[str, Any]) -> None:
        """Makes the pipeline. One thread on a CPU: trials run side by side, one per core."""
        self._spec = spec_of(json.loads(config["spec"]))
        self._device = pick_device(self._spec.device)
        if self._device.type == "cpu":
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        # the last trial's tensors first, or they would be counted
        self.__dict__.pop("_joint_seeds", None)
        memory.forget_peak(self._device)
        memory.cap(self._device, config.get("gpus", 1.0))
        self._shares = (*shortened_to(self._spec), 1.0)
        self._tried: list[dict[str, Any]] = []
        self._begin()
        self._outcome, self._reason = "running", ""
        self._reported = 0
        self._seconds = 0.0

    def _begin(self) -> None:
        """Makes the pipeline of what is being trained."""
        self._joint_seeds = joint_seeds_of(self._spec, self._share, pipeline_of(self._spec, self._share))

    @property
    def _pipeline(self) -> Pipeline:
        return self._joint_seeds.lead

    @property
    def _share(self) -> float:
        """Share of the plan that is being trained: below 1 for a shortened one."""
        return self._shares[len(self._tried)]

    @property
    def _points(self) -> list[dict[str, Any]]:
        """Every evaluation of the trial so far; of a shortened plan its end."""
        own = self._pipeline.points if self._share == 1 else []
        return [tried["point"] for tried in self._tried] + [dataclasses.asdict(point) for point in own]

    def _progress(self, of_plan: float) -> float:
        """Fraction of all training of the trial that is done, from the fraction of the plan in training."""
        return (sum(self._shares[: len(self._tried)]) + self._share * of_plan) / sum(self._shares)

    def step(self) -> dict[str, Any]:
        """Trains on to the next report, or reports further what came from the store.

        Raises:
            TrialFailed: The last report was of an error.
        """
        if self._failure_reported:
            raise TrialFailed(self._failure)
        if not self._failure:
            try:
                return self._report() | {"notes": self._notes.take()}
            except Exception as error:
                self._failure = failure_of(error)
        self._failure_reported = True
        return {
            "score": 0.0, "progress": 0.0, "points": [], "outcome": "failed", "payload": {}, "failure": self._failure,
            "notes": self._notes.take(),
        }  # fmt: skip

    def _report(self) -> dict[str, Any]:
        known = self._points
        if self._reported == len(known):
            self._train()
            known = self._points
        before = known[self._reported - 1]["progress"] if self._reported > len(self._tried) else 0.0
        points = known[
            self._reported : self._reported + _to_next_rung(known[self._reported :], before, self._spec.rungs)
        ]
        self._reported += len(points)
        whole = self._reported == len(known)
        outcome = self._outcome if whole else "running"
        last = known[self._reported - 1]["metrics"] if self._reported else {"accuracy": 0.0}
        return {
            "score": last.get("accuracy", last.get("shortened")),
            "progress": self._progress(self._pipeline.progress if whole else points[-1]["progress"]),
            "points": points,
            "outcome": outcome,
            "payload": self._payload(outcome),
            "done": outcome != "running",
        }

    def _train(self) -> None:
        """Trains on to the next rung, the end, or for about a second."""
        began = time.perf_counter()
        pipeline, whole = self._pipeline, self._share == 1
        seen = len(self._points)
        before = pipeline.progress
        try:
            while not pipeline.finished:
                self._joint_seeds.advance()
                passed = whole and any(before < rung <= pipeline.progress + 1e-9 for rung in self._spec.rungs)
                if (passed and len(self._points) > seen) or time.perf_counter() - began > REPORT_SECONDS:
                    break
            if pipeline.finished and whole:
                self._outcome = "finished"
            elif pipeline.finished:
                self._try_longer()
        except Diverged as diverged:
            at = "" if whole else f"shortened to {self._share:.0%}: "
            self._outcome, self._reason = "diverged", at + str(diverged)
        self._seconds += time.perf_counter() - began

    def _try_longer(self) -> None:
        """Records the result of a shortened plan, and starts the next longer one."""
        short, share = self._pipeline, self._share
        result = short.result()[0]
        value = fmean(result[name] for name in self._spec.target)
        # in the plan's last stage: what is compared has been through all of them
        point = Point(short.plan.stages[-1].name, 0, short.plan.epochs, share, {"shortened": value})
        reused = [f"{name}@{share:g}" for name in short.reused]
        cost = dataclasses.asdict(short.cost) | {"reused": reused}
        self._tried.append({"point": dataclasses.asdict(point), "cost": cost})
        self._begin()

    def _payload(self, outcome: str) -> dict[str, Any]:
        """Fields of the record that come from training, for a trial with this outcome."""
        pipeline = self._pipeline
        data = pipeline.data
        own = dataclasses.asdict(pipeline.cost)
        if self._share < 1:
            # of the plan itself nothing was seen yet
            own |= {"images": 0, "steps": 0}
        for tried in self._tried:
            for name in ("epochs", "epochs_trained", "seconds_saved"):
                own[name] += tried["cost"][name]
        # what others find finished has been paid here: over all trials, what is saved comes out right
        own["epochs_trained"] += self._joint_seeds.epochs_trained
        own["seconds_saved"] -= self._joint_seeds.seconds
        reused = [f"{name}@{self._share:g}" for name in pipeline.reused] if self._share < 1 else pipeline.reused
        payload: dict[str, Any] = own | {
            "seconds": self._seconds,
            "reused": [name for tried in self._tried for name in tried["cost"]["reused"]] + reused,
            "first_stage": pipeline.first_stage,
            "fingerprint": data.fingerprint,
            "imbalance": data.imbalance,
            "counts": data.counts.tolist(),
            "val_counts": torch.bincount(data.val_labels.cpu(), minlength=data.classes).tolist(),
            "reason": self._reason,
            "memory": memory.peak(self._device),
        }
        if outcome == "finished":
            payload["metrics"], payload["recalls"], correct = pipeline.result()
            payload["class_names"] = list(data.class_names)
            # image by image, and only where every seed block has the same ones
            payload["correct"] = correct if data.val_given else []
            payload["per_class"] = per_class(pipeline.executor.state.last)
            payload["curve"] = self._points
            payload["decisions"] = confirmation.decisions(pipeline)
            if self._spec.calibrate or self._spec.read_test:
                found, payload["decisions"]["accepted"], fitted = confirmation.calibrated(pipeline)
                payload["metrics"] |= found
                if self._spec.read_test:
                    payload["metrics"] |= confirmation.confirm(pipeline, fitted)
        return payload


def _to_next_rung(points: Sequence[Mapping[str, Any]], before: float, rungs: Sequence[float]) -> int:
    """How many of the points are reported at once: up to the first that passes a rung."""
    for number, point in enumerate(points, start=1):
        if any(before < rung <= point["progress"] + 1e-9 for rung in rungs):
            return number
    return len(points)

"""One trial as Ray runs it: a `Trainable` around the pipeline.

The only file here that imports Ray. One process serves many trials (`reset_config`); everything that a trial
depends on is made anew from its `TrialSpec`, so the fifth trial of a process equals the first of another.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ray.tune import Trainable
from safetensors.torch import load_file, save_file

from trainables.data import LongTailed, load
from trainables.numerics import Numerics
from trainables.pipeline import Diverged, Pipeline
from trainables.plan import Plan
from trainables.registry import discover
from trainables.stage_store import StageStore

REPORT_SECONDS = 1.0
"""A trial reports at rungs, at its end, and otherwise about this often: each report costs the driver some 50 ms."""


@dataclass(frozen=True)
class TrialSpec:
    """All that a trial is made from; JSON-able.

    Args:
        plan: `Plan.to_dict()`.
        seed: Of everything that is drawn in training.
        split_seed: Of the split into train and val.
        data: Name of the data set.
        root: Its folder, where it is not bundled.
        imbalance: Largest class over smallest.
        model: Name of the network.
        store: Folder of finished stages; `None` trains everything.
        tricks: Folders of further tricks.
        rungs: Fractions of the plan at which to report at once.
        read_test: Also measure the final network on test: for confirmed recipes alone.
        device: "cpu", "cuda", or "auto".
        numerics: Fields of `Numerics` that are not at their defaults.
    """

    plan: dict[str, Any]
    seed: int
    split_seed: int
    data: str
    root: str | None
    imbalance: float | None
    model: str
    store: str | None = None
    tricks: tuple[str, ...] = ()
    rungs: tuple[float, ...] = ()
    read_test: bool = False
    device: str = "auto"
    numerics: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return dataclasses.asdict(self)


@functools.lru_cache(maxsize=16)
def cached_data(name: str, root: str | None, imbalance: float | None, split_seed: int) -> LongTailed:
    """A split, loaded once per process."""
    return load(name, root=root, imbalance=imbalance, split_seed=split_seed)


def pick_device(device: str) -> torch.device:
    """The device by name; "auto" is CUDA where this process sees one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pipeline_of(spec: TrialSpec) -> Pipeline:
    """The pipeline of a trial."""
    discover(*spec.tricks)
    return Pipeline(
        Plan.from_dict(spec.plan),
        cached_data(spec.data, spec.root, spec.imbalance, spec.split_seed),
        spec.model,
        spec.seed,
        pick_device(spec.device),
        store=None if spec.store is None else StageStore(spec.store),
        numerics=Numerics.of(spec.numerics),
    )


class Trial(Trainable):  # type: ignore[misc]
    """Trains a plan, reporting at rungs and about once a second.

    Every result carries `score` (the last accuracy on val, 0 before the first), `progress` in [0, 1],
    `points` (the evaluations since the last report; a re-used stage's history comes at once), `outcome` and
    `payload` (what the record needs).
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Makes the pipeline."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Makes the pipeline of the next trial; nothing of the last one stays.

        One thread on a CPU: trials run side by side, one per core.
        """
        spec = json.loads(new_config["spec"])
        spec["tricks"], spec["rungs"] = tuple(spec["tricks"]), tuple(spec["rungs"])
        self._spec = TrialSpec(**spec)
        if pick_device(self._spec.device).type == "cpu":
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self._pipeline = pipeline_of(self._spec)
        self._outcome, self._reason = "running", ""
        self._seconds = 0.0
        return True

    def step(self) -> dict[str, Any]:
        """Trains on to the next report."""
        began = time.perf_counter()
        pipeline = self._pipeline
        seen = len(pipeline.points)
        before = pipeline.progress
        try:
            while not pipeline.finished:
                pipeline.advance()
                passed = any(before < rung <= pipeline.progress + 1e-9 for rung in self._spec.rungs)
                if (passed and len(pipeline.points) > seen) or time.perf_counter() - began > REPORT_SECONDS:
                    break
            if pipeline.finished:
                self._outcome = "finished"
        except Diverged as diverged:
            self._outcome, self._reason = "diverged", str(diverged)
        self._seconds += time.perf_counter() - began
        return {
            "score": pipeline.points[-1].metrics["accuracy"] if pipeline.points else 0.0,
            "progress": pipeline.progress,
            "points": [dataclasses.asdict(point) for point in pipeline.points[seen:]],
            "outcome": self._outcome,
            "payload": self._payload(),
            "done": self._outcome != "running",
        }

    def _payload(self) -> dict[str, Any]:
        """What the record of a trial takes from training."""
        pipeline = self._pipeline
        data = pipeline.data
        payload: dict[str, Any] = dataclasses.asdict(pipeline.cost) | {
            "seconds": self._seconds,
            "reused": pipeline.reused,
            "first_stage": pipeline.first_stage,
            "fingerprint": data.fingerprint,
            "imbalance": data.imbalance,
            "counts": data.counts.tolist(),
            "val_counts": torch.bincount(data.val_labels.cpu(), minlength=data.classes).tolist(),
            "reason": self._reason,
        }
        if self._outcome == "finished":
            payload["metrics"], payload["recalls"], payload["correct"] = pipeline.result()
            payload["per_class"] = pipeline.per_class()
            payload["curve"] = [dataclasses.asdict(point) for point in pipeline.points]
            if self._spec.read_test:
                payload["metrics"] |= pipeline.test()[0]
        return payload

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes the pipeline's state between two epochs."""
        tensors, rest = self._pipeline.state()
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, _tensors(checkpoint_dir))
        rest = {"pipeline": rest, "seconds": self._seconds, "outcome": self._outcome, "reason": self._reason}
        Path(checkpoint_dir, "state.json").write_text(json.dumps(rest), encoding="utf-8")

    def load_checkpoint(self, checkpoint: str) -> None:
        """Goes on from a checkpoint, exactly."""
        rest = json.loads(Path(checkpoint, "state.json").read_text(encoding="utf-8"))
        self._pipeline.load_state(load_file(_tensors(checkpoint)), rest["pipeline"])
        self._seconds, self._outcome, self._reason = rest["seconds"], rest["outcome"], rest["reason"]


def _tensors(folder: str) -> str:
    return str(Path(folder, "tensors.safetensors"))

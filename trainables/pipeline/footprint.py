"""Measures memory and time of a trial on its device: a few steps of every stage, in the calling process."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trainables.data import LongTailed
from trainables.data.loaders import held_bytes
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan
from trainables.training.acceleration import memory
from trainables.training.numerics import Numerics

STEPS = 8
"""Steps of every stage; the allocator has what it needs after the second or third."""


@dataclass(frozen=True)
class Footprint:
    """Memory and time of a trial.

    Args:
        memory: Peak bytes on the device, a GPU's context included; 0 where it is unknown.
        total: Bytes that the device has.
        seconds: Seconds of the whole plan at this pace, without evaluations.
        busy: Share of the time in which the GPU computes, in (0, 1]; NaN where nobody tells.
    """

    memory: float
    total: float
    seconds: float
    busy: float = float("nan")


def footprint(
    plan: Plan, data: LongTailed, model: str, device: torch.device, numerics: Numerics | None = None
) -> Footprint:
    """Trains `STEPS` steps of every stage of a plan and measures.

    Args:
        plan: The plan of the trial.
        data: Its data, whole: what is left out here is counted.
        model: Name of the network.
        device: Where to train.
        numerics: Precision, memory format and the like.
    """
    largest = max(stage.batch_size for stage in plan.stages)
    small = fewer(data, STEPS * largest)
    short = Plan(tuple(dataclasses.replace(stage, epochs=1, eval_every=1) for stage in plan.stages))
    memory.forget_peak(device)
    # the first run also loads kernels, and evaluates, which may take more memory than training
    Pipeline(short, small, model, 0, device, numerics=numerics).run()
    pipeline = Pipeline(short, small, model, 0, device, numerics=numerics, evaluate=False)
    began = time.perf_counter()
    with _busy(device) as readings:
        while not pipeline.finished:
            pipeline.advance()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    left_out = held_bytes(data) - held_bytes(small)
    found = memory.peak(device)
    context = memory.CONTEXT_BYTES if device.type == "cuda" else 0.0
    steps = sum(stage.epochs * -(-len(data.train_labels) // stage.batch_size) * stage.members for stage in plan.stages)
    return Footprint(
        memory=found + left_out + context if found else 0.0,
        total=memory.total(device),
        seconds=seconds / max(1, pipeline.cost.steps) * steps,
        busy=sum(readings) / len(readings) if readings else float("nan"),
    )


def fewer(data: LongTailed, images: int) -> LongTailed:
    """Data with about this many training images, some of every class."""
    each = max(1, -(-images // data.classes))
    kept = torch.cat([(data.train_labels == label).nonzero()[:each, 0] for label in range(data.classes)])
    pixels: Any = data.train_images
    # what is streamed stays in its files, so that decoding is in the pace
    pixels = pixels[kept] if isinstance(pixels, torch.Tensor) else pixels.of(kept.numpy())
    views = None if data.train_views is None else data.train_views[:, kept]
    return dataclasses.replace(
        data, train_images=pixels, train_labels=data.train_labels[kept], train_views=views, fingerprint=""
    )


@contextmanager
def _busy(device: torch.device) -> Iterator[list[float]]:
    """Samples the utilisation of a GPU ten times a second; nothing if the driver cannot report it."""
    readings: list[float] = []
    over = threading.Event()

    def read() -> None:
        while not over.wait(0.1):
            try:
                readings.append(torch.cuda.utilization(device) / 100)
            except Exception:
                return  # the driver's library is not installed

    thread = threading.Thread(target=read, daemon=True)
    if device.type == "cuda":
        thread.start()
    try:
        yield readings
    finally:
        over.set()
        if device.type == "cuda":
            thread.join()

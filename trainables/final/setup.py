"""How a final training is run: device, precision, workers, and how often it is saved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingSetup:
    """How it was trained, apart from the plan.

    Args:
        device: Name of the device.
        precision: "fp32" or "bf16".
        accumulate: Parts of a batch whose gradients were added up.
        workers: Processes that shared each batch.
    """

    device: str
    precision: str = "fp32"
    accumulate: int = 1
    workers: int = 1

    def __str__(self) -> str:
        parts = [f"on {self.device}", "bfloat16 by autocast" if self.precision == "bf16" else "float32"]
        if self.accumulate > 1:
            parts.append(f"each batch in {self.accumulate} parts")
        if self.workers > 1:
            parts.append(f"{self.workers} workers")
        return ", ".join(parts)


@dataclass(frozen=True)
class CheckpointPolicy:
    """How often an unfinished stage is saved.

    Args:
        seconds: Shortest time between two saves; 0 saves after every epoch.
        epochs: Also saves after every so many epochs of a stage; 0 does not.
    """

    seconds: float = 60.0
    epochs: int = 0

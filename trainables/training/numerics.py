"""Numerical settings: precision, memory format, CUDA graphs, joint training of members and seeds.

Results depend on all of it in their last bits, so the whole request is part of every finished stage's key. What a
request of "auto" means follows from nothing but the device, the size of the images and the batch, all of which are
in the key as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from analysis.text import did_you_mean

if TYPE_CHECKING:
    from trainables.plan import StagePlan

PRECISIONS = ("fp32", "bf16")
SWITCH = ("auto", "on", "off")

CHANNELS_LAST_PIXELS = 8_000
"""Pixels of a batch, B·H·W, from which channels_last is faster on a CPU; see docs/speed.md for the measurement."""

FUSED_PIXELS = 6_000
"""Pixels of a member's batch, B·H·W, below which members are faster together on a CPU; see docs/speed.md."""


class NumericsError(ValueError):
    """A request that cannot be met."""


GROUP_OF_OPTIONS = "how trials compute"
"""Heading of these settings among the options of a search."""


def setting(help: str, choices: tuple[str, ...], default: str) -> Any:
    """A field of `NumericsSettings`, with the help of the option of that name."""
    return field(default=default, metadata={"group": GROUP_OF_OPTIONS, "help": help, "choices": choices})


@dataclass(frozen=True)
class NumericsSettings:
    """Settings of training, each declared once: a field here is an option of a search and part of a stage's key.

    Args:
        precision: "fp32", or "bf16": the backbone's convolutions in bfloat16 by autocast. Weights, BatchNorm's
            statistics, head, loss and optimiser stay in float32; no loss scaling is needed.
        channels_last: Memory format of images and convolutions: "on", "off", or "auto", where it is faster.
        fused_members: Whether the members of a stage are trained together in one network of grouped convolutions:
            "on" (where the stage can be), "off", or "auto", where it is faster. Off by default: a member alone is kept
            and re-used by stages with any number of members, members together only by those with the same group.
        graph: "on" replays each step as one CUDA graph, where the stage can be captured; "off" does not.
        fused_trials: Whether seeds of one recipe are trained together in the same way, four at a time: "on" (where
            a stage allows it), "off", or "auto", where it is faster.
    """

    precision: str = setting("precision of convolutions; bf16 is faster on large images", PRECISIONS, "fp32")
    channels_last: str = setting("channels-last memory format; auto uses it where it is faster", SWITCH, "auto")
    fused_members: str = setting("train the members of a stage together", SWITCH, "off")
    graph: str = setting("replay each training step as a CUDA graph", ("on", "off"), "off")
    fused_trials: str = setting("train the seeds of a recipe together", SWITCH, "off")


@dataclass(frozen=True)
class Numerics(NumericsSettings):
    """The requested numerics of a trial.

    Raises:
        NumericsError: A value that is not among the choices of its setting.

    >>> Numerics().channels_last_for("cpu", pixels=50 * 8 * 8), Numerics().channels_last_for("cpu", pixels=128 * 32**2)
    (False, True)
    """

    def __post_init__(self) -> None:
        for known in fields(self):
            name, values, got = known.name, known.metadata["choices"], getattr(self, known.name)
            if got not in values:
                hint = did_you_mean(got, values)
                raise NumericsError(
                    f"--{name.replace('_', '-')} must be {', '.join(values[:-1])} or {values[-1]}, got {got!r}"
                    + (hint and f": {hint}")
                )

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Numerics:
        """From a JSON-serialisable dict; what is absent has its default."""
        return Numerics(**dict(fields))

    def to_dict(self) -> dict[str, str]:
        """A JSON-serialisable dict, which is what enters the key."""
        return asdict(self)

    def channels_last_for(self, device: str, pixels: int) -> bool:
        """Whether a stage's network is kept in channels_last.

        Args:
            device: "cpu" or "cuda".
            pixels: B·H·W of one batch.

        On a CPU by measurement. On CUDA with bf16 alone, because tensor cores want it: a rule of PyTorch's guide
        to channels_last, not measured here.
        """
        if self.channels_last != "auto":
            return self.channels_last == "on"
        return pixels >= CHANNELS_LAST_PIXELS if device == "cpu" else self.precision == "bf16"

    def fuses(self, device: str, pixels: int) -> bool:
        """Whether to train members together that can be.

        On a CPU by measurement: where a batch is so small that the cost of calling an operation dominates. On CUDA
        never by itself: it has not been measured.
        """
        return _is_on(self.fused_members, device, pixels)

    def fuses_trials(self, device: str, pixels: int) -> bool:
        """Whether to train seeds together; the work is the same as for members."""
        return _is_on(self.fused_trials, device, pixels)


def _is_on(asked: str, device: str, pixels: int) -> bool:
    return asked == "on" or (asked == "auto" and device == "cpu" and pixels < FUSED_PIXELS)


GROUP = 4
"""Largest group of members, or seeds, trained together; members 0 to 3 always form a group, so that stages with more
members share it."""


def group_of(member: int, members: int) -> range:
    """The members that are trained together with one of a stage.

    >>> group_of(1, 6), group_of(5, 6)
    (range(0, 4), range(4, 6))
    """
    first = member // GROUP * GROUP
    return range(first, min(first + GROUP, members))


def groups_of(seeds: Sequence[int]) -> list[tuple[int, ...]]:
    """Seeds in groups that are trained together, in order.

    >>> groups_of([0, 1, 2, 3, 4, 5])
    [(0, 1, 2, 3), (4, 5)]
    """
    return [tuple(seeds[first : first + GROUP]) for first in range(0, len(seeds), GROUP)]


def can_be_fused(stage: StagePlan) -> bool:
    """Whether a stage asks for nothing that keeps its members apart; the network must agree as well."""
    return stage.members > 1 and not why_apart(stage)


def why_apart(stage: StagePlan) -> str:
    """What keeps the members of a stage, or the seeds of a recipe in it, from being trained as one network; or ""."""
    if not plain_sgd(stage):
        return "AdamW, layer-wise learning rates or clipping"
    if stage.views:
        return "cached features"
    return "a train trick" if stage.on("train") else ""


def plain_sgd(stage: StagePlan) -> bool:
    """Whether all parameters take the same step of SGD: what fused networks and CUDA graphs know."""
    return stage.optimizer == "sgd" and stage.layer_decay == 1 and stage.clip is None

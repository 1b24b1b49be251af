"""Time of one epoch on this machine, from the last search or measurement; the preview's times are computed from it.

It is kept in `<results>/pace.json`, one entry for each data set, imbalance, network, kind of device, numerics and
machine.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import files

if TYPE_CHECKING:
    from analysis.records.schema import Record
    from search.settings import Settings


@dataclass(frozen=True)
class EpochTime:
    """Seconds of one epoch, and where they come from.

    Args:
        seconds: Per epoch, evaluation included.
        source: In words, e.g. "search first-20260101-120000".
    """

    seconds: float
    source: str


def file_of(settings: Settings) -> Path:
    """The file in a results folder that keeps epoch times."""
    return Path(settings.output) / "pace.json"


def known(settings: Settings, model: str) -> EpochTime | None:
    """The epoch time of such trials on this machine; `None` if it is not known."""
    found = _read(file_of(settings)).get(_key(settings, model))
    try:
        return None if found is None else EpochTime(float(found["seconds"]), str(found["source"]))
    except (KeyError, TypeError, ValueError):
        return None


def keep(settings: Settings, model: str, time: EpochTime) -> None:
    """Keeps an epoch time for later previews; if it cannot be written, nothing else is lost."""
    file = file_of(settings)
    times = _read(file) | {_key(settings, model): {"seconds": time.seconds, "source": time.source}}
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, files.to_json(times, indent=2) + "\n")


def of_records(records: Iterable[Record]) -> float | None:
    """Median over trials of the seconds per epoch; `None` without a trial.

    Trials that re-used a stage do not count, because their seconds include reading it.
    """
    each = [r.seconds / r.epochs_trained for r in records if r.epochs_trained and not r.reused and r.seconds > 0]
    return statistics.median(each) if each else None


def _key(settings: Settings, model: str) -> str:
    device = "cuda" if settings.gpus_per_trial else "cpu"
    imbalance = "standard" if settings.imbalance is None else f"{settings.imbalance:g}"
    computed = ",".join(settings.numerics.to_dict().values())
    return " ".join((settings.data, imbalance, model, device, computed, platform.node()))


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """The epoch times in a file; entries that another version or a person has made invalid are ignored."""
    try:
        times = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: time for key, time in times.items() if _is_epoch_time(time)} if isinstance(times, dict) else {}


def _is_epoch_time(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("source"), str):
        return False
    seconds = value.get("seconds")
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1e9

"""Every k-th write, fsync, rename, read or lock fails, once or from then on: resuming gives the search without a fault.

The whole product runs, from the command's first check to its last file, but for Ray's processes (`in_process`); faults
are put under the functions of the operating system that Python's files, folders and locks go through.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from search.scheduling.journal import Journal
from tests.search import in_process
from trainables.pipeline import storage
from trainables.pipeline.housekeeping import problems
from trainables.pipeline.store import StageStore

KINDS = ("write", "fsync", "rename", "read", "lock")

SEARCH = {"space": in_process.TINY, "seeds": 2, "trials": 2, "race": False}

TIMES = {"seconds", "seconds_saved", "started", "reused", "epochs_trained", "memory"}
"""What a record says of its time, and of what was there already."""


class Killed(BaseException):
    """The process has ended: nothing more of it reaches the disk."""


class Faults:
    """Calls of the operating system on files of one folder; the k-th of a kind fails.

    Args:
        place: The folder.
        kind: One of `KINDS`.
        k: The first call that fails, from 1; 0 for none.
        lasting: Whether all calls after it fail as well.
        kill: Whether the process ends at that call, instead of being told of an error.
    """

    def __init__(self, place: Path, kind: str = "", k: int = 0, lasting: bool = False, kill: bool = False) -> None:
        self.place, self.kind, self.k, self.lasting, self.kill = str(place), kind, k, lasting, kill
        self.calls: Counter[str] = Counter()
        self.dead = False

    def call(self, kind: str, path: Any) -> None:
        """Counts a call, and fails it where it is its turn."""
        if self.dead:
            raise Killed
        try:
            name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
        except (OSError, TypeError):
            return
        if not str(name).startswith(self.place):
            return
        self.calls[kind] += 1
        number = self.calls[kind]
        if kind == self.kind and self.k and (number == self.k or (self.lasting and number > self.k)):
            if self.kill:
                self.dead = True
                raise Killed
            raise OSError(errno.EIO if kind != "write" else errno.ENOSPC, os.strerror(errno.EIO), str(name))

    @contextmanager
    def injected(self) -> Iterator[Faults]:
        """Puts the faults under everything that is done in here."""
        real = {
            "write": os.write, "fsync": os.fsync, "replace": os.replace, "rename": os.rename, "open": io.open,
            "flock": fcntl.flock,
        }  # fmt: skip

        def before(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def called(path: Any, *arguments: Any, **named: Any) -> Any:
                self.call(kind, path)
                return function(path, *arguments, **named)

            return called

        def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            self.call("write" if set(mode) & set("wax+") else "read", file)
            return real["open"](file, mode, *arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", before("write", real["write"]))
            patch.setattr(os, "fsync", before("fsync", real["fsync"]))
            patch.setattr(os, "replace", before("rename", real["replace"]))
            patch.setattr(os, "rename", before("rename", real["rename"]))
            patch.setattr(fcntl, "flock", before("lock", real["flock"]))
            patch.setattr(io, "open", opened)
            patch.setattr(storage, "PAUSES", (0.0, 0.0))
            yield self


def outcome(place: Path) -> dict[str, Any]:
    """What a search has decided and measured, and the tables that it leaves."""
    folder = place / "results" / "s"
    events = Journal(folder / "journal.jsonl").events()
    last = {event["record"]["trial"]: event["record"] for event in events if event["event"] == "record"}
    records = {name: {key: value for key, value in one.items() if key not in TIMES} for name, one in last.items()}
    mlflow = json.loads((folder / "mlflow.json").read_text())
    return {
        "records": dict(sorted(records.items())),
        "proposals": [(event["task"], event["drawn"]) for event in events if event["event"] == "task"],
        "tables": {file.name: file.read_text() for file in sorted(folder.glob("*.csv"))},
        "tracked": [mlflow["status"], mlflow["findings"], mlflow["pairs"], mlflow["artifacts"]],
    }


def left_behind(place: Path) -> list[str]:
    """Temporary files and locks that nobody holds any more."""
    found = [path for path in (place / "results").rglob("*") if path.is_file()]
    names = [str(path.relative_to(place)) for path in found]
    return [name for name in names if name.endswith((".tmp", ".lock", ".owner")) or "/." in name]


def suffer(place: Path, faults: Faults) -> None:
    """Runs the search under faults, then without them as often as a person would, until it is complete."""
    try:
        with faults.injected():
            done = in_process.run(place, **SEARCH).complete
    except (OSError, ValueError, Killed):
        done = False
    results = place / "results"
    if done:
        return
    if (results / "s" / "search.json").is_file():
        before = ended(place)
        assert in_process.run(place, None).complete
        assert before.items() <= ended(place).items(), "something finished was lost"
    else:
        assert in_process.run(place, **SEARCH).complete


def ended(place: Path) -> dict[str, Any]:
    file = place / "results" / "s" / "journal.jsonl"
    records = Journal(file).records() if file.is_file() else {}
    return {name: (record.outcome, record.metrics) for name, record in records.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, Any], Counter[str]]:
    """The search without a fault, and how many calls of each kind it makes."""
    place = tmp_path_factory.mktemp("whole")
    faults = Faults(place)
    with faults.injected():
        assert in_process.run(place, **SEARCH).complete
    assert left_behind(place) == [] and set(faults.calls) == set(KINDS)
    return outcome(place), faults.calls


def check(place: Path, faults: Faults, expected: dict[str, Any]) -> None:
    suffer(place, faults)
    found = outcome(place)
    told = f"{faults.kind} {faults.k}{' and all after it' if faults.lasting else ''}{', killed' if faults.kill else ''}"
    for part, value in expected.items():
        assert found[part] == value, f"{told}: {part} differs"
    assert left_behind(place) == [], told
    assert list(problems(StageStore(place / "results" / "stages"))) == [], told


@pytest.mark.parametrize(
    ("kind", "share", "lasting", "kill"),
    [("rename", 0.6, False, True), ("write", 0.7, True, False)],
)
def test_a_search_survives_a_fault(whole, tmp_path, kind, share, lasting, kill):
    expected, calls = whole
    check(tmp_path, Faults(tmp_path, kind, 1 + int(share * calls[kind]), lasting, kill), expected)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lasting", "kill"), [(False, False), (True, False), (False, True)])
def test_a_search_survives_every_fault(whole, tmp_path, kind, lasting, kill):
    expected, calls = whole
    for k in range(1, calls[kind] + 1):
        check(tmp_path / str(k), Faults(tmp_path / str(k), kind, k, lasting, kill), expected)

"""Every k-th call of storage, journal and tracking fails, or the machine is gone: resuming gives the search without it.

The whole product runs, from the command's first check to its last file, but for Ray's processes (`in_process`) and
MLflow's server (`memory_mlflow`). Faults are put under the functions of the operating system that Python's files,
folders and locks go through, and between MLflow and its client. A machine that is gone leaves what was flushed and
nothing else (`power_cut`), or any part of the rest.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import random
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from analysis import files
from analysis.records.mlflow_store import StoreError
from analysis.records.schema import Record
from search.commands.sync import sync
from search.mlflow_tracker import tracker
from search.scheduling.journal import Journal
from tests.search import in_process, memory_mlflow
from tests.search.memory_mlflow import MemoryMlflow
from tests.search.power_cut import Disk, Tree
from trainables.pipeline import storage
from trainables.pipeline.housekeeping import problems
from trainables.pipeline.store import StageStore

KINDS = ("write", "fsync", "rename", "read", "lock", "track")

SEARCH = {"space": in_process.TINY, "seeds": 2, "trials": 2, "race": False, "tracking_uri": memory_mlflow.URI}

TIMES = {"seconds", "seconds_saved", "started", "reused", "epochs_trained", "memory"}
"""What a record says of its time, and of what was there already."""


class Killed(BaseException):
    """The process has ended: nothing more of it reaches the disk."""


class Faults:
    """Calls of the operating system on files of one folder, and of MLflow; the k-th of a kind fails.

    Args:
        place: The folder.
        kind: One of `KINDS`; empty for all of them.
        k: The first call that fails, from 1; 0 for none.
        lasting: Whether all calls after it fail as well.
        cut: Whether the machine is gone at that call, instead of its being an error: "lost" where nothing is left that
            was not flushed, "torn" where some of it is.
    """

    def __init__(self, place: Path, kind: str = "", k: int = 0, lasting: bool = False, cut: str = "") -> None:
        self.place, self.kind, self.k, self.lasting, self.cut = place, kind, k, lasting, cut
        self.calls: Counter[str] = Counter()
        self.left: Tree | None = None
        self.finished: dict[str, tuple[str, Any]] = {}
        """What the journal has said to have taken."""
        self.mlflow = MemoryMlflow(place.parent)
        self._disk: Disk | None = None
        self._lock = threading.RLock()

        self.untracked = False
        """Whether the search has said that MLflow lacks something."""

    def __str__(self) -> str:
        return f"{self.kind or 'call'} {self.k}{' and all after it' * self.lasting} {self.cut}"

    def call(self, kind: str, path: Any) -> None:
        """Counts a call, and fails it where it is its turn."""
        with self._lock:
            if self.left is not None:
                raise Killed
            try:
                name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
            except (OSError, TypeError):
                return
            if not Path(str(name)).is_relative_to(self.place):
                return
            self.calls[kind] += 1
            number = self.calls[kind] if self.kind else self.calls.total()
            hit = number == self.k or (self.lasting and number > self.k)
            if not hit or not self.k or kind != (self.kind or kind):
                return
            if self.cut:
                assert self._disk is not None
                self.left = self._disk.left(random.Random(self.k) if self.cut == "torn" else None)
                raise Killed
            if kind == "track":
                raise StoreError("MLflow does not answer")
            raise OSError(errno.EIO if kind != "write" else errno.ENOSPC, os.strerror(errno.EIO), str(name))

    @contextmanager
    def injected(self) -> Iterator[Faults]:
        """Puts the faults under everything that is done in here; at its end, the folder is as they leave it."""
        real = {
            "write": os.write, "fsync": os.fsync, "replace": os.replace, "rename": os.rename, "open": io.open,
            "flock": fcntl.flock,
        }  # fmt: skip
        self._disk = disk = Disk(self.place)

        def before(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def called(path: Any, *arguments: Any, **named: Any) -> Any:
                self.call(kind, path)
                return function(path, *arguments, **named)

            return called

        def flushed(handle: Any) -> None:
            self.call("fsync", handle)
            real["fsync"](handle)
            number = handle if isinstance(handle, int) else handle.fileno()
            with self._lock:
                if self.left is None and Path(os.readlink(f"/proc/self/fd/{number}")).is_relative_to(self.place):
                    disk.flushed(number)

        def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            self.call("write" if set(mode) & set("wax+") else "read", file)
            return real["open"](file, mode, *arguments, **named)

        def written(journal: Journal, event: str, **content: Any) -> None:
            WRITE(journal, event, **content)
            if event == "record" and content["record"]["outcome"] != "failed":
                record = Record.from_dict(content["record"])
                self.finished[record.trial] = record.outcome, record.metrics

        def closed(writer: tracker.Tracker, *arguments: Any, **more: Any) -> list[str]:
            missing = CLOSE(writer, *arguments, **more)
            self.untracked = bool(missing)
            return missing

        def named(target: Path) -> Path:
            """Of a process that is gone, as it will be when the search is resumed."""
            path = BESIDE(target)
            return path.with_name(path.name.replace(f".{os.getpid()}.", f".{GONE}."))

        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self.mlflow, "called", lambda name, done: self.call("track", self.place))
                patch.setattr(os, "write", before("write", real["write"]))
                patch.setattr(os, "fsync", flushed)
                patch.setattr(os, "replace", before("rename", real["replace"]))
                patch.setattr(os, "rename", before("rename", real["rename"]))
                patch.setattr(fcntl, "flock", before("lock", real["flock"]))
                patch.setattr(io, "open", opened)
                patch.setattr(storage, "PAUSES", (0.0, 0.0))
                patch.setattr(files, "beside", named)
                patch.setattr(Journal, "write", written)
                patch.setattr(CLOSE, "__defaults__", ("FINISHED", 0.1, str))
                patch.setattr(tracker.Tracker, "close", closed)
                patch.setattr(threading, "excepthook", lambda error: None)  # a thread of a process that is gone
                yield self
        finally:
            if self.left is not None:
                disk.restore(self.left)
            disk.close()


WRITE, BESIDE, CLOSE = Journal.write, files.beside, tracker.Tracker.close

with subprocess.Popen(["true"]) as _process:
    GONE = _process.pid
    """Number of a process that has ended."""


def outcome(place: Path) -> dict[str, Any]:
    """What a search has decided and measured, and the tables that it leaves."""
    folder = place / "results" / "s"
    events = Journal(folder / "journal.jsonl").events()
    last = {event["record"]["trial"]: event["record"] for event in events if event["event"] == "record"}
    records = {name: {key: value for key, value in one.items() if key not in TIMES} for name, one in last.items()}
    kept = json.loads((folder / "mlflow.json").read_text())
    return {
        "records": dict(sorted(records.items())),
        "proposals": [(event["task"], event["drawn"]) for event in events if event["event"] == "task"],
        "tables": {file.name: file.read_text() for file in sorted(folder.glob("*.csv"))},
        "kept": [kept["status"], kept["findings"], kept["pairs"], kept["artifacts"]],
        "tracked": {name: comparable(run) for name, run in memory_mlflow.content(memory_mlflow.URI, "s").items()},
    }


def comparable(run: dict[str, Any]) -> dict[str, Any]:
    """A run without what differs between two searches of the same: times, places, and what was there already."""
    tags = {name: text for name, text in run["tags"].items() if name not in {*TIMES, "digest"}}
    parts = {name: {*name.split("/")} for name in run["metrics"]}
    metrics = {name: text for name, text in run["metrics"].items() if not parts[name] & {*TIMES, "reuse"}}
    params = {name: text for name, text in run["params"].items() if name not in ("data_root", "output")}
    return {**run, "tags": tags, "params": params, "metrics": metrics, "artifacts": sorted(run["artifacts"])}


def left_behind(place: Path) -> list[str]:
    """Temporary files and locks that nobody holds any more."""
    found = [path for path in (place / "results").rglob("*") if path.is_file()]
    names = [str(path.relative_to(place)) for path in found]
    return [name for name in names if name.endswith((".lock", ".owner")) or "/." in name or "/leases/" in name]


def suffer(place: Path, faults: Faults) -> None:
    """Runs the search under faults, then what it says is to be run, without them, until it is complete."""
    done = False
    try:
        with faults.injected():
            done = in_process.run(place, **SEARCH).complete
    except (OSError, ValueError, Killed):
        pass
    before = ended(place)
    assert faults.finished.items() <= before.items(), f"{faults}: something finished was lost"
    if done and faults.left is None:
        if faults.untracked:
            sync("s", str(place / "results"))
        return
    if (place / "results" / "s" / "search.json").is_file():
        assert in_process.run(place, None).complete
        assert before.items() <= ended(place).items(), f"{faults}: something finished was lost"
    else:
        assert in_process.run(place, **SEARCH).complete


def ended(place: Path) -> dict[str, Any]:
    file = place / "results" / "s" / "journal.jsonl"
    records = Journal(file).records() if file.is_file() else {}
    return {name: (record.outcome, record.metrics) for name, record in records.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, Any], Counter[str]]:
    """The search without a fault, and how many calls of each kind it makes."""
    place = folder_of(tmp_path_factory.mktemp("whole"))
    faults = Faults(place)
    with faults.mlflow.serving():
        with faults.injected():
            assert in_process.run(place, **SEARCH).complete
        calls = faults.calls.copy()
        assert left_behind(place) == [] and set(calls) == set(KINDS)
        return outcome(place), calls


def folder_of(place: Path) -> Path:
    """A folder with the data, which are there long before any fault."""
    in_process.features(place / "search")
    return place / "search"


def check(place: Path, expected: dict[str, Any], *fault: Any) -> None:
    faults = Faults(folder_of(place), *fault)
    with faults.mlflow.serving():
        suffer(faults.place, faults)
        found = outcome(faults.place)
    for part, value in expected.items():
        assert found[part] == value, f"{faults}: {part} differs"
    assert left_behind(faults.place) == [], f"{faults}: {left_behind(faults.place)}"
    assert list(problems(StageStore(faults.place / "results" / "stages"))) == [], str(faults)
    shutil.rmtree(place)  # of thousands, all are more than a disk holds


def test_a_power_cut_leaves_what_was_flushed_under_names_that_were_flushed(tmp_path, monkeypatch):
    files.write(tmp_path / "there", "before")
    disk, real = Disk(tmp_path), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (real(handle), disk.flushed(handle)))
    (tmp_path / "unflushed").write_text("1")
    (tmp_path / "there").write_text("after")
    files.write(tmp_path / "written", "2")
    files.write(tmp_path / "old", "3")
    files.make_folder(tmp_path / "made" / "inner")
    os.replace(tmp_path / "old", tmp_path / "new")
    (tmp_path / "not made").mkdir()
    kept = {"made": {"inner": {}}, "there": b"before", "unflushed": b"", "written": b"2"}
    assert disk.left() == {**kept, "old": b"3"}
    torn = [disk.left(random.Random(seed)) for seed in range(50)]
    assert {("new" in tree, "old" in tree, "not made" in tree) for tree in torn} == {(0, 1, 0), (1, 0, 1)}
    assert {tree["unflushed"] for tree in torn} == {b"", b"1"} and {tree["there"] for tree in torn} == {b"before"}
    disk.restore(torn[0])
    assert {path.name for path in tmp_path.iterdir()} == torn[0].keys()
    disk.close()


def test_a_search_that_flushes_too_little_is_found_out(whole, tmp_path, monkeypatch):
    """The injector's checks can fail: names that are not flushed are missed after a power cut."""
    monkeypatch.setattr(files, "sync_folder", lambda folder: None)
    expected, calls = whole
    with pytest.raises(AssertionError, match="something finished was lost"):
        check(tmp_path, expected, "", calls.total() // 2, False, "lost")


@pytest.mark.parametrize(
    ("kind", "share", "lasting", "cut"),
    [("write", 0.7, True, ""), ("track", 0.5, False, ""), ("", 0.4, False, "lost"), ("", 0.9, False, "torn")],
)
def test_a_search_survives_a_fault(whole, tmp_path, kind, share, lasting, cut):
    expected, calls = whole
    check(tmp_path, expected, kind, 1 + int(share * (calls[kind] if kind else calls.total())), lasting, cut)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lasting", [False, True])
def test_a_search_survives_every_fault(whole, tmp_path, kind, lasting):
    expected, calls = whole
    for k in range(1, calls[kind] + 1):
        check(tmp_path / str(k), expected, kind, k, lasting)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("cut", ["lost", "torn"])
def test_a_search_survives_a_power_cut_at_any_call(whole, tmp_path, cut):
    expected, calls = whole
    for k in range(1, calls.total() + 1):
        check(tmp_path / str(k), expected, "", k, False, cut)

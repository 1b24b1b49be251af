"""The store on other file systems, its bounds, a full disk, and work in progress."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from analysis import files
from spaces.domain import Stage
from trainables import stage_store
from trainables.pipeline import entries, storage
from trainables.pipeline.housekeeping import clean, problems
from trainables.pipeline.storage import LocalStorage, StoreFull
from trainables.pipeline.store import StageStore

KEYS = [f"{letter * 2}{number}" for number, letter in enumerate("abcdef")]


def put(store: StageStore, key: str, seconds: float = 1.0, size: int = 1000, ancestors: tuple[str, ...] = ()) -> None:
    state = {"seconds": seconds, "ancestors": [(name, 1.0) for name in ancestors], "seed": 3, "epochs": 2}
    store.put(key, {"x": torch.zeros(size, dtype=torch.uint8)}, state)


def verify(store: StageStore) -> list[str]:
    return [f"{problem.key}: {problem.reason}" for problem in problems(store)]


@pytest.mark.parametrize("kind", ["folder", "memory", "file"])
def test_round_trip_and_damage_on_every_file_system(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = {"folder": str(tmp_path / "s"), "memory": f"memory://{tmp_path.name}", "file": f"file://{tmp_path}/s"}[kind]
    store = StageStore(root)
    assert store.get("aa0") is None and not store.has("aa0") and store.entries() == []
    put(store, "aa0")
    put(store, "ab1", ancestors=("aa0",))
    assert [(found.key, found.parent, found.seed) for found in store.entries()] == [("aa0", "", 3), ("ab1", "aa0", 3)]
    found = store.get("ab1")
    assert found is not None and torch.equal(found.tensors["x"], torch.zeros(1000, dtype=torch.uint8))
    assert verify(store) == []
    store.files.write("ab/ab1/tensors.safetensors", b"not what it was")
    assert [line.partition(":")[0] for line in verify(store)] == ["ab1"]
    with caplog.at_level(logging.WARNING):
        assert store.get("ab1") is None
    assert "damaged" in caplog.text and not store.has("ab1")
    store.remove("aa0")
    assert store.entries() == []


def test_work_in_progress_is_kept_replaced_and_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = StageStore(tmp_path)
    assert store.get_partial("aa0") is None
    for epoch in (1, 2):
        store.put_partial("aa0", {"x": torch.full((3,), float(epoch))}, {"epoch": epoch})
    found = store.get_partial("aa0")
    assert found is not None and found.state == {"epoch": 2} and found.tensors["x"].tolist() == [2.0, 2.0, 2.0]
    file = tmp_path / "partial" / "aa0"
    file.write_bytes(file.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert store.get_partial("aa0") is None
    assert "damaged" in caplog.text and not file.exists()


def test_eviction_knows_the_tree(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    start, cheap, dear, other = KEYS[:4]
    put(store, start, seconds=1.0)
    put(store, cheap, seconds=1.0, ancestors=(start,))
    put(store, dear, seconds=50.0, ancestors=(start,))
    put(store, other, seconds=5.0)
    size = store.entries()[0].bytes
    # the start is as cheap as its child, but its children would be trained again from it
    assert [found.key for found in store.evict(3 * size + size // 2)] == [cheap]
    assert [found.key for found in store.evict(size, keep={other})] == [dear, start]
    assert store.evict(0, keep={other}) == [], "what a running trial needs stays, whatever the limit"
    assert [found.key for found in store.evict(0)] == [other]


def test_a_missing_ancestor_makes_a_stage_dear(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    orphan, alone = KEYS[:2]
    state = {"seconds": 1.0, "ancestors": [("gone", 100.0)], "seed": 0, "epochs": 1}
    store.put(orphan, {"x": torch.zeros(1000, dtype=torch.uint8)}, state)
    put(store, alone, seconds=2.0)
    assert [found.key for found in store.evict(store.entries()[0].bytes + 200)] == [alone]


def test_a_full_disk_says_so_and_leaves_the_store_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StageStore(tmp_path)
    put(store, "aa0")
    written = files.write_synced

    def full(path: Path, content: bytes) -> None:
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(path, content)

    monkeypatch.setattr(files, "write_synced", full)
    with pytest.raises(StoreFull, match=r"the disk of the stage store .* is full$") as caught:
        put(store, "ab1")
    assert re.match(r"; make room \(python -m trainables.stage_store clean .* --store-limit", caught.value.remedy)
    monkeypatch.undo()
    assert [found.key for found in store.entries()] == ["aa0"]
    assert verify(store) == [] and list(tmp_path.glob("*/.*")) == []


def test_a_really_full_file_system(tmp_path: Path) -> None:
    """/dev/full is where Linux keeps a disk without room."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError) as caught:
        files.write_synced(Path("/dev/full"), b"x")
    assert isinstance(storage._explain(caught.value, "here"), StoreFull)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = StageStore(tmp_path)
    put(store, "aa0")
    put(store, "ab1", seconds=9.0, ancestors=("aa0",))
    assert stage_store.main(["list", "--store", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "from aa0" in printed and "2 entries" in printed and "10 s of training" in printed
    assert stage_store.main(["verify", "--store", str(tmp_path)]) == 0
    (store.folder("aa0") / "state.json").write_text("{}")
    assert stage_store.main(["verify", "--store", str(tmp_path)]) == 1
    assert "the checksum of state.json does not fit" in capsys.readouterr().out
    assert stage_store.main(["clean", "--store", str(tmp_path), "--store-limit", "0"]) == 0
    assert (
        "removed 1 damaged entries, 0 left by processes that are gone, 0 unfinished stages, and 1 of 1 others"
        in capsys.readouterr().out
    )
    assert store.entries() == []


# --- errors that pass, and errors that last -----------------------------------------------------------------


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "AGAIN_SECONDS", 0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.01, 0.01, 0.01))


def failing(error: OSError, times: int):
    """A function that raises so many times, and then does what the original does."""

    def of(original):
        left = [times]

        def call(*arguments, **named):
            if left[0] > 0:
                left[0] -= 1
                raise error
            return original(*arguments, **named)

        return call

    return of


@pytest.mark.usefixtures("impatient")
def test_without_a_free_file_handle_a_good_entry_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = StageStore(tmp_path)
    put(store, "aa0")
    store.put_partial("aa1", {"x": torch.zeros(3)}, {"epoch": 1})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd" if Path("/proc").exists() else "/dev/fd"))
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, before[1]))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        assert store.get("aa0") is None and store.get_partial("aa1") is None
        assert store.evict(0) == []
        assert stage_store.main(["clean", "--store", str(tmp_path)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for handle in taken:
            os.close(handle)
    assert "cannot be read now (Too many open files)" in caplog.text and "damaged" not in caplog.text
    assert store.get("aa0") is not None and store.get_partial("aa1") is not None


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_an_error_that_passes_is_not_noticed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, error = StageStore(tmp_path), OSError(number, os.strerror(number))
    monkeypatch.setattr(files, "write_synced", failing(error, 2)(files.write_synced))
    put(store, "aa0")
    monkeypatch.setattr(files, "write_synced", failing(error, 2)(files.write_synced))
    store.put_partial("aa1", {"x": torch.zeros(3)}, {"epoch": 1})
    monkeypatch.setattr(Path, "read_bytes", failing(error, 2)(Path.read_bytes))
    assert store.get("aa0") is not None
    monkeypatch.setattr(Path, "read_bytes", failing(error, 2)(Path.read_bytes))
    assert store.get_partial("aa1") is not None
    assert caplog.text == "" and store.files.leftovers() == {}


@pytest.mark.usefixtures("impatient")
def test_what_cannot_be_kept_is_a_note_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, make_plan, pipeline
) -> None:
    plan = make_plan(Stage("a", epochs=2), Stage("b", epochs=1, carry="all"))
    alone = pipeline(plan)
    alone.run()
    broken = failing(OSError(errno.EIO, os.strerror(errno.EIO)), 10**6)
    monkeypatch.setattr(files, "write_synced", broken(files.write_synced))
    monkeypatch.setattr(LocalStorage, "remove", broken(LocalStorage.remove))
    other = pipeline(plan, store=StageStore(tmp_path), save_seconds=0.0)
    other.run()
    assert other.points == alone.points and other.result() == alone.result()
    assert "cannot be kept" in caplog.text and "a crash would cost it" in caplog.text
    assert StageStore(tmp_path).entries() == []


def test_a_full_disk_costs_unfinished_stages_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = StageStore(tmp_path)
    full = failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 10**6)
    monkeypatch.setattr(files, "write_synced", full(files.write_synced))
    store.put_partial("aa0", {"x": torch.zeros(3)}, {"epoch": 1})
    assert "cannot be kept" in caplog.text and "is full" in caplog.text
    with pytest.raises(StoreFull):
        put(store, "aa0")


def test_damaged_is_what_was_read_so_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = StageStore(tmp_path)
    put(store, "aa0")
    read, asked = LocalStorage.read, []

    def half(self: LocalStorage, path: str) -> bytes:
        asked.append(path)
        return read(self, path)[: 100 if len(asked) == 2 else None]

    monkeypatch.setattr(LocalStorage, "read", half)
    assert store.get("aa0") is not None and len(asked) == 6
    assert caplog.text == ""


def test_an_entry_or_a_middle_of_another_key_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = StageStore(tmp_path)
    for key in ("aa0", "aa1"):
        put(store, key)
        store.put_partial(key, {"x": torch.full((3,), float(key[-1]))}, {"epoch": 1})
    for folder in ("aa", "partial"):
        for name, other in (("aa0", "moved"), ("aa1", "aa0"), ("moved", "aa1")):
            (tmp_path / folder / name).rename(tmp_path / folder / other)
    assert [store.get("aa0"), store.get_partial("aa0")] == [None, None]
    assert "its manifest is that of aa1" in caplog.text and "it is that of aa1" in caplog.text
    assert len(verify(store)) == 2
    assert clean(store).damaged == 2 and verify(store) == [] and store.partials() == {}


SHAPES = [
    b"[]", b"null", b"3", b'"text"', b"{}", b"\xff", b"", b'{"ancestors": 3}', b'{"seconds": "x"}',
    b'{"epochs": 1e999}', b'{"seconds": 1' + b"0" * 400 + b"}", b'{"seed": []}', b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("file", ["state.json", "manifest.json"])
@pytest.mark.parametrize("summed", [False, True])
def test_files_of_another_shape(
    file: str, text: bytes, summed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = StageStore(tmp_path)
    put(store, "aa0")
    put(store, "ab1")
    (store.folder("aa0") / file).write_bytes(text)
    if summed and file == "state.json":
        manifest = json.loads((store.folder("aa0") / "manifest.json").read_text())
        manifest["sha256"][file] = hashlib.sha256(text).hexdigest()
        (store.folder("aa0") / "manifest.json").write_text(json.dumps(manifest))
    place = ["--store", str(tmp_path)]
    assert stage_store.main(["list", *place]) == 0
    if text == b"{}" and summed and file == "state.json":
        assert stage_store.main(["verify", *place]) == 0  # every field has a default
        return
    capsys.readouterr()
    assert stage_store.main(["verify", *place]) == 1
    assert capsys.readouterr().out.startswith("aa0: ")
    assert stage_store.main(["clean", *place]) == 0
    assert "removed 1 damaged" in capsys.readouterr().out
    assert stage_store.main(["verify", *place]) == 0
    assert [found.key for found in store.entries()] == ["ab1"]


@pytest.mark.parametrize("sums", ["{}", '{"../../../etc/hosts": "x"}', '["tensors.safetensors", "state.json"]'])
def test_a_manifest_names_the_files_of_an_entry_and_no_others(sums: str, tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    put(store, "aa0")
    (store.folder("aa0") / "manifest.json").write_text(f'{{"key": "aa0", "sha256": {sums}}}')
    assert verify(store) == ["aa0: manifest.json has another shape"]
    assert store.get("aa0") is None and not store.folder("aa0").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from analysis import files
from trainables.pipeline.store import StageStore

def killed(path, content):
    path.write_bytes(content[:10])
    os.kill(os.getpid(), signal.SIGKILL)

files.write_synced = killed
store = StageStore(sys.argv[1])
if os.fork() == 0:
    store.put_partial("aa1", {"x": torch.zeros(3)}, {"epoch": 1})
os.wait()
store.put("aa0", {"x": torch.zeros(3)}, {})
"""


def test_what_killed_writers_have_left_is_counted_and_cleaned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = StageStore(tmp_path)
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=120).returncode == -9
    put(store, "aa2")
    for key in ("aa2", "aa3", "aa4"):  # finished meanwhile; gone on with some day; given up
        store.put_partial(key, {"x": torch.zeros(3)}, {"epoch": 1})
    os.utime(tmp_path / "partial" / "aa4", (0, 0))
    other = {"fresh": time.time(), "old": time.time() - 2 * files.ABANDONED_SECONDS}
    for name, when in other.items():  # of another machine, whose processes are not known here
        (tmp_path / "aa" / f".aa5.elsewhere-{name}.1.0123abcd").mkdir()
        os.utime(tmp_path / "aa" / f".aa5.elsewhere-{name}.1.0123abcd", (when, when))
    own = files.beside(tmp_path / "aa" / "aa6")
    own.mkdir()  # this process is writing it
    assert len(store.files.leftovers()) == 3
    stage_store.main(["list", "--store", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (
        "1 entries" in printed and "3 unfinished stages" in printed and "3 left by processes that are gone" in printed
    )
    stage_store.main(["clean", "--store", str(tmp_path)])
    assert "0 damaged entries, 3 left by processes that are gone, 2 unfinished stages" in capsys.readouterr().out
    assert store.files.leftovers() == {} and list(store.partials()) == ["aa3"] and own.is_dir()
    assert {path.name for path in (tmp_path / "aa").glob(".*")} == {own.name, ".aa5.elsewhere-fresh.1.0123abcd"}


def test_a_bound_counts_unfinished_stages(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    put(store, "aa0")
    for key in ("aa1", "aa2"):
        store.put_partial(key, {"x": torch.zeros(1000, dtype=torch.uint8)}, {"epoch": 1})
    assert store.evict(store.entries()[0].bytes + 1, keep={"aa2"}) != [] or list(store.partials()) == ["aa2"]
    assert list(store.partials()) == ["aa2"]


def test_a_store_that_cannot_be_looked_through_is_a_note_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = StageStore(tmp_path)
    put(store, "aa0")
    for key in ("aa0", "aa1"):  # finished meanwhile, and not
        store.put_partial(key, {"x": torch.zeros(3)}, {"epoch": 1})
    monkeypatch.setattr(LocalStorage, "leftovers", lambda self: Path("/nowhere/at/all").stat())
    store.sweep()
    assert "cannot be removed now (No such file or directory)" in caplog.text and list(store.partials()) == [
        "aa0",
        "aa1",
    ]
    monkeypatch.undo()
    store.sweep()
    assert list(store.partials()) == ["aa1"] and store.has("aa0")

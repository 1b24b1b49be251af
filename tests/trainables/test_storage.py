"""The store on other file systems, its bounds, a full disk, and work in progress."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
import torch

from trainables import stage_store, storage
from trainables.stage_store import StageStore, byte_count
from trainables.storage import StoreFull

KEYS = [f"{letter * 2}{number}" for number, letter in enumerate("abcdef")]


def put(store: StageStore, key: str, seconds: float = 1.0, size: int = 1000, ancestors: tuple[str, ...] = ()) -> None:
    state = {"seconds": seconds, "ancestors": [(name, 1.0) for name in ancestors], "seed": 3, "epochs": 2}
    store.put(key, {"x": torch.zeros(size, dtype=torch.uint8)}, state)


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
    assert store.verify() == []
    store._files.write("ab/ab1/tensors.safetensors", b"not what it was")
    assert [line.partition(":")[0] for line in store.verify()] == ["ab1"]
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
    written = storage._flushed

    def full(path: Path, content: bytes) -> None:
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(path, content)

    monkeypatch.setattr(storage, "_flushed", full)
    with pytest.raises(StoreFull, match=r"the disk of the stage store .* is full; make room .* --store-limit"):
        put(store, "ab1")
    monkeypatch.undo()
    assert [found.key for found in store.entries()] == ["aa0"]
    assert store.verify() == [] and list(tmp_path.glob("*/.*")) == []


def test_a_really_full_file_system(tmp_path: Path) -> None:
    """/dev/full is where Linux keeps a disk without room."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError) as caught:
        storage._flushed(Path("/dev/full"), b"x")
    assert isinstance(storage._explained(caught.value, "here"), StoreFull)


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
    assert "removed 1 damaged entries and 1 of 2 others" in capsys.readouterr().out
    assert store.entries() == []


@pytest.mark.parametrize("text", ["", "MB", "-1", "5 apples", "nan"])
def test_sizes_are_checked(text: str) -> None:
    with pytest.raises(stage_store.argparse.ArgumentTypeError, match="expected a size like 500MB"):
        byte_count(text)

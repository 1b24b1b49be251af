"""Files that are whole or not there, and JSON without NaN."""

import json
import os

import pytest

from analysis import files


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    target = tmp_path / "best.yaml"
    files.write(target, "old\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/best.yaml'$"):
        files.write(target, "new\n")
    assert target.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["best.yaml"]


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*/gone/best.yaml'$"):
        files.write(tmp_path / "gone" / "best.yaml", "text")


def test_a_refused_move_names_one_file(tmp_path):
    (tmp_path / "best.yaml").mkdir()
    with pytest.raises(OSError, match=r": '[^']*/best.yaml'$"):
        files.write(tmp_path / "best.yaml", "text")
    assert os.listdir(tmp_path) == ["best.yaml"]


def test_bytes_and_text_are_written_as_they_are(tmp_path):
    files.write(tmp_path / "a", b"\x00\r\n")
    files.write(tmp_path / "b", "ä\r\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\r\n"
    assert (tmp_path / "b").read_bytes() == "ä\r\n".encode()


def test_numbers_that_json_lacks_become_null():
    def refuse(word: str) -> None:
        raise ValueError(word)

    text = files.to_json({"a": [float("inf"), {"b": float("nan")}], "c": 0.5})
    assert json.loads(text, parse_constant=refuse) == {"a": [None, {"b": None}], "c": 0.5}


def test_an_error_names_the_file_and_not_the_one_beside_it(tmp_path):
    with pytest.raises(OSError) as caught:
        files.write(tmp_path / "no folder" / "best.yaml", "x")
    assert caught.value.filename == str(tmp_path / "no folder" / "best.yaml")


def test_a_process_of_another_container_with_the_same_host_name_is_not_known_here(tmp_path, monkeypatch):
    """Its number says nothing here: what it writes counts as abandoned only when it is old."""
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[1]")
    files._pid_namespace.cache_clear()
    other = files.beside(tmp_path / "a")
    monkeypatch.undo()
    files._pid_namespace.cache_clear()

    def dead(pid: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", dead)
    here = files.beside(tmp_path / "a")
    assert files.is_abandoned(here, 0) and not files.is_abandoned(other, files.ABANDONED_SECONDS)
    assert files.is_abandoned(other, files.ABANDONED_SECONDS + 1)
    for path in (other, here):
        path.touch()
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [other]

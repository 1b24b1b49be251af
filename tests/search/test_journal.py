"""The journal: every line is vouched for, a torn last one is none, and what is damaged is named with a way out."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from search.scheduling import journal as module
from search.scheduling.journal import Journal, JournalError


@pytest.fixture
def journal(tmp_path) -> Journal:
    it = Journal(tmp_path / "a folder" / "journal.jsonl")
    it.path.parent.mkdir()
    for number in range(1, 7):
        it.write("record", record={"trial": f"t{number}", "accuracy": number / 10, "title": "β × \n"})
    return it


def lines(journal: Journal) -> list[bytes]:
    return journal.path.read_bytes().splitlines(keepends=True)


def told(journal: Journal) -> str:
    with pytest.raises(JournalError) as caught:
        Journal(journal.path).events()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_line_is_json_with_its_event_first_its_number_and_its_checksum(journal):
    for number, line in enumerate(lines(journal), start=1):
        fields = json.loads(line)
        assert list(fields) == ["event", "record", "line", "crc32"] and fields["line"] == number
    events = Journal(journal.path).events()
    assert [event["record"]["trial"] for event in events] == ["t1", "t2", "t3", "t4", "t5", "t6"]
    assert [event["line"] for event in events] == [1, 2, 3, 4, 5, 6]


def test_cut_at_any_byte_it_has_the_lines_before_and_goes_on(journal):
    """A crash, a full disk, or `head -c`: what is whole counts, what is not is written over."""
    content = journal.path.read_bytes()
    for size in range(len(content) + 1):
        journal.path.write_bytes(content[:size])
        again = Journal(journal.path)
        events = again.events()
        whole = content[:size].count(b"\n") + (content[size : size + 1] == b"\n")
        assert len(events) == whole, size
        again.write("record", record={"trial": "next"})
        after = Journal(journal.path).events()
        assert after[:-1] == events and after[-1]["record"] == {"trial": "next"} and after[-1]["line"] == whole + 1


def test_any_byte_that_is_changed_is_found(journal):
    content = journal.path.read_bytes()
    for place in range(len(content)):
        for other in (b"0", b"\xff", b"\n", b"}"):
            if content[place : place + 1] == other:
                continue
            changed = content[:place] + other + content[place + 1 :]
            journal.path.write_bytes(changed)
            if place == len(content) - 1:
                # the last line lacks its end, and carries something instead
                assert len(Journal(journal.path).events()) == 5
                continue
            number = content[:place].count(b"\n") + 1
            if number == 6 and other == b"\n":
                with pytest.raises(JournalError, match=r"line \d"):
                    Journal(journal.path).events()
                continue
            message = told(journal)
            assert re.search(rf"line {number}\b|before line {number}\b|line {number + 1}\b", message), message


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_line_that_was_taken_out_is_missed(journal, number):
    there = lines(journal)
    journal.path.write_bytes(b"".join(there[: number - 1] + there[number:]))
    assert f"journal.jsonl: 1 line before line {number} went missing" in told(journal)


def test_lines_that_were_put_in_doubled_or_exchanged_are_found(journal):
    there = lines(journal)
    journal.path.write_bytes(b"".join(there[:3] + there[2:]))
    assert "line 4 does not belong there, it says that it is line 3" in told(journal)
    journal.path.write_bytes(b"".join([there[1], there[0], *there[2:]]))
    assert "1 line before line 1 went missing" in told(journal)
    journal.path.write_bytes(b"".join(there[:2]) + b'{"event": "record", "record": {"trial": "mine"}}\n')
    assert "line 3 is damaged" in told(journal)


def test_a_line_of_another_journal_is_found(journal, tmp_path):
    """Its own checksum fits; it does not follow from the lines before it."""
    other = Journal(tmp_path / "other.jsonl")
    for number in range(1, 7):
        other.write("record", record={"trial": f"t{number}", "accuracy": 0.99, "title": "β × \n"})
    there, theirs = lines(journal), lines(other)
    journal.path.write_bytes(b"".join([*there[:3], theirs[3], *there[4:]]))
    assert "line 4 was changed after it was written" in told(journal)


@pytest.mark.parametrize("line", [b"null\n", b"[1]\n", b"\n", b"\xc3\x28\n", b'{"event": 7}\n', b"}\n", b"\x00\x00\n"])
def test_what_is_no_event_is_named(journal, line):
    there = lines(journal)
    for number in (1, 4, 6):
        journal.path.write_bytes(b"".join([*there[: number - 1], line, *there[number:]]))
        assert f"line {number} is damaged" in told(journal)


@pytest.mark.parametrize("number", [1, 4])
def test_the_way_out_works(journal, number):
    there = lines(journal)
    there[number - 1] = there[number - 1].replace(b'"accuracy": 0.', b'"accuracy": 0.9')
    journal.path.write_bytes(b"".join(there))
    message = told(journal)
    assert f"line {number} was changed after it was written" in message
    command = message.partition("runs what is missing again: ")[2]
    subprocess.run(command, shell=True, check=True)
    again = Journal(journal.path)
    assert [event["line"] for event in again.events()] == list(range(1, number))
    assert os.listdir(journal.path.parent) == ["journal.jsonl"]
    again.write("spent")
    assert len(Journal(journal.path).events()) == number


# --- journals of earlier versions ---------------------------------------------------------------------------


def old(journal: Journal, *events: bytes) -> Journal:
    journal.path.write_bytes(b"".join(events))
    return Journal(journal.path)


def test_lines_without_checksums_are_read_and_followed_by_lines_with(journal):
    first, second = b'{"event": "budget", "seconds": 7}\n', b'{"event": "record", "record": {"trial": "a"}}\n'
    it = old(journal, first, second)
    assert [event["event"] for event in it.events()] == ["budget", "record"]
    it.write("spent")
    assert [event["line"] for event in Journal(journal.path).events()] == [1, 2, 3]
    journal.path.write_bytes(journal.path.read_bytes() + second)
    assert "line 4 is damaged" in told(journal)


def test_what_a_crash_has_cut_off_in_them_is_left_out_and_told(journal, caplog):
    whole = b'{"event": "record", "record": {"trial": "a"}}\n'
    it = old(journal, whole, whole[:30] + b"\n", whole, whole[:20])
    assert [event["line"] for event in it.events()] == [1, 3]
    assert "line 2 was cut off by a crash and is left out" in caplog.text
    it.write("spent")
    assert [event["line"] for event in Journal(journal.path).events()] == [1, 3, 4]


@pytest.mark.parametrize("line", [b"null\n", b'{"event": "re\xffcord", "record": {}}\n', b"\xff\n", b"{}\n"])
def test_what_is_damaged_in_them_is_named(journal, line):
    whole = b'{"event": "record", "record": {"trial": "a"}}\n'
    assert "line 2 is damaged" in told(old(journal, whole, line, whole))


# --- writing --------------------------------------------------------------------------------------------------


FULL = """
import resource, sys
from pathlib import Path
from search.scheduling.journal import Journal, JournalError
it = Journal(Path(sys.argv[1]))
size = it.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))
try:
    it.write("record", record={"trial": "x" * 100})
except JournalError as error:
    print(error)
    assert it.problem is error
"""


def test_a_file_that_cannot_grow_keeps_its_lines(journal):
    """A real write that ends half-way, as on a full disk."""
    before = journal.path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL, journal.path], capture_output=True, text=True, check=True,
        cwd=Path(module.__file__).parents[1],
    )  # fmt: skip
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert "journal.jsonl: cannot be written (File too large); every line before is kept" in line
    assert journal.path.read_bytes() == before


def test_after_a_full_disk_it_goes_on_where_there_is_room_again(journal, monkeypatch):
    def full(handle, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(JournalError, match="No space left on device"):
        patch.setattr(os, "write", full)
        journal.write("spent")
    journal.write("spent")
    assert journal.problem is None and len(Journal(journal.path).events()) == 7


def test_a_second_writer_is_found(journal):
    other = Journal(journal.path)
    other.write("spent")
    with pytest.raises(JournalError, match="something else has written to it while the search runs"):
        journal.write("spent")
    assert len(Journal(journal.path).events()) == 7

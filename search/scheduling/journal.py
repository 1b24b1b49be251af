"""The journal of a search: its decisions and results, from which an interrupted search is resumed."""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis import files
from analysis.records.schema import Record
from analysis.text import command

log = logging.getLogger(__name__)


class JournalError(ValueError):
    """The journal is damaged or cannot be written."""


SEAL = re.compile(rb', "crc32": "([0-9a-f]{8})"\}$')
"""How a line ends: with the checksum of what stands before it, which takes in the checksum of the line before."""


class Journal:
    """Decisions and results of a search, one JSON object a line, flushed to disk.

    Every line has its number and a checksum, so that a line that was changed, taken out or put in is found. A last
    line that a crash has cut off does not count. Lines without a checksum, which earlier versions wrote, are read
    where no other line comes before them.

    Args:
        path: The file; the first event makes it. Only one process at a time may write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: JournalError | None = None
        """Why the last event was not written; `None` where it was."""
        # of the lines that count: how many, their bytes, the checksum of the last one, and what ends it
        self._lines, self._end, self._crc, self._gap = 0, 0, 0, b""
        self._size: int | None = None  # of the whole file; unknown before it is read

    def events(self) -> list[dict[str, Any]]:
        """Everything that was written, in order, each event with the number of its line; without a torn last line.

        Raises:
            JournalError: A line was damaged, changed, taken out or put in.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        self._lines, self._end, self._crc, self._gap, self._size = 0, 0, 0, b"", len(content)
        found: list[dict[str, Any]] = []
        torn = sealed = False
        for number, line in enumerate(content.split(b"\n"), start=1):
            last = self._end + len(line) == len(content)  # it has no line end
            seal, event = SEAL.search(line), _parsed(line)
            if event is None and (last or (not sealed and line.startswith(b'{"event": ') and not line.endswith(b"}"))):
                if not last:
                    torn = True  # by a crash, after which an earlier version has gone on in the next line
                    log.warning("%s: line %d was cut off by a crash and is left out", self.path, number)
                    self._lines, self._end = number, self._end + len(line) + 1
                continue
            if event is None or (seal is None and (sealed or "line" in event)):
                raise self.damaged(number, f"line {number} is damaged")
            if seal is not None:
                there, crc = event.get("line"), int(seal[1], 16)
                if isinstance(there, int) and there > number:
                    missing = "1 line" if there == number + 1 else f"{there - number} lines"
                    raise self.damaged(number, f"{missing} before line {number} went missing")
                if there != number:
                    raise self.damaged(number, f"line {number} does not belong there, it says that it is line {there}")
                if crc != zlib.crc32(line[: seal.start()], self._crc):
                    number -= torn and not sealed
                    raise self.damaged(number, f"line {number} was changed after it was written")
                sealed, self._crc = True, crc
            found.append({**event, "line": number})
            self._lines, self._end, self._gap = number, self._end + len(line) + (not last), b"\n" if last else b""
        return found

    def records(self) -> dict[str, Record]:
        """The last record of every trial that did not fail: a failed one may succeed the next time."""
        found: dict[str, Record] = {}
        for record in self.attempts():
            if record.outcome == "failed":
                found.pop(record.trial, None)
            else:
                found[record.trial] = record
        return found

    def attempts(self) -> list[Record]:
        """Every record in order, including those of attempts that failed and were repeated.

        Trials that are set aside since the space was changed say why.
        """
        events = self.events()
        aside: dict[str, str] = {}
        for event in events:
            aside = event["set_aside"] if event["event"] == "space" else aside
        found = [Record.from_dict(event["record"]) for event in events if event["event"] == "record"]
        return [replace(one, set_aside=aside[one.trial]) if one.trial in aside else one for one in found]

    def write(self, event: str, **content: Any) -> None:
        """Appends one event.

        Raises:
            JournalError: It could not be written; the lines before it stay as they were.
        """
        if self._size is None:
            self.events()
        body = json.dumps({"event": event, **content, "line": self._lines + 1})[:-1].encode()
        crc = zlib.crc32(body, self._crc)
        line = self._gap + body + b', "crc32": "%08x"}\n' % crc
        try:
            self._append(line)
        except (OSError, JournalError) as error:
            self.problem = error if isinstance(error, JournalError) else JournalError(
                f"{self.path}: cannot be written ({error.strerror or error}); every line before is kept: make room, or "
                "make the file writable, then resume the search"
            )  # fmt: skip
            raise self.problem from error
        self.problem = None
        self._lines, self._end, self._crc, self._gap = self._lines + 1, self._end + len(line), crc, b""
        self._size = self._end

    def _append(self, line: bytes) -> None:
        """Writes behind the last line that counts, instead of a torn one."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if os.fstat(handle).st_size != self._size:
                raise JournalError(f"{self.path}: something else has written to it while the search runs")
            try:
                os.ftruncate(handle, self._end)
                os.lseek(handle, self._end, os.SEEK_SET)
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
                if not self._size:
                    files.sync_folder(self.path.parent)  # the file is new
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(handle, self._end)
                self._size = os.fstat(handle).st_size
                raise
        finally:
            os.close(handle)

    def damaged(self, number: int, what: str) -> JournalError:
        """The error that a line cannot be what was written, and what to do.

        Args:
            number: Of the line.
            what: What is wrong, in words.
        """
        kept = f"{self.path}.kept"
        line = f"{command('head', '-n', number - 1, self.path)} > {command(kept)} && {command('mv', kept, self.path)}"
        return JournalError(
            f"{self.path}: {what}; put back a copy of the file, or keep the {number - 1} lines before, after which "
            f"the search runs what is missing again: {line}"
        )


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The event of a line; `None` where it is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None

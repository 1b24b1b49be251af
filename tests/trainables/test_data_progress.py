"""Work on many files: shown where it takes long, ended when it is interrupted."""

import os
import pty
import sys
import threading
import time

import pytest

from trainables.data.images import progress as module
from trainables.data.images.progress import progress, remembered, side_by_side


def test_results_are_in_order() -> None:
    assert side_by_side(lambda item: item * 2, range(1000), block=7) == list(range(0, 2000, 2))


def test_an_error_does_not_wait_for_all_that_is_left() -> None:
    done = []

    def work(item: int) -> None:
        if not item:
            raise KeyboardInterrupt
        done.append(item)
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        side_by_side(work, range(3000), block=1)
    assert len(done) < 300


def test_a_pipe_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("decoding", 5000) as show:
        show(100)
    assert capsys.readouterr().err == ""  # nothing that is done at once
    monkeypatch.setattr(module, "SHOWN_AFTER", 0)
    monkeypatch.setattr(module, "REPEATED_AFTER", 0)
    with progress("decoding", 5000) as show:
        show(1200)
    with progress("", 5000) as show:
        show(1200)
    assert capsys.readouterr().err == "decoding: 1,200 of 5,000\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOWN_AFTER", 0)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(ours, 4096))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress("decoding", 50) as show:
            show(25)
            time.sleep(0.3)
    reader.join(10)
    os.close(ours)
    assert b"decoding" in b"".join(shown) and b"50%" in b"".join(shown)


def test_only_what_took_long_is_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path))
    assert remembered("a", lambda: {"x": 1}) == {"x": 1} and not list(tmp_path.iterdir())
    monkeypatch.setattr(module, "KEPT_AFTER", 0)
    monkeypatch.setattr(module, "KEPT", 3)
    for number in range(6):
        assert remembered(("a", number), lambda number=number: {"x": number}) == {"x": number}
    assert len(list((tmp_path / "data").iterdir())) == 3  # the latest
    assert remembered(("a", 5), lambda: {"x": "made again"}) == {"x": 5}

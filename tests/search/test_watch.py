"""`longtail-tune watch`: the page of a search that runs."""

import threading
from dataclasses import replace
from http.client import HTTPConnection

import pytest

from search.commands.watch import Page, server
from search.console.progress import Monitor
from search.option import SettingsError
from search.settings import Settings
from search.workspace.folder import SPACE_HEAD
from spaces.domain import Space, Stage, one_of
from tests.analysis.test_report import words
from tests.search import test_orchestrator
from tests.search.test_orchestrator import World

SPACE = Space(
    stages=[Stage("first", length=1, choose=[one_of(None, "cost_sensitive"), one_of(None, "class_balanced")])],
    screen=["first/cost_sensitive", "first/class_balanced"],
)


@pytest.fixture
def world(tmp_path) -> World:
    """A search that has run nothing."""
    made = World(tmp_path / "s", SPACE, output=str(tmp_path), seeds=4, trials=0, race=False)
    made.settings.save()
    (made.settings.folder / "space.py").write_text(f"{SPACE_HEAD}\nSPACE = {SPACE!r}\n")
    return made


@pytest.fixture
def settings(world) -> Settings:
    return world.settings


def page(port: int, path: str = "/", host: str = "127.0.0.1") -> tuple[int, str]:
    asking = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        asking.request("GET", path, headers={"Host": f"{host}:{port}"})
        answer = asking.getresponse()
        return answer.status, answer.read().decode()
    finally:
        asking.close()


def test_the_page_grows_with_the_journal_and_is_for_this_machine_alone(world, monkeypatch):
    """While the search runs, the arm, the time left and the growing table; then what was found."""
    monkeypatch.setattr("search.commands.watch.running", lambda folder: world.orchestrator.phase != "done")
    monkeypatch.setattr("search.commands.watch.LARGEST_SHARE", 1e9)
    plain = test_orchestrator.record
    monkeypatch.setattr(test_orchestrator, "record", lambda *each: replace(plain(*each), images=100))
    settings = world.settings
    with server(settings, 0) as serving:
        assert serving.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            port = serving.server_port
            assert "No trial has ended yet" in words(page(port)[1])
            before = (settings.folder / "journal.jsonl").exists()
            world.play(steps=26)
            content = (settings.folder / "journal.jsonl").read_bytes()
            status, html = page(port)
            shown = words(html)
            assert status == 200 and 'name="viewport"' in html and 'http-equiv="refresh"' in html
            done = len(world.orchestrator.state.records)
            assert f"design arm: which tricks conflict {done}/16 trials" in shown and "running;" in shown
            assert ("So far, 3 of 4 seed blocks are complete" in shown and "time left" in shown) or " left." in shown
            numbers = [each.numbers for pair in Monitor(world.orchestrator).pairs().rows for each in pair[1:]]
            assert numbers and all(number in shown.replace("\xa0", " ") for number in numbers)
            assert "Best recipe." not in shown, "what was found is shown when the search has ended"
            world.play()
            shown = words(page(port)[1])
            assert "not running;" in shown and "16/16 trials" in shown and "Best recipe." in shown
            assert not before and (settings.folder / "journal.jsonl").read_bytes().startswith(content)
            assert page(port, "/journal.jsonl")[0] == page(port, host="evil.example")[0] == 404
        finally:
            serving.shutdown()
            thread.join()


def test_a_search_whose_space_cannot_be_read_is_one_sentence(world):
    (world.settings.folder / "space.py").write_text("SPACE = 3\n")
    world.play(steps=4)
    assert "This search cannot be shown: " in Page(world.settings).html()


def test_a_port_that_is_taken_is_one_sentence(settings):
    with server(settings, 0) as serving, pytest.raises(SettingsError, match=r"--port \d+: cannot be used"):
        server(settings, serving.server_port)

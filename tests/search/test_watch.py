"""`longtail-tune watch`: the page of a search that runs."""

import threading
from http.client import HTTPConnection

import pytest

from search.commands.watch import server
from search.option import SettingsError
from search.scheduling.journal import Journal
from search.settings import Settings
from tests.analysis.test_report import design, race, words


@pytest.fixture
def settings(tmp_path) -> Settings:
    found = Settings(name="demo", space="s.py", data="digits-lt", output=str(tmp_path))
    found.folder.mkdir()
    found.save()
    return found


def page(port: int, path: str = "/", host: str = "127.0.0.1") -> tuple[int, str]:
    asking = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        asking.request("GET", path, headers={"Host": f"{host}:{port}"})
        answer = asking.getresponse()
        return answer.status, answer.read().decode()
    finally:
        asking.close()


def test_the_page_grows_with_the_journal_and_is_for_this_machine_alone(settings):
    with server(settings, 0) as serving:
        assert serving.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            port = serving.server_port
            assert "No trial has ended yet" in words(page(port)[1])
            journal = Journal(settings.folder / "journal.jsonl")
            for record in design():
                journal.write("record", record=record.to_dict())
            status, html = page(port)
            shown = words(html)
            assert status == 200 and "Trials by arm: design 35" in shown and "Avoid together" in shown
            assert 'name="viewport"' in html and 'http-equiv="refresh"' in html and "not running" in shown
            for record in race():
                journal.write("record", record=record.to_dict())
            assert "design 35, race 6; the last one is of the arm race" in words(page(port)[1])
            assert page(port, "/journal.jsonl")[0] == page(port, host="evil.example")[0] == 404
        finally:
            serving.shutdown()
            thread.join()


def test_a_port_that_is_taken_is_one_sentence(settings):
    with server(settings, 0) as serving, pytest.raises(SettingsError, match=r"--port \d+: cannot be used"):
        server(settings, serving.server_port)

"""A new option is one declaration: the command line, Python, the stored settings and the page follow."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search import cli
from search.settings import ALL_OPTIONS, OPTIONS

ROOT = Path(__file__).resolve().parents[2]

DECLARATION = """    patience: int = option(
        STOP, "rungs that a trial may fail", "N", {rule}default=2, at_least=0, choices=(), unit="rungs",
    )
"""

SCRIPT = """
import dataclasses, inspect, json
from pathlib import Path
import search
from search import cli
from search.__main__ import parser
from search.request import make_request
from search.settings import Settings, SettingsError

def refused(given):
    try:
        make_request({"resume": "mine"} | given)
    except SettingsError as error:
        return str(error)

print("--patience N" in parser().format_help(), "rungs that a trial may fail (default: 2)" in " ".join(
    parser().format_help().split()))
print([line for line in cli.markdown().splitlines() if "--patience" in line])
print(inspect.signature(search.run).parameters["patience"].default)
for value in ("six", -1):
    try:
        search.run(SPACE, patience=value)
    except SettingsError as error:
        print(error)
Path("results/mine").mkdir(parents=True)
make_request(vars(parser().parse_args(["--space", SPACE, "--name", "mine", "--patience", "5"]))).settings.save()
print(json.loads(Path("results/mine/search.json").read_text())["patience"])
print(Settings.stored("results", "mine").patience)
print(refused({"space": SPACE, "patience": 6}))
"""


@pytest.fixture
def with_an_option(tmp_path):
    """Runs the script in a copy of the project whose settings declare one option more."""

    def ran(rule: str) -> list[str]:
        copy = tmp_path / "project"
        ignored = shutil.ignore_patterns("__pycache__")
        for package in ("analysis", "search", "spaces", "trainables"):
            shutil.copytree(ROOT / package, copy / package, dirs_exist_ok=True, ignore=ignored)
        settings = copy / "search" / "settings.py"
        text = settings.read_text()
        place = "    rung_score: str = option("
        assert text.count(place) == 1
        settings.write_text(text.replace(place, DECLARATION.format(rule=rule) + place))
        done = subprocess.run(
            [sys.executable, "-c", f"SPACE = {str(copy / 'spaces/full_combo.py')!r}\n{SCRIPT}"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return ran


FIXED = "--resume mine: --patience cannot change in a search that has begun; leave it out, or start a new search"


@pytest.mark.parametrize(
    ("rule", "words", "resumed"),
    [("", "fixed", FIXED), ("on_resume=CHANGES, ", "may change", "None")],
)
def test_one_declaration_is_enough(with_an_option, rule, words, resumed):
    assert with_an_option(rule) == [
        "True True",
        f"['| `--patience N` | rungs that a trial may fail (default: 2) | {words} | `patience` |']",
        "2",
        "search.run: patience must be a number of rungs, got 'six'",
        "search.run: --patience must be at least 0 rungs, got -1",
        "5",
        "5",
        resumed,
    ]


def test_every_setting_has_an_option():
    """Except what a search notes itself, each beside the option that makes it do so."""
    flags = {known.flag for known in ALL_OPTIONS.values() if known.help}
    notes = {name for name, known in OPTIONS.items() if not known.help}
    assert notes == {"gpus_auto", "gpus_reason", "continues"}
    assert {OPTIONS[name].flag for name in notes} <= flags


def test_the_page_of_commands_is_the_generated_one():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == cli.markdown() + "\n", f"docs/cli.md is stale; write it with: {cli.MARKDOWN}"
    assert cli.MARKDOWN in page


def test_the_page_names_every_option():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^\| `{known.flag}[` ]", page, re.MULTILINE) for known in ALL_OPTIONS.values())

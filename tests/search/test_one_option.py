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


TRAINING_SETTING = """    rounding: str = setting("rounding of sums", ("nearest", "up"), "nearest")
"""

TRAINING_SCRIPT = """
import torch
from search import cli
from search.settings import Settings, SettingsError
from trainables.pipeline.keys import numerics

print([line for line in cli.markdown().splitlines() if "--rounding" in line])
settings = Settings(name="mine", space=SPACE, data="digits-lt", rounding="up")
print(settings.numerics.rounding, numerics(torch.device("cpu"), settings.numerics)["rounding"])
try:
    Settings(name="mine", space=SPACE, data="digits-lt", rounding="ups")
except SettingsError as error:
    print(error)
"""


@pytest.fixture
def with_a_line(tmp_path):
    """Runs a script in a copy of the project with a further declaration before a line of a file."""

    def ran(file: str, line: str, declaration: str, script: str) -> list[str]:
        copy = tmp_path / "project"
        ignored = shutil.ignore_patterns("__pycache__")
        for package in ("analysis", "search", "spaces", "trainables"):
            shutil.copytree(ROOT / package, copy / package, dirs_exist_ok=True, ignore=ignored)
        text = (copy / file).read_text()
        assert text.count(line) == 1
        (copy / file).write_text(text.replace(line, declaration + line))
        done = subprocess.run(
            [sys.executable, "-c", f"SPACE = {str(copy / 'spaces/full_combo.py')!r}\n{script}"],
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
def test_one_declaration_is_enough(with_a_line, rule, words, resumed):
    line, declaration = "    rung_score: str = option(", DECLARATION.format(rule=rule)
    assert with_a_line("search/settings.py", line, declaration, SCRIPT) == [
        "True True",
        f"['| `--patience N` | rungs that a trial may fail (default: 2) | {words} | `patience` |']",
        "2",
        "search.run: patience must be a number of rungs, got 'six'",
        "search.run: --patience must be at least 0 rungs, got -1",
        "5",
        "5",
        resumed,
    ]


def test_a_setting_of_training_is_one_line(with_a_line):
    """It is an option of the search, reaches the trials, and is part of a stage's key."""
    file, line = "trainables/training/numerics.py", "    precision: str = setting("
    assert with_a_line(file, line, TRAINING_SETTING, TRAINING_SCRIPT) == [
        "['| `--rounding nearest\\\\|up` | rounding of sums (default: nearest) | fixed | `rounding` |']",
        "up up",
        "--rounding must be nearest or up, got 'ups': did you mean 'up'?",
    ]


def test_every_setting_has_an_option():
    """Except what a search notes itself, each beside the option that makes it do so."""
    flags = {known.flag for known in ALL_OPTIONS.values() if known.help}
    notes = {name for name, known in OPTIONS.items() if not known.help}
    assert notes == {"gpus_auto", "gpus_reason", "continues", "patience_is_default"}
    assert {OPTIONS[name].flag for name in notes} <= flags


def test_the_page_of_commands_is_the_generated_one():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == cli.markdown() + "\n", f"docs/cli.md is stale; write it with: {cli.MARKDOWN}"
    assert cli.MARKDOWN in page


def test_the_page_names_every_option():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^\| `{known.flag}[` ]", page, re.MULTILINE) for known in ALL_OPTIONS.values())

"""The script for GPUs: every command in it is one that we have."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from search import papers
from search.commands.papers import tables

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "benchmarks" / "gpu_proof.sh"


def shown(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *options], capture_output=True, text=True)


@pytest.mark.parametrize("options", [(), ("--dry-run", "--root", "some folder")], ids=["full", "dry run"])
def test_every_command_is_one_that_we_have(options):
    found = shown("--show", *options)
    assert found.returncode == 0, found.stderr
    commands = [shlex.split(line) for line in found.stdout.splitlines()]
    tests, epoch, goals, *trained = commands
    assert tests[tests.index("-m") + 1] == "pytest" and tests[-1] == "tests" and (ROOT / "tests").is_dir()
    parts = (ROOT / "tests" / "benchmarks" / "training_speed.py").read_text()
    for line, part in ((epoch, "epoch"), (goals, "goals")):
        assert (ROOT / line[1]).is_file() and line[2] == part and f'"{part}": {part}' in parts
    assert ("--quick" in goals) == ("--dry-run" in options)
    assert len(trained) == 3
    for line in trained:
        assert line[0] == "timeout" and line[line.index("-m") + 1] == "search.papers"
        given = papers.parser().parse_args(line[line.index("search.papers") + 1 :])
        assert set(given.table) <= set(tables()) and given.epochs_scale == (0.01 if "--dry-run" in options else 1)
        assert given.__dict__.get("data_root") == ("some folder" if "--root" in options else None)


def test_only_some_parts_and_wrong_ones():
    assert len(shown("--show", "--parts", "tests,table").stdout.splitlines()) == 2
    for wrong in (("--parts", "tabel"), ("--second", "5"), ("--out",)):
        found = shown("--show", *wrong)
        assert found.returncode == 2 and re.match(r"gpu_proof\.sh: .*(known are|needs a value)", found.stderr)

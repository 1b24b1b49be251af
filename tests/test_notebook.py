"""The notebook of docs/ runs, and shows what it says."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebook import code_cells, run

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def shown(notebook: dict) -> list[list[str]]:
    """The kinds of outputs of every cell."""
    return [[output["output_type"] for output in cell["outputs"]] for cell in code_cells(notebook)]


def test_a_cell_shows_what_it_prints_and_its_last_value():
    cell = {"source": ["print('one')\n", "two = 2\n", "two + 1"]}
    run(cell, {}, 1)
    assert cell["outputs"][0]["text"] == ["one\n"] and cell["outputs"][1]["data"] == {"text/plain": ["3"]}


def test_the_notebook_has_been_run_and_is_small():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert NOTEBOOK.stat().st_size < 30_000
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        ast.parse("".join(cell["source"]))


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "notebook.py"), str(NOTEBOOK)]
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert shown(json.loads(done.stdout)) == shown(kept)
    assert (tmp_path / "results" / "notebook" / "best.yaml").is_file()

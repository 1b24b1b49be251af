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
@pytest.mark.timeout(600)
def test_a_kernel_shows_the_progress_in_one_output_and_the_cards_once(tmp_path):
    """`pip install ipykernel nbclient` brings a real kernel."""
    nbclient = pytest.importorskip("nbclient", reason="needs a kernel: pip install ipykernel nbclient")
    pytest.importorskip("ipykernel", reason="needs a kernel: pip install ipykernel nbclient")
    nbformat = pytest.importorskip("nbformat")
    options = 'seeds=3, trials=0, race=False, check_seeds=0, tracking_uri="none"'
    cells = [
        "import search\nfrom spaces.domain import Space, Stage, one_of\n"
        'space = Space(stages=[Stage("first", epochs=1, choose=[one_of(None, "cost_sensitive"), '
        'one_of(None, "class_balanced")])], screen=["first/cost_sensitive", "first/class_balanced"])',
        f'search.run(space, name="last", {options})',
        f'result = search.run(space, name="kept", {options})',
        "result",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (tmp_path / "run.ipynb").write_text(nbformat.writes(notebook))

    def pages(cell: int) -> list[str]:
        return ["".join(each["data"].get("text/html", "")) for each in notebook.cells[cell].outputs if "data" in each]

    for cell in (1, 2):
        shown = pages(cell)
        kinds = [("12/12 trials" in page, "Best recipe." in page) for page in shown if page]
        assert kinds == [(True, False), (False, True)]
        assert "3 of 3 seed blocks are complete" in shown[0]
        texts = "".join(each["text"] for each in notebook.cells[cell].outputs if each["output_type"] == "stream")
        assert "Where to look next" in texts and "12/12 trials" not in texts
        assert max(map(len, texts.splitlines())) < 400
    assert ["Best recipe." in page for page in pages(3)] == [True]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "notebook.py"), str(NOTEBOOK)]
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert shown(json.loads(done.stdout)) == shown(kept)
    assert (tmp_path / "results" / "notebook" / "best.yaml").is_file()

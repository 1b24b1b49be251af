"""What the README shows is what there is. `python tests/test_readme.py` writes its gallery anew."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spaces.domain import Space
from trainables import registry
from trainables.batch import Facts
from trainables.data import standard
from trainables.objective import Objective
from trainables.plan import check_space
from trainables.registry import SEAMS, discover, entries, make

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- gallery -->\n", "<!-- /gallery -->"


def text() -> str:
    return README.read_text(encoding="utf-8")


def blocks() -> list[str]:
    """The Python blocks."""
    return re.findall(r"^```python\n(.*?)^```$", text(), re.DOTALL | re.MULTILINE)


@functools.cache
def printed() -> str:
    """What the command prints: the gallery of a process of its own, without the tricks of other tests."""
    run = subprocess.run(
        [sys.executable, "-m", "trainables.registry"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return run.stdout


def rows(table: str) -> dict[str, list[str]]:
    """The table's cells by trick."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    return {cells[0].strip("`"): cells for cells in lines}


@pytest.fixture
def forget():
    """What a test registers, no other test sees."""
    discover()
    known = dict(registry._ENTRIES)
    yield
    registry._ENTRIES.clear()
    registry._ENTRIES.update(known)


def test_the_gallery_is_the_printed_one():
    there = text().partition(BEGIN)[2].partition(END)[0]
    assert there == printed(), "README.md: the gallery has changed; write it anew with: python tests/test_readme.py"


def test_the_gallery_says_what_a_reader_needs():
    discover()
    shown = rows(printed())
    ours = {name: known for name, known in entries().items() if known.cls.__module__.startswith("trainables.tricks.")}
    assert list(shown) == sorted(shown, key=lambda name: (ours[name].family, list(SEAMS).index(ours[name].seam), name))
    assert shown.keys() == ours.keys()
    for name, (_, seam, family, numbers, source) in shown.items():
        known = ours[name]
        assert seam.partition(",")[0] == known.seam
        assert (family, source) == (known.family, known.source)
        assert all(what in seam for what in known.needs)
        assert re.findall(r"`(\w+)` = ", numbers) == list(known.numbers)
        assert all(str(domain).replace("|", "/") in numbers for domain in known.space.values())
    assert shown["input_mixup"][3] == "`alpha` = 1 (0.2 … 2 step 0.2)"
    assert shown["average"][3] == "none"


def test_every_python_block_is_python():
    assert len(blocks()) >= 3
    for block in blocks():
        ast.parse(block)


def test_the_space_of_the_readme_is_a_space():
    (source,) = (block for block in blocks() if "SPACE = " in block)
    found: dict[str, object] = {}
    exec(source, found)
    space = found["SPACE"]
    assert isinstance(space, Space)
    labels = check_space(space, standard("digits-lt"))
    assert set(space.screen) <= set(labels)


def test_the_trick_of_the_readme_is_a_trick(tricks_folder, forget):
    (source,) = (block for block in blocks() if "@trick(" in block)
    imports = (
        "from dataclasses import dataclass\nfrom spaces.domain import uniform\nfrom trainables.registry import trick\n"
    )
    (tricks_folder / "my_weights.py").write_text(imports + source)
    discover(tricks_folder)
    facts = Facts(counts=torch.tensor([8, 2]), labels=torch.tensor([0] * 8 + [1] * 2))
    losses = Objective([make("my_weights")], facts)(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([0.25 * 0.693147, 0.693147])


def test_the_two_commands_stand_there():
    lines = [line.strip() for line in text().splitlines()]
    start = "python3 -m venv .venv && . .venv/bin/activate && pip install -e "
    assert f"{start}. && python run_search.py --space spaces/full_combo.py" in lines
    assert f"{start}'.[test]' && pytest" in lines
    assert (ROOT / "spaces" / "full_combo.py").is_file()


def test_what_it_points_to_is_there():
    for place in re.findall(r"`((?:spaces|trainables|analysis|search|tests|docs)/[\w./]*)`", text()):
        assert (ROOT / place).exists(), place
    for module in re.findall(r"python -m ((?:trainables|search|analysis)[\w.]*)", text()):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file() or (ROOT / module.replace(".", "/")).is_dir(), module


if __name__ == "__main__":
    before, _, rest = text().partition(BEGIN)
    README.write_text(before + BEGIN + printed() + END + rest.partition(END)[2], encoding="utf-8")

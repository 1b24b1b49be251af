"""What README and pages show is what there is. `python tests/test_docs.py` writes the table of docs/tricks.md again."""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from spaces.domain import Space
from trainables import registry
from trainables.batch import Facts
from trainables.data import standard
from trainables.objective import Objective
from trainables.plan import check_space
from trainables.registry import SEAMS, discover, entries, make
from trainables.testing import CHECKS, Case

ROOT = Path(__file__).resolve().parents[1]
TRICKS = ROOT / "docs" / "tricks.md"
BEGIN, END = "<!-- gallery -->\n", "<!-- /gallery -->"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE), 1
    )
]
SPACES = [block for block in BLOCKS if "SPACE = " in block.values[0]]
OWN_TRICKS = [block for block in BLOCKS if "@trick(" in block.values[0]]
IMPORTS = """
from dataclasses import dataclass
from spaces.domain import uniform
from trainables.testing import CHECKS, Case
from trainables.registry import trick
"""
FOREIGN = {
    "--check", "--help", "--head", "--cpuset-cpus", "--strict", "--array", "--gres", "--requeue", "--signal",
}  # fmt: skip
"""Options of every command, and of other programs."""


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@functools.cache
def printed() -> str:
    """What the command prints: the gallery in a process without the tricks of other tests."""
    run = subprocess.run(
        [sys.executable, "-m", "trainables.registry"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return run.stdout


@functools.cache
def options() -> str:
    """Where options are declared: the generated page of all commands, the benchmarks, and the scripts beside pages."""
    benchmarks = (ROOT / "tests" / "benchmarks").iterdir()
    scripts = sorted([*(file for file in benchmarks if file.suffix in (".py", ".sh")), *(ROOT / "docs").rglob("*.py")])
    return "\n".join(text(file) for file in (ROOT / "docs" / "cli.md", *scripts))


def rows(table: str) -> dict[str, list[str]]:
    """The table's cells by trick."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    return {cells[0].strip("`"): cells for cells in lines}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not re.search("WARNING|ERROR", run.stderr), run.stderr
    return folder


def test_the_gallery_is_the_printed_one():
    there = text(TRICKS).partition(BEGIN)[2].partition(END)[0]
    assert there == printed(), "docs/tricks.md: the gallery has changed; write it again with: python tests/test_docs.py"


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


def test_the_page_on_tricks_of_your_own_lists_the_seams():
    shown = rows("".join(re.findall(r"^\|.*\n", text(ROOT / "docs" / "own_trick.md"), re.MULTILINE)))
    assert {name: cells[2] for name, cells in shown.items()} == {
        name: "yes" if seam.many else "no" for name, seam in SEAMS.items()
    }


@pytest.mark.parametrize("block", BLOCKS)
def test_every_python_block_is_python(block):
    ast.parse(block)


@pytest.mark.parametrize("source", SPACES)
def test_a_space_that_is_shown_is_a_space(source):
    found: dict[str, object] = {}
    exec(source, found)
    space = found["SPACE"]
    assert isinstance(space, Space)
    labels = check_space(space, standard("digits-lt"))
    assert space.screen and set(space.screen) <= set(labels)


@pytest.mark.parametrize("source", OWN_TRICKS)
def test_a_trick_that_is_shown_is_a_trick(source, tricks_folder):
    (tricks_folder / "my_weights.py").write_text(source if "import" in source else IMPORTS + source, encoding="utf-8")
    discover(tricks_folder)
    assert registry.entry("my_weights").seam == "weight"
    facts = Facts(counts=torch.tensor([8, 2]), labels=torch.tensor([0] * 8 + [1] * 2))
    losses = Objective([make("my_weights")], facts)(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([0.25 * 0.693147, 0.693147])
    for check in CHECKS:
        check(Case("my_weights"))


@pytest.mark.parametrize(
    "shown, page",
    [
        (SPACES, "README.md"), (SPACES, "docs/space_language.md"),
        (OWN_TRICKS, "README.md"), (OWN_TRICKS, "docs/own_trick.md"),
    ],
)  # fmt: skip
def test_a_page_shows_one(shown, page):
    assert page in {str(block.id).partition(":")[0] for block in shown}


def test_the_two_commands_stand_there():
    lines = [line.strip() for line in text(ROOT / "README.md").splitlines()]
    start = "python3 -m venv .venv && . .venv/bin/activate && pip install -e "
    assert f"{start}. && python run_search.py --space spaces/full_combo.py --seeds 10" in lines
    assert f"{start}'.[test]' && pytest" in lines
    assert (ROOT / "spaces" / "full_combo.py").is_file()


def test_the_citation_and_the_packages_agree_with_the_project():
    project = tomllib.loads(text(ROOT / "pyproject.toml"))
    assert yaml.safe_load(text(ROOT / "CITATION.cff"))["version"] == project["project"]["version"]
    assert f"## {project['project']['version']}" in text(ROOT / "CHANGELOG.md")
    assert project["tool"]["setuptools"]["package-data"]["*"] == ["py.typed"]
    assert all((ROOT / package / "py.typed").is_file() for package in project["tool"]["mypy"]["packages"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_to_is_there(page):
    for place in re.findall(r"`((?:spaces|trainables|analysis|search|tests|docs)/[\w./]*)`", text(page)):
        assert (ROOT / place).exists(), place
    for module in re.findall(r"python -m ((?:trainables|search|analysis)[\w.]*)", text(page)):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file() or (ROOT / module.replace(".", "/")).is_dir(), module
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text(page)):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_a_page_names_exist(page):
    code = re.findall(r"`[^`\n]+`|^ {4}.*$", text(page), re.MULTILINE)
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]*\w", "\n".join(code))) - FOREIGN:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", options()), option


def test_the_site_has_every_page_and_fetches_nothing(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    assert "moderated" in text(site / "method.html") and 'id="search.run.run"' in text(site / "api.html")
    for page in pages:
        fetched = re.findall(r'<(?:script|img|link|iframe)\b[^>]*?(?:src|href)="(https?:[^"]*)"', text(page))
        assert not fetched, f"{page.name} fetches {fetched}"


def test_doctests_are_shown_as_code(site):
    shown = text(site / "api.html")
    assert "&gt;&gt;&gt;" in shown and "<blockquote>" not in shown


if __name__ == "__main__":
    before, _, rest = text(TRICKS).partition(BEGIN)
    TRICKS.write_text(before + BEGIN + printed() + END + rest.partition(END)[2], encoding="utf-8")

"""The laws of the arrows, read from the sources."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("analysis", "search", "spaces", "trainables")
OURS = {*PACKAGES, "run_search", "tests"}

MAY_IMPORT = {
    "analysis": {"analysis"},
    "spaces": {"spaces.domain", "spaces.papers.tables"},
    "trainables": {
        "trainables",
        "spaces.domain",
        "analysis.command_line",
        "analysis.console",
        "analysis.files",
        "analysis.records",
        "analysis.stats",
        "analysis.text",
    },
    "search": {"search", "spaces", "trainables", "analysis"},
    "run_search.py": {"search"},
}
"""Where a package may look, itself included; spaces know only the words they are written in."""


def sources(*places: str) -> list[Path]:
    found = [path for place in places for path in (ROOT / place).rglob("*.py")]
    return sorted(found + [ROOT / place for place in places if place.endswith(".py")])


ALL = sources(*PACKAGES, "run_search.py")
GALLERY = ROOT / "trainables" / "tricks"


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file; `from a import b` names a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out, not relative"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def allowed(name: str, roots: set[str]) -> bool:
    # `from spaces import domain` names "spaces" too, which alone imports nothing
    return any(name == root or name.startswith(f"{root}.") or root.startswith(f"{name}.") for root in roots)


def test_there_is_something_to_read():
    assert len(ALL) > 50
    assert {path.relative_to(ROOT).parts[0] for path in ALL} == set(MAY_IMPORT)


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_nothing_points_back(place):
    for path in sources(place):
        ours = {name for name in imported(path) if name.partition(".")[0] in OURS}
        bad = sorted(name for name in ours if not allowed(name, MAY_IMPORT[place]))
        assert not bad, f"{path.relative_to(ROOT)} imports {', '.join(bad)}"


def test_two_files_of_a_trial_know_ray():
    knows = {str(path.relative_to(ROOT)) for path in sources("trainables", "spaces", "analysis") if names_ray(path)}
    assert knows == {"trainables/trial.py", "trainables/final/workers.py"}


def names_ray(path: Path) -> bool:
    return any(name.partition(".")[0] == "ray" for name in imported(path))


def test_tricks_are_independent_of_each_other():
    for path in sources("trainables/tricks"):
        others = {name for name in imported(path) if name.startswith("trainables.tricks.")}
        assert all(name.startswith("trainables.tricks._shared") for name in others), path.name


def test_nothing_is_evaluated_from_text():
    for path in ALL:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "eval", f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize(("places", "most"), [(("analysis", "search", "spaces", "run_search.py"), 5)])
def test_imports_inside_functions_are_few_and_each_has_its_reason_beside_it(places, most):
    found = {f"{path.relative_to(ROOT)}: {line.strip()}" for path in sources(*places) for line in inner_imports(path)}
    assert len(found) <= most, found
    assert all("  # " in line for line in found), found


def inner_imports(path: Path) -> list[str]:
    """The lines of the imports that a file has within its functions."""
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    numbers = {
        node.lineno
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return [text.splitlines()[number - 1] for number in sorted(numbers)]


def test_no_folder_is_crowded():
    """But for the gallery, which has a file for each trick, and what its tricks share."""
    folders = {path.parent for path in sources(*PACKAGES)} - {GALLERY, GALLERY / "_shared"}
    crowded = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert all(number <= 15 for number in crowded.values()), crowded


def test_what_people_read_is_written_by_those_who_escape_it():
    """`Console` and `echo` escape: nothing prints past them, and no text is markup."""
    markup = re.compile(r"\[/?(bold|dim|italic|underline|red|green|yellow|blue|magenta|cyan|white)\b[^\[\]]*\]")
    for path in ALL:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        place = path.relative_to(ROOT)
        names = imported(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print" or place == Path("analysis/text.py"), f"{place}:{node.lineno}"
                if node.func.id == "Console":
                    assert "analysis.console.Console" in names, f"{place}:{node.lineno}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not markup.search(node.value), f"{place}:{node.lineno}"


def test_no_source_names_a_machine():
    place = re.compile(r"/(home|Users|root|work)/\w|\b[A-Z]:\\\\?Users")
    for path in [*ALL, *sources("tests")]:
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not place.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_imports_inside_functions_of_trainables_are_few_and_each_has_its_reason_beside_it():
    found = []
    for path in sources("trainables"):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
        inside = {n.lineno for f in functions for n in ast.walk(f) if isinstance(n, ast.Import | ast.ImportFrom)}
        for number in sorted(inside):
            found.append(f"{path.relative_to(ROOT)}:{number}")
            assert "#" in lines[number - 1] + lines[number - 2], f"{found[-1]}: say why beside it"
    assert len(found) <= 8, found


def test_the_reader_sees_every_kind_of_import(tmp_path):
    """The checks above would find what they look for."""
    file = tmp_path / "a.py"
    file.write_text("import search.run\ndef f():\n    from analysis.records import reader\n    import ray.tune as t\n")
    assert imported(file) == {"search.run", "analysis.records", "analysis.records.reader", "ray.tune"}
    assert names_ray(file)
    assert inner_imports(file) == ["    from analysis.records import reader", "    import ray.tune as t"]
    assert not allowed("search.run", MAY_IMPORT["trainables"])
    assert not allowed("spaces.full_combo", MAY_IMPORT["trainables"])
    assert allowed("spaces.domain.Stage", MAY_IMPORT["trainables"])

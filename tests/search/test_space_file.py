"""Space files: each fault in one sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest

from search.workspace.space_file import load_space, read_space
from spaces.domain import Space, SpaceError

GOOD = "from spaces.domain import Space, Stage, one_of\nSPACE = Space(stages=[Stage('a', length=1)])\n"


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("SPACE = (", "{file}, line 1: not Python: '(' was never closed"),
        ("x = 1\n", "{file}: has no SPACE; it must define SPACE = Space(stages=[…]) from spaces.domain"),
        ("SPACE = {}\n", "{file}: SPACE is a dict; it must define SPACE = Space(stages=[…]) from spaces.domain"),
        ("x = 1\nx / 0\n", "{file}, line 2: raises ZeroDivisionError: division by zero"),
        ("import nothing_like_it\n", "{file}, line 1: raises ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("from spaces.domain import Space\n\nSPACE = Space(stages=[])\n",
         "{file}, line 3: Space(stages=[]): a space needs at least one stage"),
        ("from spaces.domain import Stage\nStage('a', length=1, carry='some')\n",
         "{file}, line 2: stage 'a': carry must be 'all' or 'weights', got 'some'"),
    ],
)  # fmt: skip
def test_a_fault_in_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "space.py"
    file.write_text(text)
    with pytest.raises(SpaceError) as caught:
        load_space(file)
    assert str(caught.value) == sentence.format(file=file)


@pytest.mark.parametrize("name", ["missing.py", "."])
def test_no_such_file(tmp_path, name):
    with pytest.raises(SpaceError, match=r"--space .*: no such file; spaces/full_combo.py is the one to start from"):
        load_space(tmp_path / name)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "space.py").write_bytes(b"SPACE = '\xff\x00'")
    with pytest.raises(SpaceError, match=r"space.py.*(not Python|raises)"):
        load_space(tmp_path / "space.py")


def test_a_good_one_leaves_nothing_behind(tmp_path):
    (tmp_path / "space.py").write_text(GOOD)
    assert isinstance(load_space(tmp_path / "space.py"), Space)
    assert [path.name for path in tmp_path.iterdir()] == ["space.py"]


def test_a_file_of_any_name(tmp_path):
    (tmp_path / "my space.txt").write_text(GOOD)
    assert isinstance(load_space(tmp_path / "my space.txt"), Space)


def test_a_changed_file_is_read_again(tmp_path):
    file = tmp_path / "space.py"
    file.write_text(GOOD)
    first = load_space(file)
    file.write_text(GOOD.replace("length=1", "length=2"))
    assert load_space(file) != first


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "space.py").write_text(GOOD)
        load_space(tmp_path / folder / "space.py")
    files = {getattr(sys.modules[name], "__file__", "") for name in sys.modules if name.startswith("longtail_space_")}
    assert {str(tmp_path / folder / "space.py") for folder in ("one", "two")} <= files


def test_modules_beside_the_file_are_imported_anew_and_leave_nothing(tmp_path, monkeypatch):
    """As for a script; another space's module of the same name, and what the process has imported, stay apart."""
    for folder, number in (("one", 1), ("two", 2)):
        (tmp_path / folder / "pack").mkdir(parents=True)
        (tmp_path / folder / "space.py").write_text(
            "from spaces.domain import Space, Stage\nfrom pack.numbers_beside import N\n"
            "SPACE = Space(stages=[Stage('a', epochs=N)])\n"
        )
        (tmp_path / folder / "pack" / "numbers_beside.py").write_text(f"N = {number}\n")
    monkeypatch.syspath_prepend(tmp_path / "one")
    from pack import numbers_beside  # type: ignore[import-not-found]

    before, path = dict(sys.modules), list(sys.path)
    for folder, number in (("one", 1), ("two", 2), ("one", 1)):
        assert load_space(tmp_path / folder / "space.py").stages[0].epochs == number
    (tmp_path / "one" / "pack" / "numbers_beside.py").write_text("N = 7\n")
    space, read = read_space(tmp_path / "one" / "space.py")
    assert space.stages[0].epochs == 7 and numbers_beside.N == 1
    assert [file.name for file in read] == ["space.py", "numbers_beside.py"]
    assert sys.path == path and sys.modules["pack.numbers_beside"] is numbers_beside
    assert {name for name in sys.modules if name not in before} <= {
        name for name in sys.modules if name.startswith("longtail_space_")
    }
    assert not list((tmp_path / "two").rglob("__pycache__"))


def test_what_a_space_reads_is_known_and_what_it_writes_is_not(tmp_path):
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "array.npy", np.arange(3))
    for name in ("text.txt", "bytes.bin"):
        (tmp_path / "data" / name).write_text("1")
    (tmp_path / "outside.txt").write_text("2")
    (tmp_path / "deep").mkdir()
    (tmp_path / "data").rename(tmp_path / "deep" / "data")
    (tmp_path / "deep" / "space.py").write_text(
        "import os, pathlib, numpy\nfrom spaces.domain import Space, Stage\n"
        "HERE = pathlib.Path(__file__).parent\n"
        "one = int((HERE / 'data' / 'text.txt').read_text())\n"
        "with open(os.fsencode(HERE / 'data' / 'bytes.bin'), 'rb') as file: file.read()\n"
        "numpy.load(HERE / 'data' / 'array.npy')\n"
        "(HERE.parent / 'outside.txt').read_text()\n"
        "(HERE / 'written.txt').write_text('x')\n"
        "os.close(os.open(HERE, os.O_RDONLY))\n"
        "SPACE = Space(stages=[Stage('a', epochs=one)])\n"
    )
    _, read = read_space(tmp_path / "deep" / "space.py")
    assert [file.name for file in read] == ["space.py", "array.npy", "bytes.bin", "text.txt"]


def test_the_spaces_of_this_project_stand_on_themselves():
    import spaces

    for file in sorted(Path(spaces.__file__).parent.rglob("*.py")):
        if "SPACE = " in file.read_text() and file.name != "domain.py":
            assert read_space(file)[1] == (file,), file


def test_an_error_beside_the_space_names_its_file(tmp_path):
    (tmp_path / "space.py").write_text("import broken_beside\n")
    (tmp_path / "broken_beside.py").write_text("x = (\n")
    with pytest.raises(SpaceError, match=r"broken_beside.py, line 1: not Python: '\(' was never closed"):
        load_space(tmp_path / "space.py")

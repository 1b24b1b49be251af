"""Space files: each fault in one sentence."""

import sys

import pytest

from search.space_file import load_space
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

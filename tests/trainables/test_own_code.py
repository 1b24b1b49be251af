"""A recipe is data: code that it names is shown, and runs only where somebody has named or accepted it."""

import hashlib
import os
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from search.commands.export import FORMAT
from spaces.domain import Stage
from trainables.final.errors import TrainError
from trainables.final.network import trained
from trainables.final.recipe import read_recipe
from trainables.train import main

RARE = '''
"""Rare classes weigh more."""

from dataclasses import dataclass
from pathlib import Path

from trainables.registry import trick
from weights_of_rare import of

Path("ran").touch()


@trick(seam="weight", family="re-weighting", source="this test", space={})
@dataclass(frozen=True)
class Rare:
    """w_y = n_min / n_y."""

    def build(self, facts):
        table = of(facts.counts)
        return lambda labels: table[labels]
'''
NET = """
from pathlib import Path

from torch import nn

Path("ran").touch()


def net(num_classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a trick (and what it imports), a network, and a file that says whether code ran."""
    (tmp_path / "tricks").mkdir()
    (tmp_path / "tricks" / "rare.py").write_text(RARE)
    (tmp_path / "weights_of_rare.py").write_text("def of(counts):\n    return counts.min() / counts.double()\n")
    (tmp_path / "mine.py").write_text(NET)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("from pathlib import Path\n\nPath('ran').touch()\n")
    (tmp_path / "package" / "nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("weights_of_rare", "package", "package.nets"):  # other tests have others of these names
        sys.modules.pop(name, None)


@pytest.fixture
def write(place, make_plan):
    """write(…): a recipe with these fields; the arguments of a quick final training of it."""

    def written(tricks: bool = False, **more) -> list[str]:
        plan = make_plan(Stage("a", epochs=1)).to_dict()
        provenance = {"search": "s1", "tricks": ["tricks"] if tricks else [], "code": more.pop("code", {})}
        if tricks:
            plan["stages"][0]["tricks"] = [{"name": "rare", "numbers": {}, "kept": False}]
        content = {
            "format": FORMAT, "recipe": "0123456789", "title": "a", "model": "resnet8", "conflicts": [], "plan": plan,
            "data": {"name": "digits-lt", "imbalance": 50.0}, "measured": {"values": [0.2]}, "provenance": provenance,
        }  # fmt: skip
        (place / "best.yaml").write_text(yaml.safe_dump(content | more))
        return ["best.yaml", "--tracking-uri", "none", "--no-program", "--out", str(place / "trained")]

    return written


NAMED = [
    ({"tricks": True}, ["tricks/rare.py", "weights_of_rare.py"], "--tracking-uri none --tricks tricks"),
    ({"model": "mine.py:net"}, ["mine.py"], "--model mine.py:net"),
    ({"model": "package.nets:net"}, ["package/nets.py"], "--model package.nets:net"),
    ({"model": "os:system"}, ["os.py"], None),
    ({"model": "no_such_module:net"}, ["no_such_module.py (there is no such file)"], None),
]


@pytest.mark.parametrize(("more", "files", "remedy"), NAMED, ids=["trick", "file", "package", "library", "absent"])
def test_code_that_a_recipe_names_is_shown_and_does_not_run(more, files, remedy, write, place, capsys):
    arguments = write(**more)
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert "best.yaml: names code of its own, which is not run unasked: " in printed and len(printed.splitlines()) == 1
    assert not (place / "ran").exists() and not (place / "trained").exists()
    for file in files:
        assert file in printed
        if (place / file).is_file():
            assert f"{file} (sha256 {hashlib.sha256((place / file).read_bytes()).hexdigest()[:16]})" in printed
    if remedy is not None:
        # what the sentence proposes works as it is written
        proposed = shlex.split(printed.partition("then name it with ")[2].partition(", or accept")[0])
        assert main([*arguments, *proposed]) == 0
        assert (place / "ran").exists()


@pytest.mark.parametrize(("more", "files", "remedy"), NAMED[:3], ids=["trick", "file", "package"])
def test_trusted_code_is_shown_with_its_hash_before_it_runs(more, files, remedy, write, place, capsys):
    assert main([*write(**more), "--trust"]) == 0
    printed = capsys.readouterr().out
    for file in files:
        digest = hashlib.sha256((place / file).read_bytes()).hexdigest()[:16]
        shown = f"runs code that the recipe names: {file} (sha256 {digest})"
        assert shown in printed and printed.index(shown) < printed.index("recipe 0123456789")
    # and what was trained is read again in the same way
    with pytest.raises(TrainError, match="names code of its own, which is not run unasked"):
        trained("trained", seed=5000)
    assert trained("trained", seed=5000, trust=True).classes == 10
    kept = yaml.safe_load((place / "trained" / "recipe.yaml").read_text())
    assert str(place) not in (place / "trained" / "recipe.yaml").read_text()
    assert {name.rpartition(".")[2] for name in kept["provenance"]["code"]} >= {Path(file).stem for file in files}


def test_folders_of_a_recipe_that_its_plan_does_not_need_are_left_alone(write, place):
    arguments = write()
    content = yaml.safe_load((place / "best.yaml").read_text())
    content["provenance"]["tricks"] = ["tricks", "nowhere"]
    (place / "best.yaml").write_text(yaml.safe_dump(content))
    assert main(arguments) == 0
    assert not (place / "ran").exists()


@pytest.mark.parametrize("changed", ["tricks/rare.py", "weights_of_rare.py"])
def test_code_that_is_not_what_the_search_ran_is_refused(changed, write, place, capsys):
    write(tricks=True)
    code = read_recipe(Path("best.yaml"), ["tricks"])["provenance"]["code"]
    assert set(code) == {"rare", "weights_of_rare"}
    arguments = write(tricks=True, code=code)
    (place / changed).write_text((place / changed).read_text() + "\n# a comment changes nothing\n")
    assert main([*arguments, "--tricks", "tricks"]) == 0
    (place / changed).write_text((place / changed).read_text() + "\nMORE = 1\n")
    capsys.readouterr()
    more = ["--tricks", "tricks", "--out", str(place / "second")]
    assert main([*arguments, *more]) == 2
    printed = capsys.readouterr().err
    assert f"the code of {Path(changed).stem} is not what the search ran; take that again, or accept" in printed
    assert not (place / "second").exists()
    assert main([*arguments, *more, "--trust"]) == 0
    assert f"not the code that the search ran: {Path(changed).stem}" in capsys.readouterr().out


def test_another_network_that_is_named_is_no_change(write, place):
    arguments = write(model="mine.py:net", code={"mine": "0" * 64})
    assert main([*arguments, "--model", "resnet8"]) == 0
    assert not (place / "ran").exists() and os.path.exists(place / "trained" / "README.md")

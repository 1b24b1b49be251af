"""The user's own code: what a file stands on, and when that has changed."""

import sys
from pathlib import Path

import pytest

from trainables import code_identity as sources
from trainables.models import identity
from trainables.models.own import files as files_of_network
from trainables.pipeline.keys import code_version
from trainables.registry import discover

TRICK = """
from dataclasses import dataclass
import torch
from trainables.registry import trick
import helper_of_a_trick

@trick(seam="weight", family="toys", source="nobody")
@dataclass(frozen=True)
class Toy:
    def build(self, facts):
        return lambda labels: torch.ones(labels.shape, dtype=torch.float64) * helper_of_a_trick.FACTOR
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder that Python imports from, forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_closure_follows_the_users_modules_and_nothing_else(place):
    package = place / "closure_package"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text("import torch\nfrom .deep import blocks\nfrom trainables.models import build\n")
    (package / "deep" / "__init__.py").write_text("from ..shared import X\n")
    (package / "deep" / "blocks.py").write_text("def late():\n    import closure_late\n")
    (package / "shared.py").write_text("X = 1\n")
    (package / "unused.py").write_text("")
    (place / "closure_late.py").write_text("from closure_package import net\n")
    found = sources.closure({"closure_package.net": package / "net.py"})
    assert list(found) == [
        "closure_late", "closure_package", "closure_package.deep", "closure_package.deep.blocks",
        "closure_package.net", "closure_package.shared",
    ]  # fmt: skip
    before = sources.hash_of(found.values())
    (package / "shared.py").write_text("X = 1  # one\n")
    assert sources.hash_of(found.values()) == before
    (package / "shared.py").write_text("X = 2\n")
    assert sources.hash_of(found.values()) != before


def test_a_source_that_cannot_be_read_is_hashed_as_it_is(tmp_path):
    for text in (b"print 'old'", b"\xff\xfe", b"x = '\x00'"):
        (tmp_path / "odd.py").write_bytes(text)
        assert len(sources.hash_of(sources.closure({"odd": tmp_path / "odd.py"}).values())) == 64


def test_a_stage_key_knows_what_a_trick_imports(place):
    (place / "more").mkdir()
    (place / "helper_of_a_trick.py").write_text("FACTOR = 1\n")
    (place / "more" / "toy_that_imports.py").write_text(TRICK)
    discover(place / "more")
    before = code_version("toy_that_imports")
    (place / "helper_of_a_trick.py").write_text("FACTOR = 2.5\n")
    assert code_version("toy_that_imports") != before


def test_a_network_is_known_by_what_it_imports(place):
    (place / "own_width.py").write_text("WIDTH = 4\n")
    (place / "own_net.py").write_text(
        "from torch import nn\nfrom own_width import WIDTH\ndef net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.Linear(WIDTH, num_classes))\n"
    )
    for named in ("own_net:net", f"{place / 'own_net.py'}:net"):
        (place / "own_width.py").write_text("WIDTH = 4\n")
        assert list(files_of_network(named)) == ["own_net", "own_width"]
        before = identity(named)
        (place / "own_width.py").write_text("WIDTH = 88\n")
        assert identity(named) != before

"""Every space that ships can be searched: it loads, is checked, and its design has cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search.design.labels import make_design
from search.workspace.space_file import load_space
from trainables.data import standard
from trainables.plan import check_space

pytestmark = pytest.mark.smoke

SPACES = Path(__file__).parents[2] / "spaces"
FILES = sorted(path for path in SPACES.rglob("*.py") if path.stem not in ("__init__", "domain", "recipes", "tables"))
PRETRAINED = ("heads", "lift")
"""Spaces whose first stage needs a network that comes with weights, or features."""


def test_there_are_spaces() -> None:
    assert {"full_combo", "bag_of_tricks", "label_over_smoothing"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_space_can_be_searched(path: Path) -> None:
    space, own = load_space(path), standard("digits-lt")
    if path.stem in PRETRAINED:
        own = replace(own, provides=(*own.provides, "trained"))
    labels = check_space(space, own)
    assert set(space.screen) <= set(labels)
    design = make_design(space, own)
    assert design.cells[0].title == "baseline"
    assert len(design.cells) >= 1 + len(space.screen)

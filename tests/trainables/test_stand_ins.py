"""Stand-ins, each time in a process that has not imported torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.stand_ins import is_genuine, only_looking

ROOT = Path(__file__).resolve().parents[2]

ORDINARY = """
from dataclasses import dataclass
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2
from trainables.registry import trick

Two = Tensor | None
Halves = dict[str, Tensor]
ZERO = torch.zeros(1)

class Head(nn.Module):
    layers: nn.ModuleList[nn.Linear]

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> Tensor:
        return F.relu(x)

    @torch.jit.export
    def other(self): ...

@trick(seam="head", family="test", source="none")
@dataclass(frozen=True)
class Mine:
    size: int = 3
    def build(self, facts):
        return lambda model: Head()
"""


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_trick_with_ordinary_imports_can_be_looked_at(tricks_folder):
    (tricks_folder / "mine.py").write_text(ORDINARY)
    said = run(
        """
import sys
from trainables.stand_ins import only_looking
before = set(sys.modules)
with only_looking():
    from trainables.registry import discover, entry, make
    discover(sys.argv[1])
    print(entry("mine").seam, make("mine", size=4).size, make("ldam").max_margin)
    import torch
    try:
        torch.zeros(1).sum()
    except BaseException as error:
        print(type(error).__name__, error)
kept = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(kept & {"torch", "torchvision", "trainables", "spaces", "ray"}))
""",
        str(tricks_folder),
    )
    used = "StandInUsed torch.zeros().sum was used; nothing runs here"
    # trainables itself: nothing that was imported among stand-ins stays, or a later import would find them
    assert said.splitlines() == ["head 4 0.5", used, "[]"]


def test_no_code_takes_a_stand_in_for_its_own_error():
    said = run(
        """
from trainables.stand_ins import StandInUsed, only_looking
try:
    with only_looking():
        import torch
        try:
            torch.from_numpy(1).shape
        except Exception:
            print("swallowed")
except StandInUsed as error:
    print(error)
"""
    )
    assert said == "torch.from_numpy().shape was used; nothing runs here\n"


def test_a_dry_run_whose_objective_needs_own_data(tmp_path):
    """It looks at labels, which are read without torch, and then needs torch; what is wrong with the data is said."""
    import numpy as np
    from PIL import Image

    for split, count in (("train", 20), ("val", 50), ("test", 5)):
        for name in ("ant", "bee"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(
                    tmp_path / "photos" / split / name / f"{number}.png"
                )
    (tmp_path / "space.py").write_text(
        "from spaces.domain import Space, Stage, one_of\n"
        "SPACE = Space(stages=[Stage('a', length=1, choose=[one_of(None, 'cost_sensitive')])])\n"
    )
    words = [sys.executable, ROOT / "run_search.py", "--space", "space.py", "--data", "folder:photos", "--dry-run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def dry_run():
        return subprocess.run(
            [*words, "--objective", "harmonic_mean"], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip

    done = dry_run()
    assert done.returncode == 0 and "What would run" in done.stdout, done.stderr
    for file in (tmp_path / "photos" / "train" / "bee").iterdir():
        file.write_bytes(b"")
    done = dry_run()
    assert done.returncode == 2 and "no training image can be read of 1 class: bee (20)" in done.stderr, done.stderr


def test_real_libraries_stay_where_they_are():
    import torch

    with only_looking():
        assert sys.modules["torch"] is torch
        assert float(torch.ones(2).sum()) == 2
    assert sys.modules["torch"] is torch


def test_after_it_the_real_ones_come():
    said = run(
        """
from trainables.stand_ins import only_looking
with only_looking():
    from trainables.registry import make
from trainables.registry import make
from trainables.batch import Facts
import torch
print(make("cost_sensitive").build(Facts(counts=torch.tensor([4, 1]), labels=torch.tensor([0, 1])))(torch.tensor([1])))
"""
    )
    assert said.startswith("tensor([")


class Ours(ValueError):
    pass


Ours.__module__ = "search.settings"


def hiding(error, context):
    """An error as `raise … from None` leaves it."""
    error.__context__, error.__suppress_context__ = context, True
    return error


@pytest.mark.parametrize(
    ("error", "genuine"),
    [
        (hiding(Ours("--tricks: cannot be used"), TypeError("unsupported operand")), False),
        (hiding(Ours("--tricks: cannot be used"), AttributeError("shape")), False),
        (hiding(Ours("no such trick"), KeyError("mine")), True),
        (hiding(Ours("no whole number"), ValueError("x")), True),
    ],
)
def test_whose_error_is_hidden(error, genuine):
    assert is_genuine(error) is genuine


@pytest.mark.parametrize(
    ("error", "cause", "genuine"),
    [
        (Ours("no such folder"), None, True),
        (Ours("--tricks: cannot be imported"), TypeError("unsupported operand"), False),
        (FileNotFoundError("space.py"), None, True),
        (TypeError("unsupported operand"), None, False),
        (ValueError("of somebody else"), None, False),
    ],
)
def test_whose_error_it_is(error, cause, genuine):
    error.__cause__ = cause
    assert is_genuine(error) is genuine

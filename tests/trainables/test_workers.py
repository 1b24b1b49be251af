"""Final training by several workers through Ray Train: the same weights as one process in as many parts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from search.commands.export import FORMAT
from spaces.domain import Stage
from trainables.train import main

pytestmark = [
    pytest.mark.timeout(600),
    # of Ray about itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def recipe(make_plan, tmp_path: Path) -> str:
    plan = make_plan(
        Stage("a", epochs=8, choose=["input_mixup"]), Stage("b", epochs=1, choose=["classifier", "class_balanced"])
    )
    content = {
        "format": FORMAT, "recipe": "0123456789", "title": "a/input_mixup", "model": "resnet8", "conflicts": [],
        "data": {"name": "digits-lt", "imbalance": 50.0}, "plan": plan.to_dict(), "measured": {"values": [0.2]},
        "provenance": {"search": "s1", "tricks": [], "data_root": None},
    }  # fmt: skip
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "best.yaml")


@pytest.fixture(autouse=True)
def no_program(monkeypatch):
    monkeypatch.setattr("trainables.final.serving.save", lambda *arguments: None)


def command(recipe: str, out: Path, *more: str) -> list[str]:
    return [recipe, "--out", str(out), "--tracking-uri", "none", "--epochs-scale", "1", *more]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model-seed5000.safetensors")


@pytest.mark.slow
def test_two_workers_through_ray_stop_and_go_on(recipe, tmp_path):
    whole, cut, parts = (tmp_path / name for name in ("whole", "cut", "parts"))
    assert main(command(recipe, whole, "--workers", "2")) == 0
    # killed with all its workers, and taken up again
    arguments = [*command(recipe, cut, "--workers", "2"), "--save-minutes", "0"]
    killed = subprocess.Popen(
        [sys.executable, "-m", "trainables.train", *arguments], stdout=subprocess.DEVNULL, cwd=tmp_path
    )
    partial = cut / "unfinished" / "stages" / "partial"
    deadline = time.monotonic() + 300
    while not (partial.is_dir() and any(partial.iterdir())):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(2)  # behind the epoch
    assert killed.wait(200) == 130
    assert main([*arguments, "--resume"]) == 0
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(cut).items())
    # one process with each batch in two parts: the same backbone but for BatchNorm's running statistics
    assert main(command(recipe, parts, "--accumulate", "2")) == 0
    for name, value in weights(parts).items():
        if name.startswith("backbone.") and name.endswith(("weight", "bias")):
            torch.testing.assert_close(weights(whole)[name], value, rtol=1e-3, atol=1e-4)
    card = (whole / "README.md").read_text()
    assert "2 workers" in card and "BatchNorm saw parts of a batch" in card
    assert not json.loads((whole / "metrics.json").read_text())[0]["seconds"] <= 0


@pytest.mark.slow
def test_too_many_workers_are_one_sentence(recipe, tmp_path, capsys):
    assert main(command(recipe, tmp_path / "out", "--workers", "1000")) == 2
    printed = capsys.readouterr().err
    assert "--workers 1000: needs 1000 CPUs, Ray has" in printed and len(printed.splitlines()) == 1


def test_bad_numbers_of_parts(recipe, tmp_path, capsys):
    for more, message in (
        (("--workers", "0"), "--workers must be at least 1, got 0"),
        (("--accumulate", "0"), "--accumulate must be at least 1, got 0"),
        (("--as-searched", "--accumulate", "2"), "with whole batches; leave --accumulate and --workers out"),
    ):
        assert main(command(recipe, tmp_path / "out", *more)) == 2
        assert message in capsys.readouterr().err

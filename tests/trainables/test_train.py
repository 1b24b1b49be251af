"""Final training of an exported recipe, and everything that a recipe can be instead."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from search.export import FORMAT
from spaces.domain import Stage
from trainables.data import load
from trainables.models import build
from trainables.plan import Plan
from trainables.train import lengthened, main, read_recipe

STAGES = [
    Stage("a", epochs=3, choose=["input_mixup"]),
    Stage("b", epochs=1, members=2, choose=["few_shot", "average"]),
    Stage("c", epochs=1, choose=["classifier", "class_balanced"]),
]


@pytest.fixture
def recipe(make_plan):
    """What `search.export` writes: `recipe()` is a dict to change."""

    def made() -> dict:
        return {
            "format": FORMAT,
            "recipe": "0123456789",
            "title": "a/input_mixup + classifier/class_balanced",
            "data": {"name": "digits-lt", "imbalance": 50.0},
            "model": "resnet8",
            "plan": make_plan(*STAGES).to_dict(),
            "measured": {"metric": "accuracy on val", "arm": "race", "values": [0.2, 0.3], "mean": 0.25},
            "conflicts": [{"pair": "a × b", "verdict": "conflict", "reason": "shown"}],
            "provenance": {"search": "s1", "tricks": [], "data_root": None},
        }

    return made


@pytest.fixture
def write(tmp_path):
    """Writes a recipe; gives the path."""

    def written(content) -> str:
        path = tmp_path / "best.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True))
        return str(path)

    return written


# --- what is left -----------------------------------------------------------------------------------------


def test_the_command_leaves_a_model_that_loads(recipe, write, tmp_path):
    assert main([write(recipe()), "--out", str(tmp_path / "out"), "--seeds", "2"]) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "MODEL_CARD.md", "metrics.json", "recipe.yaml", "model-seed5000.safetensors", "model-seed5001.safetensors",
    }  # fmt: skip
    measured = json.loads((out / "metrics.json").read_text())
    assert [run["seed"] for run in measured] == [5000, 5001]
    for run in measured:
        network = build("resnet8", classes=10, channels=1, generator=torch.Generator())
        network.load_state_dict(load_file(out / run["file"]))
        network.eval()
        data = load("digits-lt", imbalance=50, split_seed=run["seed"], fold_val=True)
        with torch.no_grad():
            right = network(data.normalise(data.test_images)).logits.argmax(dim=1) == data.test_labels
        assert float(right.double().mean()) == pytest.approx(run["metrics"]["test/accuracy"])
        assert run["recalls"] == [pytest.approx(float(right[data.test_labels == c].double().mean())) for c in range(10)]
    kept = yaml.safe_load((out / "recipe.yaml").read_text())
    assert kept == recipe()
    card = (out / "MODEL_CARD.md").read_text()
    assert "Recipe 0123456789 of the search s1" in card
    assert f"Length: 5 epochs. Val was folded back into the training data ({len(data.train_labels)} images)." in card
    assert "- a × b: conflict. shown" in card
    assert f"| 0 | {int(data.counts[0])} |" in card
    assert int(data.counts[0]) == 124
    # the snippet of the card is what was done above
    assert 'network = build("resnet8", classes=10, channels=1, generator=torch.Generator())' in card
    assert 'load_file("model-seed5000.safetensors")' in card


def test_a_longer_training_says_what_was_measured(recipe, write, tmp_path, capsys):
    assert main([write(recipe()), "--out", str(tmp_path / "out"), "--epochs-scale", "2"]) == 0
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "Length: 10 epochs; what the search found was measured at 50 %" in card
    kept = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert [stage["epochs"] for stage in kept["plan"]["stages"]] == [6, 2, 2]
    assert "accuracy on test" in capsys.readouterr().out


def test_lengthened_keeps_every_stage(make_plan):
    plan = make_plan(*STAGES)
    assert [stage.epochs for stage in lengthened(plan, 0.1).stages] == [1, 1, 1]
    assert [stage.epochs for stage in lengthened(plan, 1.5).stages] == [4, 2, 2]
    assert lengthened(plan, 1) == plan


# --- as searched ------------------------------------------------------------------------------------------


def test_as_searched_repeats_the_search(recipe, write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = recipe()
    content["measured"]["values"] = [0.0, 1.0]
    assert main([write(content), "--as-searched", "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "seed 5000: accuracy on val" in printed
    assert "(95 %): inside" in printed
    assert not (tmp_path / "trained").exists()

    content["measured"]["values"] = [0.990, 0.991, 0.992]
    assert main([write(content), "--as-searched", "--seeds", "2"]) == 1
    # t(0.975, 2) = 4.3027, sd = 0.001, √(1/3 + 1/2): 99.1 ± 0.39
    half = 4.3027 * 0.1 * math.sqrt(1 / 3 + 1 / 2)
    assert f"{99.1 - half:.1f} to {99.1 + half:.1f} % (95 %): OUTSIDE" in capsys.readouterr().out

    content["measured"]["values"] = [0.9]
    assert main([write(content), "--as-searched", "--seeds", "1"]) == 1
    assert "it predicts nothing" in capsys.readouterr().out


# --- bad input --------------------------------------------------------------------------------------------


def altered(**change):
    return lambda recipe: recipe | change


def with_trick(name, **numbers):
    def change(recipe):
        recipe["plan"]["stages"][0]["tricks"] = [{"name": name, "numbers": numbers, "kept": False}]
        return recipe

    return change


def with_number(key, value):
    def change(recipe):
        recipe["plan"]["stages"][0][key] = value
        return recipe

    return change


def without(key):
    return lambda recipe: {name: value for name, value in recipe.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_trick("input_mixp"), "best.yaml: unknown trick 'input_mixp': did you mean 'input_mixup'?"),
        (with_trick("focal", gamma=-1), "best.yaml: trick 'focal': gamma must be a number in"),
        (with_trick("focal", gama=1), "trick 'focal' has no number 'gama': did you mean 'gamma'?"),
        (with_trick("classifier"), "stage 'a': classifier reads a trained network"),
        (with_number("lr", "1e-3"), "stage 'a': lr must be a number above 0, got '1e-3'"),
        (with_number("epochs", 0), "stage 'a': epochs must be a whole number ≥ 1, got 0"),
        (with_number("lerning_rate", 1), "plan: not a plan of this version"),
        (altered(plan={}), "plan: not a plan of this version"),
        (altered(plan=[]), "plan must be a mapping, got []; export it again"),
        (altered(data={"name": "digit-lt", "imbalance": 50}), "unknown data set 'digit-lt': did you mean 'digits-lt'?"),
        (altered(data={"name": "digits-lt", "imbalance": 500}), "imbalance must lie between 1 and 124"),
        (altered(data={"name": "digits-lt", "imbalance": "50"}), "data must have a name and an imbalance"),
        (altered(model="resnet9"), "unknown model 'resnet9': did you mean 'resnet8'?"),
        (altered(provenance={"tricks": ["nowhere"]}), "--tricks nowhere: no such folder"),
        (altered(provenance=None), "provenance must be a mapping, got None; export it again"),
        (without("provenance"), "provenance must be a mapping, got None"),
        (without("measured"), "measured must be a mapping, got None"),
        (altered(measured={}), "measured must have its values"),
        (altered(format=2), "not a recipe of python -m search.export (format: 1 is expected)"),
        (lambda recipe: "a: [1", "best.yaml: not YAML: while parsing a flow sequence"),
        (lambda recipe: "just text", "not a recipe of python -m search.export"),
        (lambda recipe: "", "not a recipe of python -m search.export"),
    ],
)
def test_a_bad_recipe_ends_with_one_sentence(change, message, recipe, write, tmp_path, capsys):
    assert main([write(change(recipe())), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("trainables.train: error: ")
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))


def test_bad_arguments_end_before_anything_is_trained(recipe, write, tmp_path, capsys):
    path = write(recipe())
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for arguments, message in (
        ([str(tmp_path / "nope.yaml")], "nope.yaml: no such file; python -m search.export --out"),
        ([str(tmp_path / "bytes.yaml")], "bytes.yaml: not YAML"),
        ([path, "--seeds", "0"], "--seeds must be at least 1, got 0"),
        ([path, "--epochs-scale", "0"], "--epochs-scale must be a number above 0, got 0.0"),
        ([path, "--epochs-scale", "nan"], "--epochs-scale must be a number above 0, got nan"),
        ([path, "--epochs-scale", "inf"], "--epochs-scale must be a number above 0, got inf"),
        ([path, "--as-searched", "--epochs-scale", "2"], "repeats what the search did, at its length"),
        ([path, "--out", str(tmp_path / "taken")], "taken"),
    ):
        assert main(arguments) == 2, arguments
        printed = capsys.readouterr()
        assert message in printed.err
        assert "accuracy" not in printed.out
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_training_that_diverges_ends_with_one_sentence(recipe, write, tmp_path, capsys):
    content = recipe()
    content["plan"]["stages"][0]["lr"] = 1e6
    assert main([write(content), "--out", str(tmp_path / "out")]) == 2
    assert "stage 'a', epoch" in capsys.readouterr().err


def test_as_a_module_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "trainables.train", "nope.yaml"],
        capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("trainables.train: error: nope.yaml: no such file;")
    assert "Traceback" not in done.stderr


def test_plans_of_recipes_are_checked_as_they_are(recipe, write):
    read = read_recipe(Path(write(recipe())))
    assert Plan.from_dict(read["plan"]).stages[1].members == 2

"""Final training of an exported recipe, and everything that a recipe can be instead."""

import csv
import itertools
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import log_loss, precision_score

from search.commands.export import FORMAT
from spaces.domain import Stage
from trainables import registry
from trainables.data import load
from trainables.data.catalogue import DataError
from trainables.final import training
from trainables.final.command import _of_seed
from trainables.final.model_card import spread
from trainables.final.network import trained
from trainables.final.recipe import TrainError, lengthened, read_recipe, with_relative_places
from trainables.final.serving import serving_module
from trainables.models import ModelError, build
from trainables.plan import Plan
from trainables.registry import PlanError
from trainables.train import main
from trainables.training.numerics import Numerics

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
            "measured": {
                "metric": "accuracy on val",
                "arm": "race",
                "values": [0.2, 0.3],
                "mean": 0.25,
                "low": 0.1,
                "high": 0.4,
            },
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


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store) -> str:
    """One MLflow store for all."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('mlflow'))}"


@pytest.fixture
def no_program(monkeypatch):
    """No exported program, which takes seconds."""
    monkeypatch.setattr("trainables.final.serving.save", lambda *arguments: None)


@pytest.fixture
def command(write, tmp_path, monkeypatch):
    """Runs the command on a recipe, in a folder of its own and without MLflow; gives its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(content, *arguments: str) -> int:
        more = () if "--tracking-uri" in arguments else ("--tracking-uri", "none")
        return main([write(content), "--out", str(tmp_path / "out"), *more, *arguments])

    return run


# --- what is left -----------------------------------------------------------------------------------------


def test_the_command_leaves_a_model_that_loads(recipe, command, tmp_path, store, monkeypatch):
    assert command(recipe(), "--seeds", "2", "--tracking-uri", store) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "README.md", "metrics.json", "recipe.yaml", "model-seed5000.safetensors", "model-seed5001.safetensors",
        "per_class.csv", "model.pt2", "mlflow-model",
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
    assert kept["data"]["classes"] == [str(label) for label in range(10)]
    assert {split: counts[9] for split, counts in kept["data"]["images"].items()} == {"train": 2, "val": 44, "test": 30}
    changed = {"numerics": Numerics().to_dict(), "data": kept["data"], "provenance": kept["provenance"]}
    assert kept == recipe() | changed

    with (out / "per_class.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["train_images"]) for row in rows] == data.counts.tolist()
    assert [row["group"] for row in rows][:2] == ["many", "medium"] and rows[-1]["group"] == "few"
    assert float(rows[3]["recall_mean"]) == pytest.approx(sum(run["recalls"][3] for run in measured) / 2, abs=1e-6)
    assert sum(int(row["test_images"]) for row in rows) == 300

    card = (out / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    (result,) = header["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    mean = sum(run["metrics"]["test/accuracy"] for run in measured) / 2
    assert values["accuracy"] == pytest.approx(mean, abs=1e-6) and header["metrics"] == list(values)
    assert f"Fingerprint {result['dataset']['revision']}." in card and header["pipeline_tag"] == "image-classification"
    assert "Recipe 0123456789 of the search s1" in card
    assert "Length: 5 epochs. 2 seeds, " in card
    assert f"digits-lt: {len(data.train_labels)} training images" in card
    assert "All of them were trained on: no val was held out." in card
    assert "- a × b: conflict. shown" in card
    assert "Accuracy on val: 25.0 % (95 %: 10.0 to 40.0), over 2 seeds." in card
    assert f"| 0 | {int(data.counts[0])} |" in card
    assert int(data.counts[0]) == 144
    monkeypatch.chdir(out)
    shown = snippets(card)
    assert shown["probabilities"].shape == (2, 10) and not shown["probabilities"].requires_grad
    for name, value in shown["network"].state_dict().items():
        assert torch.equal(value, weights(out)[name])
    with zipfile.ZipFile(out / "model.pt2") as archive:  # no place of the machine that trained
        assert not any(b".py" in archive.read(name) for name in archive.namelist())
    program = torch.export.load(out / "model.pt2").module()
    data = load("digits-lt", imbalance=50, split_seed=5000, fold_val=True)
    probabilities = program(data.test_images)
    assert probabilities.shape == (300, 10)
    right = (probabilities.argmax(dim=1) == data.test_labels).double().mean()
    assert float(right) == pytest.approx(measured[0]["metrics"]["test/accuracy"])

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("longtail/digits-lt").experiment_id])
    assert run.info.status == "FINISHED" and run.data.tags["level"] == "final"
    accuracies = [one["metrics"]["test/accuracy"] for one in measured]
    assert run.data.metrics["test/accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert run.data.params["a/tricks"] == "input_mixup"
    losses = client.get_metric_history(run.info.run_id, "seed5000/train_loss")
    assert {loss.step for loss in losses} == {1, 2, 3, 4, 5}
    assert {"README.md", "metrics.json"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    # each seed is a model with its numbers on its data; the one that is served has its files
    models = {model.tags["seed"]: model for model in client.search_logged_models([run.info.experiment_id])}
    assert set(models) == {"5000", "5001"} and {str(model.status) for model in models.values()} == {"READY"}
    for one in measured:
        data = load("digits-lt", imbalance=50, split_seed=one["seed"], fold_val=True)
        assert data.fingerprint in {each.dataset.digest for each in run.inputs.dataset_inputs}
        key = f"seed{one['seed']}/test/accuracy"
        (metric,) = (metric for metric in models[str(one["seed"])].metrics if metric.key == key)
        assert (metric.value, metric.dataset_name) == (pytest.approx(one["metrics"]["test/accuracy"]), "digits-lt")
        assert metric.dataset_digest == data.fingerprint and metric.run_id == run.info.run_id
        assert len(client.get_metric_history(run.info.run_id, key)) == 1
    assert {each.model_id for each in run.outputs.model_outputs} == {model.model_id for model in models.values()}
    files = {file.path for file in client.list_logged_model_artifacts(models["5000"].model_id)}
    assert "MLmodel" in files and not client.list_logged_model_artifacts(models["5001"].model_id)


def snippets(card: str) -> dict:
    """What the card's two pieces of Python leave, run in this directory."""
    left: dict = {}
    found = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(found) == 2
    for snippet in found:
        exec(compile(snippet, "card", "exec"), left)
    return left


@pytest.mark.parametrize(
    "stages",
    [
        [Stage("a", epochs=1, choose=["cosine_head", "ldam"])],
        [Stage("a", epochs=1), Stage("b", epochs=1, carry="weights", choose=["learnable_scale", "class_balanced"])],
    ],
    ids=["cosine", "scaled"],
)
def test_the_card_builds_the_network_with_its_own_head(stages, recipe, command, make_plan, tmp_path, monkeypatch):
    assert command(recipe() | {"plan": make_plan(*stages).to_dict()}) == 0
    monkeypatch.chdir(tmp_path / "out")
    shown = snippets(Path("README.md").read_text())
    data = load("digits-lt", imbalance=50, split_seed=5000, fold_val=True)
    with torch.no_grad():
        probabilities = shown["network"](data.normalise(data.test_images)).logits.softmax(dim=1)
    torch.testing.assert_close(shown["program"](data.test_images), probabilities)
    with pytest.raises(TrainError, match=r"no such file; \. has model-seed5000.safetensors"):
        trained(".", seed=7)
    save_file({"head.weight": torch.zeros(2)}, "model-seed7.safetensors")
    with pytest.raises(TrainError, match="not a file that python -m "):
        trained(".", seed=7)


NETWORKS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, classes, looks):
        super().__init__()
        self.conv, self.head, self.looks = nn.Conv2d(channels, 8, 3), nn.Linear(8, classes), looks
    def forward(self, images):
        x = self.conv(images).relu().mean((2, 3))
        if self.looks and float(x.detach().sum()) > 1e9:  # what no program can be made of
            x = x / 2
        return self.head(x)

def plain(num_classes, channels):
    return Net(channels, num_classes, False)

def looking(num_classes, channels):
    return Net(channels, num_classes, True)
"""


def test_a_network_that_cannot_be_exported_says_so_before_it_is_trained(recipe, command, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(NETWORKS)
    own, named = recipe(), ("--model", f"{tmp_path / 'mine.py'}:looking")
    assert command(own, *named) == 2
    printed = capsys.readouterr().err
    assert "mine.py:looking: torch.export makes no program of it: " in printed and "--no-program" in printed
    assert len(printed.splitlines()) == 1 and not (tmp_path / "out").exists()
    assert command(own, *named, "--no-program") == 0
    assert not (tmp_path / "out" / "model.pt2").exists() and not (tmp_path / "out" / "mlflow-model").exists()
    assert "There is no exported program: it was not asked for." in (tmp_path / "out" / "README.md").read_text()
    assert command(own, "--model", f"{tmp_path / 'mine.py'}:plain", "--out", str(tmp_path / "plain")) == 0
    program = torch.export.load(tmp_path / "plain" / "model.pt2").module()
    assert program(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)).shape == (3, 10)


def test_what_fails_in_the_export_loses_no_training(recipe, command, tmp_path, monkeypatch, capsys):
    def failing(*arguments, **named):
        raise RuntimeError("a readout of one's own\nlooks at values")

    monkeypatch.setattr(torch.export, "export", failing)
    assert command(recipe()) == 0
    sentence = "torch.export makes no program of it: RuntimeError: a readout of one's own"
    assert f"there is no model.pt2: {sentence}" in capsys.readouterr().out
    assert f"There is no exported program: {sentence}." in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "model-seed5000.safetensors").exists()


def test_a_test_of_one_image_is_told_and_fixes_nothing(recipe, command, tmp_path, capsys):
    """The number stands with the classes that it is over; the program still takes any number of images."""
    for split, name, count in (("train", "ant", 30), ("train", "b*e*e", 12), ("test", "ant", 1)):
        (tmp_path / "photos" / split / name).mkdir(parents=True)
        for number in range(count):
            drawn = np.random.RandomState(number).randint(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(drawn).save(tmp_path / "photos" / split / name / f"{number}.png")
    content = recipe()
    content["data"] = {"name": "folder:photos", "imbalance": None}
    content["provenance"]["data_root"] = str(tmp_path)
    assert command(content) == 0
    part = "over 1 of 2 classes; there is no test image of b"
    assert re.search(rf"accuracy on test \d+\.0 % {part}\*e\*e, ", capsys.readouterr().out)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"on test ({part}\\*e\\*e): " in card and "| nan" not in card

    def refuse(word):
        raise ValueError(word)

    (measured,) = json.loads((tmp_path / "out" / "metrics.json").read_text(), parse_constant=refuse)
    assert measured["recalls"][1] is None and measured["recalls"][0] in (0, 1)
    rows = list(csv.DictReader((tmp_path / "out" / "per_class.csv").read_text().splitlines()))
    assert rows[1]["recall_low"] == rows[1]["recall_mean"] == "" and rows[1]["test_images"] == "0"
    assert 0 <= float(rows[0]["recall_low"]) < float(rows[0]["recall_high"]) <= 1
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for images in (1, 2, 5):
        assert program(torch.zeros(images, 3, 16, 16, dtype=torch.uint8)).shape == (images, 2)
    with pytest.raises(RuntimeError, match="dtype mismatch"):  # floats in [0, 1] would be black images
        program(torch.rand(2, 3, 16, 16))


def test_intervals_stay_among_shares():
    def seeds(*accuracies: float, error: float) -> str:
        return spread([{"metrics": {"test/accuracy": value, "test/accuracy_error": error}} for value in accuracies])

    assert seeds(1.0, error=0.1).startswith("100.0 % (95 %: 80.4 to 100.0, from the number of test images;")
    # equal seeds say nothing of the few test images: 1.96 · 10 points, and no spread
    assert seeds(1.0, 1.0, 1.0, error=0.1).startswith(
        "100.0 % (95 %: 80.4 to 100.0, from the number of test images and"
    )
    # t(0.975, 1) = 12.706, sd = 2.83, half = 25.41; hypot(25.41, 19.6) = 32.09
    assert seeds(0.02, 0.06, error=0.1).startswith("4.0 % (95 %: 0.0 to 36.1,")


def test_equal_trainings_leave_equal_files(recipe, command, tmp_path, no_program):
    assert command(recipe()) == 0 and command(recipe(), "--out", str(tmp_path / "again")) == 0
    for name in ("model-seed5000.safetensors", "recipe.yaml", "per_class.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"shape": "[1, 8]", "counts": "[3, 2]"}, "shape must be one whole number or three, got [1, 8]"),
        ({"shape": "[1, 8, 8]", "counts": f"[{10**12}, 2]"}, "counts must be the training images of each class, got"),
        ({"shape": "[1, 8, 8]", "counts": "{}"}, "counts must be the training images of each class, got {}"),
        ({"shape": "[" * 100_000, "counts": "[3, 2]"}, "not a file that python -m trainables.train left"),
        ({"shape": "[1, 8, 8]", "counts": "[3, 2]"}, "not the weights of the network that"),
    ],
)
def test_weights_of_others_end_with_one_sentence(metadata, sentence, recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe()))
    save_file({"a": torch.zeros(2)}, tmp_path / "model-seed1.safetensors", metadata=metadata)
    with pytest.raises(TrainError) as caught:
        trained(tmp_path, seed=1)
    assert sentence in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_finished_model_is_not_overwritten(recipe, command, tmp_path, no_program, capsys):
    assert command(recipe()) == 0
    before = (tmp_path / "out" / "README.md").read_bytes()
    assert command(recipe(), "--seeds", "2") == 2
    assert "out holds a model that is finished and is not overwritten: choose another --out" in capsys.readouterr().err
    assert (tmp_path / "out" / "README.md").read_bytes() == before


def test_a_longer_training_says_what_was_measured(recipe, command, no_program, tmp_path, capsys):
    assert command(recipe(), "--epochs-scale", "2") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Length: 10 epochs; what the search found was measured at 50 %" in card
    kept = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert [stage["epochs"] for stage in kept["plan"]["stages"]] == [6, 2, 2]
    assert "accuracy on test" in capsys.readouterr().out
    assert not (tmp_path / "mlflow.db").exists()


def test_in_bfloat16_and_in_parts(recipe, command, tmp_path, no_program):
    assert command(recipe(), "--precision", "bf16", "--accumulate", "2") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "bfloat16 by autocast, each batch in 2 parts" in card
    assert "Trained and tested in bfloat16; the exported program computes in float32." in card
    halved = weights(tmp_path / "out")
    assert all(value.dtype in (torch.float32, torch.int64) for value in halved.values())
    assert command(recipe(), "--accumulate", "2", "--out", str(tmp_path / "fp32")) == 0
    assert not torch.equal(weights(tmp_path / "fp32")["head.weight"], halved["head.weight"])


def test_own_data_from_disk_with_their_remarks(recipe, command, tmp_path, no_program):
    """Streamed, with a class that starves and a broken file; the recipe names its folder beside itself."""
    drawn = np.random.RandomState(0)
    for label, count in enumerate((14, 9, 7)):
        (tmp_path / "flowers" / f"kind {label}").mkdir(parents=True)
        for number in range(count):
            pixels = drawn.randint(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "flowers" / f"kind {label}" / f"{number}.png")
    (tmp_path / "flowers" / "kind 0" / "broken.png").write_text("no image")
    content = recipe()
    content["data"] = {"name": "folder:flowers?size=16&feed=streamed&broken=skip&workers=0", "imbalance": 2.0}
    content["provenance"]["data_root"] = "."
    content["measured"]["epochs_scale"] = 20.0  # own data have long standard schedules
    assert command(content) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| kind 0 | 1" in card and "broken.png" in card
    assert "has fewer than" in card or "had fewer than" in card


def test_a_prior_and_costs_weigh_the_test(recipe, command, tmp_path, no_program, capsys):
    (tmp_path / "prior.csv").write_text("".join(f"{label},{label + 1}\n" for label in range(10)))
    rows = [",".join(str(abs(true - said)) for said in range(10)) for true in range(10)]
    (tmp_path / "cost.csv").write_text("\n".join(rows))
    assert command(recipe(), "--prior", "prior.csv", "--cost", "cost.csv") == 0
    (measured,) = json.loads((tmp_path / "out" / "metrics.json").read_text())
    by_hand = sum((label + 1) * recall for label, recall in enumerate(measured["recalls"])) / 55
    assert measured["metrics"]["test/prior_accuracy"] == pytest.approx(by_hand)
    # what is wrong is wrong by one class at least and by nine at most
    assert 1 - by_hand <= measured["metrics"]["test/expected_cost"] <= 9 * (1 - by_hand)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| accuracy under the deployment's prior | {100 * by_hand:.1f} |" in card
    assert f"by the matrix given: {measured['metrics']['test/expected_cost']:.4g}." in card
    assert command(recipe(), "--as-searched", "--prior", "train") == 2
    assert "leave --prior and --cost out" in capsys.readouterr().err


def test_a_bad_prior_leaves_nothing(recipe, command, tmp_path, capsys):
    assert command(recipe(), "--prior", "nowhere.csv") == 2
    assert "--prior nowhere.csv: cannot read the file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("readout", ["flip_tta", "tau_norm", "post_hoc_adjustment", "nearest_mean"])
def test_the_program_is_what_was_tested(readout, make_plan, pipeline, tmp_path):
    second = Stage("b", epochs=1, choose=["classifier", readout])
    run = pipeline(make_plan(Stage("a", epochs=2), second), evaluate=False)
    run.run()
    module = serving_module(run)
    images = run.data.test_images[:40]
    right = (module(images).argmax(dim=1) == run.data.test_labels[:40]).tolist()
    assert right == [bool(value) for value in run.test()[2][:40]]
    program = torch.export.export(
        module, (images[:2],), dynamic_shapes=({0: torch.export.Dim("images", min=1)},)
    ).module()
    torch.testing.assert_close(program(images[:7]), module(images[:7]))


# --- stopping and going on --------------------------------------------------------------------------------


def weights(folder: Path) -> dict:
    return load_file(folder / "model-seed5000.safetensors")


def test_a_killed_training_goes_on_bit_by_bit(recipe, command, write, tmp_path, no_program, capsys):
    content = recipe()
    content["plan"]["stages"][0]["epochs"] = 30
    command_line = [sys.executable, "-m", "trainables.train", write(content), "--out", str(tmp_path / "out"),
                    "--tracking-uri", "none", "--save-minutes", "0"]  # fmt: skip
    killed = subprocess.Popen(command_line, stdout=subprocess.DEVNULL, cwd=tmp_path)
    partial = tmp_path / "out" / "unfinished" / "stages" / "partial"
    deadline = time.monotonic() + 200
    while not (partial.is_dir() and any(partial.iterdir())):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert command(content) == 2
    assert "out holds a training that is not finished: continue it with --resume" in capsys.readouterr().err
    assert command(content, "--resume") == 0
    assert not (tmp_path / "out" / "unfinished").exists()
    resumed = weights(tmp_path / "out")
    assert command(content, "--out", str(tmp_path / "whole")) == 0
    whole = weights(tmp_path / "whole")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.fixture
def heard():
    """Ctrl-C is heard, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_behind_the_epoch_and_goes_on(
    recipe, command, no_program, tmp_path, monkeypatch, capsys, store, heard
):
    from trainables.pipeline.pipeline import Pipeline

    advance, epochs, advanced = Pipeline.advance, [], []

    def interrupted(self):
        epochs.append(self)
        if len(epochs) == 2 and not advanced:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self)

    monkeypatch.setattr(Pipeline, "advance", interrupted)
    assert command(recipe(), "--save-minutes", "60", "--tracking-uri", store) == 130
    printed = capsys.readouterr().out
    assert "stopping after this epoch" in printed
    again = printed.partition("stopped; continue with: python -m trainables.train ")[2].splitlines()[0]
    again = [word for word in shlex.split(again) if word != "--resume"]
    assert again == [str(tmp_path / "best.yaml"), "--out", str(tmp_path / "out"), "--save-minutes", "60",
                     "--tracking-uri", store]  # fmt: skip
    assert len(epochs) == 2
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)  # the usual handler is back
        time.sleep(1)
    assert command(recipe(), "--resume", "--tracking-uri", store, "--seeds", "2") == 2
    printed = capsys.readouterr().err
    assert "--resume: " in printed
    assert "was started with another seeds ([5000], now [5000, 5001])" in printed
    settings = tmp_path / "out" / "unfinished" / "settings.json"
    noted = json.loads(settings.read_text())
    other = noted | {"code": "0"}
    earlier = {key: value for key, value in other.items() if key != "calibrate"}  # what an earlier version noted
    for content, message in (
        ("{", "settings.json is damaged; remove"),
        (json.dumps(other), "was trained by other code"),
        (json.dumps(earlier), "was trained by other code"),
    ):
        settings.write_text(content)
        assert command(recipe(), "--resume", "--tracking-uri", store) == 2
        printed = capsys.readouterr().err
        assert message in printed and len(printed.splitlines()) == 1
    settings.write_text(json.dumps(noted))
    assert command(recipe(), "--resume", "--tracking-uri", store) == 0
    advanced.append(len(epochs))
    resumed = weights(tmp_path / "out")

    from mlflow import MlflowClient

    assert MlflowClient(tracking_uri=store).get_run(noted["run"]).info.status == "FINISHED"
    assert command(recipe(), "--resume") == 2
    assert "holds no unfinished training; leave --resume out" in capsys.readouterr().err
    epochs.clear()
    assert command(recipe(), "--out", str(tmp_path / "whole")) == 0
    assert [len(epochs)] == advanced  # none of them twice
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_full_disk_is_one_sentence_and_the_training_goes_on(recipe, command, write, tmp_path, no_program):
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    arguments = [write(recipe()), "--out", str(tmp_path / "out"), "--tracking-uri", "none", "--save-minutes", "0"]
    full = subprocess.run(
        [sys.executable, "-m", "trainables.train", *arguments],
        capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path, preexec_fn=little_room,
    )  # fmt: skip
    # an unfinished stage that cannot be kept is told, and trained on; what is finished must be kept, or all ends
    *told, ended = full.stderr.splitlines()
    assert full.returncode == 2 and told
    assert all(line.startswith("the unfinished stage ") and line.endswith(": a crash would cost it") for line in told)
    # told once for each stage, without the options of a search, which this command lacks
    assert len(told) == len({line.split()[3] for line in told}) and "--store" not in full.stderr
    assert ended.startswith(
        f"python -m trainables.train: error: the disk of {tmp_path / 'out'} is full; make room, then continue with: "
    )
    assert command(recipe(), "--resume") == 0


RARE = '''
"""Rare classes weigh more."""

from dataclasses import dataclass

from trainables.registry import trick


@trick(seam="weight", family="re-weighting", source="this test", space={})
@dataclass(frozen=True)
class Rare:
    """w_y = n_min / n_y."""

    def build(self, facts):
        table = facts.counts.min() / facts.counts.double()
        return lambda labels: table[labels]
'''


def test_a_disk_that_is_full_at_the_last_step_loses_nothing(recipe, command, write, tmp_path):
    """torch's own writer of programs ends the process where it cannot write."""
    script = (
        "import resource, sys\n"
        "from trainables.final import serving\n"
        "from trainables.train import main\n"
        "save = serving.save\n"
        "def full(*given):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "    save(*given)\n"
        "serving.save = full\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = [write(recipe()), "--out", str(tmp_path / "out"), "--tracking-uri", "none"]
    full = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert full.returncode == 2 and len(full.stderr.splitlines()) == 1
    assert f"the disk of {tmp_path / 'out'} is full; make room, then continue with: python -m" in full.stderr
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"unfinished", "model-seed5000.safetensors", "recipe.yaml", "per_class.csv", "metrics.json"}
    assert command(recipe(), "--resume") == 0
    assert {"model.pt2", "mlflow-model", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_nothing_reports_or_looks_up_anything_while_tracking_is_off(recipe, write, tmp_path):
    script = (
        "import sys\n"
        "def heard(event, given):\n"
        "    if event in ('socket.getaddrinfo', 'socket.gethostbyname', 'socket.sendto') or (\n"
        "        event == 'socket.connect' and not isinstance(given[1], (str, bytes))\n"
        "    ):\n"
        "        print('NETWORK', event, given)\n"
        "sys.addaudithook(heard)\n"
        "from trainables.train import main\n"
        "code = main(sys.argv[1:])\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print('telemetry is off:', is_telemetry_disabled())\n"
        "sys.exit(code)"
    )
    # without what makes MLflow silent in tests anyway
    kept = {name: value for name, value in os.environ.items() if "PYTEST" not in name and "MLFLOW" not in name}
    for name in ("CI", "GITHUB_ACTIONS", "DO_NOT_TRACK"):
        kept.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", script, write(recipe()), "--out", "out", "--tracking-uri", "none"],
        capture_output=True, text=True, timeout=200, check=True, cwd=tmp_path, env=kept,
    )  # fmt: skip
    assert "telemetry is off: True" in done.stdout and "NETWORK" not in done.stdout and not done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"best.yaml", "out"}  # no store of MLflow's own


# --- places -----------------------------------------------------------------------------------------------


def test_relative_places_are_looked_for_beside_the_recipe(recipe, tmp_path, monkeypatch):
    folder = tmp_path / "there"
    (folder / "mine").mkdir(parents=True)
    content = recipe()
    (folder / "mine" / "rare.py").write_text(RARE)
    content["provenance"] |= {"tricks": ["mine"], "data_root": "mine"}
    content["plan"]["stages"][0]["tricks"] = [{"name": "rare", "numbers": {}, "kept": False}]
    save_file(
        build("resnet8", classes=10, channels=1, generator=torch.Generator()).state_dict(), folder / "w.safetensors"
    )
    content["model"] = "resnet8?pretrained=w.safetensors"
    (folder / "best.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    read = read_recipe(Path("there") / "best.yaml", trust=True)
    assert read["provenance"]["tricks"] == [str(folder / "mine")]
    assert read["provenance"]["data_root"] == str(folder / "mine")
    assert read["model"] == f"resnet8?pretrained={folder / 'w.safetensors'}"
    shutil.copytree(folder / "mine", tmp_path / "other")
    registry._ENTRIES.pop("rare")
    assert read_recipe(Path("there") / "best.yaml", ["other"], "resnet20")["provenance"]["tricks"] == [
        str(tmp_path / "other")
    ]
    # written again they are relative to their file, wherever that is
    moved = with_relative_places(read, tmp_path / "other" / "deep")
    assert (
        moved["provenance"]["tricks"] == ["../../there/mine"] and moved["provenance"]["data_root"] == "../../there/mine"
    )
    assert moved["model"] == "resnet8?pretrained=../../there/w.safetensors"


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


def test_as_searched_computes_as_the_search_did(recipe, write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []
    whole = training.Pipeline

    def noting(*arguments, **named):
        asked.append(named["numerics"])
        return whole(*arguments, **named)

    monkeypatch.setattr(training, "Pipeline", noting)
    content = recipe() | {"numerics": {"precision": "bf16", "channels_last": "on"}}
    assert main([write(content), "--as-searched", "--seeds", "1"]) in (0, 1)
    assert asked == [Numerics("bf16", "on")]
    assert main([write(content), "--as-searched", "--precision", "fp32"]) == 2
    assert "in its precision; leave --precision out" in capsys.readouterr().err
    assert main([write(content | {"numerics": {"precision": "fp8"}}), "--as-searched"]) == 2
    assert "numerics: --precision must be fp32 or bf16, got 'fp8'" in capsys.readouterr().err


# --- bad input --------------------------------------------------------------------------------------------


BOMB = "format: 1\na: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefghijkl")
)
"""A few hundred bytes that expand to 9¹² texts."""


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
        (with_number("lr", "1e-3"), "best.yaml: plan.stages[0].lr must be a valid number, got '1e-3'; export it again"),
        (with_number("lr", -1.0), "stage 'a': lr must be a number above 0, got -1.0"),
        (with_number("lr", math.inf), "plan.stages[0].lr must be a finite number, got inf"),
        (with_number("epochs", 0), "stage 'a': epochs must be a whole number from 1 to 1,000,000, got 0"),
        (
            with_number("epochs", 10**400),
            "plan.stages[0].epochs must be a number of at most 18 digits, got one of 1329",
        ),
        (with_number("lr", 10**400), "plan.stages[0].lr must be a number of at most 18 digits, got one of 1329 bits"),
        (with_number("kept", {1: 2}), "plan.stages[0].kept has a key that is not text: 1"),
        (with_number("lerning_rate", 1), "plan.stages[0].lerning_rate is nothing that this version knows"),
        (altered(plan={}), "plan.stages is missing"),
        (altered(plan=[]), "plan must be a mapping, got []; export it again"),
        (altered(plan={"stages": []}), "a plan needs at least one stage"),
        (altered(data={"name": "digit-lt", "imbalance": 50}), "unknown data set 'digit-lt': did you mean 'digits-lt'?"),
        (altered(data={"name": "digits-lt", "imbalance": 500}), "imbalance must lie between 1 and 100"),
        (altered(data={"name": "digits-lt", "imbalance": "50"}), "data.imbalance must be a valid number, got '50'"),
        (altered(data={"name": "digits-lt"}), "data.imbalance is missing"),
        (altered(data={"name": "digits-lt", "imbalance": 50, "classes": ["a"]}), "classes and images"),
        (altered(model="resnet9"), "unknown model 'resnet9': did you mean 'resnet8'?"),
        (altered(model=8), "model must be text, got 8"),
        (altered(model="resnet8?pretrained=best.yaml"), "no state dict that can be read without running code"),
        (altered(provenance=None), "provenance must be a mapping, got None; export it again"),
        (without("provenance"), "provenance is missing"),
        (without("measured"), "measured is missing"),
        (altered(measured={}), "measured.values is missing"),
        (altered(measured={"values": ["0.2"]}), "measured.values[0] must be a valid number, got '0.2'"),
        (altered(measured={"values": [True]}), "measured.values[0] must be a valid number, got True"),
        (altered(measured={"values": [], "epochs_scale": 0}), "measured.epochs_scale must be greater than 0, got 0"),
        (altered(measured={"values": [], "mean": "a"}), "measured.mean must be a valid number, got 'a'"),
        (altered(measured={"values": [], "gain_over_baseline": 1}), "gain_over_baseline must be a mapping, got 1"),
        (altered(conflicts=[{"pair": "a × b"}]), "conflicts[0].verdict is missing"),
        (altered(provenance={}), "provenance.search is missing"),
        (altered(provenance={"search": "s1", "tricks": 1}), "provenance.tricks must be a valid list, got 1"),
        (altered(provenance={"search": "s1", "data_root": 1}), "provenance.data_root must be text, got 1"),
        (altered(provenance={"search": "s1", "code": {"a": 1}}), "provenance.code.a must be text, got 1"),
        (with_trick(["focal"]), "plan.stages[0].tricks[0].name must be text, got ['focal']"),
        (altered(format=2), "not a recipe of python -m search.export (format: 1 is expected)"),
        (altered(numerics=[1]), "numerics must be a mapping, got [1]"),
        (lambda recipe: "a: [1", "best.yaml: not YAML: while parsing a flow sequence"),
        (lambda recipe: "just text", "not a recipe of python -m search.export"),
        (lambda recipe: "", "not a recipe of python -m search.export"),
        (lambda recipe: "[" * 100 + "]" * 100, "best.yaml: line 1: lists and mappings are nested more than 40 deep"),
        (lambda recipe: "[" * 100_000, "best.yaml: not YAML: "),
        (lambda recipe: BOMB, "best.yaml: line 3: aliases (*a) are not allowed in a recipe"),
        (lambda recipe: "format: 1\nrecipe: " + "9" * 5000, "best.yaml: not YAML: Exceeds the limit"),
        (lambda recipe: "format: 1\nrecipe: 2024-13-45", "best.yaml: not YAML: month must be in 1..12"),
        (lambda recipe: "format: 1\nrecipe: 2024-03-05", "recipe must be text, a number, true, false or null, got"),
        (lambda recipe: "format: 1\n? [1, 2]\n: 3", "best.yaml: not YAML: while constructing a mapping"),
        (
            lambda recipe: "format: 1\na: !!python/object/apply:os.system [id]",
            "best.yaml: not YAML: could not determine",
        ),
        (lambda recipe: "format: 1\na: \x00", "best.yaml: not YAML: "),
        (lambda recipe: "#" * 3_000_000, "has 3000000 bytes, and no exported recipe has above 2000000"),
    ],
)
def test_a_bad_recipe_ends_with_one_sentence(change, message, recipe, command, tmp_path, capsys):
    assert command(change(recipe())) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("python -m trainables.train: error: ")
    assert message in printed
    assert len(printed.splitlines()) == 1 and len(printed) < 1000
    assert not list((tmp_path / "out").glob("*"))


ODD = (None, True, -1, 0.5, 10**18, math.nan, "", "text", "\x1b[31m|*", [], [[]], {}, {"a": []}, [1, "a"])


def leaves_of(value, path=()):
    """Every place in a document, itself a leaf or not."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves_of(item, (*path, key))


def test_a_recipe_with_any_odd_value_anywhere_is_read_or_refused(recipe, tmp_path):
    content = recipe() | {"numerics": Numerics().to_dict()}
    content["measured"] |= {"epochs_scale": 1.0, "seeds": [1], "gain_over_baseline": {"mean": 0.1, "seeds": 2}}
    content["data"] |= {
        "fingerprint": "f", "classes": ["a"], "counts": [1], "images": {"train": [1], "val": [0], "test": [0]},
    }  # fmt: skip
    content["provenance"] |= {"fingerprints": ["f"], "code": {}}
    tried = refused = 0
    for path in leaves_of(content):
        for odd in ODD:
            changed = json.loads(json.dumps(content))
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            if path:
                inner[path[-1]] = odd
            (tmp_path / "odd.yaml").write_text(yaml.dump(changed if path else odd, Dumper=yaml.CSafeDumper))
            tried += 1
            try:
                read_recipe(tmp_path / "odd.yaml")
            except (TrainError, PlanError, ModelError, DataError) as error:
                refused += 1
                assert len(str(error).splitlines()) == 1, (path, odd)
    assert tried > 1000 and refused > tried / 2


def test_bad_arguments_end_before_anything_is_trained(recipe, write, tmp_path, capsys):
    path = write(recipe())
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for arguments, message in (
        ([str(tmp_path / "nope.yaml")], "nope.yaml: no such file; python -m search.export --out"),
        ([str(tmp_path / "bytes.yaml")], "bytes.yaml: not YAML"),
        ([path, "--seeds", "0"], "--seeds must be at least 1, got 0"),
        ([path, "--save-minutes", "-1"], "--save-minutes must be a number of at least 0, got -1.0"),
        ([path, "--save-epochs", "-1"], "--save-epochs must be at least 0, got -1"),
        ([path, "--threads", "0"], "--threads must be at least 1, got 0"),
        ([path, "--as-searched", "--resume"], "--as-searched keeps nothing"),
        ([path, "--resume", "--out", str(tmp_path / "fresh")], "holds no unfinished training"),
        ([path, "--model", "resnet9"], "unknown model 'resnet9': did you mean 'resnet8'?"),
        ([path, "--tricks", "nowhere"], "--tricks nowhere: no such folder"),
        (
            [path, "--tracking-uri", f"sqlite:///{tmp_path / 'taken' / 'm.db'}", "--out", str(tmp_path / "o")],
            "the MLflow store ",
        ),
        ([path, "--epochs-scale", "0"], "--epochs-scale must be a number above 0, got 0.0"),
        ([path, "--epochs-scale", "nan"], "--epochs-scale must be a number above 0, got nan"),
        ([path, "--epochs-scale", "inf"], "--epochs-scale must be a number above 0, got inf"),
        ([path, "--as-searched", "--epochs-scale", "2"], "--as-searched repeats the search, at its length"),
        ([path, "--out", str(tmp_path / "taken")], "taken"),
    ):
        assert main(arguments) == 2, arguments
        printed = capsys.readouterr()
        assert message in printed.err
        assert "accuracy" not in printed.out
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_training_that_diverges_ends_with_one_sentence(recipe, command, capsys):
    content = recipe()
    content["plan"]["stages"][0]["lr"] = 1e6
    assert command(content) == 2
    assert "stage 'a', epoch" in capsys.readouterr().err


def test_as_a_module_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "trainables.train", "nope.yaml"],
        capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("python -m trainables.train: error: nope.yaml: no such file;")
    assert "Traceback" not in done.stderr


def test_plans_of_recipes_are_checked_as_they_are(recipe, write):
    read = read_recipe(Path(write(recipe())))
    assert Plan.from_dict(read["plan"]).stages[1].members == 2


def test_a_calibrated_model_serves_what_was_measured(recipe, command, tmp_path):
    """The program's probabilities, the numbers on test, the thresholds and the card are of one calibration."""
    assert command(recipe(), "--abstain", "0.3", "--prior", "train") == 0
    out = tmp_path / "out"
    (run,) = json.loads((out / "metrics.json").read_text())
    data = load("digits-lt", imbalance=50, split_seed=5000)
    probabilities = torch.export.load(out / "model.pt2").module()(data.test_images)
    predicted, told = probabilities.argmax(dim=1), run["calibration"]
    right = predicted == data.test_labels
    assert run["recalls"] == pytest.approx([float(right[data.test_labels == c].double().mean()) for c in range(10)])
    assert run["predicted"] == torch.bincount(predicted, minlength=10).tolist()
    precisions = precision_score(data.test_labels, predicted, average=None, labels=range(10), zero_division=math.nan)
    assert [math.nan if value is None else value for value in run["precisions"]] == pytest.approx(
        precisions.tolist(), nan_ok=True
    )
    # Bayes' rule from the bare network, by hand: z / T − a · log of the training shares + log of the prior, the same
    bare = trained(out, seed=5000)
    with torch.no_grad():
        z = bare(data.normalise(data.test_images)).logits.double()
    shares = data.counts.double() / data.counts.sum()
    odds = (z / told["temperature"]).exp() * shares ** (1 - told["exponent"])
    assert torch.allclose(probabilities.double(), odds / odds.sum(dim=1, keepdim=True), atol=1e-5)
    assert run["prior"] == pytest.approx(shares.tolist()) and told["val"]["images"] == len(data.val_labels)
    weights = (shares / 30)[data.test_labels]  # 30 test images of each class
    exact = odds / odds.sum(dim=1, keepdim=True)
    loss = log_loss(data.test_labels, exact, sample_weight=weights)
    assert told["test"]["after"]["loss"] == run["metrics"]["test/loss"] == pytest.approx(loss, abs=1e-5)
    # before and after at the same frequencies: those of deployment
    numbers = _of_seed(run)
    bare_right = (z.argmax(dim=1) == data.test_labels).double()
    assert numbers["test/prior_accuracy_uncalibrated"] == pytest.approx(float((weights * bare_right).sum()))
    assert numbers["test/prior_accuracy"] == pytest.approx(float((weights * right.double()).sum()))
    assert "test/accuracy_uncalibrated" not in numbers
    served = mlflow.pyfunc.load_model(str(out / "mlflow-model")).predict(
        pd.DataFrame({"image": [image.numpy() for image in data.test_images]})
    )
    limits = [math.inf if limit is None else limit for limit in run["abstention"]["thresholds"]]
    assert served["accepted"].tolist() == [
        sure >= limits[label] for sure, label in zip(served["probability"], served["label"], strict=True)
    ]
    kept = torch.tensor(served["accepted"].tolist())
    assert run["abstention"]["coverage"] == pytest.approx(float((weights[kept]).sum() / weights.sum()), abs=0.02)
    card = (out / "README.md").read_text()
    for words in ("440 further images were held out as val", "the prior that was given", "## Largest confusions"):
        assert words in card
    assert (tmp_path / "out" / "per_class.csv").read_text().splitlines()[0].endswith("wrong,wrong_low,wrong_high")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--abstain", "5"), "--abstain must be a share between 0 and 1, got 5.0"),
        (("--as-searched", "--calibrate"), "--as-searched compares the network as it is; leave --calibrate and"),
    ],
)
def test_calibration_that_is_not_possible_is_refused(arguments, message, recipe, command, capsys, tmp_path):
    assert command(recipe(), *arguments) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()

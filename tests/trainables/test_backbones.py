"""Backbones beyond the CIFAR ResNets: published sizes, torchvision's outputs, weights from files, the user's own."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from spaces.domain import Space, Stage, trick
from trainables import plan as plans
from trainables.batch import Blend
from trainables.data import load, standard
from trainables.data.list_files import LISTS
from trainables.models import MODELS, ModelError, Network, build, check, check_on, identity, settled
from trainables.models.own import function_of
from trainables.pipeline.keys import trial_context
from trainables.pipeline.pipeline import Pipeline

CPU = torch.device("cpu")
LARGE = ("resnet10", "resnet34_cifar", "resnet50", "resnet152", "resnext50")


def made(name: str, classes: int = 10, channels: int = 3, seed: int = 0) -> Network:
    return build(name, classes=classes, channels=channels, generator=torch.Generator().manual_seed(seed))


# --- sizes and structure ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [
        ("resnet10", 1000, 5_418_792),
        ("resnet34_cifar", 10, 21_282_122),
        ("resnet50", 1000, 25_557_032),
        ("resnet152", 1000, 60_192_808),
        ("resnext50", 1000, 25_028_904),
    ],
)
def test_published_parameter_counts(name, classes, published):
    assert sum(parameter.numel() for parameter in made(name, classes).parameters()) == published


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("resnet50", torchvision.models.resnet50), ("resnext50", torchvision.models.resnext50_32x4d)],
)
def test_outputs_equal_torchvisions(name, theirs, tmp_path):
    torch.manual_seed(0)
    reference = theirs(num_classes=7).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    network = made(f"{name}?pretrained={tmp_path / 'weights.pth'}", classes=7).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images).logits, reference(images))


@pytest.mark.parametrize(("name", "channels"), [*((name, 3) for name in LARGE), ("resnet10", 1), ("resnet34_cifar", 4)])
def test_shapes_and_blends(name, channels):
    network = made(name, channels=channels).eval()
    images = torch.randn(2, channels, 32, 32)
    with torch.no_grad():
        outputs = network(images)
        assert network.layers == ("layer1", "layer2", "layer3", "layer4")
        assert outputs.logits.shape == (2, 10)
        assert outputs.features.shape == (2, network.features)
        assert outputs.maps.shape[:2] == (2, network.features)
        assert outputs.maps.shape[2] == (4 if name == "resnet34_cifar" else 1)
        other = network(images, Blend("layer2", torch.tensor([1, 0]), torch.tensor([0.0, 0.0])))
        torch.testing.assert_close(other.logits, outputs.logits[[1, 0]])


def test_initial_spread_is_kaimings_by_fan_out():
    convolution = made("resnet10").backbone["layer4"][0].conv2.weight  # (512, 512, 3, 3)
    assert float(convolution.detach().std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    norm = made("resnet10").backbone["layer4"][0].bn2
    assert norm.weight.eq(1).all() and norm.running_var.eq(1).all() and norm.running_mean.eq(0).all()


def test_two_stages_with_both_heads_train(make_plan, digits):
    plan = make_plan(
        Stage("a", epochs=1, lr=0.01, choose=["cosine_head", trick("manifold_mixup", layer="layer2")]),
        Stage("b", epochs=1, lr=0.01, choose=["classifier", "class_balanced"]),
    )
    pipeline = Pipeline(plan, digits, "resnet10", 0, CPU)
    pipeline.run()
    assert pipeline.network().head.kind == "cosine"
    assert 0 <= pipeline.result()[0]["final/accuracy"] <= 1


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("imagenet-lt", "resnet10"),
        pytest.param("places-lt", "resnet152", marks=pytest.mark.slow),
        pytest.param("inaturalist18", "resnet50", marks=pytest.mark.slow),
    ],
)
def test_the_list_files_train_with_their_standard_network(name, model, tmp_path, monkeypatch):
    """Four classes under the names of the real lists, at 32 pixels."""
    what, counts = LISTS[name], {"train": [12, 6, 5, 2], "val": [2] * 4, "test": [3] * 4}
    sizes = {split: sum(counts[split]) for split in what.files}
    monkeypatch.setitem(LISTS, name, replace(what, classes=4, sizes=sizes))
    drawn = np.random.RandomState(0)
    for split, file in what.files.items():
        names = [
            (f"{split}{label}-{number}.png", label) for label in range(4) for number in range(counts[split][label])
        ]
        for image, _ in names:
            Image.fromarray(drawn.randint(0, 256, (36, 40, 3), dtype=np.uint8)).save(tmp_path / image)
        (tmp_path / file).write_text("".join(f"{image} {label}\n" for image, label in names))
    own = standard(name)
    assert own.model == model
    plan = plans.build(Space(stages=[Stage("a", epochs=2)]), plans.defaults(), own).plan
    data = load(f"{name}?size=32", root=str(tmp_path), fold_val=True)
    pipeline = Pipeline(plan, data, own.model, 0, CPU, evaluate=False)
    pipeline.run()
    assert len(pipeline.test()[1]) == 4


# --- weights from a file ----------------------------------------------------------------------------------


def test_our_own_file_and_a_wrapped_one_give_the_same(tmp_path):
    network = made("resnet20", seed=5)
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    wrapped = {"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    for file in ("own.safetensors", "wrapped.pth"):
        found = made(f"resnet20?pretrained={tmp_path / file}").state_dict()
        assert all(torch.equal(found[key], value) for key, value in network.state_dict().items())


def test_the_head_is_taken_only_with_as_many_classes(tmp_path):
    save_file(made("resnet20", classes=7, seed=5).state_dict(), tmp_path / "seven.safetensors")
    found, fresh = made(f"resnet20?pretrained={tmp_path / 'seven.safetensors'}"), made("resnet20")
    assert torch.equal(found.head.weight, fresh.head.weight)
    assert not torch.equal(found.backbone["stem"][0].weight, fresh.backbone["stem"][0].weight)


def test_a_file_of_another_architecture_is_one_sentence(tmp_path):
    save_file(made("resnet20").state_dict(), tmp_path / "w.safetensors")
    message = (
        r"w\.safetensors: weights of another architecture than resnet32: 0 tensors of another shape, \d+ missing, "
        r"0 unknown \(it lacks backbone\.layer1\.3\.bn1\.bias\)"
    )
    with pytest.raises(ModelError, match=message):
        made(f"resnet32?pretrained={tmp_path / 'w.safetensors'}")
    with pytest.raises(ModelError, match="resnet20: 1 tensors of another shape"):
        made(f"resnet20?pretrained={tmp_path / 'w.safetensors'}", channels=1)


def test_bad_files_are_one_sentence(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"epoch": 3}, tmp_path / "number.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    for name, message in (
        ("resnet20?pretrained=nowhere.pth", "pretrained=nowhere.pth: no such file"),
        (f"resnet20?pretrained={tmp_path / 'text.pth'}", "no state dict that can be read without running code"),
        (f"resnet20?pretrained={tmp_path / 'whole.pth'}", "no state dict that can be read without running code"),
        (f"resnet20?pretrained={tmp_path / 'number.pth'}", "must hold a state dict, tensors by name"),
        ("resnet20?pretraned=x", "unknown option 'pretraned': allowed is pretrained=FILE and width=NUMBER"),
        ("resnet50?width=8", "unknown option 'width': allowed is pretrained=FILE"),
        ("resnet20?width=0", "width must be a whole number from 1 to 1024, got '0'"),
    ):
        with pytest.raises(ModelError) as caught:
            made(name)
        assert message in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_a_stage_is_known_by_what_the_file_holds(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        save_file(made("resnet20").state_dict(), tmp_path / name)
    save_file(made("resnet20", seed=1).state_dict(), tmp_path / "c.safetensors")
    a, b, c = (trial_context("f", f"resnet20?pretrained={tmp_path / name}.safetensors", 0, CPU) for name in "abc")
    assert a == b != c
    assert str(tmp_path) not in str(a)


# --- the user's own ---------------------------------------------------------------------------------------

OWN = """
import torch
from torch import nn
from trainables.models import build

def mlp(num_classes, width=16):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, num_classes))

def maps(num_classes, channels, **more):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(channels, 8, 3)
            self.fc = nn.Linear(8, num_classes)
        def forward(self, x):
            return self.fc(self.body(x).mean((2, 3)))
    return Net()

def ours(num_classes, channels):
    return build("resnet8", classes=num_classes, channels=channels, generator=torch.Generator().manual_seed(3))

def nothing(num_classes): return None
def headless(num_classes): return nn.Conv2d(1, num_classes, 3)
def fails(num_classes): raise RuntimeError("no luck")
def rigid(): return nn.Linear(1, 2)
def behind(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes), nn.Unflatten(1, (2, -1)))
number = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    return lambda function: f"{tmp_path / 'mine.py'}:{function}"


def test_own_networks_are_split_at_their_last_linear_layer(own):
    before = torch.get_rng_state()
    network = made(own("maps"), channels=1)
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randn(4, 1, 8, 8)
    outputs = network(images)
    body = network.backbone["body"].made.body
    torch.testing.assert_close(outputs.features, body(images).mean((2, 3)))
    torch.testing.assert_close(outputs.logits, outputs.features @ network.head.weight.T + network.head.bias)
    assert (network.features, network.classes, network.head.kind, network.layers) == (8, 10, "linear", ())
    again, other = made(own("maps"), channels=1), made(own("maps"), channels=1, seed=1)
    assert torch.equal(again.head.weight, network.head.weight)
    assert not torch.equal(other.head.weight, network.head.weight)


def test_own_networks_may_be_a_network_and_take_options(own):
    assert made(own("ours"), channels=1).layers == ("layer1", "layer2", "layer3")
    assert made(own("mlp?width=24")).features == 24


def test_an_own_network_trains(own, make_plan, digits):
    plan = make_plan(
        Stage("a", epochs=1, choose=["input_mixup"]), Stage("b", epochs=1, choose=["classifier", "tau_norm"])
    )
    pipeline = Pipeline(plan, digits, own("maps"), 0, CPU)
    pipeline.run()
    assert pipeline.finished


def test_an_own_network_is_known_by_its_source(own, tmp_path):
    first = identity(own("maps"))
    assert str(tmp_path) not in first and first.startswith("maps#")
    (tmp_path / "mine.py").write_text(OWN + "\n# a comment\n")
    assert identity(own("maps")) == first
    (tmp_path / "mine.py").write_text(OWN.replace("no luck", "bad luck"))
    assert identity(own("maps")) != first
    assert settled(own("maps?width=3")) == own("maps?width=3")
    (tmp_path / "mine.py").write_text(OWN + "\nfrom functools import partial\npartly = partial(maps, num_classes=3)\n")
    sys.modules.pop(function_of(own("maps")).__module__)
    before = identity(own("partly"))
    (tmp_path / "mine.py").write_text(OWN + "\nfrom functools import partial\npartly = partial(maps, num_classes=4)\n")
    assert identity(own("partly")) != before


def test_own_modules_by_import(tmp_path, monkeypatch):
    (tmp_path / "own_nets_for_a_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert made("own_nets_for_a_test:maps").features == 8
    assert "own_nets_for_a_test" in settled("own_nets_for_a_test:maps")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "must return a torch.nn.Module, got NoneType"),
        ("headless", "no linear layer has 10 outputs, one per class (linear layers: none)"),
        ("fails", "RuntimeError: no luck"),
        ("rigid", "must take num_classes, takes nothing"),
        ("mlp?depth=3", "takes no 'depth'; it takes num_classes, width"),
        ("number", "has no function 'number'; it has"),
        ("mpl", "has no function 'mpl'; it has"),
    ],
)
def test_bad_own_networks_are_one_sentence(own, name, message):
    with pytest.raises(ModelError) as caught:
        made(own(name))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_own_network_that_does_not_end_in_its_head_says_so(own):
    network = made(own("behind"))
    with pytest.raises(ModelError, match=r"behind: before 1 there must be features \(B, 64\), got \(2, 2, 32\)"):
        network(torch.randn(2, 1, 8, 8))


def test_a_network_is_tried_on_the_data_before_anything_is_trained(own):
    check_on("resnet8", classes=10, shape=(1, 8, 8))
    check_on(own("maps"), classes=10, shape=(1, 8, 8))
    for name, shape, message in (
        ("maps", (1, 2, 2), "cannot be run on images of 1×2×2: RuntimeError: "),
        ("behind", (1, 8, 8), "before 1 there must be features (B, 64), got (2, 2, 32)"),
        ("headless", (1, 8, 8), "no linear layer has 10 outputs"),
    ):
        with pytest.raises(ModelError) as caught:
            check_on(own(name), classes=10, shape=shape)
        assert message in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_modules_that_are_not_there():
    with pytest.raises(ModelError, match="there is no module 'nowhere_at_all' here; write module:function"):
        check("nowhere_at_all:net")
    with pytest.raises(ModelError, match=r"nowhere\.py is not a file"):
        check("nowhere.py:net")


def test_every_name_is_settled_as_it_is():
    assert all(settled(name) == identity(name) == name for name in MODELS)

"""Features as data: what a file may hold, how it is divided and standardised, and what is trained and served on it."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from analysis.conflicts import pairwise
from spaces.domain import Space, Stage, trick
from trainables import plan as plans
from trainables.batch import Facts
from trainables.data import features as module
from trainables.data import load, standard
from trainables.data.__main__ import main as describe
from trainables.data.catalogue import DataError
from trainables.data.features import MappedFeatures
from trainables.final import serving
from trainables.models import ModelError, build, check_on
from trainables.pipeline.footprint import fewer
from trainables.pipeline.pipeline import Pipeline
from trainables.registry import PlanError

CPU = torch.device("cpu")
D = 6


def made(images: int = 200, classes: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Classes around centres of their own; as many of each."""
    draws = np.random.default_rng(seed)
    centres = 3 * draws.standard_normal((classes, D))
    found = {}
    for split, count in (("train", images), ("test", images // 2)):
        y = np.arange(count) % classes
        found |= {
            f"x_{split}": (centres[y] + draws.standard_normal((count, D)) + 10).astype(np.float32),
            f"y_{split}": y,
        }
    return found


@pytest.fixture
def name(tmp_path):
    """name(arrays, file="x.npz"): the data set of a file with these arrays."""

    def written(arrays: dict, file: str = "x.npz", save=np.savez) -> str:
        save(tmp_path / file, **arrays)
        return f"features:{tmp_path / file}"

    return written


def plan_of(data_name: str, *choose, epochs: int = 3, batch_size: int = 32):
    space = Space(stages=[Stage("head", epochs=epochs, batch_size=batch_size, choose=list(choose))])
    return plans.build(space, plans.defaults(), standard(data_name)).plan


def trained(data, data_name: str, *choose, **more) -> Pipeline:
    pipeline = Pipeline(plan_of(data_name, *choose, **more), data, "linear", 0, CPU)
    pipeline.run()
    return pipeline


# --- the data -------------------------------------------------------------------------------------------------


def test_a_balanced_pool_is_divided_and_its_tail_is_cut(name):
    data = load(name(made()) + "?val=5", imbalance=8, split_seed=1)
    assert data.kind == "features" and data.train_images.dtype == torch.float32
    # 50 of a class, 5 for val; int(45 · 8^(−c/3))
    assert data.counts.tolist() == [45, 22, 11, 5]
    assert data.val_labels.bincount().tolist() == [5] * 4 and len(data.test_labels) == 100
    assert not data.val_given
    assert load(name(made()), fold_val=True).counts.tolist() == [50] * 4


def test_standardised_by_the_mean_of_each_and_one_deviation(name):
    arrays = made()
    data = load(name(arrays))
    train = arrays["x_train"].astype(np.float64)
    expected = (arrays["x_test"] - train.mean(axis=0)) / train.std(axis=0).mean()
    np.testing.assert_allclose(data.normalise(data.test_images).numpy(), expected, atol=1e-5)
    assert data.std.shape == (1,)
    assert any("centred" in note for note in data.notes)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_floats_of_any_width_become_float32(name, dtype):
    arrays = made()
    arrays = {key: value.astype(dtype) if key.startswith("x") else value for key, value in arrays.items()}
    data = load(name(arrays))
    assert data.test_images.dtype == torch.float32
    np.testing.assert_array_equal(data.test_images.numpy(), arrays["x_test"].astype(np.float32))


def test_safetensors_hold_the_same_as_npz(name, tmp_path):
    arrays = made() | {"y_train": np.arange(200) % 4, "y_test": np.arange(100) % 4}
    about = {"provenance": json.dumps({"backbone": "timm:x", "weights": "ab" * 32}), "class_names": '["a","b","c","d"]'}
    save_file(arrays, tmp_path / "x.safetensors", about)
    one = load(f"features:{tmp_path / 'x.safetensors'}")
    other = load(name(arrays | {"class_names": np.array(list("abcd")), "provenance": np.array(about["provenance"])}))
    assert one.fingerprint == other.fingerprint
    assert one.class_names == other.class_names == ("a", "b", "c", "d")
    assert one.backbone == other.backbone == "timm:x (weights abababababababab)"


def test_bfloat16_of_safetensors_is_read(tmp_path):
    from safetensors.torch import save_file as save_tensors

    arrays = {key: torch.from_numpy(value) for key, value in made().items()}
    arrays["x_test"] = arrays["x_test"].bfloat16()
    save_tensors(arrays, tmp_path / "x.safetensors")
    assert load(f"features:{tmp_path / 'x.safetensors'}").test_images.equal(arrays["x_test"].float())


@pytest.mark.parametrize("views", [1, 3])
def test_above_half_of_the_free_memory_the_file_is_mapped(name, views, monkeypatch):
    arrays = made()
    if views > 1:
        arrays["x_train"] = np.stack([arrays["x_train"] + view for view in range(views)])
    resident_name = name(arrays, "a.npz")
    resident = load(resident_name, imbalance=8)
    monkeypatch.setattr(module, "available", lambda: 1000.0)
    module._held_once.cache_clear()
    mapped_name = name(arrays, "b.npz")
    mapped = load(mapped_name, imbalance=8)
    module._held_once.cache_clear()
    assert isinstance(mapped.train_images, MappedFeatures) and isinstance(resident.train_images, torch.Tensor)
    assert any("stay in their file" in note for note in mapped.notes)
    rows = torch.tensor([3, 0, 7])
    assert mapped.train_images[rows].equal(resident.train_images[rows])
    assert torch.cat(list(mapped.test_images.split(7))).equal(resident.test_images)
    small = fewer(mapped, 8)
    assert small.train_images.shape == (len(small.train_labels), D)
    # the same training, by closed-form steps where the features are in memory
    one, other = (trained(data, resident_name, "balanced_softmax") for data in (resident, mapped))
    assert one.points[-1].metrics == pytest.approx(other.points[-1].metrics, rel=1e-6)


def test_training_draws_one_of_several_views(name):
    arrays = made()
    arrays["x_train"] = np.stack([arrays["x_train"], arrays["x_train"] + 100])
    data_name = name(arrays)
    data = load(data_name)
    assert data.train_views.shape == (2, len(data.train_labels), D)
    assert data.train_images.equal(data.train_views[0])
    from trainables.data.loaders import feed_of

    everything = [torch.arange(len(data.train_labels))]
    (seen,) = feed_of(data).augmented(everything, torch.Generator().manual_seed(0))
    second = (seen - data.train_images).mean(dim=1) > 50
    assert 0.3 < second.float().mean() < 0.7
    assert fewer(data, 8).train_views.shape[1] == len(fewer(data, 8).train_labels)
    trained(data, data_name)


def test_described(name, capsys):
    assert describe(["describe", name(made())]) == 0
    told = capsys.readouterr().out
    assert "4 classes, features of 6 numbers" in " ".join(told.split())
    assert "a network that the file does not name" in " ".join(told.split())


REFUSED = {
    "not finite": (lambda a: a["x_test"].__setitem__((7, 2), np.nan), "x_test has numbers that are not finite.*row 7"),
    "infinite": (lambda a: a["x_train"].__setitem__((3, 0), np.inf), "x_train has numbers that are not finite.*row 3"),
    "constant": (lambda a: a["x_train"].fill(2.5), "all training features are the same"),
    "dimension": (lambda a: a.update(x_test=a["x_test"][:, :5]), r"differ in dimension \(x_train 6, x_test 5\)"),
    "names": (
        lambda a: a.update(class_names_train=np.array(list("abcd")), class_names_test=np.array(list("abxd"))),
        "class_names_test and class_names_train differ \\('x' and 'c'\\)",
    ),
    "number of names": (lambda a: a.update(class_names=np.array(list("abc"))), "3 names, but labels go up to 3"),
    "unknown array": (lambda a: a.update(x_trian=a["x_train"]), r"unknown array x_trian \(did you mean x_train\?\)"),
    "objects": (lambda a: a.update(x_test=a["x_test"].astype(object)), "Python objects are not read"),
    "bytes": (lambda a: a.update(x_train=a["x_train"].astype(np.uint8)), "must be floating-point numbers, got uint8"),
    "images": (lambda a: a.update(x_test=a["x_test"].reshape(-1, 2, 3)), r"x_test must be \(N, D\)"),
    "labels": (lambda a: a.pop("y_test"), "has no y_test; features and labels come in pairs"),
    "length": (lambda a: a.update(y_test=a["y_test"][:-1]), "y_test must hold 100 whole numbers"),
    "provenance": (lambda a: a.update(provenance=np.array("no JSON")), "provenance must be a JSON object"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_sentence(what, name, capsys):
    arrays = made()
    change, message = REFUSED[what]
    change(arrays)
    data_name = name(arrays)
    with pytest.raises(DataError, match=message):
        load(data_name)
    assert describe(["describe", data_name]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_too_large_and_compressed_cannot_be_mapped(name, monkeypatch):
    monkeypatch.setattr(module, "available", lambda: 1000.0)
    module._held_once.cache_clear()
    with pytest.raises(DataError, match=r"compressed, so that they cannot be mapped; save them by numpy\.savez"):
        load(name(made(), save=np.savez_compressed))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("x.npz", b"no archive", "cannot be read as npz"),
        ("x.safetensors", b"\x08\0\0\0\0\0\0\0no JSON!", "cannot be read as safetensors"),
        ("none.npz", None, "does not exist"),
    ],
)
def test_files_that_are_none(file, content, message, tmp_path):
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(f"features:{tmp_path / file}")


# --- training -------------------------------------------------------------------------------------------------

BEHIND = {
    "draw": ["class_balanced"],
    "weight, logits": ["cost_sensitive", "balanced_softmax"],
    "mix at the input": ["input_mixup"],
    "mix at pool": [trick("manifold_mixup", layer="pool")],
    "loss": ["focal"],
    "head": ["cosine_head", "ldam"],
    "classifier": ["classifier", "label_smoothing"],
    "scale": [trick("learnable_scale", weight_lr=0.5)],
    "readout": ["nearest_mean"],
    "average": ["ema", "post_hoc_adjustment"],
}


@pytest.mark.parametrize("what", BEHIND)
def test_what_acts_behind_the_backbone_works_unchanged(what, name):
    data_name = name(made())
    data = load(data_name, imbalance=8)
    assert trained(data, data_name, *BEHIND[what], epochs=10).points[-1].metrics["accuracy"] > 0.5


@pytest.mark.parametrize("numerics", [{}, {"fused_members": "on"}])
def test_members_are_trained_and_merged(numerics, name):
    from trainables.training.numerics import Numerics

    data_name = name(made())
    data = load(data_name, imbalance=8)
    space = Space(
        stages=[
            Stage("first", epochs=4),
            Stage("balanced", epochs=2, members=3, carry="weights", choose=["few_shot", "average"]),
        ]
    )
    plan = plans.build(space, plans.defaults(), standard(data_name)).plan
    run = Pipeline(plan, data, "linear", 0, CPU, numerics=Numerics.of(numerics))
    run.run()
    assert run.points[-1].metrics["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (["cutmix"], "cutmix changes or reads images, and the data are features"),
        (["cutout"], "cutout changes or reads images"),
        (["rand_augment"], "rand_augment changes or reads images"),
        (["cam_foreground"], "cam_foreground changes or reads images"),
        (["flip_tta"], "flip_tta changes or reads images"),
        ([trick("manifold_mixup", layer="layer2")], "mixes at 'layer2', and features have no such layer"),
    ],
)
def test_what_needs_images_is_refused_before_training(choose, message, name):
    with pytest.raises(PlanError, match=message):
        plan_of(name(made()), *choose)


def test_linear_is_for_features_and_features_are_for_linear():
    with pytest.raises(ModelError, match="resnet8: takes images, and the data are features of 6 numbers"):
        check_on("resnet8", classes=4, shape=(6,))
    with pytest.raises(ModelError, match="linear: takes features, and the data are images"):
        check_on("linear", classes=4, shape=(3, 8, 8))
    check_on("linear", classes=4, shape=(6,))


def test_linear_is_what_torch_computes():
    network = build("linear", classes=3, channels=5, generator=torch.Generator().manual_seed(0))
    x = torch.randn(4, 5)
    outputs = network(x)
    assert outputs.features.equal(x) and outputs.maps is None
    torch.testing.assert_close(outputs.logits, x @ network.head.weight.T + network.head.bias)
    assert network(torch.stack([x, x])).views[0].logits.equal(outputs.logits)
    with pytest.raises(ValueError, match=r"features must be \(B, D\)"):
        network(torch.zeros(1, 3, 4, 4))


def test_served_as_features_with_the_standardisation_inside(name, tmp_path):
    data_name = name(made() | {"class_names": np.array(["ant", "bee", "cat", "dog"])})
    data = load(data_name, imbalance=8, fold_val=True)
    pipeline = Pipeline(plan_of(data_name), data, "linear", 0, CPU, evaluate=False)
    pipeline.run()
    serving.save(serving.serving_module(pipeline), tmp_path, data, {})
    expected = pipeline.network()(data.normalise(data.test_images)).logits.softmax(dim=1)
    program = torch.export.load(tmp_path / serving.PROGRAM).module()
    torch.testing.assert_close(program(data.test_images), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's agents
        import mlflow.pyfunc

        model = mlflow.pyfunc.load_model(str(tmp_path / serving.MLFLOW_MODEL))

    answer = model.predict(pd.DataFrame({"features": data.test_images[:3].tolist()}))
    assert answer["class"].tolist() == [data.class_names[label] for label in expected[:3].argmax(dim=1)]
    with pytest.raises(Exception, match="features must be 6 finite numbers"):
        model.predict(pd.DataFrame({"features": [[1.0, 2.0]]}))


def test_facts_give_the_features_of_the_training_images(name):
    data = load(name(made()))
    network = build("linear", classes=4, channels=D, generator=torch.Generator())
    facts = Facts(data.counts, data.train_labels, model=network, images=data.train_images, normalise=data.normalise)
    assert facts.features().equal(data.normalise(data.train_images))


# --- features of CIFAR-100 ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar() -> str:
    """Features of the whole of CIFAR-100 from an ImageNet network."""
    shared = Path(os.environ.get("LONGTAIL_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"
    if not (shared / "cifar100_features.npz").is_file():
        pytest.skip(f"the shared data are not in {shared}; set LONGTAIL_SHARED")
    return f"features:{shared / 'cifar100_features.npz'}?val=20"


def test_three_remedies_of_cifar100_lt_conflict(cifar):
    """Each of the three alone helps; the other two on top of balanced softmax hurt. In a plain PyTorch loop, over 30
    epochs: cross-entropy 45.3 ± 0.3 %, balanced softmax 51.9 ± 0.2, all three 47.0 ± 0.4.
    """
    both, remedies = ("class_balanced", "cost_sensitive"), {"A": ("balanced_softmax",)}
    remedies |= {"": (), "B": both, "AB": (*remedies["A"], *both)}
    rows = []
    for seed in range(3):
        data = load(cifar, imbalance=100, split_seed=seed)
        assert data.counts[0] == 480 and data.counts[-1] == 4 and len(data.test_labels) == 10_000
        for labels, choose in remedies.items():
            plan = plan_of(cifar, *choose, epochs=8, batch_size=256)
            pipeline = Pipeline(plan, data, "linear", seed, CPU, evaluate=False)
            pipeline.run()
            accuracy = pipeline.test()[0]["test/accuracy"]
            rows.append({"arm": "design", "seed": seed, "first_stage": f"{plan.id} {seed}", "tricks": tuple(labels)})
            rows[-1]["final/accuracy"] = accuracy
    trials = pd.DataFrame(rows)
    mean = trials.groupby("tricks")["final/accuracy"].mean()
    assert mean[()] > 0.40
    assert mean["A",] > mean[()] + 0.04 and mean["B",] > mean[()] + 0.04
    assert pairwise(trials, margin=0.01).loc[0, "verdict"] == "conflict"

"""SADE's aggregation at test time: the formula, a step by hand, its limits, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from search.commands.export import FORMAT
from spaces.domain import Space, Stage
from trainables import train
from trainables.batch import Facts
from trainables.data import load, standard
from trainables.evaluation import aggregate
from trainables.evaluation.test_time import aggregated, learn, learn_on, similarity
from trainables.final.errors import TrainError
from trainables.final.network import RECIPE, trained
from trainables.models import build as network_of
from trainables.plan import build, defaults
from trainables.registry import make


def by_hand(v: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Mean cosine, in NumPy."""
    w = np.exp(v) / np.exp(v).sum()

    def probabilities(z: np.ndarray) -> np.ndarray:
        mixed = np.exp((w[:, None, None] * z).sum(axis=0))
        return mixed / mixed.sum(axis=1, keepdims=True)

    one, other = probabilities(first), probabilities(second)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).mean())


def logits(seed: int) -> torch.Tensor:
    return torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_similarity_is_the_cosine_of_mixed_probabilities():
    v = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    found = similarity(v, logits(1), logits(2))
    assert float(found) == pytest.approx(by_hand(v.numpy(), logits(1).numpy(), logits(2).numpy()), abs=1e-12)
    assert float(similarity(v, logits(1), logits(1))) == pytest.approx(1.0)
    mixed = aggregated(torch.tensor([0.5, 0.25, 0.25]), torch.stack([torch.full((1, 2), c) for c in (1.0, 2.0, 4.0)]))
    assert mixed.tolist() == [[2.0, 2.0]]


def test_one_step_is_nesterov_with_the_published_constants():
    first, second = logits(1), logits(2)
    found = learn(lambda epoch: [(first, second)], 3, epochs=1)
    v = np.full(3, 1 / 3)
    gradient = np.array(
        [
            -(by_hand(v + step, first.numpy(), second.numpy()) - by_hand(v - step, first.numpy(), second.numpy()))
            / 2e-5
            for step in 1e-5 * np.eye(3)
        ]
    )
    # the first step of Nesterov's momentum is (1 + 0.9) (g + 5e-4 v)
    after = v - 0.1 * 1.9 * (gradient + 5e-4 * v)
    assert found.weights.numpy() == pytest.approx(np.exp(after) / np.exp(after).sum(), abs=1e-9)
    assert found.similarity == pytest.approx((by_hand(v, first.numpy(), second.numpy()),))


def test_limits():
    same = logits(1)[:1].expand(3, -1, -1)
    equal = learn(lambda epoch: [(same, same)], 3)
    assert equal.weights.tolist() == pytest.approx([1 / 3] * 3) and len(equal.similarity) == 5
    assert learn(lambda epoch: [(logits(1)[:1], logits(2)[:1])], 1).weights.tolist() == [1.0]
    # the expert that says the same of both views gains weight; the others are noise, and learning stops early
    steady = 8 * torch.eye(4, dtype=torch.float64)[torch.tensor([0, 1, 2, 3, 0])]
    first, second = (torch.stack((steady, 8 * logits(n)[1], 8 * logits(n)[2])) for n in (1, 2))
    found = learn(lambda epoch: [(first, second)] * 200, 3)
    assert found.weights.argmax() == 0 and found.weights[0] > 0.8
    assert len(found.similarity) < 5 and (100 * found.weights).round().min() < 5


def experts() -> torch.nn.Module:
    network = network_of("resnet8", classes=10, channels=1, generator=torch.Generator().manual_seed(0))
    data = load("digits-lt")
    return make("experts", width=1.0).build(Facts(data.counts, data.train_labels))(network).eval()


def test_the_network_stays_as_it_is_and_labels_are_not_read():
    torch.set_num_threads(1)
    data, network = load("digits-lt"), experts()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = learn_on(network, data, data.test_images[:40], epochs=1)
    again = learn_on(network, data, data.test_images[:40], epochs=1)
    assert found.weights.equal(again.weights) and found.weights.sum().item() == pytest.approx(1.0)
    unlabelled = replace(data, test_labels=data.test_labels.flip(0))
    assert learn_on(network, unlabelled, data.test_images[:40], epochs=1).weights.equal(found.weights)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    plain = network_of("resnet8", classes=10, channels=1, generator=torch.Generator().manual_seed(0)).eval()
    with pytest.raises(TrainError, match="the network has one classifier, and aggregation weights several"):
        learn_on(plain, data, data.test_images[:4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a final training of one epoch with SADE left."""
    place = tmp_path_factory.mktemp("sade")
    stage = Stage("only", epochs=1, choose=["experts", "sade"])
    content = {
        "format": FORMAT, "recipe": "0123456789", "title": "SADE", "model": "resnet8", "conflicts": [],
        "data": {"name": "digits-lt", "imbalance": 50.0},
        "plan": build(Space(stages=[stage]), defaults(), standard("digits-lt")).plan.to_dict(),
        "measured": {"metric": "accuracy on val", "arm": "race", "values": [0.2, 0.3], "mean": 0.25, "low": 0.1,
                     "high": 0.4},
        "provenance": {"search": "s1", "tricks": [], "data_root": None},
    }  # fmt: skip
    (place / "best.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainables.final.serving.save", lambda *arguments: None)  # the program takes seconds
        done = train.main([str(place / "best.yaml"), "--out", str(place / "out"), "--tracking-uri", "none"])
    assert done == 0
    return place / "out"


def test_command(folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "found.json"
    assert aggregate.main([str(folder), "--epochs", "1", "--out", str(out)]) == 0
    said, found = capsys.readouterr().out, json.loads(out.read_text())
    assert "learnt from the 300 test images of digits-lt without their labels, in 1 epochs" in said
    assert "The labels were read after the weights were fixed" in said and sum(found["weights"]) == pytest.approx(1.0)
    data = load("digits-lt", fold_val=True)
    network = trained(folder, found["seed"])
    with torch.no_grad():
        mean = network(data.normalise(data.test_images)).logits.argmax(dim=1)
    assert found["mean"]["image_accuracy"] == pytest.approx(float((mean == data.test_labels).double().mean()))
    assert aggregate.main([str(folder), "--epochs", "0"]) == 2
    assert "--epochs must be at least 1, got 0" in capsys.readouterr().err
    # the same images under classes of other names
    images, labels = (data.test_images[:100, 0].numpy(), np.arange(100) % 10)
    np.savez(
        tmp_path / "other.npz",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        class_names=np.array([f"other {label}" for label in range(10)]),
    )
    assert aggregate.main([str(folder), "--epochs", "1", "--data", f"npz:{tmp_path / 'other.npz'}"]) == 2
    assert "aggregation needs the classes of digits-lt in the same order, got other 0" in capsys.readouterr().err
    assert aggregate.main([str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert (folder / RECIPE).is_file()

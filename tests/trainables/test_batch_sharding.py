"""Batches in parts: accumulated gradients and workers give what whole batches give, where BatchNorm does not differ."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from spaces.domain import Stage, trick
from trainables.batch import Batch, Blend
from trainables.models import Network
from trainables.models.heads import LinearHead
from trainables.pipeline.pipeline import Pipeline
from trainables.training.acceleration.batch_sharding import BatchSharding, blended_at_input, rows_of, unmixed
from trainables.training.context import TrainingContext
from trainables.training.stage_run import StageRun

CPU = torch.device("cpu")


class Widened(nn.Module):
    def forward(self, x):
        return x.double()


def without_batchnorm(generator) -> Network:
    """A small network in float64 whose outputs for an image depend on nothing but the image."""
    stem = nn.Conv2d(1, 8, 3, padding=1)
    with torch.no_grad():
        for parameter in stem.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    parts = {"layer1": nn.Sequential(Widened(), stem.double(), nn.Tanh())}
    return Network(parts, LinearHead(8, 10, generator).double(), features=8, classes=10)


def trained(digits, plan, sharding: BatchSharding, epochs: int = 2):
    run = StageRun(TrainingContext(digits, without_batchnorm, 0, CPU, sharding=sharding), plan, 0, 0, None)
    for _ in range(epochs):
        run.train_epoch()
    return run


@pytest.mark.parametrize("accumulate", [2, 3])
@pytest.mark.parametrize("reduction", ["expected", "mean", "weighted_mean"])
@pytest.mark.parametrize(
    "tricks",
    [["cost_sensitive", "input_mixup", "label_smoothing"], ["effective_number", "remix", "cutout"], ["cutmix"]],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate, reduction, tricks, make_plan, digits):
    plan = make_plan(Stage("a", epochs=3, choose=tricks, reduction=reduction, lr=0.05, batch_size=32))
    whole, divided = trained(digits, plan, BatchSharding()), trained(digits, plan, BatchSharding(accumulate))
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(divided.network.state_dict()[name], value, rtol=1e-9, atol=1e-11)
    assert divided.train_loss == pytest.approx(whole.train_loss, rel=1e-6)
    assert divided.steps == whole.steps and divided.images == whole.images


def test_a_mixture_inside_the_network_stays_within_a_part(make_plan, digits):
    plan = make_plan(Stage("a", epochs=1, choose=[trick("manifold_mixup", layer="pool")], batch_size=32))
    run = trained(digits, plan, BatchSharding(2), 0)
    images, labels = torch.zeros(8, 1, 2, 2), torch.arange(8)
    order = torch.arange(7, -1, -1)
    whole = Batch(images[None], labels, torch.stack((labels, order), 1), torch.full((8, 2), 0.5),
                  Blend("pool", order, torch.full((8,), 0.5)))  # fmt: skip
    first, second = run.gradient._divide(whole, 0)
    assert first.y[:, 0].tolist() == [0, 1, 2, 3] and set(first.y[:, 1].tolist()) == {0, 1, 2, 3}
    assert set(second.y[:, 1].tolist()) == {4, 5, 6, 7}
    assert torch.equal(first.y[:, 1], first.blend.order)
    assert torch.isfinite(torch.tensor(trained(digits, plan, BatchSharding(2), 1).train_loss))


def test_parts_by_hand():
    assert [BatchSharding(3, 2).slices(13)[i] for i in (0, 5)] == [slice(0, 3), slice(11, 13)]
    shares = [share for rank in (0, 1) for _, share in BatchSharding(3, 2, rank).worker_shards(13)]
    assert sum(shares) == pytest.approx(1) and len(shares) == 6
    # too few to be divided: both have all of it, half each
    assert BatchSharding(1, 2).worker_shards(3) == [(0, 0.5)] and BatchSharding(2, 1).worker_shards(3) == [(0, 1.0)]
    blend = Blend("input", torch.tensor([1, 0, 3, 2]), torch.full((4,), 0.25))
    y = torch.tensor([[0, 1], [1, 0], [2, 3], [3, 2]])
    batch = Batch(torch.arange(8.0).view(1, 4, 1, 1, 2), torch.arange(4), y, torch.full((4, 2), 0.5), blend)
    made = blended_at_input(batch)
    assert made.blend is None and made.images[0, 0, 0, 0].tolist() == [1.5, 2.5]
    assert rows_of(made, slice(2, 4)).y.tolist() == [[2, 3], [3, 2]]
    assert unmixed(batch).y.tolist() == [[0], [1], [2], [3]] and unmixed(batch).share.eq(1).all()


def test_parts_are_in_the_key_only_where_there_are_some(make_plan, digits):
    plan = make_plan(Stage("a", epochs=1))
    keys = [
        Pipeline(plan, digits, "resnet8", 0, CPU, sharding=sharding).keys
        for sharding in (None, BatchSharding(), BatchSharding(2), BatchSharding(1, 2))
    ]
    assert keys[0] == keys[1] and len({str(key) for key in keys}) == 3


# --- workers ----------------------------------------------------------------------------------------------


WORKER = """
import os
import pickle
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from trainables.training.acceleration.batch_sharding import BatchSharding
from trainables.pipeline.pipeline import Pipeline

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"file://{folder}/meet", world_size=2, rank=rank)
digits, plan = pickle.loads((folder / "given").read_bytes())
device = torch.device("cpu")
pipeline = Pipeline(plan, digits, "resnet8", 0, device, evaluate=False, sharding=BatchSharding(1, 2, rank))
pipeline.run()
save_file(pipeline.network().state_dict(), folder / f"rank{rank}.safetensors")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # a thread of gloo may abort an interpreter that ends in order
"""
"""A process of its own: with importlib's import mode a spawned one could not import this file."""


def test_two_workers_train_what_one_does_in_two_parts(make_plan, digits, tmp_path: Path):
    plan = make_plan(
        Stage("a", epochs=2, choose=["input_mixup", "ema", "cost_sensitive"], batch_size=32),
        Stage("b", epochs=1, choose=["classifier", "class_balanced"], batch_size=32),
    )
    (tmp_path / "given").write_bytes(pickle.dumps((digits, plan)))
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    one = Pipeline(plan, digits, "resnet8", 0, CPU, evaluate=False, sharding=BatchSharding(accumulate=2))
    one.run()
    network = one.network()
    # the second stage reads BatchNorm's running statistics, which two parts in a row move twice
    for name, parameter in network.backbone.named_parameters(prefix="backbone"):
        torch.testing.assert_close(ranks[0][name], parameter.data, rtol=1e-4, atol=1e-5)
    whole = Pipeline(plan, digits, "resnet8", 0, CPU, evaluate=False)
    whole.run()
    apart = whole.network().backbone["layer1"][0].conv1.weight
    assert not torch.allclose(ranks[0]["backbone.layer1.0.conv1.weight"], apart, rtol=1e-4, atol=1e-5)  # BatchNorm

import json

import numpy as np
import pytest
import torch

from spaces.domain import Stage, trick
from trainables.batch import Batch
from trainables.registry import PlanError, make
from trainables.training.stage_run import StageRun

Y = np.array([0, 1, 0, 2, 0])
"""Of three classes with 30, 20 and 10 images, the first is head: images 0, 2 and 4 are; 1 and 3 are tail."""


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def convolved(x, layer):
    """A convolution with padding, place by place."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    size = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (size, size), (size, size)))
    out = np.zeros((len(x), len(weight), *x.shape[2:]))
    for r, c in np.ndindex(x.shape[2:]):
        window = padded[:, :, r : r + weight.shape[2], c : c + weight.shape[3]]
        out[:, :, r, c] = np.einsum("bdhw,odhw->bo", window, weight) + bias
    return out


def pair_logits(one, other, net):
    maps = np.maximum(convolved(np.concatenate((one, other), axis=1), net.mix), 0)
    pooled = convolved(maps, net.read).mean(axis=(2, 3))
    return pooled @ net.same.weight.detach().numpy().T + net.same.bias.detach().numpy()


def cross_entropy(z, y):
    return -np.log(softmax(z))[np.arange(len(y)), y].mean()


@pytest.fixture
def world(facts, network):
    model = network.double()
    at = facts(30, 20, 10, model=model)
    made = make("rsg", k=2, width=4, head=0.4, lambda1=0.3, lambda2=0.2)
    random = torch.Generator().manual_seed(1)
    own = torch.nn.ModuleDict(made.modules(at)).double()
    with torch.no_grad():
        for tensor in (own["centres"].centres, own["centres"].bias, own["transform"].bias):
            tensor.copy_(torch.randn(tensor.shape, generator=random, dtype=torch.float64))
    model.extra["rsg"] = own
    maps = torch.randn(5, 32, 3, 2, dtype=torch.float64, generator=random).requires_grad_()
    batch = Batch.plain(torch.zeros(5, 1, 8, 8), torch.arange(5), torch.tensor(Y))
    return made.build(at), own, maps, batch


def gammas(x, own):
    weight, bias = (getattr(own["centres"], name).detach().numpy() for name in ("weight", "bias"))
    pooled = x.mean(axis=(2, 3))
    return softmax(np.array([weight[y] @ p + bias[y] for p, y in zip(pooled, Y, strict=True)]))


def first_loss(x, own, pairs):
    centres = own["centres"].centres.detach().numpy()
    gamma, total = gammas(x, own), 0.0
    for i, y in enumerate(Y):
        for k in range(2):
            total += gamma[i, k] * ((x[i] - centres[y, k][:, None, None]) ** 2).sum()
    # images 0 and 1 with 2 and 3: labels 0 and 0, 1 and 2; the fifth has no partner
    more = cross_entropy(pair_logits(x[:2], x[2:4], own["pairs"]), [1, 0]) if pairs else 0.0
    return total / 5 + more


def test_centres_and_pairs_by_hand(world):
    function, own, maps, batch = world
    function.begin_epoch(0.79, None)
    x, seen = function(maps, batch, None)
    assert x is maps and seen.y is batch.y
    expected = 0.3 * first_loss(maps.detach().numpy(), own, pairs=True)
    np.testing.assert_allclose(seen.penalty.detach().numpy(), np.full(5, expected), rtol=1e-10)
    seen.penalty.mean().backward()
    assert maps.grad is None  # nothing of it reaches the layers below
    assert own["pairs"].same.weight.grad.abs().max() > 0 and own["centres"].centres.grad.abs().max() > 0


def test_samples_by_hand(world):
    """Three head images and two tail images: int(3 / 2) = 1 round of two."""
    function, own, maps, batch = world
    function.begin_epoch(0.8, None)
    x, seen = function(maps, batch, None)
    f, centres = maps.detach().numpy(), own["centres"].centres.detach().numpy()
    gamma, new, second = gammas(f, own), [], 0.0
    for head, tail in ((0, 1), (2, 3)):
        v = f[head] - centres[Y[head], gamma[head].argmax()][:, None, None]
        tv = convolved(v[None], own["transform"])[0]
        apart = f[tail] - centres[Y[tail], gamma[tail].argmax()][:, None, None]
        for r, c in np.ndindex(3, 2):
            a, t = apart[:, r, c], tv[:, r, c]
            second += abs(np.linalg.norm(t) - np.linalg.norm(v[:, r, c])) / 2
            second += abs(a @ t / np.linalg.norm(a) / np.linalg.norm(t) - 1) / 2
        new.append((f[tail] + tv, tv))
    second += cross_entropy(pair_logits(f[[0, 2]], np.stack([tv for _, tv in new]), own["pairs"]), [0, 0])
    np.testing.assert_allclose(x[5:].detach().numpy(), np.stack([n for n, _ in new]), rtol=1e-9, atol=1e-12)
    assert x[:5].equal(maps) and seen.y[5:, 0].tolist() == [1, 2] and seen.index[5:].tolist() == [1, 3]
    expected = 0.3 * first_loss(f, own, pairs=False) + 0.2 * second
    np.testing.assert_allclose(seen.penalty.detach().numpy(), np.full(7, expected), rtol=1e-9)
    (seen.penalty.mean() + x.square().sum()).backward()
    assert own["pairs"].same.weight.grad is None and own["transform"].weight.grad.abs().max() > 0


def test_rounds_and_batches_without_a_group(world):
    function, _, maps, _ = world
    function.begin_epoch(1.0, None)
    many = torch.cat((maps.detach(), maps.detach()[[0, 0, 2, 4]]))
    labels = torch.tensor([*Y, 0, 0, 0, 0])
    x, seen = function(many, Batch.plain(torch.zeros(9, 1, 8, 8), torch.arange(9), labels), None)
    assert len(x) == 9 + 3 * 2 and seen.index[9:].tolist() == [1, 3] * 3
    alone = Batch.plain(torch.zeros(3, 1, 8, 8), torch.arange(3), torch.tensor([0, 0, 0]))
    x, seen = function(maps.detach()[:3], alone, None)
    assert len(x) == 3 and len(seen.penalty) == 3


def test_it_trains_through_both_phases_resumes_and_leaves_nothing(make_plan, pipeline):
    small = trick("rsg", k=3, width=8, start=0.5)
    plan = make_plan(
        Stage("a", epochs=2, choose=["cosine_head", "ldam", small]),
        Stage("b", epochs=1, carry="all", keep=True, choose=["cost_sensitive"]),
    )
    whole, run = pipeline(plan), pipeline(plan)
    whole.run()
    for _ in range(2):
        run.advance()
    tensors, rest = run.state()
    again = pipeline(plan)
    again.load_state(tensors, json.loads(json.dumps(rest)))
    again.run()
    one, other = (each.executor.state.carry_over.model for each in (whole, again))
    assert one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())
    fresh = StageRun(run.context, plan, 0, 0, None).network.state_dict()
    moved = {name for name in fresh if name.startswith("extra.rsg") and not fresh[name].equal(one[name])}
    assert {"extra.rsg.transform.weight", "extra.rsg.pairs.mix.weight", "extra.rsg.centres.centres"} <= moved
    assert not any(name.startswith("extra") for name in whole.network().state_dict())


def test_it_can_be_neutral(make_plan, pipeline):
    off = trick("rsg", start=1.0, lambda1=0.0, lambda2=0.0, k=2, width=4)
    ends = []
    for choose in ([], [off]):
        # the last epoch has progress 1: a stage that ends before it
        plan = make_plan(Stage("a", epochs=1, choose=choose), Stage("b", epochs=9, carry="all", keep=True))
        run = pipeline(plan)
        run.advance()
        ends.append(run.executor.state.carry_over.model)
    assert all(tensor.equal(ends[1][name]) for name, tensor in ends[0].items())


def test_what_is_refused(make_plan, facts, network):
    with pytest.raises(PlanError, match=r"rsg acts inside the network on one view of each image"):
        make_plan(Stage("a", epochs=1, choose=["rsg", "several_views"]))
    with pytest.raises(ValueError, match=r"layer must be a part of the network \(stem, layer1, .*\), got 'pool'"):
        make("rsg", layer="pool").modules(facts(3, 2, 1, model=network))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"k": 0}, r"\[1, inf"),
        ({"head": 1.0}, r"\(0, 1\)"),
        ({"strength": 2}, r"\(0, 1\]"),
        ({"lambda1": -1}, "lambda1"),
    ],
)
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(PlanError, match=message):
        make("rsg", **numbers)

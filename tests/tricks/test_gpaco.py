import copy
import json

import numpy as np
import pytest
import torch

from spaces.domain import Stage, trick
from trainables.batch import Batch, Facts, Outputs
from trainables.objective import Objective
from trainables.registry import PlanError, make
from trainables.training.stage_run import StageRun

Y, COUNTS = np.array([0, 2, 0, 1]), np.array([30.0, 20.0, 10.0])
ALPHA, BETA, GAMMA, T = 0.05, 1.5, 0.7, 0.2


def loss_of(anchors, z, contrast, own, labels):
    """Mean over anchors, one by one in float64; anchor i is entry i of the contrast."""
    prior, losses = np.log(COUNTS / COUNTS.sum() + 1e-9), []
    for i, (v, y) in enumerate(zip(anchors, own, strict=True)):
        centres, others = z[i] + prior, contrast @ v / T
        rest = [k for k in range(len(contrast)) if k != i]
        total = np.log(np.exp(centres).sum() + GAMMA * np.exp(others[rest]).sum())
        terms = [(BETA, centres[y])] + [(ALPHA, others[k]) for k in rest if labels[k] == y]
        losses.append(-sum(w * (s - total) for w, s in terms) / sum(w for w, _ in terms))
    return np.mean(losses)


def unit(v):
    return v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.fixture
def world(facts, network):
    """Facts with the network in float64, two views' features (4, 64) and logits, and a made trick with its modules."""

    def made(**numbers):
        model = network.double()
        at = facts(30, 20, 10, model=model)
        chosen = make("gpaco", alpha=ALPHA, beta=BETA, gamma=GAMMA, temperature=T, queue=6, dim=8, **numbers)
        model.extra["gpaco"] = torch.nn.ModuleDict(chosen.modules(at)).double()
        random = torch.Generator().manual_seed(4)
        features = torch.randn(2, 4, 64, dtype=torch.float64, generator=random)
        z = torch.randn(2, 4, 3, dtype=torch.float64, generator=random)
        return at, chosen, features, z

    return made


def mlp(module, x):
    weights = [p.detach().numpy() for p in module.parameters()]
    for number in range(0, 6, 2):
        x = x @ weights[number].T + weights[number + 1]
        x = np.maximum(x, 0) if number < 4 else x
    return x


def test_gpaco_by_hand(world):
    at, made, features, z = world()
    own = at.model.extra["gpaco"]
    outputs = Outputs(z[0], features[0], views=(Outputs(z[1], features[1]),))
    objective = Objective([made], at)
    found = objective(outputs, torch.tensor(Y)).detach()
    anchors = unit(mlp(own["projection"], features.flatten(0, 1).numpy()))
    queue, labels = own["queue"].vectors.numpy(), own["queue"].labels.numpy()
    both = np.concatenate((Y, Y))
    expected = loss_of(anchors, z.flatten(0, 1).numpy(), np.concatenate((anchors, queue)), both, np.r_[both, labels])
    assert float(found.mean()) == pytest.approx(expected, rel=1e-10)
    # the queue takes the second view's vectors behind the step, the oldest entries go
    ((_, function),) = objective.functions
    function.after_step(at.model, outputs, Batch.plain(torch.zeros(4, 1, 8, 8), torch.arange(4), torch.tensor(Y)))
    np.testing.assert_allclose(own["queue"].vectors[:4].numpy(), anchors[4:], rtol=1e-12)
    assert own["queue"].labels.tolist() == [*Y, *labels[4:]] and int(own["queue"].next) == 4


def test_paco_by_hand(world):
    """Anchors are the queries; keys come from the copy, whose BatchNorm runs in training mode on its own."""
    at, made, features, z = world(momentum_encoder=True, m=0.9)
    own, images = at.model.extra["gpaco"], torch.randn(1, 4, 1, 8, 8, dtype=torch.float64)
    batch = Batch(images.flip(-1), torch.arange(4), torch.tensor(Y)[:, None], torch.ones(4, 1), aside=images)
    at.model.train()
    copies = copy.deepcopy(own)
    with torch.no_grad():
        keys = copies["key_projection"](copies["encoder"](images[0]).features).numpy()
        queries = copies["projection"](features[0]).numpy()
    outputs = Outputs(z[0], features[0])
    objective = Objective([made], at)
    found = objective(outputs, torch.tensor(Y), batch=batch).detach()
    anchors, queue = unit(queries), own["queue"].vectors.numpy()
    contrast = np.concatenate((anchors, unit(keys), queue))
    labels = np.concatenate((Y, Y, own["queue"].labels.numpy()))
    assert float(found.mean()) == pytest.approx(loss_of(anchors, z[0].numpy(), contrast, Y, labels), rel=1e-9)
    with torch.no_grad():
        for parameter in at.model.backbone.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in own["encoder"].parameters()]
    ((_, function),) = objective.functions
    with torch.no_grad():
        function.after_step(at.model, outputs, batch)
    for old, new, query in zip(before, own["encoder"].parameters(), at.model.backbone.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * query)
        assert not new.requires_grad
    np.testing.assert_allclose(own["queue"].vectors[:4].numpy(), unit(keys), rtol=1e-9)


def test_limits(facts):
    """No contrast is balanced softmax; an empty queue is a queue whose entries count nothing."""
    at = facts(30, 20, 10)
    z, features = torch.randn(2, 4, 3), torch.randn(2, 4, 64)
    outputs, y = Outputs(z[0], features[0], views=(Outputs(z[1], features[1]),)), torch.tensor(Y)
    bare = Objective([make("gpaco", alpha=0.0, gamma=0.0)], at)(outputs, y)
    balanced = sum(Objective([make("balanced_softmax")], at)(one, y) for one in z) / 2
    torch.testing.assert_close(bare, balanced)
    assert torch.isfinite(Objective([make("gpaco", queue=0)], at)(outputs, y)).all()
    # smoothing is over the centres alone
    smooth = Objective([make("gpaco", alpha=0.0, gamma=0.0), make("label_smoothing")], at)(outputs, y)
    both = [Objective([make("balanced_softmax"), make("label_smoothing")], at)(one, y) for one in z]
    torch.testing.assert_close(smooth, sum(both) / 2)


PACO = trick("gpaco", momentum_encoder=True, queue=64)
VIEWS = ["several_views", trick("sim_augment", view=1)]


@pytest.mark.parametrize("chosen", [trick("gpaco", queue=64), PACO])
def test_it_trains_resumes_and_leaves_nothing(make_plan, pipeline, chosen):
    plan = make_plan(Stage("a", epochs=2, choose=[*VIEWS, trick("cutout", view=0), chosen]))
    whole, run = pipeline(plan), pipeline(plan)
    whole.run()
    run.advance()
    tensors, rest = run.state()
    again = pipeline(plan)
    again.load_state(tensors, json.loads(json.dumps(rest)))
    again.run()
    one, other = (each.executor.state.carry_over.model for each in (whole, again))
    assert all(tensor.equal(other[name]) for name, tensor in one.items()) and one.keys() == other.keys()
    assert repr(whole.points) == repr(again.points)
    fresh = StageRun(run.context, plan, 0, 0, None).network.state_dict()
    moved = [name for name in fresh if name.startswith("extra.gpaco.projection.") and "weight" in name]
    assert moved and all(not fresh[name].equal(one[name]) for name in moved)
    assert not any(name.startswith("extra") for name in whole.network().state_dict())
    if chosen is PACO:  # the network sees one view, and its copy the other one
        key, query = (one[f"extra.gpaco.encoder.backbone.stem.1.{n}"] for n in ("running_mean", "num_batches_tracked"))
        assert not key.equal(one["backbone.stem.1.running_mean"]) and int(query) == whole.cost.steps


def test_what_is_refused(make_plan, facts):
    with pytest.raises(PlanError, match=r"stage 'a': gpaco has a queue of 32 entries, fewer than the 64 images of"):
        make_plan(Stage("a", epochs=1, batch_size=64, choose=["several_views", trick("gpaco", queue=32)]))
    with pytest.raises(PlanError, match=r"stage 'a': gpaco needs view 1 of each image"):
        make_plan(Stage("a", epochs=1, choose=["gpaco"]))
    with pytest.raises(PlanError, match=r"stage 'a': gpaco needs one linear or cosine classifier"):
        make_plan(Stage("a", epochs=1, choose=["several_views", "experts", "gpaco"]))
    objective, y = Objective([make("gpaco")], facts(3, 2, 1)), torch.tensor([0])
    with pytest.raises(ValueError, match="needs two views of each image, got one"):
        objective(Outputs(torch.zeros(1, 3), torch.ones(1, 64)), y)
    with pytest.raises(ValueError, match=r"momentum_encoder needs the second view in Batch\.aside"):
        at = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), model=torch.nn.Linear(1, 1))
        at.model.features, at.model.extra, at.model.backbone = 64, {}, torch.nn.ModuleDict()
        Objective([make("gpaco", momentum_encoder=True)], at)(Outputs(torch.zeros(1, 2), torch.ones(1, 64)), y)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"temperature": 0}, r"\(0, inf"),
        ({"queue": -1}, r"\[0, inf"),
        ({"m": 2}, r"\[0, 1\]"),
        ({"alpha": -1}, "alpha"),
    ],
)
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(PlanError, match=message):
        make("gpaco", **numbers)

import json

import numpy as np
import pytest
import torch

from spaces.domain import Stage, trick
from trainables.batch import Batch, Blend, Facts, Outputs
from trainables.models import build
from trainables.pipeline.store import StageStore
from trainables.registry import PlanError, make
from trainables.training.acceleration.batch_sharding import BatchSharding
from trainables.training.numerics import Numerics

TEACHER = Stage("teacher", epochs=2, choose=[trick("experts", count=4), "ride"])


def student(epochs=2, **more):
    choose = [trick("experts", count=2), "ride", trick("distillation", **more)]
    return Stage("student", epochs=epochs, lr=0.01, choose=choose)


@pytest.fixture
def taught():
    """A network in float64 with BatchNorm statistics of its own, and facts in which it is the teacher."""
    network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0)).double().train()
    network(torch.randn(20, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    counts = torch.tensor([5, 3, 1])
    return network, Facts(counts, torch.arange(3).repeat_interleave(counts), earlier_network=lambda: network)


@pytest.fixture
def batch():
    images = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return Batch.plain(images, torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 0]))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("temperature", "factor"), [(1.5, 1.0), (4.0, 0.3)])
def test_hand_worked(taught, batch, temperature, factor):
    network, facts = taught
    z = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    penalty = make("distillation", temperature=temperature, factor=factor).build(facts)
    found = penalty(Outputs(z), batch, None)
    p = softmax(network.eval()(batch.images[0]).logits.detach().numpy() / temperature)
    q = softmax(z.detach().numpy() / temperature)
    by_hand = factor * temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1)
    np.testing.assert_allclose(found.detach().numpy(), by_hand, rtol=1e-10)
    found.sum().backward()
    # the teacher has no gradient, and the student's falls as 1/T beside T²
    np.testing.assert_allclose(z.grad.numpy(), factor * temperature * (q - p), rtol=1e-10, atol=1e-14)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


def test_limits(taught, batch):
    network, facts = taught
    penalty = make("distillation").build(facts)
    same = network.eval()(batch.images[0])
    torch.testing.assert_close(penalty(same, batch, None), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)
    assert make("distillation", factor=0.0).build(facts)(Outputs(-same.logits), batch, None).abs().max() == 0
    # the teacher sees the mixed images
    blend = Blend("layer2", torch.arange(6).flip(0), torch.full((6,), 0.3, dtype=torch.float64))
    mixed = Batch(batch.images, batch.index, batch.y, batch.share, blend)
    torch.testing.assert_close(penalty(network(batch.images[0], blend), mixed, None), torch.zeros(6).double())
    assert penalty(same, mixed, None).max() > 1e-3
    # rows that were added inside the student have no penalty
    longer = Outputs(torch.cat((-same.logits, same.logits[:2])))
    found = penalty(longer, batch, None)
    assert found[6:].tolist() == [0, 0] and (found[:6] > 0).any()
    torch.testing.assert_close(found[:6], penalty(Outputs(-same.logits), batch, None))
    with pytest.raises(ValueError, match="trick 'distillation' needs the images of the batch, which its teacher sees"):
        penalty(same, batch.with_images(batch.images[:, :, :0]), None)


def equal(one, other):
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


def finished(run):
    run.run()
    return run


def agree(one, other):
    assert equal(one.executor.state.carry_over.model, other.executor.state.carry_over.model)
    assert one.result() == other.result()


def test_the_teacher_is_the_network_before_and_ends_with_its_chain(make_plan, pipeline):
    deferred = Stage("deferred", epochs=1, carry="all", keep=True, choose=[trick("ride", reweight=True)])
    run = pipeline(make_plan(TEACHER, student(), deferred, Stage("last", epochs=1)))
    while run.executor.state.stage == 0:
        run.advance()
    before = run.executor.state.carry_over.model
    for stage in (1, 2):
        while run.executor.state.stage == stage:
            run.advance()
        after = run.executor.state.carry_over.model
        prefix = "extra.distillation.teacher.network."
        # its statistics of BatchNorm as well
        assert equal(before, {name.removeprefix(prefix): after[name] for name in after if name.startswith(prefix)})
    assert not after["head.heads.0.weight"].equal(before["head.heads.0.weight"])
    run.run()
    assert not any(name.startswith("extra") for name in run.executor.state.carry_over.model)
    assert len(run.network().extra) == 0 and len(run.network().head.heads) == 2


def test_resuming_reuse_and_a_chain_are_exact(make_plan, pipeline, tmp_path):
    plan = make_plan(TEACHER, student())
    run = finished(pipeline(plan))
    middle = pipeline(plan)
    for _ in range(3):
        middle.advance()
    tensors, rest = middle.state()
    again = pipeline(plan)
    again.load_state(tensors, json.loads(json.dumps(rest)))
    agree(run, finished(again))
    for _ in range(2):
        stored = finished(pipeline(plan, store=StageStore(tmp_path)))
        agree(run, stored)
    assert stored.reused == ["teacher", "student"]
    split = make_plan(TEACHER, student(1), Stage("more", epochs=1, carry="all", keep=True))
    agree(run, finished(pipeline(split)))
    # and where a re-used stage is the chain's first
    agree(run, finished(pipeline(split, store=StageStore(tmp_path))))


def test_it_draws_towards_the_teacher(make_plan, pipeline, tmp_path):
    """Factor 0 trains as without it; with a factor the student stays nearer to what the teacher says."""
    # long enough for the statistics of BatchNorm, which the teacher is evaluated with
    first = Stage("teacher", epochs=20, choose=[trick("experts", count=4, width=0.25)])

    def last(*tricks):
        choose = [trick("experts", count=2, width=0.25), "class_balanced", *tricks]
        return Stage("student", epochs=8, lr=0.02, choose=choose)

    def trained(*stages):
        return finished(pipeline(make_plan(*stages), store=StageStore(tmp_path))).network()

    without = trained(first, last())
    students = [trained(first, last(trick("distillation", factor=factor))) for factor in (0.0, 5.0)]
    assert equal(without.state_dict(), students[0].state_dict())
    data, apart = pipeline(make_plan(first)).data, []
    images = data.normalise(data.train_images)
    with torch.no_grad():
        target = (trained(first)(images).logits / 1.5).softmax(dim=1)
        for student in students:
            log_q = (student(images).logits / 1.5).log_softmax(dim=1)
            apart.append(float((target * (target.log() - log_q)).sum(dim=1).mean()))
    assert apart[1] < 0.7 * apart[0]


def test_any_network_and_a_merged_one_can_teach(make_plan, pipeline):
    distilled = Stage("last", epochs=1, choose=["cosine_head", "distillation", "input_mixup"])
    members = Stage("members", epochs=1, members=2, choose=["few_shot", "average"])
    for before in ([Stage("first", epochs=1)], [Stage("first", epochs=1), members]):
        metrics = finished(pipeline(make_plan(*before, distilled))).result()[0]
        assert 0 <= metrics["final/accuracy"] <= 1
    many = Stage("last", epochs=1, members=2, choose=["few_shot", "average", "distillation"])
    ends = [finished(pipeline(make_plan(Stage("a", epochs=1), many), numerics=Numerics(fused_members=fused)))
            for fused in ("on", "off")]  # fmt: skip
    agree(*ends)


def test_what_is_refused(make_plan, pipeline):
    first = r"stage 'a': distillation learns from the network of the stage before, so it cannot sit in the first stage"
    with pytest.raises(PlanError, match=first):
        make_plan(Stage("a", epochs=1, choose=["distillation"]))
    for before in ([], [Stage("b", epochs=1)]):
        with pytest.raises(
            PlanError, match=r"stage 'd': distillation .*nor begin in one that carries everything; use c"
        ):
            make_plan(*before, Stage("c", epochs=1), Stage("d", epochs=1, carry="all", choose=["distillation"]))
    plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=1, choose=["distillation"]))
    with pytest.raises(PlanError, match=r"stage 'b': distillation needs whole batches in one process"):
        pipeline(plan, sharding=BatchSharding(accumulate=2))


@pytest.mark.parametrize(("number", "allowed"), [("temperature", r"\(0, inf\)"), ("factor", r"\[0, inf\)")])
def test_numbers_out_of_range(number, allowed):
    with pytest.raises(PlanError, match=rf"{number} must be a number in {allowed}, got -1"):
        make("distillation", **{number: -1})

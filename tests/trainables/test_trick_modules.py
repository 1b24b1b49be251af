"""What tricks may bring and where they may act: own modules, moments, partner, inside, step, views set aside."""

from __future__ import annotations

import json
import math

import pytest
import torch

from spaces.domain import Stage, trick
from trainables import registry
from trainables.batch import Batch, Facts, Outputs
from trainables.objective import Objective
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.registry import PlanError, discover, make
from trainables.training.acceleration.batch_sharding import BatchSharding
from trainables.training.numerics import Numerics
from trainables.training.stage_run import StageRun

TOYS = {
    # learns a linear layer of its own; counts steps and epochs in buffers, and draws
    "learner": '''
        class Memory(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("steps", torch.zeros(()))
                self.register_buffer("last", torch.zeros(3))

        @trick(seam="penalty", family="toys", source="nobody")
        @dataclass(frozen=True)
        class Learner:
            width: int = 4
            lr_scale = 0.5

            def modules(self, facts):
                layer = nn.Linear(64, self.width)
                nn.init.normal_(layer.weight, std=0.1, generator=facts.generator("learner"))
                nn.init.zeros_(layer.bias)
                return {"layer": layer, "memory": Memory()}

            def build(self, facts):
                return Function(facts.own_modules(self))

        class Function:
            def __init__(self, own):
                self.own = own

            def __call__(self, outputs, batch, generator):
                seen = self.own["memory"].last[0] + self.own["memory"].steps / 100
                return (self.own["layer"](outputs.features) - 1).square().mean(dim=1) * (1 + seen)

            def begin_epoch(self, progress, generator):
                self.own["memory"].last.copy_(torch.tensor([progress, 0, 0]) + torch.rand(3, generator=generator))

            def after_step(self, model, outputs, batch):
                assert len(outputs.logits) == len(batch.index)
                self.own["memory"].steps += 1
        ''',
    "in_a_closure": '''
        @trick(seam="penalty", family="toys", source="nobody")
        @dataclass(frozen=True)
        class InAClosure:
            def build(self, facts):
                layers = {"one": [nn.Linear(64, 1)]}
                return lambda outputs, batch, generator: layers["one"][0](outputs.features)[:, 0]
        ''',
    "on_build": '''
        @trick(seam="image", family="toys", source="nobody")
        @dataclass(frozen=True)
        class OnBuild:
            def build(self, facts):
                facts.model.layer = nn.Linear(64, 1)
                return lambda batch, generator: batch
        ''',
    "in_the_step": '''
        @trick(seam="after_step", family="toys", source="nobody")
        @dataclass(frozen=True)
        class InTheStep:
            def build(self, facts):
                def act(model, outputs, batch):
                    model.layer = nn.Linear(2, 2)
                return act
        ''',
    "by_train": '''
        @trick(seam="train", family="toys", source="nobody")
        @dataclass(frozen=True)
        class ByTrain:
            def build(self, facts):
                def train(model):
                    model.layer = nn.Linear(64, 1)
                    return [{"params": list(model.parameters())}]
                return train
        ''',
    "tail_partner": '''
        @trick(seam="partner", family="toys", source="nobody")
        @dataclass(frozen=True)
        class TailPartner:
            def build(self, facts):
                tail = (facts.labels.cpu() == 9).nonzero()[:, 0]
                return lambda progress, generator: tail
        ''',
    "with_partner": '''
        @trick(seam="mix", family="toys", source="nobody")
        @dataclass(frozen=True)
        class WithPartner:
            share: float = 0.75

            def build(self, facts):
                def mix(batch, generator):
                    other = batch.partner
                    images = self.share * batch.images + (1 - self.share) * other.images
                    share = torch.tensor([self.share, 1 - self.share]).expand(len(batch.y), 2)
                    return replace(batch, images=images, y=torch.cat((batch.y, other.y), 1), share=share)
                return mix
        ''',
    "again": '''
        @trick(seam="inside", family="toys", source="nobody")
        @dataclass(frozen=True)
        class Again:
            """The first images of a batch once more."""
            count: int = 2
            layer: str = "layer2"

            def build(self, facts):
                def act(x, batch, generator):
                    rows = torch.cat((torch.arange(len(x)), torch.arange(self.count)))
                    return x[rows], replace(batch, index=batch.index[rows], y=batch.y[rows], share=batch.share[rows])
                return act
        ''',
    "in_halves": '''
        @trick(seam="step", family="toys", source="nobody")
        @dataclass(frozen=True)
        class InHalves:
            """The gradient of half the loss, twice."""
            passes: int = 2

            def build(self, facts):
                def step(gradient, optimiser):
                    assert isinstance(optimiser, torch.optim.Optimizer) and len(gradient.batch.index) > 1
                    for _ in range(self.passes):
                        gradient(lambda y: torch.full(y.shape, 1 / self.passes, dtype=torch.float64))
                return step
        ''',
    "keys": '''
        @trick(seam="penalty", family="toys", source="nobody")
        @dataclass(frozen=True)
        class Keys:
            """Reads a view that the network has not seen."""
            needs_views = 2
            aside = (1,)

            def build(self, facts):
                def penalty(outputs, batch, generator):
                    assert batch.images.shape[0] == 1 and outputs.views == ()
                    assert batch.aside.shape == (1, *batch.images.shape[1:])
                    return (batch.aside[0] - batch.images[0]).square().mean(dim=(1, 2, 3)) + 0 * outputs.logits[:, 0]
                return penalty
        ''',
}  # fmt: skip


@pytest.fixture
def toys(tricks_folder):
    begin = '"""A toy."""\nfrom dataclasses import dataclass, replace\n\nimport torch\nfrom torch import nn\n\n'
    begin += "from trainables.registry import trick\n\n"
    for name, text in TOYS.items():
        lines = [line[8:] for line in text.strip("\n").split("\n")]
        (tricks_folder / f"{name}.py").write_text(begin + "\n".join(lines))
    discover(tricks_folder)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def left(run: Pipeline):
    """State of a plan's last stage with the modules of tricks, and all measurements."""
    run.run()
    return run.executor.state.carry_over.model, [point.metrics for point in run.points], run.result()


def same(one, other):
    return equal(one[0], other[0]) and repr(one[1:]) == repr(other[1:])


# --- own modules ------------------------------------------------------------------------------------------


def test_own_modules_learn_are_kept_and_end_with_their_chain(toys, make_plan, pipeline, digits):
    plan = make_plan(Stage("a", epochs=2, choose=["learner"]), Stage("b", epochs=1, carry="weights"))
    run = pipeline(plan)
    run.advance()
    stage = run.executor.training.run
    assert [group["lr_scale"] for group in stage.optimiser.param_groups] == [1.0, 0.5]
    run.advance()
    state = run.executor.state.carry_over.model
    steps = run.cost.steps
    assert float(state["extra.learner.memory.steps"]) == steps == 6
    # progress of the last epoch is 1
    drawn = torch.rand(3, generator=stage._generator("begin learner", 1))
    assert state["extra.learner.memory.last"].equal(torch.tensor([1.0, 0, 0]) + drawn)
    fresh = StageRun(run.context, plan, 0, 0, None).network.state_dict()
    assert not fresh["extra.learner.layer.weight"].equal(state["extra.learner.layer.weight"])
    assert (state["extra.learner.layer.bias"] > 0).all()  # pulled up to 1
    run.run()
    assert not any(name.startswith("extra") for name in run.executor.state.carry_over.model)
    alone = pipeline(make_plan(Stage("a", epochs=1, choose=["learner"])))
    alone.run()
    assert len(alone.network().extra) == 0 and set(alone.network().state_dict()) == set(run.network().state_dict())


def test_a_chain_carries_them_and_can_be_split(toys, make_plan, pipeline, tmp_path):
    whole = left(pipeline(make_plan(Stage("a", epochs=4, choose=["learner", "ema"]))))
    split = make_plan(Stage("a", epochs=3, choose=["learner", "ema"]), Stage("b", epochs=1, carry="all", keep=True))
    parts = left(pipeline(split))
    assert equal(whole[0], parts[0]) and whole[2] == parts[2]
    store = StageStore(tmp_path)
    assert all(same(parts, left(pipeline(split, store=store))) for _ in range(2))
    # off in the middle, they keep their values and come on again; late, they begin with their own
    for first, second in (("learner", None), (None, "learner")):
        run = pipeline(
            make_plan(
                Stage("a", epochs=1, choose=[first] if first else []),
                Stage("b", epochs=1, carry="all", choose=[second] if second else []),
                Stage("c", epochs=1, carry="all", choose=["learner", "ema"]),
            )
        )
        run.run()
        assert float(run.executor.state.carry_over.model["extra.learner.memory.steps"]) == 6


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_state_in_the_middle_continues_exactly(toys, make_plan, pipeline, epochs):
    plan = make_plan(
        Stage("a", epochs=2, choose=["learner"]),
        Stage("b", epochs=2, carry="all", choose=["learner", "class_balanced"]),
    )
    expected = left(pipeline(plan))
    run = pipeline(plan)
    for _ in range(epochs):
        run.advance()
    tensors, rest = run.state()
    again = pipeline(plan)
    again.load_state(tensors, json.loads(json.dumps(rest)))
    assert same(expected, left(again))


@pytest.mark.parametrize("tricks", [["learner"], ["in_halves"], [trick("again", count=1)]])
def test_joint_training_steps_aside(toys, make_plan, pipeline, tricks):
    """Members are trained one by one where a trick has modules, or acts inside the network or on its step."""
    plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=1, members=2, choose=["few_shot", "average", *tricks]))
    ends = [left(pipeline(plan, numerics=Numerics(fused_members=fused))) for fused in ("on", "off")]
    assert same(*ends)
    assert not any(name.startswith("extra") for name in ends[0][0])


def test_batches_in_parts_are_refused(toys, make_plan, pipeline):
    for choose in (["learner"], ["again"], ["in_halves"]):
        plan = make_plan(Stage("a", epochs=1, choose=choose))
        with pytest.raises(PlanError, match=rf"stage 'a': {choose[0]} needs whole batches in one process, and batches"):
            pipeline(plan, sharding=BatchSharding(accumulate=2))


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (
            "in_a_closure",
            r"stage 'a': in_a_closure holds a module that nothing would train; return it from",
        ),
        ("on_build", r"stage 'a': on_build adds a module to the network; return it from the trick's modules\(facts\)"),
        ("in_the_step", r"stage 'a', epoch 1: in_the_step adds a module to the network"),
        ("by_train", r"stage 'a': by_train adds a module to the network"),
    ],
)
def test_modules_in_another_way_are_refused(toys, make_plan, pipeline, choose, message):
    run = pipeline(make_plan(Stage("a", epochs=1, choose=[choose])))
    with pytest.raises(PlanError, match=message):
        run.advance()


def test_numbers_of_what_keeps_modules_stay_within_a_chain(toys, make_plan):
    first = Stage("a", epochs=1, choose=["learner"])
    with pytest.raises(PlanError, match=r"stage 'b': learner keeps modules of its own, whose numbers cannot change"):
        make_plan(first, Stage("b", epochs=1, carry="all", choose=[trick("learner", width=5)]))
    make_plan(first, Stage("b", epochs=1, carry="weights", choose=[trick("learner", width=5)]))


def test_without_a_network_a_trick_has_fresh_modules(toys):
    facts = Facts(torch.tensor([2, 1]), torch.tensor([0, 0, 1]))
    function = make("learner").build(facts)
    outputs = Outputs(torch.zeros(3, 2), torch.ones(3, 64))
    expected = (function.own["layer"](torch.ones(3, 64)) - 1).square().mean(dim=1)
    found = Objective([make("learner")], facts)(outputs, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(found, expected + math.log(2))


# --- partner, views ---------------------------------------------------------------------------------------


def test_partners_come_from_a_second_draw(toys, make_plan, pipeline, digits):
    run = pipeline(make_plan(Stage("a", epochs=1, choose=["tail_partner", "with_partner"])))
    stage = StageRun(run.context, run.plan, 0, 0, None)
    plain = StageRun(run.context, make_plan(Stage("a", epochs=1)), 0, 0, None)
    seen, alone = ([batch for batch, _ in one.begin_epoch().stream] for one in (stage, plain))
    for batch, own in zip(seen, alone, strict=True):
        assert (batch.y[:, 1] == 9).all() and batch.y[:, :1].equal(own.y) and batch.index.equal(own.index)
        # the partner's own shift, which moves no draw of the first stream
        torch.testing.assert_close(batch.images, 0.75 * own.images + 0.25 * batch.partner.images)
    partners = torch.cat([batch.partner.index for batch in seen])
    tail = (digits.train_labels == 9).nonzero()[:, 0]
    assert partners[: len(tail)].equal(tail) and len(partners) == len(digits.train_labels)
    run.run()
    assert math.isfinite(run.points[-1].metrics["train_loss"])


def test_a_view_aside_is_seen_by_the_trick_alone(toys, make_plan, pipeline):
    plan = make_plan(Stage("a", epochs=1, choose=["several_views", trick("cutout", view=1), "keys"]))
    run = pipeline(plan)
    run.run()
    assert math.isfinite(run.points[-1].metrics["train_loss"])
    with pytest.raises(PlanError, match=r"stage 'a': keys needs view 1 of each image \(the first is 0\)"):
        make_plan(Stage("a", epochs=1, choose=["keys"]))


# --- inside, step -----------------------------------------------------------------------------------------


def test_added_rows_have_their_loss_and_are_mixed_no_more(toys, make_plan, pipeline):
    run = pipeline(make_plan(Stage("a", epochs=1, choose=["again", trick("manifold_mixup", layer="layer3")])))
    stage = StageRun(run.context, run.plan, 0, 0, None)
    epoch = stage.begin_epoch()
    stage.gradient.connect()
    batch, _ = next(epoch.stream)
    stage.network.eval()
    seen, outputs, loss = stage.gradient(epoch, batch, None, 0)
    assert seen.y.equal(torch.cat((batch.y, batch.y[:2]))) and len(outputs.logits) == len(batch.y) + 2
    plain = stage.network(batch.images[0])
    torch.testing.assert_close(outputs.logits[-2:], plain.logits[:2])
    mixed = stage.network(batch.images[0], batch.blend)
    torch.testing.assert_close(outputs.logits[:-2], mixed.logits)
    torch.testing.assert_close(loss, stage.objective(outputs, seen.y, seen.share).mean().detach())
    run.run()


def test_a_layer_that_is_not_there(toys, make_plan, pipeline):
    run = pipeline(make_plan(Stage("a", epochs=1, choose=[trick("again", layer="layer9")])))
    with pytest.raises(PlanError, match=r"again acts behind 'layer9', and the network has stem, layer1, .*, pool"):
        run.advance()
    with pytest.raises(PlanError, match=r"stage 'a': again acts inside the network on one view of each image, and"):
        make_plan(Stage("a", epochs=1, choose=["again", "several_views"]))


def test_a_step_of_several_passes(toys, make_plan, pipeline):
    """Two passes over half the loss are one over all of it, penalties and drawn losses included."""
    more = ["equalization", "learner", "input_mixup"]
    ends = []
    for step in ([], ["in_halves"], [trick("in_halves", passes=1)]):
        run = pipeline(make_plan(Stage("a", epochs=1, batch_size=64, choose=[*more, *step])))
        run.run()
        ends.append((run.network().head.state_dict(), run.points[-1].metrics["train_loss"], run.cost.steps))
    for state, loss, steps in ends[1:]:
        assert steps == ends[0][2] and loss == pytest.approx(ends[0][1], abs=1e-6)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, ends[0][0][name], rtol=1e-3, atol=1e-5)


# --- experts and order ------------------------------------------------------------------------------------


def test_the_loss_of_experts_is_fused_or_summed():
    z = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
    facts, y = Facts(torch.tensor([1, 1]), torch.tensor([0, 1])), torch.tensor([0])
    fused = Outputs(z.mean(dim=0), experts=z)
    by_hand = math.log(1 + math.exp(1.5 - 0.5))
    assert float(Objective([], facts)(fused, y)) == pytest.approx(by_hand)
    each = Outputs(z.mean(dim=0), experts=z, each=True)
    by_hand = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))
    assert float(Objective([], facts)(each, y)) == pytest.approx(by_hand)
    # features of an expert go with it
    both = Outputs(z.mean(dim=0), torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]]]), experts=z, each=True)
    assert both.of_expert(1).features.tolist() == [[2.0, 2.0]] and both.joint_features.tolist() == [[1, 1, 2, 2]]


def test_the_order_of_two_logits_tricks_is_another_plan_and_told(make_plan):
    chain = ["class_dependent_temperature", "logit_adjusted"]
    plans = [make_plan(Stage("a", epochs=1, choose=order)) for order in (chain, chain[::-1])]
    assert plans[0].id != plans[1].id
    assert "(logits: class_dependent_temperature, then logit_adjusted)" in str(plans[0])
    assert "(logits: logit_adjusted, then class_dependent_temperature)" in str(plans[1])
    facts = Facts(torch.tensor([100, 4]), torch.repeat_interleave(torch.arange(2), torch.tensor([100, 4])))
    z, y = torch.tensor([[0.5, -0.5]]), torch.tensor([1])
    losses = [Objective([t.made() for t in plan.stages[0].tricks], facts)(z, y) for plan in plans]
    assert not torch.allclose(*losses)


def test_every_seam_is_shown_in_the_loop():
    page = registry.__doc__
    assert all(seam.upper() in page for seam in registry.SEAMS)
    assert Batch.plain(torch.zeros(1, 1, 2, 2), torch.arange(1), torch.tensor([0])).partner is None

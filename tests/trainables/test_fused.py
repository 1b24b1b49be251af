"""Members in one network: exact against training them one by one."""

import dataclasses
import random

import pytest
import torch

from spaces.domain import Stage, trick
from trainables.data.long_tail import LongTailed
from trainables.pipeline.keys import stage_keys, trial_context
from trainables.pipeline.store import StageStore
from trainables.training.acceleration.fusion import CannotFuse, FusedRun
from trainables.training.context import CarryOver, TrainingContext
from trainables.training.numerics import Numerics, group_of
from trainables.training.stage_run import StageRun

CPU = torch.device("cpu")
ON, OFF = Numerics(fused_members="on"), Numerics(fused_members="off")


@pytest.fixture
def doubles(monkeypatch):
    """Images in float64."""
    plain = LongTailed.normalise
    monkeypatch.setattr(LongTailed, "normalise", lambda data, images: plain(data, images).double())


def members(plan, data, numerics=OFF, model="resnet8", count=3):
    from functools import partial

    from trainables.pipeline.pipeline import _fresh

    start = TrainingContext(data, partial(_fresh, model, data.classes, 1), 0, CPU, numerics)
    first = StageRun(start, plan, 0, 0, None).carry_over()
    runs = [StageRun(start, plan, 1, member, CarryOver(first.model)) for member in range(count)]
    for run in runs:
        run.network.double()
    return runs


def closeness(one, other):
    return max(float((one[name] - other[name]).double().abs().max()) for name in one)


TRICKS = [
    ["few_shot", "average"],
    ["few_shot", "average", "input_mixup"],
    ["few_shot", "average", trick("manifold_mixup", layer="layer2"), "cost_sensitive", "label_smoothing"],
    ["average", "cutmix", "cutout", "ema"],
    ["few_shot", "average", "cosine_head", "max_norm", "equalization", trick("manifold_mixup", layer="pool")],
    ["few_shot", "average", "cosine_head", "ldam", "gml"],
]


@pytest.mark.parametrize(("choose", "memory"), [(TRICKS[0], "on"), *((choose, "off") for choose in TRICKS[1:])])
def test_exact_in_float64(doubles, make_plan, digits, choose, memory):
    plan = make_plan(
        Stage("a", epochs=1), Stage("b", epochs=3, members=3, carry="weights", batch_size=24, choose=choose)
    )
    numerics = dataclasses.replace(OFF, channels_last=memory)
    alone, together = (members(plan, digits, numerics) for _ in range(2))
    fused = FusedRun(together)
    for _ in range(3):
        fused.train_epoch()
        for run in alone:
            run.train_epoch()
    assert fused.finished
    for one, other in zip(alone, together, strict=True):
        mine, theirs = one.carry_over(), other.carry_over()
        assert closeness(mine.model, theirs.model) < 1e-9
        assert closeness(mine.optimiser, theirs.optimiser) < 1e-9
        if mine.averaged:
            assert closeness(mine.averaged, theirs.averaged) < 1e-9
        assert (one.images, one.steps) == (other.images, other.steps)
        assert abs(one.train_loss - other.train_loss) < 1e-9
    # and they did learn different things
    assert closeness(together[0].carry_over().model, together[1].carry_over().model) > 1e-3


def test_what_a_step_does_to_a_member_shows_in_its_own_network(make_plan, digits):
    plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=1, members=2, carry="weights", choose=["average"]))
    runs = members(plan, digits, count=2)
    for run in runs:
        run.network.float()
    fused = FusedRun(runs)
    runs[0].network.head.bias.data.fill_(7.0)
    batch = next(fused.runs[0].begin_epoch().stream)[0]
    logits = fused.forward([batch, batch])
    difference = (logits[0].logits - logits[1].logits).detach()
    assert torch.allclose(difference, torch.full_like(difference, 7.0), atol=1e-4)


def test_what_cannot_be_fused(make_plan, digits, tricks_folder):
    plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=1, members=2, carry="weights", choose=["average"]))
    runs = members(plan, digits, count=2)
    runs[1].network.backbone["extra"] = torch.nn.Identity()
    runs[0].network.backbone["extra"] = torch.nn.Identity()
    with pytest.raises(CannotFuse, match="Identity cannot be stacked"):
        FusedRun(runs)
    runs = members(plan, digits, count=2)
    runs[1].feed._draw = lambda progress, generator: torch.arange(7)
    with pytest.raises(CannotFuse, match="different lengths"):
        FusedRun(runs)


# --- in the pipeline --------------------------------------------------------------------------------------


def btm(make_plan, count=6, epochs=2, **more):
    return make_plan(
        Stage("a", epochs=1),
        Stage("b", epochs=epochs, members=count, carry="weights", choose=["few_shot", "average"], **more),
        Stage("c", epochs=1, carry="weights", choose=["classifier"]),
    )


def test_a_trial_with_fused_members(make_plan, pipeline):
    plan = btm(make_plan)
    one, other = pipeline(plan, numerics=ON), pipeline(plan, numerics=OFF)
    seen = []
    while not one.finished:
        one.advance()
        seen.append(one.progress)
    other.run()
    # 1 epoch, groups of 4 and 2 members of 2 epochs each, 1 epoch
    expected = [1 / 4, 1 / 4 + 2 / 4 * 4 / 12, 1 / 4 + 2 / 4 * 8 / 12, 1 / 4 + 2 / 4 * 10 / 12, 3 / 4, 1.0]
    assert seen == pytest.approx(expected)
    assert (one.cost.epochs, one.cost.images, one.cost.steps) == (
        other.cost.epochs,
        other.cost.images,
        other.cost.steps,
    )
    assert one.cost.epochs == one.cost.epochs_trained == plan.cost
    ends = [run.network().state_dict() for run in (one, other)]
    assert all(torch.allclose(ends[0][name], ends[1][name], rtol=1e-2, atol=1e-3) for name in ends[0])


def test_auto_follows_the_rule(make_plan, pipeline):
    for batch_size, fused in ((16, True), (128, False)):
        run = pipeline(btm(make_plan, batch_size=batch_size), numerics=Numerics(fused_members="auto"))
        run.advance()
        run.advance()
        assert isinstance(run.executor.training.run, FusedRun) == fused


def test_fused_members_resume_and_are_reused_exactly(make_plan, pipeline, tmp_path):
    plan = btm(make_plan)
    whole = pipeline(plan, numerics=ON, store=StageStore(tmp_path / "s"))
    whole.run()
    cut = pipeline(plan, numerics=ON)
    for _ in range(2):
        cut.advance()  # the first group is in its middle
    again = pipeline(plan, numerics=ON)
    again.load_state(*cut.state())
    again.run()
    reused = pipeline(plan, numerics=ON, store=StageStore(tmp_path / "s"))
    reused.run()
    assert reused.cost.epochs_trained == 0
    ends = [run.network().state_dict() for run in (whole, again, reused)]
    assert all(torch.equal(ends[0][name], end[name]) for end in ends[1:] for name in ends[0])
    # members 0 to 3 of a stage with more of them are the same ones; one that is lost comes back with its group
    for lost in (None, 2):
        more = btm(make_plan, count=7)
        store = StageStore(tmp_path / "s")
        alone = pipeline(more, numerics=ON)
        alone.run()
        if lost is not None:
            key = whole.keys[1][lost]
            for path in (tmp_path / "s").rglob(key):
                for file in sorted(path.rglob("*"), reverse=True):
                    file.unlink()
                path.rmdir()
        shared = (
            pipeline(more, numerics=ON, store=store)
            if lost is None
            else pipeline(btm(make_plan, count=5), numerics=ON, store=store)
        )
        shared.run()
        assert [name for name in shared.reused if "#" in name][:2] == ["b#0", "b#1"]
        expected = alone if lost is None else None
        if expected is None:
            expected = pipeline(btm(make_plan, count=5), numerics=ON)
            expected.run()
        one, other = expected.network().state_dict(), shared.network().state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_partials_of_a_group_go_on_together(make_plan, pipeline, tmp_path):
    plan = btm(make_plan, count=3, epochs=3)
    begun = pipeline(plan, numerics=ON, store=StageStore(tmp_path / "s"), save_seconds=0.0)
    for _ in range(3):
        begun.advance()
    other = pipeline(plan, numerics=ON, store=StageStore(tmp_path / "s"))
    other.advance()
    other.advance()
    assert other.executor.state.stage == 2  # the first stage came whole, of the second one epoch was left
    other.run()
    whole = pipeline(plan, numerics=ON)
    whole.run()
    one, two = whole.network().state_dict(), other.network().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_company_is_in_the_key(make_plan):
    def keys(count, asked):
        return stage_keys(btm(make_plan, count=count), trial_context("f", "resnet8", 0, CPU, asked))[1]

    six, seven = keys(6, ON), keys(7, ON)
    assert six[:4] == seven[:4] and six[4] != seven[4]
    assert keys(6, OFF)[:6] == keys(7, OFF)[:6]
    draws = random.Random(0)
    for _ in range(50):
        count = draws.randint(2, 20)
        member = draws.randrange(count)
        assert member in group_of(member, count) and group_of(member, count)[-1] < count

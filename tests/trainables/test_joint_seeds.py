"""Seeds of one recipe in one network: exact against training them one by one, kept and re-used as each one's own."""

import dataclasses

import pytest
import torch

from spaces.domain import Stage, trick
from trainables.data import load
from trainables.data.long_tail import LongTailed
from trainables.models import build
from trainables.pipeline import joint_seeds
from trainables.pipeline.joint_seeds import JointSeeds, fused_stages
from trainables.pipeline.pipeline import Diverged, Pipeline
from trainables.pipeline.store import StageStore
from trainables.training.numerics import Numerics, groups_of

CPU = torch.device("cpu")
ON = Numerics(fused_trials="on")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def splits() -> dict[int, LongTailed]:
    """Each seed has its own split, with as many images."""
    return {seed: load("digits-lt", imbalance=50, split_seed=seed) for seed in SEEDS}


@pytest.fixture
def doubles(monkeypatch):
    """Images and networks in float64."""
    plain = LongTailed.normalise
    monkeypatch.setattr(LongTailed, "normalise", lambda data, images: plain(data, images).double())
    monkeypatch.setattr("trainables.pipeline.pipeline.build", lambda *a, **k: build(*a, **k).double())


def alone(plan, splits, seed, store=None, numerics=ON, **more):
    marks = [(each, data.fingerprint) for each, data in splits.items()]
    return Pipeline(plan, splits[seed], "resnet8", seed, CPU, store=store, numerics=numerics, joint_seeds=marks, **more)


def together(plan, splits, seed=0, store=None, **more):
    def others():
        return [None if each == seed else alone(plan, splits, each, store, **more) for each in splits]

    return JointSeeds(alone(plan, splits, seed, store, **more), others)


def trained(company):
    while not company.lead.finished:
        company.advance()
    return company.lead


def closeness(one, other):
    return max(float((one[name] - other[name]).double().abs().max()) for name in one)


TRICKS = [
    ([], []),
    (["input_mixup", "cost_sensitive"], ["class_balanced"]),
    (["cosine_head", "ldam", "cutout"], ["effective_number"]),
    ([trick("manifold_mixup", layer="layer2"), "label_smoothing", "ema"], []),
]


@pytest.mark.parametrize(("first", "second"), TRICKS)
def test_exact_in_float64(doubles, make_plan, splits, first, second):
    plan = make_plan(
        Stage("a", epochs=2, batch_size=48, choose=first, weight_decay=5e-3),
        Stage("b", epochs=1, carry="all", choose=second, keep=True),
    )
    company = together(plan, splits)
    trained(company)
    for pipeline in company._active:
        seed = pipeline.context.seed
        own = alone(plan, splits, seed)
        own.run()
        one, other = own.network().state_dict(), pipeline.network().state_dict()
        assert {tensor.dtype for tensor in one.values()} == {torch.float64, torch.int64}
        assert closeness(one, other) < 1e-9
        assert [point.metrics["accuracy"] for point in own.points] == [
            point.metrics["accuracy"] for point in pipeline.points
        ]
        assert (own.cost.epochs, own.cost.images, own.cost.steps) == (
            pipeline.cost.epochs, pipeline.cost.images, pipeline.cost.steps,
        )  # fmt: skip
    ends = [pipeline.network().state_dict() for pipeline in company._active]
    assert closeness(ends[0], ends[1]) > 1e-3  # and they are different networks of different images


@pytest.fixture(scope="module")
def three_stages(make_plan):
    """Fused, by itself, fused again, and by itself."""
    return make_plan(
        Stage("a", epochs=2),
        Stage("m", epochs=1, members=2, carry="weights", choose=["average", "few_shot"]),
        Stage("b", epochs=2, carry="weights"),
        Stage("c", epochs=1, carry="weights", choose=["classifier"]),
    )


def same(one, other):
    states = [pipeline.network().state_dict() for pipeline in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_others_trials_find_their_stages_finished(three_stages, splits, tmp_path):
    store = StageStore(tmp_path / "s")
    first = together(three_stages, splits, 0, store)
    lead = trained(first)
    assert lead.cost.epochs_trained == lead.cost.epochs
    # two companions; the last stage is left to their own trials
    assert first.epochs_trained == 2 * (2 + 2 + 2) and first.seconds > 0
    for seed in (1, 2):
        own = trained(together(three_stages, splits, seed, store))
        assert own.reused == ["a", "m", "b"] and own.cost.epochs_trained == 1
        # the law: the same trial, run alone with an empty store
        fresh = together(three_stages, splits, seed, StageStore(tmp_path / f"other{seed}"))
        assert same(own, trained(fresh)) and own.points == fresh.lead.points
    again = trained(together(three_stages, splits, 0, store))
    assert again.cost.epochs_trained == 0 and same(again, lead)


@pytest.mark.parametrize("lost", [(0, 1), (2, 2)])
def test_a_part_that_is_lost_comes_back_with_the_whole(three_stages, splits, tmp_path, lost):
    stage, seed = lost
    store = StageStore(tmp_path / "s")
    lead = trained(together(three_stages, splits, 0, store))
    store.remove(alone(three_stages, splits, seed).keys[stage][-1])
    own = trained(together(three_stages, splits, seed, store))
    fresh = trained(together(three_stages, splits, seed, StageStore(tmp_path / "other")))
    assert same(own, fresh)
    assert same(lead, trained(together(three_stages, splits, 0, store)))


def test_it_goes_on_in_the_middle(three_stages, splits, tmp_path):
    store = StageStore(tmp_path / "s")
    begun = together(three_stages, splits, 0, store, save_seconds=0.0)
    begun.advance()
    assert {pipeline.executor.cache.unfinished(0, range(1))[0].epochs for pipeline in begun._active} == {1}
    other = together(three_stages, splits, 1, store)  # whoever comes
    other.advance()
    assert [pipeline.executor.state.stage for pipeline in other._active] == [1, 1, 1]
    whole = trained(together(three_stages, splits, 1, StageStore(tmp_path / "other")))
    assert same(trained(other), whole)
    # where they were not left at one epoch, all begin at the start
    store = StageStore(tmp_path / "t")
    begun = together(three_stages, splits, 0, store, save_seconds=0.0)
    begun.advance()
    store.drop_partial(begun._active[2].keys[0][0])
    assert same(trained(together(three_stages, splits, 1, store)), whole)


def test_one_that_diverges_is_left_behind(make_plan, splits, monkeypatch):
    plan = make_plan(Stage("a", epochs=2), Stage("b", epochs=1, carry="all"))
    fine = trained(together(plan, splits))
    company = together(plan, splits)
    company.advance()
    with torch.no_grad():
        company._active[2].executor.training.run.network.head.bias.fill_(torch.nan)
    assert same(trained(company), fine) and len(company._active) == 2
    company = together(plan, splits, seed=2)
    company.advance()
    with torch.no_grad():
        company.lead.executor.training.run.network.head.bias.fill_(torch.nan)
    with pytest.raises(Diverged, match="stage 'a', epoch 2: the training loss is nan"):
        company.advance()


def test_networks_that_cannot_be_stacked_are_trained_one_by_one(make_plan, splits, monkeypatch):
    def refuses(runs):
        raise joint_seeds.CannotFuse("no")

    monkeypatch.setattr(joint_seeds, "FusedRun", refuses)
    plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=1, carry="all"))
    own = alone(plan, splits, 0)
    own.run()
    assert same(trained(together(plan, splits)), own)


def test_which_stages_are_fused(three_stages, make_plan):
    pixels = 64
    assert fused_stages(three_stages, ON, "cpu", pixels) == [0, 2]
    assert fused_stages(three_stages, Numerics(), "cpu", pixels) == []
    auto = dataclasses.replace(ON, fused_trials="auto")
    assert fused_stages(three_stages, auto, "cpu", pixels) == [0, 2]
    assert fused_stages(three_stages, auto, "cpu", 32 * 32) == fused_stages(three_stages, auto, "cuda", pixels) == []
    # a chain whose first stage trains the classifier alone goes on with that
    chain = make_plan(
        Stage("a", epochs=1),
        Stage("b", epochs=1, carry="weights", choose=["classifier"]),
        Stage("c", epochs=1, carry="all"),
    )
    assert fused_stages(chain, ON, "cpu", pixels) == [0]
    assert groups_of(range(3)) == [(0, 1, 2)] and groups_of([]) == []


def test_company_is_in_the_key(three_stages, splits):
    keys = [alone(three_stages, splits, seed).keys[0][0] for seed in SEEDS]
    assert len(set(keys)) == 3
    fewer = {seed: splits[seed] for seed in (0, 1)}
    assert alone(three_stages, fewer, 0).keys[0][0] != keys[0]
    one = {0: splits[0]}
    plain = Pipeline(three_stages, splits[0], "resnet8", 0, CPU, numerics=ON)
    assert alone(three_stages, one, 0).keys == plain.keys

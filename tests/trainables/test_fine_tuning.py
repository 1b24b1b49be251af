"""Light fine-tuning in a pipeline: carried over, resumed, re-used, averaged and exported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from spaces.domain import Stage, trick
from trainables.final.serving import export, serving_module
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.registry import PlanError

CPU = torch.device("cpu")
TRANSFORMER = f"{Path(__file__).parents[1] / 'tricks' / 'transformer.py'}:transformer"
TRICKS = {
    "bias_only": trick("bias_only"),
    "last_block": trick("last_block"),
    "lora": trick("lora", rank=2),
    "adapt_former": trick("adapt_former", bottleneck=4, scale=1.0),
}


def stages(name, **more):
    tuned = Stage("tuned", epochs=2, lr=0.05, choose=[TRICKS[name]], **more)
    return [Stage("first", epochs=1), tuned, Stage("head", epochs=1, choose=["classifier"])]


@pytest.fixture
def ready(digits):
    def made(plan, store=None):
        return Pipeline(plan, digits, TRANSFORMER, 0, CPU, store=store)

    return made


def finished(run):
    run.run()
    return run


def equal(one, other):
    mine, theirs = one.network().state_dict(), other.network().state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("name", TRICKS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_at_every_boundary(name, optimizer, make_plan, ready):
    plan = make_plan(*stages(name, optimizer=optimizer, layer_decay=0.8, clip=1.0))
    whole, run = finished(ready(plan)), ready(plan)
    while not run.finished:
        run.advance()
        tensors, rest = run.state()
        run = ready(plan)
        run.load_state(load_tensors(save_tensors(tensors)), json.loads(json.dumps(rest)))
    assert equal(run, whole)


@pytest.mark.parametrize("name", TRICKS)
def test_a_stage_cut_in_two(name, make_plan, ready):
    first, tuned, _ = stages(name)
    whole = finished(ready(make_plan(first, tuned)))
    half = Stage("tuned", epochs=1, lr=0.05, choose=[TRICKS[name]])
    cut = finished(ready(make_plan(first, half, Stage("rest", epochs=1, carry="all"))))
    assert equal(whole, cut)


@pytest.mark.parametrize("name", TRICKS)
def test_what_is_frozen_stays_and_the_next_stage_takes_it_over(name, make_plan, ready, tmp_path):
    store = StageStore(tmp_path)
    first, tuned, head = stages(name)
    start, middle, end = (
        finished(ready(make_plan(*some), store)) for some in ([first], [first, tuned], [first, tuned, head])
    )
    assert end.reused == ["first", "tuned"]
    before, between, after = (run.network().state_dict() for run in (start, middle, end))
    assert between.keys() == after.keys()
    assert all(between[key].equal(after[key]) for key in after if key.startswith("backbone."))
    assert not between["head.weight"].equal(after["head.weight"])
    stem = next(key for key in between if key.startswith("backbone.stem") and key.endswith(("weight", "original")))
    assert between[stem].equal(before["backbone.stem.weight"])


@pytest.mark.parametrize("name", TRICKS)
def test_exported_it_says_the_same(name, make_plan, ready, digits):
    """LoRA's products are part of the weights then, adapters stay."""
    run = finished(ready(make_plan(*stages(name)[:2])))
    with torch.no_grad():
        expected = run.network()(digits.normalise(digits.val_images)).logits.softmax(dim=1)
    module = serving_module(run)
    torch.testing.assert_close(module(digits.val_images), expected, atol=1e-5, rtol=1e-4)
    assert not any("parametrizations" in key for key in module.state_dict())
    program = export(module, (1, 8, 8)).module()
    torch.testing.assert_close(program(digits.val_images), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TRICKS)
def test_members_and_averages(name, make_plan, ready):
    first, _, head = stages(name)
    soup = Stage("soup", epochs=1, members=2, lr=0.05, choose=[TRICKS[name], "few_shot", "average", "ema"])
    run = finished(ready(make_plan(first, soup, head)))
    assert all(value.isfinite().all() for value in run.network().state_dict().values())


@pytest.mark.parametrize("name", TRICKS)
def test_it_needs_a_trained_network(name, make_plan):
    with pytest.raises(PlanError, match=f"{name} reads a trained network, so it cannot sit in the first stage"):
        make_plan(Stage("a", epochs=1, choose=[TRICKS[name]]))
    with pytest.raises(PlanError, match="computes features once, but the backbone moves"):
        make_plan(Stage("a", epochs=1), Stage("b", epochs=1, views=2, choose=[TRICKS[name]]))

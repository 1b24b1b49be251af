"""CUDA graphs: where they may be, and, on a GPU, that they change nothing."""

import pytest
import torch

from spaces.domain import Stage
from trainables.models import build
from trainables.pipeline.pipeline import Pipeline
from trainables.training.acceleration.cuda_graph import GraphedStep, can_be_captured
from trainables.training.numerics import Numerics

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("choose", "captured"),
    [([], True), (["input_mixup", "cosine_head", "ldam"], True), (["cost_sensitive"], False), (["focal"], False)],
)
def test_what_can_be_captured(make_plan, choose, captured):
    stage = make_plan(Stage("a", epochs=1, choose=choose)).stages[0]
    assert can_be_captured(stage, CUDA) == captured
    assert not can_be_captured(stage, torch.device("cpu"))


def test_where_there_is_no_gpu_nothing_changes(make_plan, pipeline):
    plan = make_plan(Stage("a", epochs=2))
    ends = []
    for graph in ("on", "off"):
        run = pipeline(plan, numerics=Numerics(graph=graph))
        run.run()
        ends.append(run.network().state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_what_a_graph_keeps_holds_no_gradients():
    """Else later plain steps would be tied to the stream of the capture, of which torch warns."""
    network = build("resnet8", classes=10, channels=1, generator=torch.Generator().manual_seed(0))
    outputs = network(torch.randn(3, 4, 1, 8, 8))
    kept = outputs.detached()
    assert len(kept.views) == 2
    for one, other in zip((outputs, *outputs.views), (kept, *kept.views), strict=True):
        for name in ("logits", "features", "maps"):
            had, has = getattr(one, name), getattr(other, name)
            assert had.requires_grad and not has.requires_grad and has.data_ptr() == had.data_ptr()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("choose", [[], ["input_mixup", "ema"], ["cosine_head", "max_norm", "logit_adjusted"]])
def test_a_replayed_step_is_the_step(make_plan, digits, choose, precision):
    plan = make_plan(Stage("a", epochs=3, batch_size=16, choose=choose))
    ends = []
    for graph in ("on", "off"):
        run = Pipeline(plan, digits, "resnet8", 0, CUDA, numerics=Numerics(precision=precision, graph=graph))
        run.advance()
        graphed = run.executor.training.run._graphed
        assert isinstance(graphed, GraphedStep) == (graph == "on")
        assert graphed is None or graphed._graph is not None
        run.run()
        ends.append((run.network().state_dict(), run.points))
    one, other = (end[0] for end in ends)
    assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-4) for name in one)

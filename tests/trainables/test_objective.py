"""The loss of every image, by hand; and methods of another kind, through the same seams."""

import math

import pytest
import torch
from torch.nn import functional

from spaces.domain import Stage, one_of
from trainables import registry
from trainables.batch import Batch, Facts, Outputs
from trainables.objective import REDUCTIONS, Objective, one_per_seam, reduce
from trainables.registry import PlanError, discover, make

pytestmark = pytest.mark.smoke

FACTS = Facts(counts=torch.tensor([80, 20]), labels=torch.tensor([0] * 80 + [1] * 20))

TOYS = {
    "two_views": '''
        """A second view of every image: the image mirrored."""
        @trick(seam="image", family="toys", source="nobody")
        @dataclass(frozen=True)
        class TwoViews:
            def build(self, facts):
                def change(batch, generator):
                    assert batch.images.shape[0] == 1
                    return batch.with_images(torch.cat([batch.images, batch.images.flip(-1)]))
                return change
        ''',
    "two_experts": '''
        """Two classifiers side by side."""
        class Experts(torch.nn.Module):
            kind = "experts"

            def __init__(self, features, classes, generator):
                super().__init__()
                self.weights = torch.nn.Parameter(torch.empty(2, classes, features))
                torch.nn.init.normal_(self.weights, std=0.1, generator=generator)

            def forward(self, features):
                return torch.einsum("bd,ecd->ebc", features, self.weights)

        @trick(seam="head", family="toys", source="nobody", provides=("experts",))
        @dataclass(frozen=True)
        class TwoExperts:
            def build(self, facts):
                def replace(model):
                    model.head = Experts(model.features, model.classes, facts.generator("head"))
                    return model
                return replace
        ''',
    "each_expert": '''
        """Every expert learns on its own: the sum of their cross-entropies."""
        @trick(seam="loss", family="toys", source="nobody", needs=("experts",))
        @dataclass(frozen=True)
        class EachExpert:
            def build(self, facts):
                def loss(outputs, q, y, generator):
                    return -(q * outputs.experts.log_softmax(dim=2)).sum(dim=(0, 2))
                return loss
        ''',
    "consistency": '''
        """Pulls the two views of an image together."""
        @trick(seam="penalty", family="toys", source="nobody")
        @dataclass(frozen=True)
        class Consistency:
            strength: float = 1.0

            def build(self, facts):
                def penalty(outputs, batch, generator):
                    assert batch.images.shape[:2] == (2, len(outputs.logits))
                    (other,) = outputs.views
                    return self.strength * (outputs.features - other.features).square().mean(dim=1)
                return penalty
        ''',
    "constant_penalty": '''
        """The same for every image."""
        @trick(seam="penalty", family="toys", source="nobody")
        @dataclass(frozen=True)
        class ConstantPenalty:
            size: float = 0.5

            def build(self, facts):
                return lambda outputs, batch, generator: torch.full_like(outputs.logits[:, 0], self.size)
        ''',
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A `--tricks` folder with the toys, found; forgotten afterwards."""
    discover()
    known = dict(registry._ENTRIES)
    folder = tmp_path_factory.mktemp("toys")
    for name, body in TOYS.items():
        lines = "\n".join(line.removeprefix(" " * 8) for line in body.splitlines())
        imports = "\nfrom dataclasses import dataclass\nimport torch\nfrom trainables.registry import trick\n"
        (folder / f"{name}.py").write_text(imports + lines + "\n")
    discover(folder)
    yield folder
    registry._ENTRIES.clear()
    registry._ENTRIES.update(known)


# --- by hand ----------------------------------------------------------------------------------------------


def test_plain_is_cross_entropy():
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 1, 0, 1])
    expected = functional.cross_entropy(z, y, reduction="none")
    torch.testing.assert_close(Objective([], FACTS)(z, y), expected)


def test_a_mixture_by_hand():
    # weights of cost_sensitive: n_min / n_c = 1/4 and 1; balanced softmax adds ln π = ln 0.8, ln 0.2
    objective = Objective([make("cost_sensitive"), make("balanced_softmax")], FACTS)
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    y, share = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0.75, 0.25], [0.4, 0.6]], dtype=torch.float64)
    w = objective.weights(torch.tensor([0, 1])).tolist()
    assert w == [0.25, 1.0]

    def entropy(first: float, second: float, label: int) -> float:
        a, b = 0.8 * math.exp(first), 0.2 * math.exp(second)
        return -math.log((a, b)[label] / (a + b))

    by_hand = [
        0.75 * w[0] * entropy(1, 0, 0) + 0.25 * w[1] * entropy(1, 0, 1),
        0.4 * w[1] * entropy(0, 2, 1) + 0.6 * w[1] * entropy(0, 2, 1),
    ]
    losses = objective(z, y, share)
    assert losses.dtype == torch.float64
    assert losses.tolist() == pytest.approx(by_hand, rel=1e-12)


def test_a_target_and_weights_multiply():
    objective = Objective([make("label_smoothing"), make("cost_sensitive"), make("effective_number", beta=0.9)], FACTS)
    one = Objective([make("cost_sensitive")], FACTS)
    other = Objective([make("effective_number", beta=0.9)], FACTS)
    y = torch.tensor([0, 1])
    assert objective.weighted
    assert not Objective([], FACTS).weighted
    torch.testing.assert_close(objective.weights(y), one.weights(y) * other.weights(y))
    q = make("label_smoothing").build(FACTS)(y).float()
    z = torch.tensor([[0.3, -0.2], [1.0, 0.5]])
    expected = -(q * z.log_softmax(dim=1)).sum(dim=1) * objective.weights(y).float()
    torch.testing.assert_close(objective(z, y), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_of_the_logits_is_kept(dtype):
    z = torch.zeros(3, 2, dtype=dtype, requires_grad=True)
    y = torch.tensor([[0, 1], [1, 0], [0, 0]])
    for tricks in ([], [make("cost_sensitive")], [make("focal")], [make("label_smoothing"), make("balanced_softmax")]):
        losses = Objective(tricks, FACTS)(z, y, torch.full((3, 2), 0.5))
        assert (losses.dtype, losses.shape) == (dtype, (3,))
        losses.sum().backward()
        assert z.grad.dtype == dtype


def test_a_class_that_is_ruled_out_has_no_part():
    z = torch.tensor([[0.0, -math.inf]])
    assert Objective([], FACTS)(z, torch.tensor([0])).item() == 0


def test_penalties_are_added_and_carry_no_weight(toys):
    plain = Objective([make("cost_sensitive")], FACTS)
    with_penalty = Objective([make("cost_sensitive"), make("constant_penalty")], FACTS)
    z, y = torch.zeros(2, 2), torch.tensor([0, 1])
    torch.testing.assert_close(with_penalty(z, y), plain(z, y) + 0.5)
    losses, penalties = with_penalty.parts(z, y)
    torch.testing.assert_close(losses, plain(z, y))
    assert penalties.tolist() == [0.5, 0.5]


def test_logits_tricks_reach_every_expert():
    outputs = Outputs(torch.zeros(1, 2), experts=torch.zeros(3, 1, 2))
    adjusted = Objective([make("balanced_softmax")], FACTS)._adjusted(outputs, torch.tensor([0]))
    added = torch.tensor([[80.0, 20.0]]).log()
    torch.testing.assert_close(adjusted.logits, added)
    torch.testing.assert_close(adjusted.experts, added.expand(3, 1, 2))


def test_what_is_refused():
    with pytest.raises(PlanError, match=r"focal, softmax_focal all sit on seam 'loss', which takes one trick"):
        Objective([make("focal"), make("softmax_focal")], FACTS)
    with pytest.raises(PlanError, match=r"all sit on seam 'target'"):
        Objective([make("label_smoothing"), make("label_over_smoothing")], FACTS)
    with pytest.raises(PlanError, match=r"^stage 'a': class_balanced, square_root all sit on seam 'draw'"):
        one_per_seam([make("class_balanced"), make("square_root")], "stage 'a'")
    with pytest.raises(ValueError, match=r"labels \(B, K\) need share=\(B, K\)"):
        Objective([], FACTS)(torch.zeros(1, 2), torch.tensor([[0, 1]]))


def test_reductions_by_hand():
    losses, weights = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    assert reduce(losses, weights, 0.5, "mean").item() == 3
    assert reduce(losses, weights, 0.5, "expected").item() == 6
    assert reduce(losses, weights, 0.5, "weighted_mean").item() == pytest.approx(9 / 3.5)
    assert reduce(losses, weights, 0.5, "weighted_mean").dtype == torch.float32
    with pytest.raises(PlanError, match=r"reduction must be one of expected, mean, weighted_mean, got 'sum'"):
        reduce(losses, weights, 1.0, "sum")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_constant_weight_changes_only_the_plain_mean(reduction):
    losses = torch.tensor([1.0, 2.0])
    scaled = reduce(10 * losses, torch.tensor([10.0, 10.0]), 10.0, reduction)
    assert scaled.item() == pytest.approx(15.0 if reduction == "mean" else 1.5)


# --- through a stage --------------------------------------------------------------------------------------


def test_a_penalty_means_the_same_whatever_the_weights(toys, make_plan, pipeline):
    """Divided by the weights' expectation, it would be as many times as large as they are small."""

    def train_loss(reduction: str, *tricks: str) -> float:
        run = pipeline(make_plan(Stage("a", epochs=1, reduction=reduction, choose=[*tricks])))
        run.run()
        return run.points[0].metrics["train_loss"]

    for reduction in REDUCTIONS:
        bare = train_loss(reduction, "cost_sensitive")
        assert train_loss(reduction, "cost_sensitive", "constant_penalty") - bare == pytest.approx(0.5, abs=1e-4)


def test_two_experts_and_two_views_train_without_a_rewrite(toys, make_plan, pipeline):
    plan = make_plan(
        Stage("a", epochs=1, choose=["two_experts", "each_expert", "two_views", "consistency", "input_mixup"]),
        Stage("b", epochs=1, carry="weights", choose=["each_expert", "balanced_softmax"]),
    )
    run = pipeline(plan)
    run.advance()
    stage = run.executor.state.carry_over.model
    assert stage["head.weights"].shape == (2, 10, 64)
    run.run()
    network = run.network()
    outputs = network(run.data.normalise(run.data.val_images))
    assert outputs.experts.shape == (2, 60, 10)
    torch.testing.assert_close(outputs.logits, outputs.experts.mean(dim=0))
    assert not torch.equal(outputs.experts[0], outputs.experts[1])
    assert all(math.isfinite(point.metrics["train_loss"]) for point in run.points)
    without = pipeline(make_plan(Stage("a", epochs=1, choose=["two_experts", "each_expert", "two_views"])))
    without.run()
    assert not torch.equal(stage["head.weights"], without.network().state_dict()["head.weights"])


def test_the_penalty_sees_both_views_of_an_image(toys):
    images = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
    batch = make("two_views").build(FACTS)(Batch.plain(images, torch.arange(2), torch.tensor([0, 1])), None)
    one, other = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 4.0], [3.0, 0.0]])
    outputs = Outputs(torch.zeros(2, 2), one, views=(Outputs(torch.zeros(2, 2), other),))
    assert make("consistency").build(FACTS)(outputs, batch, None).tolist() == [2.0, 4.5]
    objective = Objective([make("consistency", strength=2.0)], FACTS)
    y = torch.tensor([0, 1])
    assert objective(outputs, y, batch=batch).tolist() == pytest.approx([math.log(2) + 4, math.log(2) + 9])


def test_experts_without_their_head_are_refused(toys, make_plan):
    with pytest.raises(
        PlanError,
        match=r"stage 'a': each_expert needs 'experts', .*; experts or reslt_conv_head or reslt_head or two_experts",
    ):
        make_plan(Stage("a", epochs=1, choose=[one_of(None, "each_expert")]), on=("a/each_expert",))

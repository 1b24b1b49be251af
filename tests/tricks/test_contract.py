"""What every trick keeps to, checked through the registry: a new trick is under test by being there."""

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from spaces.domain import OneOf
from trainables.batch import Batch, Facts, MissingFact, Outputs
from trainables.models import build
from trainables.objective import Objective
from trainables.registry import SEAMS, entries, make, names, numbers_of

ALL = names()
OBJECTIVE = ("target", "logits", "loss", "weight", "penalty")
COUNTS = (6, 3, 1)
CHOICES = {
    "adapt_former": {"scale": (0.0,), "learn_scale": (True,)},
    "adaptive": {"mean": ("geometric",)},
    "auto_augment": {"policy": ("imagenet", "svhn")},
    "cam_foreground": {"moves": ("public_code",), "limit": (2,)},
    "classifier": {"reset": (False,), "batchnorm": ("moving",)},
    "effective_number": {"normalise": (True,)},
    "ema": {"decay": (0.0,), "warm_up": (False,)},
    "causal_norm": {"alpha": (0.0,), "num_head": (1, 4)},
    "cutout": {"view": (0,)},
    "experts": {"branch_from": ("pool", "layer3"), "count": (1,), "learn": ("fused",)},
    "gpaco": {"momentum_encoder": (True,), "queue": (0, 16), "gamma": (0.0,)},
    "greedy_soup": {"mean": ("geometric",), "order": ("by_score",)},
    "image_transform": {"moves": ("public_code",), "limit": (2,)},
    "label_aware_smoothing": {"shape": ("exponential",), "spread": ("all",)},
    "lade": {"importance": ("image",)},
    "learnable_scale": {"scale_bias": (True,), "batchnorm": ("moving",)},
    "logit_adjusted": {"floor": (1e-12,)},
    "lora": {"alpha": (0.0, 1.0)},
    "manifold_mixup": {"layer": ("logits",)},
    "max_norm": {"radius": (0.5,)},
    "post_hoc_adjustment": {"floor": (1e-12,)},
    "reslt": {"beta": (0.0, 1.0), "first_medium": (1,), "first_tail": (2,)},
    "ride": {"reweight": (True,), "factor": (0.0,)},
    "rsg": {"k": (1,), "start": (0.0, 1.0), "layer": ("layer3",)},
    "several_views": {"count": (1, 3)},
    "softmax_focal": {"constant_factor": (True,)},
    "swa": {"start": (0.0, 1.0)},
    "tau_norm": {"keep_bias": (True,)},
    "under_sampling": {"subset": ("fixed",)},
}
"""Options outside the ranges worth searching; they are built as well."""


def settings(name):
    """The defaults, both ends of every range (every option of a choice), and the options above."""
    yield {}
    for key, domain in entries()[name].space.items():
        ends = domain.options if isinstance(domain, OneOf) else (domain.low, domain.high)
        yield from ({key: end} for end in ends)
    for key, options in CHOICES.get(name, {}).items():
        yield from ({key: option} for option in options)


@dataclass
class World:
    """All that a trick of any seam is handed."""

    facts: Facts
    batch: Batch
    outputs: Outputs
    y: torch.Tensor
    states: list
    layer: str = "layer2"

    @property
    def x(self):
        """Maps (B, D, h, w) as behind the layer of an inside trick, or features (B, D)."""
        random = torch.Generator().manual_seed(3)
        sizes = {"pool": (64,), "layer1": (16, 8, 8), "layer2": (32, 4, 4), "layer3": (64, 2, 2)}[self.layer]
        x = torch.randn(len(self.y), *sizes, dtype=torch.float64, generator=random)
        return x.to(self.outputs.logits.dtype)


NETWORKS = {"adapt_former": str(Path(__file__).with_name("transformer.py")) + ":transformer"}
"""What acts on blocks that resnet8 does not have is tried on a network that does."""


def world(counts=COUNTS, dtype=torch.float32, permutation=None, name="") -> World:
    """One image of 8 × 8 for each training image; the first 16 make the batch.

    With a permutation, the same world in which class c is called permutation[c].
    """
    random = torch.Generator().manual_seed(0)
    counts = torch.tensor(counts)
    classes = len(counts)
    renamed = torch.arange(classes) if permutation is None else torch.tensor(permutation)
    old = renamed.argsort()
    labels = torch.repeat_interleave(torch.arange(classes), counts)
    model = NETWORKS.get(name, "resnet8")
    network = build(model, classes=classes, channels=1, generator=random).to(dtype).eval()
    images = torch.randint(256, (len(labels), 1, 8, 8), dtype=torch.uint8, generator=random)
    batch_size = min(16, len(labels))
    picked = torch.linspace(0, len(labels) - 1, batch_size).long()
    z = torch.randn(batch_size, classes, dtype=torch.float64, generator=random).to(dtype)
    features = torch.randn(batch_size, 64, dtype=torch.float64, generator=random).to(dtype)
    with torch.no_grad():
        network.head.bias.copy_(torch.linspace(-1, 1, classes))
        network.head.weight.copy_(network.head.weight[old])
        network.head.bias.copy_(network.head.bias[old])
    labels, y = renamed[labels], renamed[labels[picked]]
    second = Outputs(z[:, old].flip(0), features.flip(0))
    aside = (images[picked].double() / 255 - 0.5).to(dtype).flip(-1)[None]  # a view that the network does not see
    seen = Batch.plain(images[picked], picked, y)
    outputs = with_experts(Outputs(z[:, old], features, views=(second,), batch=replace(seen, aside=aside)))
    scale = [1.0, 0.5, 2.0]
    states = [{n: t * s if t.is_floating_point() else t for n, t in network.state_dict().items()} for s in scale]
    facts = Facts(
        counts=counts[old],
        labels=labels,
        epochs=3,
        model=network,
        images=images,
        normalise=lambda x: (x.double() / 255 - 0.5).to(dtype),
        pixel_mean=torch.tensor([0.5]),
        start={n: t.clone() for n, t in network.state_dict().items()},
        score=lambda state: float(state["head.weight"].abs().mean().clamp(0.1, 0.9)),
    )
    return World(facts, seen, outputs, y, states)


class Gradient:
    """What a step trick is given, on the batch of the world."""

    def __init__(self, at):
        self.batch, self._at = at.batch, at

    def __call__(self, factors=None):
        at = self._at
        losses = Objective([], at.facts)(at.facts.model(at.facts.normalise(at.batch.images)), at.y)
        loss = (losses if factors is None else factors(at.y).to(losses.dtype) * losses).mean()
        loss.backward()
        return loss.detach()


def after_a_step(function, at):
    """The gradient that a step trick leaves; the weights are as before."""
    model = at.facts.model
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    function(Gradient(at), optimiser)
    return [parameter.grad for parameter in model.parameters()]


def with_experts(outputs):
    """The same outputs of three experts; those that know none read the fused logits."""
    z = outputs.logits
    return replace(outputs, experts=torch.stack((0.5 * z, -z, z)))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def give_modules(made, facts):
    """The trick's own modules in the network, as in a stage."""
    if hasattr(made, "modules"):
        like = next(facts.model.parameters())
        facts.model.extra[type(made).entry.name] = torch.nn.ModuleDict(made.modules(facts)).to(like.dtype)


def apply(name, numbers, at: World, seed=0) -> list[torch.Tensor]:
    """What the trick gives in that world, as tensors."""
    made = make(name, **numbers)
    seam = type(made).entry.seam
    give_modules(made, at.facts)
    at.layer = getattr(made, "layer", at.layer)
    function = made.build(at.facts)
    if seam in ("draw", "partner"):
        return [function(0.5, seeded(seed))]
    if seam == "inside":
        if hasattr(function, "begin_epoch"):
            function.begin_epoch(1.0, seeded(seed))
        x, batch = function(at.x, at.batch, seeded(seed))
        return [x, batch.index, batch.y, batch.share, *([] if batch.penalty is None else [batch.penalty])]
    if seam == "step":
        return after_a_step(function, at)
    if seam in ("image", "augment"):
        return [function(at.batch, seeded(seed)).images]
    if seam == "mix":
        mixed = function(at.batch.with_images(at.facts.normalise(at.batch.images)), seeded(seed))
        blend = [] if mixed.blend is None else [mixed.blend.order, mixed.blend.share]
        return [mixed.images, mixed.y, mixed.share, *blend]
    if seam in ("target", "weight"):
        return [function(at.y)]
    if seam == "logits":
        return [function(at.outputs.logits, at.y)]
    if seam == "loss":
        q = torch.nn.functional.one_hot(at.y, at.facts.classes).to(at.outputs.logits.dtype)
        return [function(at.outputs, q, at.y, seeded(seed))]
    if seam == "penalty":
        return [function(at.outputs, at.batch, seeded(seed))]
    if seam == "head":
        return [function(at.facts.model)(at.facts.normalise(at.batch.images)).logits]
    if seam == "train":
        groups = function(at.facts.model)
        return [p for group in groups for p in group["params"]]
    if seam == "after_step":
        function(at.facts.model, at.outputs, at.batch)
        return list(at.facts.model.state_dict().values())
    if seam == "merge":
        return list(function(at.states).values())
    if seam == "average":
        averaged = {}
        for epoch, state in enumerate(at.states, start=1):
            averaged = function(averaged, state, epoch, None)
            averaged = function(averaged, state, epoch, epoch)
        return list(averaged.values())
    return [function(at.outputs)]


@pytest.fixture(scope="module")
def large() -> World:
    """As many classes as iNaturalist 2018 has, most of one image, one of none."""
    counts = [1] * 8142
    counts[0], counts[7], counts[8141] = 40, 0, 5
    return world(tuple(counts))


# --- names, ranges, files ---------------------------------------------------------------------------------


def test_names_differ_within_their_first_ten_characters():
    beginnings = [name[:10] for name in ALL]
    assert len(set(beginnings)) == len(ALL)


@pytest.mark.parametrize("name", ALL)
def test_a_test_file_exists(name):
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", ALL)
def test_it_says_where_it_comes_from_and_what_it_does(name):
    known = entries()[name]
    assert known.seam in SEAMS
    assert known.family
    assert known.source
    for part in ("Source:", "Differs:", ">>> "):
        assert part in known.cls.__doc__, part


@pytest.mark.parametrize("name", ALL)
def test_every_setting_is_made_and_survives_json(name):
    for numbers in settings(name):
        made = make(name, **numbers)
        restored = make(name, **json.loads(json.dumps(numbers_of(made))))
        assert restored == made
        assert hash(restored) == hash(made)


# --- what it gives ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_shapes_types_and_inputs(name):
    for numbers in settings(name):
        at = world(name=name)
        before = copy.deepcopy(
            (at.facts.counts, at.facts.labels, at.facts.images, at.batch, at.outputs, at.y, at.states)
        )
        results = apply(name, numbers, at)
        after = (at.facts.counts, at.facts.labels, at.facts.images, at.batch, at.outputs, at.y, at.states)
        assert same(before, after), "an input was modified"
        for result in results:
            assert result.device == at.facts.device
            assert torch.isfinite(result).all()
        check_shape(entries()[name].seam, results, at)


def check_shape(seam, results, at):
    first, number, classes = results[0], len(at.y), at.facts.classes
    if seam in ("draw", "partner"):
        assert first.dtype == torch.int64
        assert first.ndim == 1
        assert 0 <= first.min() <= first.max() < len(at.facts.labels)
    elif seam in ("image", "augment"):
        assert (first.shape[1:], first.dtype) == (at.batch.images.shape[1:], torch.uint8)
    elif seam == "inside":
        rows = len(first)
        assert (first.shape[1:], first.dtype) == (at.x.shape[1:], at.x.dtype) and rows >= number
        assert all(len(result) == rows for result in results[1:])
        assert results[2].shape == results[3].shape
    elif seam == "step":
        kept = at.facts.model.state_dict()
        assert set(kept) >= {name for name, _ in at.facts.model.named_parameters()}
        assert all(kept[name].equal(at.facts.start[name]) for name, _ in at.facts.model.named_parameters())
        assert len(results) == len(list(at.facts.model.parameters()))
    elif seam == "mix":
        assert first.shape == at.batch.images.shape
        assert results[1].shape == results[2].shape == (number, 2)
        assert results[1].dtype == torch.int64
        assert torch.allclose(results[2].sum(dim=1), torch.ones(number))
    elif seam == "target":
        assert (first.shape, first.dtype) == ((number, classes), torch.float64)
        assert torch.allclose(first.sum(dim=1), torch.ones(number, dtype=torch.float64))
    elif seam == "weight":
        assert (first.shape, first.dtype) == ((number,), torch.float64)
        assert (first >= 0).all()
    elif seam in ("loss", "penalty"):
        assert (first.shape, first.dtype) == ((number,), at.outputs.logits.dtype)
    elif seam in ("logits", "readout", "head"):
        assert (first.shape, first.dtype) == ((number, classes), at.outputs.logits.dtype)
    elif seam in ("merge", "average"):
        kinds = [(value.shape, value.dtype) for value in at.states[0].values()]
        assert [(value.shape, value.dtype) for value in results] == kinds
    elif seam == "train":
        assert results
        assert all(parameter.requires_grad for parameter in results)
        learning = {id(p) for p in at.facts.model.parameters() if p.requires_grad}
        assert learning == {id(p) for p in results}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.equal(other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (Batch, Outputs)):
        return all(same(getattr(one, field), getattr(other, field)) for field in one.__dataclass_fields__)
    return one == other


@pytest.mark.parametrize("name", ALL)
def test_the_same_generator_gives_the_same(name):
    for numbers in settings(name):
        stream = torch.get_rng_state()
        one, two = (apply(name, numbers, world(name=name), seed=5) for _ in range(2))
        assert same(one, two)
        assert torch.get_rng_state().equal(stream), "the global stream was read"


@pytest.mark.parametrize("name", ALL)
def test_float64_and_float32_agree(name):
    for numbers in settings(name):
        single, double = (apply(name, numbers, world(dtype=kind, name=name)) for kind in (torch.float32, torch.float64))
        for one, two in zip(single, double, strict=True):
            if one.dtype == torch.uint8:
                # a pixel may round to the other side, and one on the edge of a foreground may fall out
                assert (one.double() - two.double()).abs().gt(1).double().mean() < 0.01
            else:
                assert torch.allclose(one.double(), two.double(), rtol=2e-4, atol=2e-5)
        if entries()[name].seam in ("logits", "loss", "readout", "head"):
            assert double[0].dtype == torch.float64


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite(name):
    seam = entries()[name].seam
    for numbers in settings(name):
        for factor in (1.0, 100.0, 1e4):
            at = world(name=name)
            z = (factor * at.outputs.logits).requires_grad_()
            features = at.outputs.features.clone().requires_grad_()
            if seam in OBJECTIVE:
                objective = Objective([make(name, **numbers)], at.facts)
                outputs = with_experts(replace(at.outputs, logits=z, features=features))
                losses = objective(outputs, at.y, generator=seeded())
                mixed = objective(
                    outputs,
                    torch.stack((at.y, at.y.flip(0)), dim=1),
                    torch.tensor([[0.3, 0.7]]).expand(len(at.y), 2),
                    generator=seeded(),
                )
                assert losses.dtype == z.dtype
                (losses.mean() + mixed.mean()).backward()
                assert torch.isfinite(losses).all()
                assert torch.isfinite(z.grad).all()
                assert features.grad is None or torch.isfinite(features.grad).all()
            elif seam in ("head", "train", "mix"):
                function = make(name, **numbers).build(at.facts)
                images, blend = at.facts.normalise(at.batch.images), None
                if seam == "mix":
                    mixed_batch = function(at.batch.with_images(images), seeded())
                    images, blend = mixed_batch.images, mixed_batch.blend
                else:
                    function(at.facts.model)
                at.facts.model.train()
                at.facts.model(images, blend).logits.square().mean().backward()
                for parameter in at.facts.model.parameters():
                    assert (parameter.grad is not None) == parameter.requires_grad
                    assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("name", ALL)
def test_what_acts_between_steps_writes_into_its_own_buffers(name):
    """Nothing else: a stage is resumed from the network's state, and every trick's modules are in it."""
    for numbers in settings(name):
        at = world(name=name)
        made = make(name, **numbers)
        give_modules(made, at.facts)
        function = made.build(at.facts)
        if not (hasattr(function, "begin_epoch") or hasattr(function, "after_step")):
            continue
        own = f"extra.{name}."
        outputs = at.facts.model(at.facts.normalise(at.batch.images))
        kept = {key: tensor.clone() for key, tensor in at.facts.model.state_dict().items()}
        before = copy.deepcopy((at.facts.counts, at.facts.labels, at.batch, at.y))
        with torch.no_grad():
            if hasattr(function, "begin_epoch"):
                function.begin_epoch(0.5, seeded())
            if hasattr(function, "after_step"):
                function.after_step(at.facts.model, replace(outputs, batch=at.batch), at.batch)
        after = at.facts.model.state_dict()
        assert after.keys() == kept.keys()
        learned = {key for key, _ in at.facts.model.named_parameters()}
        learned = {key for key in learned if at.facts.model.get_parameter(key).requires_grad}
        for key, tensor in after.items():
            assert tensor.equal(kept[key]) or (key.startswith(own) and key not in learned), key
        assert same(before, (at.facts.counts, at.facts.labels, at.batch, at.y))


# --- classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_relabelling_the_classes_with_their_counts_changes_nothing(name):
    permutation = (1, 2, 0)
    seam = entries()[name].seam
    if seam in ("head", "after_step", "merge", "augment", "train", "average"):
        return  # knows no class
    if name == "rsg":
        return  # every class begins with drawn weights of its own
    # draws that go by position: certain here; a queue begins with labels that are drawn
    fixed = {"equalization": {"gamma": 1.0}, "gpaco": {"queue": 0}}.get(name, {})
    for numbers in settings(name):
        if set(numbers) & set(fixed):
            continue
        numbers = {**fixed, **numbers}
        plain, renamed = world(), world(permutation=permutation)
        old = torch.tensor(permutation).argsort()
        if seam == "draw":
            draw, other = (make(name, **numbers).build(at.facts) for at in (plain, renamed))
            shares = []
            for function in (draw, other):
                drawn = torch.cat([function(0.5, seeded(seed)) for seed in range(400)])
                shares.append(drawn.bincount(minlength=10) / len(drawn))
            if name in ("few_shot", "under_sampling"):  # picked when built: compare the classes
                shares = [torch.stack([share[:6].sum(), share[6:9].sum(), share[9]]) for share in shares]
            assert torch.allclose(*shares, atol=0.05)
            continue
        one, two = apply(name, numbers, plain), apply(name, numbers, renamed)
        if seam in ("target", "logits", "readout"):
            one = [one[0][:, old]]
        if seam == "mix":
            one[1] = torch.tensor(permutation)[one[1]]
        for first, second in zip(one, two, strict=True):
            assert torch.allclose(first.double(), second.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_classes_of_one_and_of_no_image(name):
    for counts in ((5, 0, 1), (1, 1, 1), (0, 4, 1)):
        at = world(counts, name=name)
        for result in apply(name, {}, at):
            assert not result.isnan().any()
        if entries()[name].seam == "draw":
            assert (at.facts.counts[at.facts.labels[apply(name, {}, at)[0]]] > 0).all()
        if entries()[name].seam in OBJECTIVE:
            z = at.outputs.logits.clone().requires_grad_()
            outputs = with_experts(replace(at.outputs, logits=z))
            Objective([make(name)], at.facts)(outputs, at.y, generator=seeded()).mean().backward()
            assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("name", names(seam="loss"))
def test_a_loss_meets_a_ruled_out_class_and_a_smoothed_target(name):
    """Balanced softmax gives −inf to a class without images; label smoothing gives it a part of the target."""
    at = world((5, 0, 1))
    z = at.outputs.logits.clone().requires_grad_()
    together = [make(name), make("balanced_softmax"), make("label_smoothing")]
    losses = Objective(together, at.facts)(with_experts(replace(at.outputs, logits=z)), at.y, generator=seeded())
    losses.mean().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("name", ALL)
def test_thousands_of_classes(name, large):
    model = NETWORKS.get(name)
    made = build(model, classes=8142, channels=1, generator=seeded()) if model else copy.deepcopy(large.facts.model)
    at = replace(large, facts=replace(large.facts, model=made))
    results = apply(name, {}, at)
    assert not any(result.isnan().any() for result in results)
    check_shape(entries()[name].seam, results, at)


# --- what it needs ----------------------------------------------------------------------------------------

NEEDS_MORE = {
    "adaptive": "score",
    "cam_foreground": "model and images and normalise",
    "greedy_soup": "score",
    "interpolate": "start",
    "max_norm": "model",
    "rsg": "model",
    "nearest_mean": "model and images and normalise",
    "tau_norm": "model",
}


@pytest.mark.parametrize("name", ALL)
def test_counts_and_labels_are_enough_or_it_says_what_is_missing(name):
    facts = Facts(counts=torch.tensor([2, 1]), labels=torch.tensor([0, 0, 1]))
    if name in NEEDS_MORE:
        with pytest.raises(MissingFact, match=f"trick '{name}' needs {NEEDS_MORE[name]}: build it with Facts"):
            make(name).build(facts)
    else:
        assert callable(make(name).build(facts))


@pytest.mark.parametrize("name", ["max_norm", "tau_norm", "cam_foreground", "learnable_scale"])
def test_a_head_without_rows_is_refused(name):
    at = world()
    at.facts.model.head = torch.nn.Identity()
    at = replace(at, facts=replace(at.facts, start=None))
    with pytest.raises(ValueError, match=rf"trick '{name}': the head must have one weight row per class"):
        apply(name, {}, at)


@pytest.mark.parametrize("name", names(seam="average"))
def test_an_average_lies_among_the_states_and_keeps_none_of_them(name):
    for numbers in settings(name):
        at = world()
        averaged = apply(name, numbers, at)
        for (key, last), found in zip(at.states[-1].items(), averaged, strict=True):
            every = torch.stack([state[key] for state in at.states])
            if last.is_floating_point():
                # the states are one network's, scaled by 1, 1/2 and 2
                assert (found >= every.amin(dim=0) - 1e-6).all()
                assert (found <= every.amax(dim=0) + 1e-6).all()
            else:
                assert found.equal(last)
            assert all(found.data_ptr() != state[key].data_ptr() for state in at.states)


def test_the_harness_sees_a_bad_trick():
    """The checks above would fail for a trick that breaks the contract."""
    at = world()
    with pytest.raises(AssertionError):
        check_shape("target", [torch.ones(len(at.y), 3, dtype=torch.float64)], at)
    with pytest.raises(AssertionError):
        check_shape("draw", [torch.tensor([99])], at)
    assert not same([torch.zeros(1)], [torch.ones(1)])

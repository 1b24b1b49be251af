"""The contract of tricks as checks: for the project's own tests, and for authors of `--tricks DIR`.

    discover("tricks")

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_weights(check):
        check(Case("my_weights"))

Every check builds the trick in a small world of three classes with 6, 3 and 1 images, at its defaults, at both ends of
every range of its `space=`, and at the further settings of the case. A check that fails raises `AssertionError`.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from spaces.domain import OneOf
from trainables.batch import Batch, Facts, MissingFact, Outputs
from trainables.models import build
from trainables.objective import Objective
from trainables.registry import SEAMS, entry, make, numbers_of
from trainables.training.own_modules import attach

__all__ = ["CHECKS", "Case", "World", "apply", "check_values", "same", "seeded", "with_experts", "world"]

COUNTS = (6, 3, 1)
MANY_CLASSES = 8142
"""As many classes as iNaturalist 2018 has."""

OBJECTIVE = ("target", "logits", "loss", "weight", "penalty")
"""Seams of which the objective is made."""

KNOW_NO_CLASS = ("head", "after_step", "merge", "augment", "train", "average")


@dataclass(frozen=True)
class Case:
    """A trick under test.

    Args:
        name: Name of the trick.
        more: Settings outside its `space=` that are tried as well, each {number: value}.
        network: Name of a network that the trick can act on.
        needs: Facts that it needs besides counts and labels, as its message names them: "model", "score", …
        deterministic: Settings in which its draws do not depend on the position of an image in the batch, for a trick
            whose draws usually do.
        picks_when_built: Whether it picks a subset of the images when it is built.
        draws_rows: Whether it draws the rows of a classifier of its own, so that renaming classes changes it.
        head: Name of a head trick that gives the network what the trick acts on.
    """

    name: str
    more: Sequence[Mapping[str, Any]] = ()
    network: str = "resnet8"
    needs: str = ""
    deterministic: Mapping[str, Any] = field(default_factory=dict)
    picks_when_built: bool = False
    draws_rows: bool = False
    head: str = ""

    @property
    def seam(self) -> str:
        """The seam of the trick."""
        return entry(self.name).seam

    def world(self, counts: Sequence[int] = COUNTS, **more: Any) -> World:
        """A world with the network that the trick can act on."""
        return world(counts, network=self.network, head=self.head, **more)

    def settings(self) -> Iterator[dict[str, Any]]:
        """The defaults, both ends of every range (every option of a choice), and the further settings."""
        yield {}
        for number, domain in entry(self.name).space.items():
            ends = domain.options if isinstance(domain, OneOf) else (domain.low, domain.high)
            yield from ({number: end} for end in ends)
        yield from map(dict, self.more)


# --- the world in which a trick is tried ----------------------------------------------------------------------


@dataclass
class World:
    """Everything that a trick of any seam is given.

    Args:
        facts: Facts of a stage, with a network and one image of 8 × 8 for each label.
        batch: At most 16 of these images.
        outputs: Logits (B, C) and features (B, 64) of the batch, with two further views.
        y: (B,) labels of the batch.
        states: States of three members.
        layer: Layer behind which a trick of the inside seam acts.
    """

    facts: Facts
    batch: Batch
    outputs: Outputs
    y: Tensor
    states: list[dict[str, Tensor]]
    layer: str = "layer2"

    @property
    def x(self) -> Tensor:
        """Maps (B, D, h, w) as behind that layer, or features (B, D) behind "pool"."""
        sizes = {"pool": (64,), "layer1": (16, 8, 8), "layer2": (32, 4, 4), "layer3": (64, 2, 2)}[self.layer]
        x = torch.randn(len(self.y), *sizes, dtype=torch.float64, generator=seeded(3))
        return x.to(self.outputs.logits.dtype)


def world(
    counts: Sequence[int] = COUNTS,
    dtype: torch.dtype = torch.float32,
    permutation: Sequence[int] | None = None,
    network: str = "resnet8",
    head: str = "",
) -> World:
    """A world that is the same at every call.

    Args:
        counts: (C,) images per class.
        dtype: Of the network and its outputs.
        permutation: Class c of the world without one is called permutation[c].
        network: Name of the network.
        head: Name of the trick that gives it another head; "" for its own.
    """
    random = seeded()
    number = torch.tensor(counts)
    classes = len(number)
    renamed = torch.arange(classes) if permutation is None else torch.tensor(permutation)
    old = renamed.argsort()
    labels = torch.repeat_interleave(torch.arange(classes), number)
    model: Any = build(network, classes=classes, channels=1, generator=random).to(dtype).eval()
    images = torch.randint(256, (len(labels), 1, 8, 8), dtype=torch.uint8, generator=random)
    size = min(16, len(labels))
    picked = torch.linspace(0, len(labels) - 1, size).long()
    z = torch.randn(size, classes, dtype=torch.float64, generator=random).to(dtype)
    features = torch.randn(size, 64, dtype=torch.float64, generator=random).to(dtype)
    with torch.no_grad():
        model.head.bias.copy_(torch.linspace(-1, 1, classes))
        model.head.weight.copy_(model.head.weight[old])
        model.head.bias.copy_(model.head.bias[old])
    labels, y = renamed[labels], renamed[labels[picked]]
    views = tuple(Outputs(z[:, old].roll(turn, 0), features.roll(turn, 0)) for turn in (1, 2))
    batch = Batch.plain(images[picked], picked, y)
    # a view that the network does not see
    aside = (images[picked].double() / 255 - 0.5).to(dtype).flip(-1)[None]
    outputs = with_experts(Outputs(z[:, old], features, views=views, batch=replace(batch, aside=aside)))
    states = [
        {name: tensor * scale if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
        for scale in (1.0, 0.5, 2.0)
    ]
    if head:
        model = make(head).build(Facts(number[old], labels, model=model))(model).eval()
    facts = Facts(
        counts=number[old],
        labels=labels,
        epochs=3,
        model=model,
        images=images,
        normalise=lambda x: (x.double() / 255 - 0.5).to(dtype),
        pixel_mean=torch.tensor([0.5]),
        start={name: tensor.clone() for name, tensor in model.state_dict().items()},
        earlier_network=functools.partial(copy.deepcopy, model),
        score=lambda state: float(state["head.weight"].abs().mean().clamp(0.1, 0.9)),
    )
    return World(facts, batch, outputs, y, states)


def with_experts(outputs: Outputs) -> Outputs:
    """The same outputs of three experts with routers; a trick that knows none reads the fused logits."""
    z = outputs.logits
    return replace(outputs, experts=torch.stack((0.5 * z, -z, z)), routing=torch.stack((z.amax(1), z.amin(1))))


@functools.cache
def _many_classes(network: str, head: str) -> World:
    """Thousands of classes, most of one image, one of none."""
    counts = [1] * MANY_CLASSES
    counts[0], counts[7], counts[-1] = 40, 0, 5
    return world(counts, network=network, head=head)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


class _Gradient:
    """What a trick of the step seam is given: the gradient of cross-entropy on the batch of the world."""

    def __init__(self, at: World) -> None:
        self.batch, self._at = at.batch, at

    def __call__(self, factors: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        at = self._at
        model: Any = at.facts.model
        losses = Objective([], at.facts)(model(_normalised(at)), at.y)
        loss = (losses if factors is None else factors(at.y).to(losses.dtype) * losses).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def parts(self, factors: Iterable[Callable[[Tensor], Tensor]]) -> Iterator[Tensor]:
        """One backward pass for each function of factors."""
        yield from map(self, factors)


def _gradient_of_step(function: Callable[..., None], at: World) -> list[Tensor]:
    """The gradient that a trick of the step seam leaves."""
    model: Any = at.facts.model
    function(_Gradient(at), torch.optim.SGD(model.parameters(), lr=0.1))
    return [parameter.grad for parameter in model.parameters()]


def _with_modules(name: str, numbers: Mapping[str, Any], at: World) -> Any:
    """The trick, its own modules in the network as in a stage."""
    made = make(name, **numbers)
    model: Any = at.facts.model
    if hasattr(made, "modules"):
        attach(model, name, torch.nn.ModuleDict(made.modules(at.facts)).to(next(model.parameters()).dtype))
    return made


def apply(name: str, numbers: Mapping[str, Any], at: World, seed: int = 0) -> list[Tensor]:
    """What a trick gives in a world, as tensors: indices, images, targets, losses, a network's outputs or states."""
    made = _with_modules(name, numbers, at)
    at.layer = getattr(made, "layer", at.layer)
    function = made.build(at.facts)
    seam, model = entry(name).seam, at.facts.model
    normalised = _as_mixed(at) if seam in ("mix", "head", "penalty") else at.batch
    if seam in ("draw", "partner"):
        return [function(0.5, seeded(seed))]
    if seam == "inside":
        if hasattr(function, "begin_epoch"):
            function.begin_epoch(1.0, seeded(seed))
        x, batch = function(at.x, _as_mixed(at), seeded(seed))
        return [x, batch.index, batch.y, batch.share, *([] if batch.penalty is None else [batch.penalty])]
    if seam == "step":
        return _gradient_of_step(function, at)
    if seam in ("image", "augment"):
        return [function(at.batch, seeded(seed)).images]
    if seam == "mix":
        mixed = function(normalised, seeded(seed))
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
        return [function(at.outputs, normalised, seeded(seed))]
    if seam == "head":
        return [function(model)(normalised.images).logits]
    if seam == "train":
        return [parameter for group in function(model) for parameter in group["params"]]
    if seam == "after_step":
        function(model, at.outputs, at.batch)
        assert model is not None
        return list(model.state_dict().values())
    if seam == "merge":
        return list(function(at.states).values())
    if seam == "average":
        averaged: dict[str, Tensor] = {}
        for epoch, state in enumerate(at.states, start=1):
            averaged = function(averaged, state, epoch, None)
            averaged = function(averaged, state, epoch, epoch)
        return list(averaged.values())
    return [function(at.outputs)]


def _normalised(at: World) -> Tensor:
    assert at.facts.normalise is not None
    return at.facts.normalise(at.batch.images)


def _as_mixed(at: World) -> Batch:
    """The batch as a mix trick gets it, with the same images in another order as partners."""
    images = _normalised(at)
    partner = Batch.plain(images[0].flip(0), at.batch.index.flip(0), at.y.flip(0))
    return replace(at.batch, images=images, partner=partner)


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal bit for bit, whatever they are nested in."""
    if isinstance(one, Tensor):
        return one.equal(other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Batch | Outputs):
        return all(same(getattr(one, known.name), getattr(other, known.name)) for known in fields(one))
    return bool(one == other)


def check_values(seam: str, results: Sequence[Tensor], at: World) -> None:
    """Shape, type and range of what a trick gives; see the table of seams in `docs/own_trick.md`."""
    first, size, classes = results[0], len(at.y), at.facts.classes
    found, floating = (tuple(first.shape), first.dtype), at.outputs.logits.dtype
    expected: Any = {
        **dict.fromkeys(("draw", "partner"), ((first.numel(),), torch.int64)),
        # an augment trick may add views
        **dict.fromkeys(("image", "augment"), ((*first.shape[:1], *at.batch.images.shape[1:]), torch.uint8)),
        "target": ((size, classes), torch.float64),
        "weight": ((size,), torch.float64),
        **dict.fromkeys(("loss", "penalty"), ((size,), floating)),
        **dict.fromkeys(("logits", "readout", "head"), ((size, classes), floating)),
    }.get(seam, found)
    assert found == expected, f"{seam} must give {expected}, got {found}"
    if seam in ("draw", "partner"):
        assert 0 <= first.min() <= first.max() < len(at.facts.labels), "an index lies outside the training images"
    elif seam == "inside":
        assert found == ((len(first), *at.x.shape[1:]), at.x.dtype), f"rows must be like those given, got {found}"
        assert len(first) >= size, "an inside trick may add rows and must not remove any"
        assert all(len(result) == len(first) for result in results[1:]), "every row needs an index, labels and shares"
        assert results[2].shape == results[3].shape, "labels and shares of a row must have the same shape"
    elif seam == "step":
        model: Any = at.facts.model
        assert at.facts.start is not None
        kept = {name: parameter.equal(at.facts.start[name]) for name, parameter in model.named_parameters()}
        assert all(kept.values()), "a step trick must leave the weights as they were"
        assert len(results) == len(kept) and all(result is not None for result in results), "a gradient is missing"
    elif seam == "mix":
        assert first.shape == at.batch.images.shape, f"mixed images must have the shape of the images, got {found}"
        assert results[1].shape == results[2].shape == (size, 2), "labels and shares of a mixture must be (B, 2)"
        assert results[1].dtype == torch.int64, f"labels must be int64, got {results[1].dtype}"
    elif seam == "weight":
        assert (first >= 0).all(), "a weight is negative"
    elif seam in ("merge", "average"):
        kinds = [(value.shape, value.dtype) for value in at.states[0].values()]
        assert [(value.shape, value.dtype) for value in results] == kinds, "the state has other entries than a member's"
    elif seam == "train":
        assert results and all(parameter.requires_grad for parameter in results), "a group has nothing that learns"
        assert at.facts.model is not None
        learning = {id(parameter) for parameter in at.facts.model.parameters() if parameter.requires_grad}
        assert learning == {id(parameter) for parameter in results}, "what learns must be what the groups hold"
    if seam in ("mix", "target"):
        sums = results[2 if seam == "mix" else 0].sum(dim=1)
        assert torch.allclose(sums, torch.ones_like(sums)), "rows must sum to 1"


# --- the contract ---------------------------------------------------------------------------------------------


def declaration(case: Case) -> None:
    """It names its seam, family and source, and every setting survives JSON."""
    known = entry(case.name)
    assert known.seam in SEAMS and known.family and known.source, "seam, family and source must be given"
    for numbers in case.settings():
        made = make(case.name, **numbers)
        restored = make(case.name, **json.loads(json.dumps(numbers_of(made))))
        assert restored == made and hash(restored) == hash(made), f"{made} is not the same after a round trip"


def outputs(case: Case) -> None:
    """Shapes and types are those of the seam, values are finite, and no input is modified."""
    for numbers in case.settings():
        at = case.world()
        given = (at.facts.counts, at.facts.labels, at.facts.images, at.batch, at.outputs, at.y, at.states)
        before = copy.deepcopy(given)
        results = apply(case.name, numbers, at)
        assert same(before, given), f"{numbers}: an input was modified"
        for result in results:
            assert result.device == at.facts.device, f"{numbers}: a result lies on {result.device}"
            assert torch.isfinite(result).all(), f"{numbers}: a result is not finite"
        check_values(case.seam, results, at)


def reproducibility(case: Case) -> None:
    """The same generator gives the same, and no global stream is read."""
    for numbers in case.settings():
        stream = torch.get_rng_state()
        one, two = (apply(case.name, numbers, case.world(), seed=5) for _ in range(2))
        assert same(one, two), f"{numbers}: the same generator gave two results"
        assert torch.get_rng_state().equal(stream), f"{numbers}: the global stream was read; use the given generator"


def precision(case: Case) -> None:
    """Results in float32 and in float64 agree."""
    for numbers in case.settings():
        single, double = (apply(case.name, numbers, case.world(dtype=kind)) for kind in (torch.float32, torch.float64))
        for one, two in zip(single, double, strict=True):
            if one.dtype == torch.uint8:
                # a pixel may round to the other side, and one on the edge of a foreground may fall out
                agree = bool((one.double() - two.double()).abs().gt(1).double().mean() < 0.01)
            else:
                agree = torch.allclose(one.double(), two.double(), rtol=2e-4, atol=2e-5)
            assert agree, f"{numbers}: float32 and float64 differ"
        if case.seam in ("logits", "loss", "readout", "head"):
            assert double[0].dtype == torch.float64, f"{numbers}: float64 became {double[0].dtype}"


def gradients(case: Case) -> None:
    """Gradients are finite for logits of any size, and exactly what learns has one."""
    for numbers in case.settings():
        for factor in (1.0, 100.0, 1e4) if case.seam in OBJECTIVE else (1.0,):
            at = case.world()
            if case.seam in OBJECTIVE:
                _objective_gradient(case.name, numbers, at, factor)
            elif case.seam in ("head", "train", "mix"):
                _network_gradient(case, numbers, at)


def _objective_gradient(name: str, numbers: Mapping[str, Any], at: World, factor: float) -> None:
    assert at.outputs.features is not None
    z = (factor * at.outputs.logits).requires_grad_()
    features = at.outputs.features.clone().requires_grad_()
    objective = Objective([make(name, **numbers)], at.facts)
    given = with_experts(replace(at.outputs, logits=z, features=features))
    batch = _as_mixed(at)
    losses = objective(given, at.y, batch=batch, generator=seeded())
    both, share = torch.stack((at.y, at.y.flip(0)), dim=1), torch.tensor([[0.3, 0.7]]).expand(len(at.y), 2)
    mixed = objective(given, both, share, batch=replace(batch, y=both, share=share), generator=seeded())
    assert losses.dtype == z.dtype, f"{numbers}: the loss is {losses.dtype}"
    (losses.mean() + mixed.mean()).backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(losses).all(), f"{numbers}: a loss is not finite for logits {factor:g} times as large"
    for part in (z, features):
        assert part.grad is None or torch.isfinite(part.grad).all(), f"{numbers}: a gradient is not finite"
    assert z.grad is not None, f"{numbers}: the loss does not depend on the logits"


def _network_gradient(case: Case, numbers: Mapping[str, Any], at: World) -> None:
    model: Any = at.facts.model
    function = make(case.name, **numbers).build(at.facts)
    images, blend = _normalised(at), None
    if case.seam == "mix":
        mixed = function(_as_mixed(at), seeded())
        images, blend = mixed.images, mixed.blend
    else:
        function(model)
    model.train()
    outputs = model(images, blend)
    (outputs.logits if outputs.routing is None else outputs.routing).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, f"{numbers}: {name} learns without a gradient"
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), f"{numbers}: {name}: gradient not finite"


def relabelling(case: Case) -> None:
    """Renaming the classes together with their counts renames the result and changes nothing else."""
    if case.seam in KNOW_NO_CLASS or case.draws_rows:
        return
    permutation = (1, 2, 0)
    old = torch.tensor(permutation).argsort()
    for numbers in case.settings():
        if set(numbers) & set(case.deterministic):
            continue
        numbers = {**case.deterministic, **numbers}
        plain, renamed = world(), world(permutation=permutation)
        if case.seam in ("draw", "partner"):
            one, two = (_class_shares(case, numbers, at) for at in (plain, renamed))
            assert torch.allclose(one, two, atol=0.05), f"{numbers}: what is drawn depends on the order of the classes"
            continue
        before, after = apply(case.name, numbers, plain), apply(case.name, numbers, renamed)
        if case.seam in ("target", "logits", "readout"):
            before = [before[0][:, old]]
        if case.seam == "step":  # the head's rows come last
            before[-2:] = [gradient[old] for gradient in before[-2:]]
        labels = {"mix": 1, "inside": 2}.get(case.seam)
        if labels is not None:
            before[labels] = torch.tensor(permutation)[before[labels]]
        for first, second in zip(before, after, strict=True):
            agree = torch.allclose(first.double(), second.double(), rtol=1e-4, atol=1e-5)
            assert agree, f"{numbers}: the result depends on the order of the classes"


def _class_shares(case: Case, numbers: Mapping[str, Any], at: World) -> Tensor:
    """How often each image is drawn; of a subset that is picked when built, how often each class is."""
    function = make(case.name, **numbers).build(at.facts)
    drawn = torch.cat([function(0.5, seeded(seed)) for seed in range(400)])
    share = drawn.bincount(minlength=sum(COUNTS)) / len(drawn)
    return torch.stack([part.sum() for part in share.split(COUNTS)]) if case.picks_when_built else share


def rare_classes(case: Case) -> None:
    """Classes of one image and of none give finite results."""
    for counts in ((5, 0, 1), (1, 1, 1), (0, 4, 1)):
        at = case.world(counts)
        results = apply(case.name, {}, at)
        assert not any(result.isnan().any() for result in results), f"counts {counts} give NaN"
        if case.seam == "draw":
            assert (at.facts.counts[at.facts.labels[results[0]]] > 0).all(), f"counts {counts}: an empty class is drawn"
        if case.seam in OBJECTIVE:
            _objective_gradient(case.name, {}, at, 1.0)


def many_classes(case: Case) -> None:
    """Thousands of classes give results of the right shape without NaN."""
    large = _many_classes(case.network, case.head)
    at = replace(large, facts=replace(large.facts, model=copy.deepcopy(large.facts.model)))
    results = apply(case.name, {}, at)
    assert not any(result.isnan().any() for result in results), f"{MANY_CLASSES} classes give NaN"
    check_values(case.seam, results, at)


def facts(case: Case) -> None:
    """Counts and labels are enough to build it, or it names the facts that are missing."""
    few = Facts(counts=torch.tensor([2, 1]), labels=torch.tensor([0, 0, 1]))
    try:
        built = make(case.name).build(few)
    except MissingFact as error:
        beginning = f"trick {case.name!r} needs {case.needs}: build it with Facts"
        assert case.needs and str(error).startswith(beginning), f"must begin with {beginning!r}, got {error}"
        return
    assert not case.needs and callable(built), f"was built without {case.needs or 'giving a function'}"


def own_buffers(case: Case) -> None:
    """What acts between steps writes only into buffers of its own modules, from which a stage is resumed."""
    for numbers in case.settings():
        at = case.world()
        function = _with_modules(case.name, numbers, at).build(at.facts)
        if not (hasattr(function, "begin_epoch") or hasattr(function, "after_step")):
            continue
        model: Any = at.facts.model
        result = model(_normalised(at))
        kept = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        given = (at.facts.counts, at.facts.labels, at.batch, at.y)
        before = copy.deepcopy(given)
        with torch.no_grad():
            if hasattr(function, "begin_epoch"):
                function.begin_epoch(0.5, seeded())
            if hasattr(function, "after_step"):
                function.after_step(model, replace(result, batch=at.batch), at.batch)
        after = model.state_dict()
        assert after.keys() == kept.keys(), f"{numbers}: the network's state has other entries"
        learning = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        for key, tensor in after.items():
            own = key.startswith(f"extra.{case.name}.") and key not in learning
            assert own or tensor.equal(kept[key]), f"{numbers}: {key} was changed"
        assert same(before, given), f"{numbers}: an input was modified"


CHECKS = (
    declaration, outputs, reproducibility, precision, gradients, relabelling, rare_classes, many_classes, facts,
    own_buffers,
)  # fmt: skip
"""Every check of the contract, each a function of a `Case`."""

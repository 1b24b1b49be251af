"""What every trick keeps to, checked through the registry: a new trick is under test by being there."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainables import registry
from trainables.objective import Objective
from trainables.registry import discover, entries, make, names
from trainables.testing import CHECKS, Case, apply, seeded, with_experts, world

ALL = names()
CHOICES = {
    "adapt_former": {"scale": (0.0,), "learn_scale": (True,)},
    "adaptive": {"mean": ("geometric",)},
    "auto_augment": {"policy": ("imagenet", "svhn")},
    "cam_foreground": {"moves": ("public_code",), "limit": (2,)},
    "causal_norm": {"alpha": (0.0,), "num_head": (1, 4)},
    "classifier": {"reset": (False,), "batchnorm": ("moving",)},
    "cutout": {"view": (0,)},
    "disalign": {"batchnorm": ("moving",)},
    "effective_number": {"normalise": (True,)},
    "ema": {"decay": (0.0,), "warm_up": (False,)},
    "expert_assignment": {"hidden": (1,), "top": (1,)},
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
    "routing_loss": {"positive_weight": (1.0,)},
    "rsg": {"k": (1,), "start": (0.0, 1.0), "layer": ("layer3",)},
    "several_views": {"count": (1, 3)},
    "softmax_focal": {"constant_factor": (True,)},
    "swa": {"start": (0.0, 1.0)},
    "tau_norm": {"keep_bias": (True,)},
    "under_sampling": {"subset": ("fixed",)},
}
"""Options outside the ranges worth searching; they are built as well."""

NETWORKS = {"adapt_former": str(Path(__file__).with_name("transformer.py")) + ":transformer"}
"""What acts on blocks that resnet8 does not have is tried on a network that does."""

HEADS = {"expert_assignment": "experts"}
"""What acts on a head of another kind, and the trick that makes it."""

NEEDS_MORE = {
    "adaptive": "score",
    "batchformer": "model",
    "bcl": "model",
    "cam_foreground": "model and images and normalise",
    "cuda": "model and images and normalise",
    "distillation": "earlier_network",
    "glmc": "model",
    "greedy_soup": "score",
    "h2t": "model",
    "interpolate": "start",
    "max_norm": "model",
    "nearest_mean": "model and images and normalise",
    "proco": "model",
    "rsg": "model",
    "tau_norm": "model",
}

DETERMINISTIC = {"equalization": {"gamma": 1.0}, "gpaco": {"queue": 0}}
"""Settings of tricks whose draws go by the position of an image in the batch, or that begin with drawn labels."""


def case(name: str) -> Case:
    more = [{key: option} for key, options in CHOICES.get(name, {}).items() for option in options]
    return Case(
        name, more, NETWORKS.get(name, "resnet8"), NEEDS_MORE.get(name, ""), DETERMINISTIC.get(name, {}),
        picks_when_built=name in ("few_shot", "under_sampling"), draws_rows=name == "glmc", head=HEADS.get(name, ""),
    )  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, name):
    check(case(name))


def test_names_differ_within_their_first_ten_characters():
    beginnings = [name[:10] for name in ALL]
    assert len(set(beginnings)) == len(ALL)


@pytest.mark.parametrize("name", ALL)
def test_a_test_file_exists(name):
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", ALL)
def test_it_says_where_it_comes_from_and_what_it_does(name):
    known = entries()[name]
    for part in ("Source:", "Differs:", ">>> "):
        assert part in known.cls.__doc__, part


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


@pytest.mark.parametrize("name", ["max_norm", "tau_norm", "cam_foreground", "disalign", "learnable_scale"])
def test_a_head_without_rows_is_refused(name):
    at = world()
    at.facts.model.head = torch.nn.Identity()
    at = replace(at, facts=replace(at.facts, start=None))
    with pytest.raises(ValueError, match=rf"trick '{name}': the head must have one weight row per class"):
        apply(name, {}, at)


@pytest.mark.parametrize("name", names(seam="average"))
def test_an_average_lies_among_the_states_and_keeps_none_of_them(name):
    for numbers in case(name).settings():
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


# --- the contract itself ----------------------------------------------------------------------------------

BAD = """
from dataclasses import dataclass
import torch
from spaces.domain import one_of
from trainables.registry import trick

@trick(seam="weight", family="re-weighting", source="nobody", space={"fault": one_of("", %s)})
@dataclass(frozen=True)
class Faulty:
    fault: str = ""

    def build(self, facts):
        def weight(labels):
            found = 1 / facts.counts.double()[labels]
            if self.fault == "random":
                return found * torch.rand(len(labels), dtype=torch.float64)
            if self.fault == "order":
                return found * (1 + labels)
            if self.fault == "single":
                return found.float()
            if self.fault == "negative":
                return found - 1
            if self.fault == "input":
                facts.counts.mul_(2)
            return found
        return weight
"""


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("random", "reproducibility", "two results"), ("order", "relabelling", "the order of the classes"),
        ("single", "outputs", r"must give .*float64.*, got .*float32"), ("negative", "outputs", "is negative"),
        ("input", "outputs", "an input was modified"),
    ],
)  # fmt: skip
def test_a_trick_that_breaks_the_contract_is_found(tmp_path, monkeypatch, fault, check, message):
    """In a folder of its own, as an author of `--tricks DIR` has it; the same trick without its fault passes."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    name = f"faulty_{fault}"
    (tmp_path / f"{name}.py").write_text(BAD % repr(fault))
    discover(tmp_path)
    checks = {one.__name__: one for one in CHECKS}
    with pytest.raises(AssertionError, match=message):
        checks[check](Case(name))
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / f"sound_{fault}.py").write_text(BAD % "")
    discover(tmp_path / "good")
    for one in CHECKS:
        one(Case(f"sound_{fault}"))

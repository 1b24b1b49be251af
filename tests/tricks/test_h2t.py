from dataclasses import replace

import pytest
import torch

from spaces.domain import Stage, trick
from trainables.batch import Batch
from trainables.registry import PlanError, make


def with_partner(known, batch):
    images = known.normalise(batch.images)
    partner = Batch.plain(images[0].flip(0), batch.index.flip(0), known.labels.flip(0))
    return replace(batch, images=images, partner=partner)


@pytest.mark.parametrize(("rho", "number"), [(0.25, 16), (0.3, 19), (1.0, 64), (0.0, 0)])
def test_channels_by_hand(known, batch, generator, rho, number):
    """int(ρ · 64) channels, the same ones for all images, come from the partner's features."""
    batch = with_partner(known, batch)
    theirs = known.model(batch.partner.images[0]).features
    x = torch.full((9, 64), -1.0)
    found, same = make("h2t", rho=rho).build(known)(x, batch, generator(0))
    taken = found[0] != -1
    assert int(taken.sum()) == number and (found[:, ~taken] == -1).all()
    assert torch.allclose(found[:, taken], theirs[:, taken])
    assert same is batch and not found.requires_grad


def test_replacing_maps_before_they_are_pooled_is_the_same(known, batch, generator):
    batch = with_partner(known, batch)
    own, theirs = known.model(batch.images[0]), known.model(batch.partner.images[0])
    found, _ = make("h2t").build(known)(own.features, batch, generator(0))
    taken = (found - own.features).abs().sum(dim=0) > 0
    maps = torch.where(taken[:, None, None], theirs.maps, own.maps)
    assert torch.allclose(maps.mean(dim=(2, 3)), found, atol=1e-6)


def test_in_training_the_classifier_alone_learns(make_plan, pipeline):
    first = Stage("a", epochs=1, batch_size=64)
    partner = trick("weighted_partner", power=0.0)
    again = ["classifier", "class_balanced", partner]
    ends = {}
    for name, choose in (("plain", again), ("h2t", [*again, "h2t"]), ("none", [*again, trick("h2t", rho=0.0)])):
        run = pipeline(make_plan(first, Stage("b", epochs=1, batch_size=64, carry="weights", choose=choose)))
        run.run()
        ends[name] = run.network().state_dict()
    for name, tensor in ends["plain"].items():
        assert tensor.equal(ends["h2t"][name]) == (not name.startswith("head")), name
        assert torch.allclose(tensor.float(), ends["none"][name].float(), atol=1e-5), name


def test_bad_input(known, batch, generator, make_plan):
    with pytest.raises(PlanError, match="h2t needs 'partner', which nothing in the plan provides; weighted_partner"):
        make_plan(Stage("a", epochs=1), Stage("b", epochs=1, choose=["classifier", "h2t"]))
    with pytest.raises(ValueError, match="trick 'h2t' reads partners that another trick draws; add 'weighted_partner'"):
        make("h2t").build(known)(torch.zeros(9, 64), batch, generator(0))
    with pytest.raises(ValueError, match=r"'h2t'.*rho must be a number in \[0, 1\], got 2"):
        make("h2t", rho=2)

"""A stage that is split in two, with everything carried and kept, ends bit for bit as the whole one."""

import pytest
import torch

from spaces.domain import Stage, trick
from tests.tricks.test_pairs import head_for, views, with_companions
from trainables.registry import entries, names

LOOK_AT_THE_STAGES_START = {
    "cam_foreground": "its maps are those of the network that the stage starts from",
    "max_norm": "its radius comes from the norms at the stage's start",
}
"""Tricks for which a new stage is a new beginning, by their definition."""


@pytest.mark.parametrize(
    "name", [name for name in names() if entries()[name].seam != "merge" and name != "adapt_former"]
)
def test_splitting_a_stage_changes_nothing(name, make_plan, pipeline):
    """adapt_former, which needs a transformer, is split in `tests/trainables/test_fine_tuning.py`."""
    tricks = with_companions((name,))
    start = Stage("start", epochs=1, choose=head_for(*tricks))
    chosen = [*tricks, *views([name])]
    whole = Stage("whole", epochs=3, carry="weights", choose=chosen)
    parts = (
        Stage("first", epochs=2, carry="weights", choose=chosen),
        Stage("second", epochs=1, carry="all", keep=True),
    )
    one, two = (pipeline(make_plan(start, *stages)) for stages in ((whole,), parts))
    one.run()
    two.run()
    ours, theirs = one.network().state_dict(), two.network().state_dict()
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert same != (name in LOOK_AT_THE_STAGES_START)
    if same:
        assert repr(one.result()) == repr(two.result())


def test_a_given_radius_does_not_look_at_the_start(make_plan, pipeline):
    fixed = trick("max_norm", radius=0.4)
    parts = Stage("a", epochs=1, choose=[fixed]), Stage("b", epochs=2, carry="all", keep=True)
    one, two = (pipeline(make_plan(*stages)) for stages in ((Stage("a", epochs=3, choose=[fixed]),), parts))
    one.run()
    two.run()
    assert torch.equal(one.network().head.weight, two.network().head.weight)
    assert one.network().head.weight.norm(dim=1).max() <= 0.4 + 1e-6

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from trainables.models import build
from trainables.registry import make


def averaged(facts, values, **numbers):
    """The average behind each epoch, of a network of one weight with these values at the epochs' ends."""
    update = make("swa", **numbers).build(facts)
    average, seen = {}, []
    for epoch, value in enumerate(values, start=1):
        average = update(average, {"w": torch.tensor([value + 100])}, 2 * epoch - 1, None)
        average = update(average, {"w": torch.tensor([value])}, 2 * epoch, epoch)
        seen.append(average["w"].item() if average else None)
    return seen


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0.5, [None, 2.0, 3.0, 5.0]),  # 2, (2 + 4) / 2, (2 + 4 + 9) / 3
        (0.51, [None, None, 4.0, 6.5]),  # 0.51 · 4 = 2.04: from the third epoch on
        (0.75, [None, None, 4.0, 6.5]),
        (0.0, [1.0, 1.5, 7 / 3, 4.0]),
    ],
)
def test_hand_worked_numbers(facts, start, expected):
    assert averaged(facts(3, 1, epochs=4), [1.0, 2.0, 4.0, 9.0], start=start) == pytest.approx(expected)


def test_the_last_epoch_alone_changes_nothing(facts):
    assert averaged(facts(3, 1, epochs=3), [1.0, 2.0, 4.0], start=1) == [None, None, 4.0]


def test_a_fraction_that_falls_on_an_epoch_begins_there(facts):
    # 0.55 · 20 is 11.000000000000002 in floating point
    seen = averaged(facts(3, 1, epochs=20), [1.0] * 20, start=0.55)
    assert seen.index(1.0) == 10


def test_where_it_comes_on_late_the_mean_is_over_the_epochs_from_there_on(facts):
    update = make("swa", start=0.25).build(facts(3, 1, epochs=8, averages_from=5))
    average = {}
    for epoch, value in ((6, 1.0), (7, 2.0), (8, 6.0)):
        average = update(average, {"w": torch.tensor([value])}, epoch, epoch)
    assert average["w"].item() == pytest.approx(3.0)


def test_whole_numbers_are_the_last_ones(facts):
    update = make("swa", start=0).build(facts(3, 1, epochs=2))
    average = update({}, {"n": torch.tensor(3), "w": torch.tensor(1.0)}, 1, 1)
    average = update(average, {"n": torch.tensor(8), "w": torch.tensor(2.0)}, 2, 2)
    assert (average["n"].item(), average["n"].dtype, average["w"].item()) == (8, torch.int64, 1.5)
    assert list(average) == ["n", "w"]


def test_equal_states_change_nothing(known):
    state = known.model.state_dict()
    update, average = make("swa", start=0).build(known), {}
    for epoch in range(1, 6):
        average = update(average, state, epoch, epoch)
    assert all(average[name].equal(tensor) for name, tensor in state.items())


def test_it_equals_torchs_own(facts):
    network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    theirs = AveragedModel(network, use_buffers=True)
    update, ours = make("swa", start=0).build(facts(3, 1, epochs=4)), {}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    random = torch.Generator().manual_seed(1)
    for epoch in range(1, 5):
        network(torch.randn(8, 1, 8, 8, generator=random)).logits.square().mean().backward()
        optimiser.step()
        theirs.update_parameters(network)
        ours = update(ours, network.state_dict(), epoch, epoch)
    expected = theirs.module.state_dict()
    for name, tensor in ours.items():
        # torch averages BatchNorm's counters too; ours are those of the last epoch
        if tensor.is_floating_point():
            assert torch.allclose(tensor, expected[name], atol=1e-6), name


def test_numbers():
    with pytest.raises(ValueError, match=r"'swa'.*start must be a number in \[0, 1\], got 1.5"):
        make("swa", start=1.5)

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainables.models import build
from trainables.registry import make


def averaged(name, states, facts, **numbers):
    """After every one of the states, each the end of a step."""
    update = make(name, **numbers).build(facts)
    average = {}
    for step, state in enumerate(states, start=1):
        average = update(average, state, step, None)
    return average


def test_hand_worked_numbers(facts):
    states = [{"w": torch.tensor([w])} for w in (1.0, 2.0, 4.0)]
    # 1 -> 0.9 · 1 + 0.1 · 2 = 1.1 -> 0.9 · 1.1 + 0.1 · 4 = 1.39
    assert averaged("ema", states, facts(3, 1), decay=0.9, warm_up=False)["w"].tolist() == [pytest.approx(1.39)]


def test_the_warm_up_by_hand(facts):
    states = [{"w": torch.tensor([w])} for w in (1.0, 2.0, 4.0)]
    # d_2 = 3 / 12, d_3 = 4 / 13: 1 -> 1/4 + 3/4 · 2 = 1.75 -> 4/13 · 1.75 + 9/13 · 4
    expected = 4 / 13 * 1.75 + 9 / 13 * 4
    assert averaged("ema", states, facts(3, 1), decay=0.99)["w"].tolist() == [pytest.approx(expected)]
    # (1 + t) / (10 + t) is above 0.2 from the second step on
    assert averaged("ema", states, facts(3, 1), decay=0.2)["w"].tolist() == [pytest.approx(0.2 * 1.8 + 0.8 * 4)]


def test_steps_are_those_of_the_chain(facts):
    update = make("ema", decay=0.99).build(facts(3, 1))
    late = update({"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}, 90, None)
    assert late["w"].tolist() == [pytest.approx(1 - 91 / 100)]


def test_no_decay_changes_nothing(facts):
    states = [{"w": torch.randn(3, generator=torch.Generator().manual_seed(seed))} for seed in range(4)]
    assert averaged("ema", states, facts(3, 1), decay=0)["w"].equal(states[-1]["w"])


def test_equal_states_change_nothing(known):
    state = known.model.state_dict()
    average = averaged("ema", [state] * 5, known)
    assert list(average) == list(state)
    assert all(average[name].equal(tensor) for name, tensor in state.items())


def test_the_end_of_an_epoch_is_no_step(facts):
    before = {"w": torch.tensor([1.0])}
    after = make("ema").build(facts(3, 1))(before, {"w": torch.tensor([9.0])}, 7, 2)
    assert after["w"].tolist() == [1.0]


def test_inputs_stay_and_nothing_is_shared(facts):
    update = make("ema", decay=0.5, warm_up=False).build(facts(3, 1))
    state = {"w": torch.tensor([1.0]), "n": torch.tensor(3)}
    first = update({}, state, 1, None)
    state["w"].fill_(5.0)
    state["n"].fill_(4)
    assert (first["w"].tolist(), first["n"].item()) == ([1.0], 3)
    second = update(first, state, 2, None)
    assert (first["w"].tolist(), second["w"].tolist(), second["n"].item()) == ([1.0], [3.0], 4)
    assert second["n"].dtype == torch.int64


def test_it_equals_torchs_own(facts):
    network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    update, ours = make("ema", decay=0.9, warm_up=False).build(facts(3, 1)), {}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    random = torch.Generator().manual_seed(1)
    for step in range(1, 6):
        network(torch.randn(8, 1, 8, 8, generator=random)).logits.square().mean().backward()
        optimiser.step()
        theirs.update_parameters(network)
        ours = update(ours, network.state_dict(), step, None)
    expected = theirs.module.state_dict()
    for name, tensor in ours.items():
        # torch averages BatchNorm's counters too; ours are the last ones
        if tensor.is_floating_point():
            assert torch.allclose(tensor, expected[name], atol=1e-6), name


def test_numbers():
    with pytest.raises(ValueError, match=r"'ema'.*decay must be a number in \[0, 1\), got 1"):
        make("ema", decay=1)
    with pytest.raises(ValueError, match=r"'ema'.*warm_up must be one of False, True, got 'yes'"):
        make("ema", warm_up="yes")

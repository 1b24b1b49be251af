import pytest
import torch

from trainables.registry import make


def test_hand_worked_numbers(facts):
    values = (([1.0, 2.0], 0.0, 7), ([4.0, 2.0], 3.0, 9), ([1.0, 5.0], 6.0, 2))
    states = [
        {"weight": torch.tensor(w), "running_mean": torch.tensor([m]), "num_batches_tracked": torch.tensor(n)}
        for w, m, n in values
    ]
    merged = make("average").build(facts(3, 1))(states)
    assert merged["weight"].tolist() == [2.0, 3.0]
    assert merged["running_mean"].tolist() == [3.0]
    assert merged["num_batches_tracked"].item() == 7
    assert merged["num_batches_tracked"].dtype == torch.int64
    assert merged["weight"].dtype == torch.float32


def test_one_member_changes_nothing(known):
    state = known.model.state_dict()
    merged = make("average").build(known)([state])
    assert all(merged[name].equal(value) for name, value in state.items())


def test_equal_members_change_nothing(known):
    state = known.model.state_dict()
    merged = make("average").build(known)([state] * 3)
    assert all(torch.allclose(merged[name], value) for name, value in state.items())


def test_no_members(facts):
    with pytest.raises(ValueError, match="'average': there is no member to merge"):
        make("average").build(facts(3, 1))([])


def test_members_of_different_networks(facts):
    merge = make("average").build(facts(3, 1))
    with pytest.raises(ValueError, match="'average': member 1 differs from member 0 in b"):
        merge([{"a": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)}])
    with pytest.raises(ValueError, match="'average': member 1 differs from member 0 in a"):
        merge([{"a": torch.zeros(1)}, {"a": torch.zeros(2)}])

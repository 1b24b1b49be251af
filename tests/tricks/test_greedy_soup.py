import pytest
import torch

from trainables.batch import MissingFact
from trainables.registry import make


def states(*values):
    return [{"w": torch.tensor(value)} for value in values]


def near(target):
    """The nearer to the target, the better."""
    return lambda state: 1 - abs(float(state["w"]) - target)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ((0.0, 1.0, 0.6), 0.8 / 1.5),  # 0 -> 0.5 -> (0 + 1 + 0.6) / 3
        ((0.0, -1.0, 1.0), 0.5),  # −1 is left out
        ((0.5, 0.0, 1.0), 0.5),  # neither helps alone
        ((0.0, 1.0, 5.0), 0.5),
        ((0.0, 1.0, -0.4), 0.5),  # (0 + 1 − 0.4) / 3 is better than the first member, not than the soup so far
    ],
)
def test_hand_worked_numbers(facts, members, expected):
    merged = make("greedy_soup").build(facts(1, 1, score=near(0.55)))(states(*members))
    assert merged["w"].item() == pytest.approx(expected)


def test_by_score_starts_with_the_best(facts):
    # 0.5 is best and nothing helps it
    merged = make("greedy_soup", order="by_score").build(facts(1, 1, score=near(0.55)))(states(0.0, 1.0, 0.5))
    assert merged["w"].item() == pytest.approx(0.5)


def test_listed_and_by_score_may_disagree(facts):
    # listed: 0 -> 0.5 -> 1.7 / 3, ever nearer to 0.6; by score: 0.7, which 1 and 0 lead away from it
    known, members = facts(1, 1, score=near(0.6)), states(0.0, 1.0, 0.7)
    assert make("greedy_soup").build(known)(members)["w"].item() == pytest.approx(1.7 / 3)
    assert make("greedy_soup", order="by_score").build(known)(members)["w"].item() == pytest.approx(0.7)


def test_the_harmonic_and_the_geometric_mean_may_disagree(facts):
    # of (0.1, 0.9): 0.18 and 0.3; of (0.2, 0.35): 0.2545 and 0.2646
    recalls = {0.0: (0.2, 0.35), 0.5: (0.1, 0.9)}
    known = facts(1, 1, score=lambda state: torch.tensor(recalls[float(state["w"])]))
    assert make("greedy_soup", mean="harmonic").build(known)(states(0.0, 1.0))["w"].item() == 0.0
    assert make("greedy_soup", mean="geometric").build(known)(states(0.0, 1.0))["w"].item() == 0.5


def test_ties_are_kept(facts):
    assert make("greedy_soup").build(facts(1, 1, score=lambda state: 0.7))(states(0.0, 1.0))["w"].item() == 0.5


def test_one_member_changes_nothing(facts):
    assert make("greedy_soup").build(facts(1, 1, score=near(0.0)))(states(3.0))["w"].item() == 3.0


def test_no_members(facts):
    with pytest.raises(ValueError, match="'greedy_soup': there is no member to merge"):
        make("greedy_soup").build(facts(1, 1, score=near(0.0)))([])


def test_what_it_needs(facts):
    with pytest.raises(MissingFact, match="'greedy_soup' needs score"):
        make("greedy_soup").build(facts(1, 1))


def test_options():
    with pytest.raises(ValueError, match="mean must be one of 'harmonic', 'geometric', got 'mean'"):
        make("greedy_soup", mean="mean")
    with pytest.raises(ValueError, match="order must be one of 'listed', 'by_score', got 'sorted'"):
        make("greedy_soup", order="sorted")

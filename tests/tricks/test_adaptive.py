import pytest
import torch

from trainables.batch import MissingFact
from trainables.registry import make

STATES = [{"w": torch.tensor(0.0)}, {"w": torch.tensor(1.0)}]


def scored(facts, *recalls):
    return facts(1, 1, score=lambda state: torch.tensor(recalls[int(state["w"])]))


def test_hand_worked_numbers(facts):
    # harmonic means 2 / (1/0.2 + 1/0.6) = 0.3 and 0.5; geometric means √0.12 and 0.5
    known = scored(facts, (0.2, 0.6), (0.5, 0.5))
    assert make("adaptive").build(known)(STATES)["w"].item() == pytest.approx(0.5 / 0.8)
    geometric = 0.12**0.5
    merged = make("adaptive", mean="geometric").build(known)(STATES)["w"].item()
    assert merged == pytest.approx(0.5 / (0.5 + geometric))


def test_a_recall_of_zero_counts_as_a_thousandth(facts):
    harmonic = 2 / (1 / 1e-3 + 1)
    merged = make("adaptive").build(scored(facts, (0.0, 1.0), (1.0, 1.0)))(STATES)["w"].item()
    assert merged == pytest.approx(1 / (1 + harmonic))


def test_a_class_without_recall_is_left_out(facts):
    merged = make("adaptive").build(scored(facts, (float("nan"), 0.25), (0.75, 0.75)))(STATES)["w"].item()
    assert merged == pytest.approx(0.75)


def test_a_score_of_one_number_is_used_as_it_is(facts):
    known = facts(1, 1, score=lambda state: 0.25 if float(state["w"]) == 0 else 0.75)
    assert make("adaptive").build(known)(STATES)["w"].item() == pytest.approx(0.75)


def test_equal_scores_are_the_average(facts):
    assert make("adaptive").build(scored(facts, (0.4, 0.4), (0.4, 0.4)))(STATES)["w"].item() == 0.5
    assert make("adaptive").build(facts(1, 1, score=lambda state: 0.0))(STATES)["w"].item() == 0.5


def test_one_member_changes_nothing(facts):
    assert make("adaptive").build(scored(facts, (0.4, 0.4)))(STATES[:1])["w"].item() == 0.0


def test_what_it_needs(facts):
    with pytest.raises(MissingFact, match="'adaptive' needs score"):
        make("adaptive").build(facts(1, 1))


def test_mean_is_harmonic_or_geometric():
    with pytest.raises(ValueError, match="mean must be one of 'harmonic', 'geometric', got 'mean'"):
        make("adaptive", mean="mean")

"""The cells of the design arm, by hand: digits-lt has 30 epochs."""

import pytest

from search.design import Design, Impossible, make_design
from search.space_file import load_space
from spaces.domain import Space, Stage, one_of, trick
from trainables.data import standard
from trainables.registry import PlanError

STANDARD = standard("digits-lt")


def space(*screen: str) -> Space:
    return Space(
        stages=[
            Stage("first", length=0.5, choose=[
                one_of(None, "cost_sensitive"),
                one_of(None, "class_balanced", "square_root"),
            ]),
            one_of(None, Stage("extra", length=0.2, lr=0.01, carry="weights", choose=[
                one_of(None, "input_mixup"), one_of("square_root", "class_balanced")])),
            one_of(
                Stage("finish", length=0.3, carry="all"),
                Stage("deferred", length=0.3, carry="all", choose=[one_of("class_balanced", "cost_sensitive")]),
                Stage("classifier", length=0.3, lr=0.05, carry="weights", choose=["classifier"]),
            ),
        ],
        screen=screen,
    )  # fmt: skip


def design(*screen: str) -> Design:
    return make_design(space(*screen), STANDARD)


def shape(design: Design) -> dict[tuple[str, tuple[str, ...]], str]:
    """(context, labels that are on) -> stages with epochs and tricks, as one line."""
    return {(cell.context, cell.tricks): line(cell.recipe.plan) for cell in design.cells}


def line(plan) -> str:
    return ", ".join(
        f"{stage.name} {stage.epochs}" + "".join(f" +{trick.name}" for trick in stage.tricks) for stage in plan.stages
    )


def test_the_baseline_alone():
    assert shape(design()) == {("", ()): "first 15, finish 9"}


def test_a_pair_in_a_fixed_stage_has_four_cells():
    found = design("first/cost_sensitive", "first/class_balanced")
    assert shape(found) == {
        ("", ()): "first 15, finish 9",
        ("", ("first/cost_sensitive",)): "first 15 +cost_sensitive, finish 9",
        ("", ("first/class_balanced",)): "first 15 +class_balanced, finish 9",
        ("", ("first/class_balanced", "first/cost_sensitive")): "first 15 +cost_sensitive +class_balanced, finish 9",
    }
    assert found.cells[0].title == "baseline" and found.cells[0].tricks == ()
    assert found.epochs == 4 * 24


def test_the_zero_level_of_a_trick_in_an_optional_stage_is_that_stage_without_it():
    found = design("deferred/class_balanced", "first/cost_sensitive")
    assert shape(found) == {
        ("", ()): "first 15, finish 9",
        ("", ("first/cost_sensitive",)): "first 15 +cost_sensitive, finish 9",
        ("deferred", ()): "first 15, deferred 9",
        ("deferred", ("deferred/class_balanced",)): "first 15, deferred 9 +class_balanced",
        ("deferred", ("first/cost_sensitive",)): "first 15 +cost_sensitive, deferred 9",
        ("deferred", ("deferred/class_balanced", "first/cost_sensitive")):
            "first 15 +cost_sensitive, deferred 9 +class_balanced",
    }  # fmt: skip
    titles = [cell.title for cell in found.cells if cell.context]
    assert "baseline, with a plain deferred stage" in titles
    assert "first/cost_sensitive, with a plain deferred stage" in titles


def test_the_zero_level_of_an_added_stage_prolongs_the_stage_before():
    assert shape(design("extra")) == {
        ("", ()): "first 15, finish 9",
        ("extra", ()): "first 21, finish 9",
        ("extra", ("extra",)): "first 15, extra 6 +square_root, finish 9",
    }


def test_the_zero_level_of_a_stage_with_a_first_option_is_that_option():
    assert shape(design("classifier")) == {
        ("", ()): "first 15, finish 9",
        ("", ("classifier",)): "first 15, classifier 9 +classifier",
    }


def test_an_added_stage_and_another_stage_share_the_length_in_all_four_cells():
    found = design("extra", "classifier")
    pair = {on: text for (context, on), text in shape(found).items() if context == "extra"}
    assert pair == {
        (): "first 21, finish 9",
        ("extra",): "first 15, extra 6 +square_root, finish 9",
        ("classifier",): "first 21, classifier 9 +classifier",
        ("classifier", "extra"): "first 15, extra 6 +square_root, classifier 9 +classifier",
    }
    assert {cell.recipe.plan.epochs for cell in found.cells if cell.context == "extra"} == {30}


def test_a_trick_of_an_added_stage_is_measured_inside_it():
    found = shape(design("extra/input_mixup"))
    assert found["extra", ()] == "first 15, extra 6 +square_root, finish 9"
    assert found["extra", ("extra/input_mixup",)] == "first 15, extra 6 +input_mixup +square_root, finish 9"


@pytest.mark.parametrize(
    "a, b, reason",
    [
        (
            "first/class_balanced",
            "first/square_root",
            "class_balanced and first/square_root are options of one choice",
        ),
        ("classifier", "deferred", "classifier and deferred are options of one choice"),
        ("deferred/class_balanced", "classifier", "deferred and classifier are options of one choice"),
        ("extra", "extra/input_mixup", "extra/input_mixup does not exist without extra"),
    ],
)
def test_labels_that_exclude_each_other_are_not_applicable(a, b, reason):
    found = design(a, b)
    assert len(found.impossible) == 1
    pair = found.impossible[0]
    assert isinstance(pair, Impossible) and {pair.a, pair.b} == {a, b} and pair.a < pair.b
    assert reason in pair.reason
    # the singles are there all the same
    assert {cell.tricks for cell in found.cells} >= {(a,), (b,)}
    assert (min(a, b), max(a, b)) not in {cell.tricks for cell in found.cells}


def test_equal_plans_have_equal_ids():
    one, two = design("first/cost_sensitive", "extra"), design("extra", "first/cost_sensitive", "classifier")
    first = {(cell.context, cell.tricks): cell.recipe.plan.id for cell in one.cells}
    second = {(cell.context, cell.tricks): cell.recipe.plan.id for cell in two.cells}
    assert first.items() <= second.items()
    assert len(set(second.values())) == len(second)


def test_one_cell_is_there_once():
    found = design("first/cost_sensitive", "first/class_balanced", "classifier")
    assert len(found.cells) == 1 + 3 + 3
    keys = [(cell.context, cell.tricks) for cell in found.cells]
    assert len(set(keys)) == len(keys)


def test_epochs_are_scaled_with_the_stages():
    plan = make_design(space(), STANDARD, 0.1).cells[0].recipe.plan
    assert line(plan) == "first 2, finish 1"


def test_what_cannot_be_trained_alone_is_refused():
    broken = Space(
        stages=[Stage("first", length=1, choose=[one_of(None, "ldam")])],
        screen=["first/ldam"],
    )
    with pytest.raises(PlanError, match="ldam needs 'cosine'"):
        make_design(broken, STANDARD)


def test_an_unknown_label_is_refused():
    with pytest.raises(PlanError, match="no choice of the space has the label 'first/nothing'"):
        make_design(space("first/nothing"), STANDARD)


def test_the_default_space_in_pairs():
    found = make_design(load_space("spaces/full_combo.py"), STANDARD, kind="pairs")
    cells = shape(found)
    fixed = ("representation/class_balanced", "representation/cost_sensitive", "representation/input_mixup")
    # no context: the baseline; three tricks of the first stage and the classifier alone; their six pairs
    plain = {on for context, on in cells if not context}
    assert plain == {
        (), *((label,) for label in (*fixed, "classifier")),
        (fixed[0], fixed[1]), (fixed[0], fixed[2]), (fixed[1], fixed[2]), *(("classifier", label) for label in fixed),
    }  # fmt: skip
    # with the balanced stage, or as many epochs before: itself, its pairs, and their other halves
    assert {on for context, on in cells if context == "balanced"} == {
        (), ("balanced",), ("classifier",), ("balanced", "classifier"),
        *((label,) for label in fixed), *(("balanced", label) for label in fixed),
    }  # fmt: skip
    deferred = "deferred/class_balanced"
    assert {on for context, on in cells if context == "deferred"} == {
        (), (deferred,), *((label,) for label in fixed), *((deferred, label) for label in fixed),
    }  # fmt: skip
    assert {on for context, on in cells if context == "balanced+deferred"} == {
        (), ("balanced",), (deferred,), ("balanced", deferred),
    }  # fmt: skip
    assert [(pair.a, pair.b) for pair in found.impossible] == [("classifier", deferred)]
    assert {cell.recipe.plan.epochs for cell in found.cells if "balanced" in cell.context} == {34}
    assert {cell.recipe.plan.epochs for cell in found.cells if "balanced" not in cell.context} == {30}


def test_numbers_of_a_cell_are_at_their_defaults():
    numbered = Space(
        stages=[Stage("first", length=1, choose=[one_of(None, trick("effective_number", beta=one_of(0.9, 0.999)))])],
        screen=["first/effective_number"],
    )
    on = make_design(numbered, STANDARD).cells[1].recipe.plan.stages[0].tricks[0]
    assert on.numbers["beta"] == 0.999

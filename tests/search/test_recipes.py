"""What a search stands on: the grid of the baseline, cells of a pair, recipes with something taken away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.design.removal import own_length, removable, without
from search.recipes.factory import Context, RecipeFactory, retuned, scaled
from search.workspace.space_file import load_space
from spaces.domain import Space, Stage, integer, log_uniform, one_of, trick, uniform
from trainables.data import standard
from trainables.plan import build, defaults
from trainables.registry import PlanError

STANDARD = replace(standard("digits-lt"), epochs=30, final_epochs=30)

SPACE = Space(
    stages=[
        Stage("first", length=0.7, lr=log_uniform(0.01, 0.3, step="thirds"), weight_decay=one_of(1e-4, 5e-4, 2e-3),
              choose=[one_of(None, "cost_sensitive", trick("focal", gamma=one_of(1.0, 2.0))), one_of(None, "ldam"),
                      one_of(None, "cosine_head")]),
        one_of(None, Stage("balanced", length=0.2, members=integer(2, 3), choose=[
            "few_shot", "average", one_of(None, trick("input_mixup", alpha=uniform(0.2, 1.0)))])),
        one_of(Stage("finish", length=0.3, carry="all", keep=True),
               Stage("deferred", length=0.3, carry="all", choose=[one_of("class_balanced", "square_root")])),
    ],
    screen=["first/cost_sensitive", "balanced", "deferred"],
)  # fmt: skip
GROUND = RecipeFactory(SPACE, STANDARD)


def recipe(*labels: str):
    return build(SPACE, defaults(labels), STANDARD)


def test_the_grid_has_the_space_s_own_values_around_the_standard_s():
    points = GROUND.grid()
    # the standard's rate 0.1 and its neighbours among 0.01, 0.0215, 0.0464, 0.1, 0.2154
    assert {point.lr for point in points} == {0.04642, 0.1, 0.2154}
    assert {point.weight_decay for point in points} == {1e-4, 5e-4, 2e-3} and len(points) == 9
    fixed = RecipeFactory(Space(stages=[Stage("only", length=1, lr=0.05, weight_decay=1e-3)]), STANDARD)
    assert fixed.grid() == (Context(0.05, 1e-3),)


def test_a_context_is_where_cells_baseline_and_published_recipes_stand():
    tuned = GROUND.at(Context(0.2154, 2e-3))
    for cell in tuned.cells:
        first = cell.recipe.plan.stages[0]
        assert (first.lr, first.weight_decay) == (0.2154, 2e-3)
        assert cell.recipe.params["first/lr"] == 0.2154
    assert tuned.published.recipes[0].plan.stages[0].lr == 0.2154
    # stages that carry everything have the rate of their chain, a new chain has its own
    deferred = next(cell for cell in tuned.cells if cell.tricks == ("deferred",)).recipe.plan
    assert deferred.stages[-1].lr == 0.2154
    members = next(cell for cell in tuned.cells if cell.tricks == ("balanced",)).recipe.plan.stages[1]
    assert members.lr == STANDARD.lr


def test_a_context_fills_what_the_space_leaves_to_the_data_set():
    ground = RecipeFactory(Space(stages=[Stage("only", length=1)]), STANDARD).at(Context(0.3, 1e-3))
    assert (ground.space.stages[0].lr, ground.space.stages[0].weight_decay) == (0.3, 1e-3)


def test_scaling_touches_every_stage_and_nothing_else():
    plan = recipe("balanced").plan
    up = scaled(recipe("balanced"), 3.0).plan
    assert [stage.lr for stage in up.stages] == pytest.approx([3 * stage.lr for stage in plan.stages])
    assert retuned(scaled(recipe(), 3.0), Context(0.1, STANDARD.weight_decay)).plan.id == recipe().plan.id


def test_what_may_be_removed():
    full = recipe("first/cost_sensitive", "balanced", "balanced/input_mixup", "deferred")
    assert removable(GROUND, full) == ("first/cost_sensitive", "balanced", "balanced/input_mixup", "deferred")
    assert removable(GROUND, recipe()) == ()


def test_what_is_taken_away_leaves_the_rest_and_the_length():
    full = recipe("first/cost_sensitive", "balanced", "deferred/class_balanced")
    assert without(GROUND, full, ["deferred"]).plan.id == recipe("first/cost_sensitive", "balanced").plan.id
    less = without(GROUND, full, ["balanced"])
    assert [stage.name for stage in less.plan.stages] == ["first", "deferred"]
    # 21 + 6 + 9 epochs: the 6 go to the stage before
    assert [stage.epochs for stage in less.plan.stages] == [27, 9]
    assert less.labels == ("first/cost_sensitive", "deferred", "deferred/class_balanced")


def test_the_epochs_of_a_stage_that_is_taken_away_go_to_the_last_one_before_it():
    added = one_of(None, Stage("extra", length=0.2, carry="weights", choose=["class_balanced"]))
    stages = [Stage("first", length=0.5), Stage("second", length=0.3, carry="weights"), added]
    for more, left in ([], [15, 15]), ([Stage("finish", length=0.2, carry="all")], [15, 15, 6]):
        space = Space(stages=[*stages, *more], screen=["extra"])
        whole = build(space, defaults(["extra"]), STANDARD)
        less = without(RecipeFactory(space, STANDARD), whole, ["extra"])
        assert [stage.epochs for stage in less.plan.stages] == left


def test_a_trick_that_another_one_needs_cannot_go():
    with pytest.raises(PlanError, match="ldam needs 'cosine'"):
        without(GROUND, recipe("first/ldam", "first/cosine_head"), ["first/cosine_head"])


def test_a_recipe_of_nowhere_has_nothing_to_remove():
    strange = scaled(recipe("first/cost_sensitive"), 1.7)
    assert removable(GROUND, strange) == ()
    with pytest.raises(PlanError, match="not a recipe of the space"):
        without(GROUND, strange, ["first/cost_sensitive"])


def test_the_four_cells_of_a_factorial_s_pair_stand_in_its_context():
    ground = RecipeFactory(load_space("spaces/full_combo.py"), STANDARD, kind="factorial")
    a, b = "representation/cost_sensitive", "representation/class_balanced"
    four = ground.four(a, b)
    assert [set(cell.tricks) for cell in four] == [set(), {a}, {b}, {a, b}]
    runs = {(cell.context, cell.tricks): cell.recipe.plan.id for cell in ground.cells}
    assert {cell.context for cell in four} == {ground.cells[-1].context} or four[0].context.startswith("factorial")
    # where the fraction has the cell, it is that one
    shared = [cell for cell in four if (cell.context, cell.tricks) in runs]
    assert shared and all(runs[cell.context, cell.tricks] == cell.recipe.plan.id for cell in shared)


def test_a_pair_that_excludes_itself_has_no_four_cells():
    ground = RecipeFactory(load_space("spaces/full_combo.py"), STANDARD)
    with pytest.raises(PlanError, match="options of one choice"):
        ground.four("classifier", "deferred/class_balanced")


def test_a_prolonged_cell_has_a_recipe_of_the_space_s_own_length():
    prolonged = next(
        cell.recipe for cell in GROUND.cells
        if cell.context == "balanced" and cell.tricks == ("first/cost_sensitive",)
    )  # fmt: skip
    plain = recipe("first/cost_sensitive")
    assert prolonged.plan.epochs > plain.plan.epochs and removable(GROUND, prolonged) == ()
    assert own_length(GROUND, prolonged) == plain and removable(GROUND, plain) == ("first/cost_sensitive",)
    assert own_length(GROUND, plain) is plain

"""The published recipes: what is written in their papers, at any data set's length."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.design.removal import removable, without
from search.recipes.factory import RecipeFactory
from search.workspace.space_file import load_space
from spaces.recipes import published, published_for_pretrained, published_in_spaces, published_systems
from trainables.data import standard
from trainables.plan import build, check_space, defaults

pytestmark = pytest.mark.smoke

DATA = ("digits-lt", "cifar100-lt", "imagenet-lt")


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", [recipe.name for recipe in published(0.1)])
def test_it_can_be_trained_at_the_standard_length(name, data):
    own = standard(data)
    one = next(recipe for recipe in published(own.lr) if recipe.name == name)
    assert set(one.labels) <= set(check_space(one.space, own))
    plan = build(one.space, defaults(one.labels), own).plan
    assert abs(plan.epochs - own.epochs) <= len(plan.stages), "the whole recipe has the standard length"
    assert plan.stages[0].lr == own.lr


def plan_of(name: str):
    one = next(recipe for recipe in published(0.1) if recipe.name == name)
    return build(one.space, defaults(one.labels), standard("cifar100-lt")).plan


def tricks(stage) -> dict[str, dict]:
    return {trick.name: dict(trick.numbers) for trick in stage.tricks}


def test_bag_of_tricks():
    first, second = plan_of("bag_of_tricks").stages
    assert (first.epochs, second.epochs, second.carry) == (160, 40, "all")
    assert tricks(first) == {"input_mixup": {"alpha": 1.0}}
    assert set(tricks(second)) == {"input_mixup", "class_balanced", "cam_foreground"}


def test_label_over_smoothing():
    first, second = plan_of("label_over_smoothing").stages
    assert (first.weight_decay, first.schedule, second.weight_decay) == (5e-3, "cosine", 0.0)
    # lr 0.01 and 5e-4 in the paper
    assert second.lr == pytest.approx(first.lr / 20) and second.carry == "weights"
    assert tricks(second)["label_over_smoothing"]["delta"] == 0.98 and tricks(second)["classifier"]["reset"] is False


def test_balanced_training_and_merging():
    _, members, last = plan_of("balanced_merging").stages
    assert members.members == 4 and tricks(members)["few_shot"]["n_c"] == 10 and "average" in tricks(members)
    assert tricks(members)["input_mixup"]["alpha"] == 0.2 and set(tricks(last)) == {"classifier", "class_balanced"}


def test_mislas_like():
    first, second = plan_of("mislas").stages
    assert "input_mixup" in tricks(first)
    assert set(tricks(second)) == {"learnable_scale", "class_balanced", "label_aware_smoothing"}
    # CIFAR-100-LT at imbalance 50 in its code: 0.3 and 0; the classifier learns at a fraction of the scales' rate
    assert tricks(second)["label_aware_smoothing"]["head"] == 0.3
    assert tricks(second)["learnable_scale"]["weight_lr"] == 0.2


@pytest.mark.parametrize("place", range(5))
def test_every_part_of_a_recipe_can_be_taken_away_again(place):
    """What the search does around a winner, should a published recipe win."""
    from spaces.domain import Space, Stage

    ground = RecipeFactory(Space(stages=[Stage("only", length=1)]), standard("digits-lt"))
    recipe = ground.published.recipes[place]
    labels = removable(ground, recipe)
    assert labels
    for label in labels:
        less = without(ground, recipe, [label])
        assert label not in less.labels and less.plan.epochs == recipe.plan.epochs
    assert without(ground, recipe, labels).title == "baseline"


def test_recipes_for_a_pretrained_network():
    """LIFT: one stage of light tuning; LT-Soups: a soup of balanced subsets, then the classifier on all images."""
    lift, soups = published_for_pretrained(0.2)
    own = replace(standard("digits-lt"), provides=("images", "trained"))
    (tuned,) = build(lift.space, defaults(lift.labels), own).plan.stages
    assert set(tricks(tuned)) == {"bias_only", "cosine_head", "logit_adjusted"}
    assert tricks(tuned)["cosine_head"]["scale"] == 25.0 and tricks(tuned)["logit_adjusted"]["tau"] == 1.0
    soup, classifier = build(soups.space, defaults(soups.labels), own).plan.stages
    assert soup.members == 4 and set(tricks(soup)) == {"few_shot", "average"}
    assert set(tricks(classifier)) == {"classifier", "logit_adjusted"} and classifier.carry == "weights"
    assert {"LIFT-like", "LT-Soups-like"} <= set(
        RecipeFactory(load_space("spaces/heads.py"), own).published.titles.values()
    )


def test_what_needs_images_is_no_start_point_for_features():
    own = replace(standard("digits-lt"), provides=("trained",))
    titles = set(RecipeFactory(load_space("spaces/heads.py"), own).published.titles.values())
    assert "Bag of Tricks" not in titles
    assert {"label over-smoothing", "classifier re-training", "LIFT-like"} <= titles


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", [recipe.name for recipe in published_systems(0.1)])
def test_a_system_can_be_trained_at_the_standard_length(name, data):
    own = standard(data)
    one = next(recipe for recipe in published_systems(own.lr) if recipe.name == name)
    assert set(one.labels) <= set(check_space(one.space, own))
    plan = build(one.space, defaults(one.labels), own).plan
    assert abs(plan.epochs - own.epochs) <= len(plan.stages)


def system(name):
    one = next(recipe for recipe in published_systems(0.1) if recipe.name == name)
    return build(one.space, defaults(one.labels), standard("cifar100-lt")).plan.stages


def test_systems_as_published():
    """CIFAR-100-LT at imbalance 100: rotation for RIDE and SADE alone, drops, the deferred fifths, two views."""
    (sade,) = system("sade")
    assert (sade.schedule, sade.weight_decay, sade.nesterov) == ("multistep(by=0.1)", 5e-4, True)
    assert tricks(sade)["rotation"]["degrees"] == 15 and tricks(sade)["experts"]["count"] == 3
    first, second = system("ride")
    assert (first.epochs, second.epochs, second.carry, first.schedule) == (160, 40, "all", "ldam")
    assert tricks(first)["ride"]["factor"] == -0.45 and not tricks(first)["ride"]["reweight"]
    assert tricks(second)["ride"]["reweight"] and "rotation" in tricks(second)
    *ride, routed = system("ride_routed")
    assert [stage.epochs for stage in ride] == [156, 39] and [stage.lr for stage in ride] == [first.lr, second.lr]
    assert (routed.epochs, routed.lr, routed.batch_size, routed.carry) == (5, 0.01, 512, "weights")
    assert set(tricks(routed)) == {"expert_assignment", "routing_loss", "class_balanced"}
    (paco,) = system("paco")
    assert paco.lr == 0.05 and tricks(paco)["gpaco"]["momentum_encoder"]
    assert tricks(paco)["auto_augment"]["view"] == tricks(paco)["cutout"]["view"] == 0
    first, second = system("rsg")
    assert {"ldam", "rsg"} <= set(tricks(second)) and tricks(second)["effective_number"]["beta"] == 0.9999
    assert second.reduction == "weighted_mean" and "rotation" not in tricks(first)


def test_systems_are_start_points_where_the_space_offers_them():
    own = standard("digits-lt")
    survey = RecipeFactory(load_space("spaces/papers/survey.py"), own).published.titles.values()
    assert list(survey) == ["De-confound", "SADE", "RIDE", "RIDE with routers", "ResLT", "GPaCo", "PaCo", "RSG"]
    assert "SADE" not in RecipeFactory(load_space("spaces/full_combo.py"), own).published.titles.values()


def test_some_recipes_start_the_spaces_that_contain_them_and_no_other():
    own = standard("cifar100-lt")
    names = {one.title: one.name for one in published_in_spaces(own.lr)}
    found = {}
    for space in ("full_combo", "papers/vs_loss", "papers/weight_balancing", "papers/survey"):
        factory = RecipeFactory(load_space(f"spaces/{space}.py"), own)
        found[space] = [names[one.title] for one in factory.published.papers if one.title in names]
        assert all(title in factory.published.titles.values() for title in names if names[title] in found[space])
    assert found == {
        "full_combo": [], "papers/vs_loss": ["vs_loss"], "papers/weight_balancing": ["weight_balancing"],
        "papers/survey": [],
    }  # fmt: skip


def test_vs_loss_and_weight_balancing_are_as_published():
    own = standard("cifar100-lt")
    vs, balancing = (build(one.space, defaults(one.labels), own).plan.stages for one in published_in_spaces(own.lr))
    # in this order: the other one is another loss
    assert (vs[0].tricks[0].name, vs[0].tricks[0].numbers) == ("class_dependent_temperature", {"gamma": 0.05})
    assert vs[0].tricks[1].name == "logit_adjusted" and vs[0].tricks[1].numbers["tau"] == 0.75
    first, second = balancing
    assert (first.epochs, first.lr, first.weight_decay, first.batch_size) == (190, pytest.approx(0.01), 5e-3, 64)
    assert (second.epochs, second.weight_decay, second.carry) == (10, 0.1, "weights")
    assert tricks(second)["effective_number"]["beta"] == 0.9999 and tricks(second)["classifier"]["reset"] is False

"""Plans: what a trial trains, built from a space and checked before anything is trained."""

from trainables.plan.build import NONE, Forbidden, LabelledOneOf, Pick, build, defaults
from trainables.plan.checks import check, provided
from trainables.plan.model import Plan, Recipe, StagePlan, TrickPlan
from trainables.plan.space import check_layers, check_space, choices_of, default_numbers, options_of, tricks_of

__all__ = [
    "NONE",
    "Forbidden",
    "LabelledOneOf",
    "Pick",
    "Plan",
    "Recipe",
    "StagePlan",
    "TrickPlan",
    "build",
    "check",
    "check_layers",
    "check_space",
    "choices_of",
    "default_numbers",
    "defaults",
    "options_of",
    "provided",
    "tricks_of",
]

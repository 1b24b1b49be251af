"""A trial that the search wants to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainables.plan import Plan, Recipe


@dataclass(frozen=True)
class TrialRequest:
    """One recipe on one seed, with what its record will say about it.

    Args:
        id: Id of the trial in the search, e.g. "design-0-007".
        arm: Arm in the record.
        phase: Name of the phase that planned it; the race has two, "race" and "final".
        recipe: What to train.
        seed: Seed block; also the seed of the split.
        tricks: Labels in the record.
        context: Context of the design cell, or what else the labels' 0 level was measured in.
        title: The recipe in words.
        setting: How a robustness check differs from the design, as in the record.
        number: Number of the proposal in the study; `None` outside the adaptive arm.
        start: Number of the start that the proposal belongs to.
        read_test: Whether to measure on the test split.
        joint_seeds: Seeds that are trained jointly with this one, itself among them; empty for a trial on its own.
    """

    id: str
    arm: str
    phase: str
    recipe: Recipe
    seed: int
    tricks: tuple[str, ...]
    context: str = ""
    title: str = ""
    setting: str = ""
    number: int | None = None
    start: int | None = None
    read_test: bool = False
    joint_seeds: tuple[int, ...] = ()

    @property
    def may_stop(self) -> bool:
        """Whether early stopping applies: to proposals, and to nothing that is compared over seeds."""
        return self.number is not None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable dict."""
        fields = asdict(self)
        fields["recipe"] = {
            "plan": self.recipe.plan.to_dict(),
            "params": dict(self.recipe.params),
            "labels": list(self.recipe.labels),
        }
        return fields

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> TrialRequest:
        """The inverse of `to_dict`."""
        stored = fields["recipe"]
        recipe = Recipe(Plan.from_dict(stored["plan"]), stored["params"], tuple(stored["labels"]))
        # earlier journals say "company"
        joint = fields.get("joint_seeds", fields.get("company", ()))
        lists = {"tricks": tuple(fields["tricks"]), "joint_seeds": tuple(joint)}
        known = {name: value for name, value in fields.items() if name != "company"}
        return TrialRequest(**{**known, **lists, "recipe": recipe})

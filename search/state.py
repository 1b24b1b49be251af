"""What a search knows while it runs: its trials, their records, its interim analyses, and what follows from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import fmean
from typing import Any

import pandas as pd

from analysis.conflicts import at_looks
from analysis.records import reader
from analysis.records.schema import Record
from search.design.labels import Cell
from search.recipes.factory import Context, RecipeFactory
from search.scheduling import objective
from search.scheduling.early_end.rule import EarlyEnd
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from trainables.plan import Recipe

CellKey = tuple[str, tuple[str, ...], str]
"""Context, tricks and recipe of a cell of the design."""


@dataclass
class SearchState:
    """The trials of a search and their results.

    Args:
        factory: Builds its recipes, at the baseline's tuned numbers.
        settings: Settings of the search.
        margin: Difference in accuracy that matters.
        first_seed: Added to every seed block.
        extra_blocks: Further blocks that `--settle` may add in this run, over all declared pairs; `None` for a search
            that continues as planned.
        requests: Trials by id.
        records: Records by trial id, without failed trials.
        failures: Records of trials that failed in this run.
        looks: Earlier decisions to run further blocks, in order: context, cells and numbers of blocks.
        block_counts: Numbers of design blocks that were asked for, one for each change of `--seeds`.
        set_aside: Trials that do not lie inside the space since it was changed, with the reason.
        set_aside_records: Their records.
        recorded_cells: (context, tricks, recipe) of the design's trials to the number in their ids.
        numbered_cells: The same when the space was changed last; cells that came with a change are numbered after them.
        former_proposals: Proposals that were made before the space was changed last.
        tuned: The baseline's tuned numbers, which a change of the space leaves as they are.
        early_ends: Early ends of the adaptive arm, in order.
    """

    factory: RecipeFactory
    settings: Settings
    margin: float
    first_seed: int = 0
    extra_blocks: int | None = None
    requests: dict[str, TrialRequest] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    failures: dict[str, Record] = field(default_factory=dict)
    looks: list[dict[str, Any]] = field(default_factory=list)
    block_counts: list[int] = field(default_factory=list)
    set_aside: Mapping[str, str] = field(default_factory=dict)
    set_aside_records: dict[str, Record] = field(default_factory=dict)
    recorded_cells: dict[CellKey, int] = field(default_factory=dict)
    numbered_cells: Mapping[CellKey, int] = field(default_factory=dict)
    former_proposals: int = 0
    tuned: Context | None = None
    early_ends: list[EarlyEnd] = field(default_factory=list)

    def change_space(self, set_aside: Mapping[str, str], tuned: Context | None) -> None:
        """Applies a change of the space: trials inside it count, the others are set aside."""
        known = self.records | self.set_aside_records
        self.records = {name: record for name, record in known.items() if name not in set_aside}
        self.set_aside_records = {name: record for name, record in known.items() if name in set_aside}
        self.set_aside, self.tuned = dict(set_aside), tuned
        self.numbered_cells = dict(self.recorded_cells)
        self.former_proposals = sum(request.number is not None for request in self.requests.values())

    @property
    def cells(self) -> dict[int, Cell]:
        """Cells of the design by the number that the ids of their trials have."""
        if not self.numbered_cells:
            return dict(enumerate(self.factory.cells))
        new = count(max(self.numbered_cells.values()) + 1)
        keys = ((cell, (cell.context, cell.tricks, cell.recipe.plan.id)) for cell in self.factory.cells)
        return {self.numbered_cells[key] if key in self.numbered_cells else next(new): cell for cell, key in keys}

    def runs(self, seeds: int) -> list[tuple[int, int, Cell]]:
        """(block, number of the cell, cell) of the whole design, in the order in which it runs."""
        numbers = {id(cell): number for number, cell in self.cells.items()}
        return [(block, numbers[id(cell)], cell) for block, cell in self.factory.design.runs(seeds)]

    @property
    def proposals(self) -> int:
        """Proposals of the adaptive arm: those that were asked for, without those that its early ends have saved.

        So trials that are added to a search that ended early (`--trials +N`) are N, and nothing is saved twice.
        """
        return self.settings.trials - sum(end.saved for end in self.early_ends)

    def results(self, phases: Sequence[str]) -> list[tuple[TrialRequest, Record]]:
        """Trials of some phases with their records, by seed.

        After a resume, trials of a later phase appear when it is planned again.
        """
        # a list: the display asks from a thread of its own
        known = list(self.records.items())
        found = [(self.requests[name], record) for name, record in known if name in self.requests]
        chosen = (pair for pair in found if pair[0].phase in phases)
        return sorted(chosen, key=lambda pair: (pair[1].seed, pair[0].id))

    def metrics(self, plan: str, phases: Sequence[str]) -> list[dict[str, float]]:
        """Final metrics of a recipe's finished trials, by seed."""
        pairs = self.results(phases)
        return [record.metrics for _, record in pairs if record.outcome == "finished" and record.recipe == plan]

    def values(self, plan: str, phases: Sequence[str]) -> list[float]:
        """The objective of a recipe's finished trials as one number each, by seed."""
        return [objective.scalar(metrics, self.settings.objective) for metrics in self.metrics(plan, phases)]

    def objective_means(self, plan: str, phases: Sequence[str]) -> list[float] | None:
        """Mean of each part of the objective, for the sampler; `None` if the recipe never finished."""
        found = [objective.values(metrics, self.settings.objective) for metrics in self.metrics(plan, phases)]
        known = [parts for parts in found if parts is not None]
        return [fmean(part) for part in zip(*known, strict=True)] if known else None

    def tried(self, phases: Sequence[str]) -> list[Recipe]:
        """Recipes that have a record in some phases, without the baseline."""
        found = {request.recipe.plan.id: request.recipe for request, _ in self.results(phases)}
        found.pop(self.factory.baseline.plan.id, None)
        return list(found.values())

    def ranked(
        self, recipes: Iterable[Recipe], phases: Sequence[str], seeds: Collection[int] | None = None
    ) -> list[Recipe]:
        """Recipes by their means, best first; those that never finished are left out.

        Args:
            recipes: What to rank.
            phases: Whose trials count.
            seeds: Seeds that count, so that later rounds do not change an earlier choice; all where absent.
        """
        values: dict[str, list[float]] = {}
        for _, record in self.results(phases):
            if record.outcome == "finished" and (seeds is None or record.seed in seeds):
                value = objective.scalar(record.metrics, self.settings.objective)
                values.setdefault(record.recipe, []).append(value)
        scored = [(fmean(values[recipe.plan.id]), recipe) for recipe in recipes if recipe.plan.id in values]
        return [recipe for _, recipe in sorted(scored, key=lambda pair: (-pair[0], pair[1].plan.id))]

    def frame(self, phases: Sequence[str]) -> pd.DataFrame:
        """The trials of some phases as a table."""
        return reader.frame(record for _, record in self.results(phases))

    def conflicts(self, seeds: Collection[int] | None = None) -> pd.DataFrame | None:
        """The conflict table of the design as it stands; `None` where it cannot be judged.

        Args:
            seeds: Seed blocks that count; all where absent.
        """
        records = [
            record
            for record in list(self.records.values())
            if record.arm == "design" and (seeds is None or record.seed in seeds)
        ]
        last = max((record.seed for record in records), default=0)
        firsts = [first for first in self.added_blocks if seeds is None or first <= last]
        try:
            return at_looks(reader.frame(records), margin=self.margin, primary=self.settings.primary, firsts=firsts)
        except ValueError:
            return None

    def complete_blocks(self) -> tuple[frozenset[int], int]:
        """Seeds of the design's blocks in which every trial has ended, and the number of blocks."""
        left: dict[int, bool] = {}
        for request in list(self.requests.values()):
            if request.arm == "design":
                ended = request.id in self.records or request.id in self.failures
                left[request.seed] = left.get(request.seed, False) or not ended
        return frozenset(seed for seed, some in left.items() if not some), len(left)

    @property
    def added_blocks(self) -> list[int]:
        """First seeds of the blocks that each further interim analysis added, by `--settle`, `--seeds +N` or an early
        end. Two that begin at the same block are two looks.
        """
        firsts = (*(look["first"] for look in self.looks), *self.block_counts[:-1])
        return sorted(self.first_seed + first for first in firsts)

    @property
    def winner(self) -> Recipe | None:
        """The recipe that leads the race; `None` before its final."""
        finalists = {request.recipe.plan.id for request, _ in self.results(("final",))}
        raced = [recipe for recipe in self.tried(("race",)) if recipe.plan.id in finalists]
        return next(iter(self.ranked(raced, ("race", "final"))), None)

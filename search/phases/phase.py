"""What a phase of a search is: which trials it plans, what it teaches the sampler, which tables it leaves.

A phase is one file of this folder and one line in `search.phases`. It is asked for its trials when the phases that it
comes after have ended, and again whenever all of its trials have ended, until it plans nothing new: a phase that
depends on its own first results (tuning, ablation) needs no special case. Plans follow from the records alone, so an
interrupted search plans every phase again and runs the trials that have no record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from search.recipes.factory import RecipeFactory
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState
from trainables.plan import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from search.scheduling.sampler import Sampler


class Phase:
    """One phase of a search; this one plans nothing.

    Attributes:
        name: Unique name, which also begins the ids of its trials.
        arm: Arm of its trials in the records.
        description: What the phase does, for the preview and the live display.
        after: Names of the phases whose results its plan depends on.
        first_seed: First of its seed blocks, relative to the search's own. Phases that must not share seeds lie 1,000
            apart: the seeds that nominate a recipe never judge it. Blocks from 5,000 on belong to final training.
        in_rounds: Whether what it plans first need not be all that it plans.
    """

    name: ClassVar[str]
    arm: ClassVar[str]
    description: ClassVar[str]
    after: ClassVar[tuple[str, ...]] = ()
    first_seed: ClassVar[int] = 0
    in_rounds: ClassVar[bool] = False

    def enabled(self, settings: Settings) -> bool:
        """Whether the search has this phase."""
        return True

    def plan(self, state: SearchState) -> Iterable[TrialRequest]:
        """All trials that follow from what is known, those that have ended included."""
        return ()

    def close(self, state: SearchState, sampler: Sampler) -> None:
        """Acts on the results when all trials of the phase have ended."""

    def tables(self, state: SearchState, trials: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Results of the phase by name; each table becomes NAME.csv, an MLflow artifact and a part of the findings.

        Args:
            state: The search.
            trials: All of its trials, as `analysis.records.reader.frame` has them.

        Returns:
            Tables, empty ones where nothing was run for them. Tables of pairs have the columns of
            `analysis.conflicts.pairwise`, and their verdicts become tags of the search in MLflow.
        """
        return {}

    def tags(self, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
        """What the phase's tables say in words, as tags of the search in MLflow."""
        return {}

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        """Upper bound of the phase's trials, for the preview and the progress bar.

        Args:
            settings: Settings of the search.
            factory: Has the cells of the design and the published recipes.
        """
        return 0

    def bound(self, state: SearchState) -> int:
        """Upper bound of the phase's trials by what is known so far."""
        return self.max_trials(state.settings, state.factory)

    def request(self, state: SearchState, name: str, recipe: Recipe, block: int, **more: Any) -> TrialRequest:
        """A trial of this phase.

        Args:
            state: The search.
            name: What follows the phase's name in the trial's id.
            recipe: What to train.
            block: Seed block, relative to the search's first seed.
            **more: Further fields of the request.
        """
        more.setdefault("title", recipe.title)
        more.setdefault("tricks", recipe.labels)
        return TrialRequest(f"{self.name}-{name}", self.arm, self.name, recipe, state.first_seed + block, **more)

    def over_blocks(
        self, state: SearchState, recipes: Iterable[Recipe], seeds: int, skip: int = 0, **more: Any
    ) -> Iterator[TrialRequest]:
        """Every recipe on the same seeds, block by block, so that an interrupted search has whole blocks.

        Args:
            state: The search.
            recipes: What to train.
            seeds: Number of blocks.
            skip: Blocks of this phase's seeds that come before.
            **more: Further fields of the requests.
        """
        kept = list(recipes)
        for block in range(self.first_seed + skip, self.first_seed + skip + seeds):
            for recipe in kept:
                yield self.request(state, f"{recipe.plan.id}-{state.first_seed + block}", recipe, block, **more)

    def blocks(self, state: SearchState, seeds: int) -> range:
        """Seeds of the phase's first blocks."""
        first = state.first_seed + self.first_seed
        return range(first, first + seeds)

"""What the model of the early end says of a recorded adaptive arm: the bound of the gain at each proposal.

The search is decided again from its journal up to each proposal, with a patience of its own, so that any finished
search will do, also one without an early end. Nothing is trained.

    python run_search.py --space spaces/full_combo.py --name default
    OMP_NUM_THREADS=1 python tests/benchmarks/early_end.py results/default
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from search.context import SearchContext
from search.scheduling.early_end.decision import gain_ahead, seed_variance
from search.scheduling.early_end.rule import default_patience
from search.scheduling.journal import Journal
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.settings import Settings
from search.state import SearchState
from search.verify.replay import _Prefix
from search.workspace.folder import kept_space
from search.workspace.identity import SEEDS_APART


def states(folder: Path, first: int, step: int) -> Iterator[tuple[SearchState, Sampler, float]]:
    """The search when a proposal was due, with what the sampler knew then, and the best result that was known.

    Args:
        folder: Of the search.
        first: Position of the first proposal.
        step: Every so many proposals.
    """
    settings = replace(Settings.stored(folder.parent, folder.name), time_budget=None, gpu_hours=None)
    context = SearchContext.make(kept_space(settings)[0], settings)
    path = folder / "journal.jsonl"
    journal = _Prefix(path, Journal(path).events())
    tasks = [number for number, event in enumerate(journal.all) if event["event"] == "task"]
    for position in range(first, len(tasks), step):
        journal.end = tasks[position]
        state = SearchState(context.factory, settings, context.standard.margin, settings.seed * SEEDS_APART)
        sampler = Sampler(context.space, context.standard, settings.epochs_scale, None, settings.name, settings.seed)
        proposer = Orchestrator(state, sampler, journal, StageLocks(lambda request: [], None)).proposer
        proposer._learn_up_to(proposer._needed(position))
        known = [trial.values[0] for trial in sampler.trials if trial.state.name == "COMPLETE"]
        yield state, sampler, max(known)


def main() -> None:
    """Prints a line for each proposal, in points."""
    parser = argparse.ArgumentParser(description="The bound of the gain at the proposals of a recorded search.")
    parser.add_argument("folder", type=Path, help="folder of the search")
    parser.add_argument("--first", type=int, default=12, help="first proposal (default: 12)")
    parser.add_argument("--step", type=int, default=4, help="every so many proposals (default: 4)")
    options = parser.parse_args()
    print(f"{'proposals':>9} {'best known':>10} {'90 % bound':>10}   in points")
    for state, sampler, best in states(options.folder, options.first, options.step):
        asked = sum(request.number is not None for request in state.requests.values())
        ahead = default_patience(state.settings.trials)
        print(f"{asked:9} {100 * best:10.1f} {100 * gain_ahead(state, sampler, asked, ahead):10.1f}", flush=True)
    print(f"margin {100 * state.margin:.1f}, one seed's noise {100 * seed_variance(state) ** 0.5:.1f}")


if __name__ == "__main__":
    main()

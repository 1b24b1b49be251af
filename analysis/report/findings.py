"""What a search found, complete: the one object that every section of the report reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from analysis.conflicts import OtherMetrics, other_metric_tables, verdict_table
from analysis.conflicts import effects as effects_alone
from analysis.conflicts.candidates import candidate_table
from analysis.conflicts.other_searches import OtherSearches, compare
from analysis.conflicts.search_verdicts import declared_pairs, margin_of, with_robustness
from analysis.conflicts.verdicts import MARGIN
from analysis.records import reader
from analysis.records.mlflow_index import parsed
from analysis.records.schema import SPACE_CHANGES, RecordError
from analysis.report.health import warnings


@dataclass(frozen=True)
class Findings:
    """What a search found; tables that nothing was run for are `None`.

    Args:
        trials: Table of trials.
        ranking: Recipes by mean score (`analysis.records.reader.ranking`).
        best: Id of the recipe that is called best; "" before any trial has finished.
        baseline: Id of the baseline.
        metric: Column of the val split that decides.
        margin: Loss that would not matter, a fraction.
        conflicts: Conflict table by the metric.
        effects: Effect of each trick alone.
        curves: Learning curves of the recipes that are drawn.
        problem: Why there is no conflict table; "" where there is one.
        about: Settings, versions and places of the search.
        other_metrics: Conflict tables by further metrics.
        nominated: Conflict table of the pairs that the adaptive arm suggested, on fresh seeds.
        other_searches: The same pairs in the other searches of the store.
        health: Reasons not to believe the search (`analysis.report.health`).
    """

    trials: pd.DataFrame
    ranking: pd.DataFrame
    best: str
    baseline: str
    metric: str
    margin: float
    conflicts: pd.DataFrame | None = None
    effects: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    problem: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    other_metrics: OtherMetrics = field(default_factory=OtherMetrics)
    nominated: pd.DataFrame | None = None
    other_searches: OtherSearches | None = None
    health: tuple[str, ...] = ()

    @property
    def design(self) -> pd.DataFrame:
        """Trials of the design arm."""
        return self.trials[self.trials["arm"] == "design"]

    @property
    def compared(self) -> dict[str, str]:
        """The recipes that are drawn, id -> name: the best one and the baseline."""
        named = {self.best: "best recipe"} if self.best and self.best != self.baseline else {}
        return named | ({self.baseline: "baseline"} if self.baseline else {})

    def trials_of(self, recipe: str) -> pd.DataFrame:
        """Finished trials of the arm by which a recipe is measured, the freshest that it has."""
        done = self.trials[(self.trials["outcome"] == "finished") & (self.trials["recipe"] == recipe)]
        for arm in reader.ESTIMATES:
            if (done["arm"] == arm).any():
                return done[done["arm"] == arm]
        return done


def gather(
    trials: pd.DataFrame,
    *,
    curves: pd.DataFrame | None = None,
    conflicts: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
    best: str | None = None,
    metric: str = "final/accuracy",
    margin: float = MARGIN,
    primary: Iterable[Sequence[str] | str] | str = (),
    about: Mapping[str, Any] | None = None,
    other_searches: OtherSearches | None = None,
    firsts: Sequence[int] = (),
) -> Findings:
    """Completes what a search found from its trials.

    Args:
        trials: `reader.frame(records)`, or what `reader.records` gives.
        curves: `reader.curves(trials)` of the recipes that are drawn.
        conflicts: Conflict table; computed from `trials` where absent.
        effects: Effects alone; computed from `trials` where absent.
        best: Id of the recipe that is called best; the first of the ranking where absent.
        metric: Column of the val split that decides.
        margin: Loss that would not matter, a fraction.
        primary: Declared pairs.
        about: Settings, versions and places, shown at the end of the page.
        other_searches: The same pairs in other searches.
        firsts: First seed block of each further look, see `analysis.conflicts.at_looks`.

    Raises:
        RecordError: The metric is of the test split, `best` is not among the finished trials, or records contradict
            each other.
    """
    ranking = reader.ranking(trials, metric)
    if best is not None and best not in set(ranking["recipe"]):
        raise RecordError(f"recipe {best!r} cannot be called best: it has no finished trial")
    leader = best or (str(ranking["recipe"].iloc[0]) if len(ranking) else "")
    problem = "" if (trials["arm"] == "design").any() else "the design arm has not run, and it alone can show conflicts"
    if not problem:
        try:
            effects = effects_alone(trials, metric) if effects is None else effects
            if conflicts is None:
                conflicts = verdict_table(trials, metric, margin, primary=primary, firsts=firsts)
        except RecordError:
            raise
        except ValueError as error:
            problem = str(error)
    if conflicts is not None and len(conflicts) and "holds" not in conflicts:
        conflicts = with_robustness(conflicts, trials, metric, margin)
    findings = Findings(
        trials, ranking, leader, reader.baseline(trials), metric, margin, _filled(conflicts), _filled(effects),
        _filled(curves), problem, dict(about or {}), nominated=_filled(candidate_table(trials, metric, margin)),
        other_searches=other_searches,
        health=(
            *filter(None, [(about or {}).get(SPACE_CHANGES)]),
            *warnings(trials, effects, margin, metric=metric, winner=leader or None),
        ),
    )  # fmt: skip
    if findings.conflicts is None or problem:
        return findings
    others = other_metric_tables(trials, metric, margin, primary=declared_pairs(primary))
    skipped = {name: why for name, why in others.skipped.items() if name in trials}
    return replace(findings, other_metrics=others._replace(skipped=skipped))


def from_store(uri: str, search: str | None = None) -> tuple[str, Findings]:
    """Reads what a search found from an MLflow store.

    Args:
        uri: The store.
        search: Name of the search; the latest where absent.

    Returns:
        The name of the search, and its findings.

    Raises:
        LoadError: There is no such store or search.
    """
    info = reader.find(uri, search)
    name, trials = reader.records(uri, info.name)
    settings = {key: parsed(text) for key, text in info.params.items()}
    about = {
        "MLflow store": uri,
        "MLflow run": info.run_id,
        "search started": f"{datetime.fromtimestamp(info.started, tz=UTC):%Y-%m-%d %H:%M} UTC",
        "status": info.status.lower(),
        **{key: settings[key] for key in sorted(settings)},
        **({"adaptive_arm": info.tags["adaptive_arm"]} if "adaptive_arm" in info.tags else {}),
    }
    if SPACE_CHANGES in info.tags:  # MLflow never changes a parameter
        about[SPACE_CHANGES] = info.tags[SPACE_CHANGES]
    findings = gather(
        trials,
        margin=margin_of(settings),
        primary=settings.get("primary") or (),
        about=about,
        firsts=reader.looks(uri, name),
    )
    drawn = trials[trials["recipe"].isin(findings.compared) & (trials["outcome"] == "finished")]
    others = compare(uri, name, trials, findings.conflicts)
    return name, replace(findings, curves=_filled(reader.curves(drawn)), other_searches=others)


def _filled(table: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if table is None or table.empty else table

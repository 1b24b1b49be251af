"""Records as one table of trials, and the one ranking of recipes that follows from it.

`searches` lists what is in an MLflow store; `records` gives the trials of one search, one row each, from the artifacts
`records.jsonl` of the search's run and `record.json` of each trial's run. `frame` makes the same table from records in
memory, so that everything in `analysis/` runs during a search as well.

The columns of a trial are the fields of `analysis.records.schema.Record` (`COLUMNS`), then its metrics
("final/accuracy", …) and the recall of every class ("recall/0", …).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.records.intervals import bounded_interval, difference_interval, effective_images
from analysis.records.mlflow_index import parsed
from analysis.records.mlflow_runs import experiments, has_artifact, pages, read_artifact
from analysis.records.mlflow_store import Client, StoreError, address, connect, name_of
from analysis.records.schema import (
    BASELINE,
    FIELDS,
    SPACE_CHANGES,
    Record,
    RecordError,
    choosable,
    history,
)

RECORDS = "records.jsonl"
"""Artifact of a search's run that has all its records, a line each; written when the search ends."""

RECORD = "record.json"
"""Artifact of a trial's run."""

COLUMNS = (*(name for name in FIELDS if name != "metrics"), "run_id")
"""Columns of a table of trials, before the metrics. `run_id` is empty for records in memory."""

ESTIMATES = ("confirm", "race", "design", "adaptive")
"""Arms whose seeds speak for a recipe, best first: fresh seeds, then complete blocks, then what the adaptive
arm happened to draw. A recipe is judged by the best arm it has, never by a mixture."""


LoadError = StoreError
"""A store, or a search in it, that cannot be read."""


# ---------------------------------------------------------------------------------------------- searches


@dataclass(frozen=True)
class Search:
    """One search as the store has it.

    Args:
        name: Its name.
        data: Name of the data set.
        started: Unix time.
        trials: Trials logged so far, of every arm.
        finished: Those of them that reached their end.
        best_accuracy: Mean accuracy on val of the leading recipe; NaN before the first one.
        best_arm: The arm that the mean is from.
        status: MLflow's: RUNNING, FINISHED, KILLED or FAILED.
        run_id: Its MLflow run.
        experiment_id: Its MLflow experiment.
        params: What it was started with.
        tags: Its tags, `conflict/<a>--<b>` among them.
    """

    name: str
    data: str
    started: float
    trials: int
    finished: int
    best_accuracy: float
    best_arm: str
    status: str
    run_id: str
    experiment_id: str
    params: dict[str, str]
    tags: dict[str, str]


def _searches(client: Client) -> list[Search]:
    data = experiments(client)
    runs = pages(client, list(data), "tags.level = 'search'")
    found = [
        Search(
            name=run.data.tags["search"],
            data=run.data.tags.get("data", data[run.info.experiment_id]),
            started=run.info.start_time / 1000,
            trials=int(run.data.metrics.get("trials", 0)),
            finished=int(run.data.metrics.get("trials_finished", 0)),
            best_accuracy=float(run.data.tags.get("best_accuracy", "nan")),
            best_arm=run.data.tags.get("best_arm", ""),
            status=run.info.status,
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            params=dict(run.data.params),
            tags=dict(run.data.tags),
        )
        for run in runs
    ]
    return sorted(found, key=lambda search: search.started, reverse=True)


def searches(uri: str) -> pd.DataFrame:
    """Every search in the store, newest first.

    Returns:
        One row per search: name, data, started (UTC), trials, finished, best_accuracy, best_arm, status, run_id,
        output, the folder of results that it was started with, and space_changes, "" where its space never changed.

    Raises:
        LoadError: There is no store at `uri`.
    """
    columns = ["name", "data", "started", "trials", "finished", "best_accuracy", "best_arm", "status", "run_id"]
    found = _searches(connect(uri))
    rows = [
        [*(getattr(one, column) for column in columns), one.params.get("output", ""), one.tags.get(SPACE_CHANGES, "")]
        for one in found
    ]
    table = pd.DataFrame(rows, columns=[*columns, "output", SPACE_CHANGES])
    table["started"] = pd.to_datetime(table["started"], unit="s", utc=True)
    return table


def find(uri: str, search: str | None = None) -> Search:
    """The search of this name, or the latest where `search` is None.

    Raises:
        LoadError: There is no such search; the nearest name is offered.
    """
    return _find(connect(uri), address(uri), search)


def _find(client: Client, uri: str, search: str | None) -> Search:
    found = _searches(client)
    if not found:
        raise LoadError(f"the MLflow store at {uri} holds no search; run one first, or change --tracking-uri")
    if search is None:
        return found[0]
    for candidate in found:
        if candidate.name == search:
            return candidate
    names = list(dict.fromkeys(candidate.name for candidate in found))
    near = difflib.get_close_matches(search, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it holds {', '.join(names[:8])}{', …' if names[8:] else ''}"
    raise LoadError(f"no search {search!r} in the MLflow store at {uri}; {hint}")


def settings(uri: str, search: str | None = None) -> dict[str, Any]:
    """What a search was started with.

    Raises:
        LoadError: There is no such store or search.
    """
    return {name_of(key): parsed(text) for key, text in find(uri, search).params.items()}


def looks(uri: str, search: str | None = None) -> list[int]:
    """First seed block of each further look at the primary pairs, in order; see `analysis.conflicts.at_looks`.

    Raises:
        LoadError: There is no such store or search.
    """
    return [int(first) for first in json.loads(find(uri, search).tags.get("looks", "[]"))]


# ---------------------------------------------------------------------------------------------- trials


def frame(records: Iterable[Record], run_ids: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The table of trials, one row per record, in the order of their start.

    Trials that were set aside when the space was changed are left out.

    Args:
        records: At most one per trial.
        run_ids: MLflow run of each trial (default: none, as for records in memory).
    """
    rows = []
    metrics: dict[str, None] = {}
    classes = 0
    for record in records:
        if record.set_aside:
            continue
        row = {name: getattr(record, name) for name in FIELDS if name != "metrics"}
        row["choices"] = {name: value for name, value in record.choices.items() if value is not None}
        row["run_id"] = (run_ids or {}).get(record.trial, "")
        row |= {f"recall/{number}": recall for number, recall in enumerate(record.recalls)}
        rows.append(row | record.metrics)
        metrics |= dict.fromkeys(record.metrics)
        classes = max(classes, len(record.recalls))
    recalls = (f"recall/{number}" for number in range(classes))
    table = pd.DataFrame(rows, columns=[*COLUMNS, *sorted(metrics), *recalls])
    return table.sort_values(["started", "trial"], ignore_index=True)


def records(uri: str, search: str | None = None) -> tuple[str, pd.DataFrame]:
    """The trials of one search, read from an MLflow store; equal to the `frame` of what was written there.

    Args:
        uri: Address of the store.
        search: Name of the search; the latest where None.

    Returns:
        The name of the search that was read, and its trials, one row each, in the order of their start.

    Raises:
        LoadError: There is no such store or search, or its records cannot be read.
    """
    uri = address(uri)
    client = connect(uri)
    found = _find(client, uri, search)
    query = f"tags.search = '{found.name}' and tags.level = 'trial' and attributes.status != 'RUNNING'"
    runs = pages(client, [found.experiment_id], query)
    together = _together(client, client.get_run(found.run_id))
    read: dict[str, Record] = {}
    run_ids: dict[str, str] = {}
    for run in runs:
        record = together.get((run.data.tags.get("trial", ""), run.info.start_time)) or _read(client, run)
        if record.trial in read:
            raise LoadError(
                f"search {found.name!r}: trial {record.trial!r} is in the store twice; repair that with: "
                f"python -m search.sync {found.name}"
            )
        read[record.trial], run_ids[record.trial] = record, run.info.run_id
    return found.name, frame(read.values(), run_ids)


def _together(client: Client, run: Any) -> dict[tuple[str, int], Record]:
    """The records that lie in one file, by trial and start of its run in milliseconds.

    None of a search that has not ended yet or was written by an earlier version, and not those of trials that ran
    since: these have a start of their own.
    """
    if not has_artifact(client, run, RECORDS):
        return {}
    found = [_parsed(run, RECORDS, line) for line in read_artifact(client, run, RECORDS).split("\n") if line]
    return {(record.trial, round(1000 * record.started)): record for record in found}


def _read(client: Client, run: Any) -> Record:
    return _parsed(run, RECORD, read_artifact(client, run, RECORD))


def _parsed(run: Any, name: str, text: str) -> Record:
    try:
        return Record.from_json(text)
    except RecordError as error:
        raise LoadError(f"{name} of run {run.info.run_id}: {error}") from error


def curves(trials: pd.DataFrame, metrics: Sequence[str] = ("accuracy",)) -> pd.DataFrame:
    """Learning curves on val.

    Args:
        trials: Rows of `frame` or `records`.
        metrics: Names without prefix.

    Returns:
        One row per evaluation: run_id, trial, recipe, seed, metric, epoch, value; with several members in a stage,
        their mean.
    """
    keys = ["run_id", "trial", "recipe", "seed"]
    rows = [
        {name: trial[name] for name in keys} | {"metric": metric, "epoch": epoch, "value": value}
        for trial in trials[[*keys, "curve"]].to_dict("records")
        for metric in metrics
        for epoch, value in history(trial["curve"], metric)
    ]
    return pd.DataFrame(rows, columns=[*keys, "metric", "epoch", "value"])


# ---------------------------------------------------------------------------------------------- recipes


def estimate(values: Mapping[str, Mapping[int, float]]) -> tuple[str, dict[int, float]]:
    """The arm that speaks for a recipe, and its value per seed: the first of `ESTIMATES` that has any.

    >>> estimate({"design": {0: 0.6, 1: 0.7}, "race": {100: 0.62}})
    ('race', {100: 0.62})
    """
    for arm in ESTIMATES:
        if values.get(arm):
            return arm, dict(values[arm])
    return "", {}


def place(values: Mapping[str, Mapping[int, float]], *, plain: bool = False) -> tuple[bool, bool, int, float]:
    """What a recipe is ordered by, larger is better: confirmed, raced, seeds in the race, mean.

    Of several confirmed ones (trials were added after the first) the race decides: a confirmation chooses nothing.

    Args:
        values: Arm to seed to value.
        plain: Whether it is the baseline, which is confirmed without having won.
    """
    arm, seeds = estimate({name: of for name, of in values.items() if not (plain and name == "confirm")})
    judged = values.get("race") or seeds if arm == "confirm" else seeds
    mean = sum(judged.values()) / len(judged) if judged else float("-inf")
    return arm == "confirm", arm == "race", len(seeds) if arm == "race" else 0, mean


def baseline(trials: pd.DataFrame) -> str:
    """Id of the recipe in which nothing is on; of several (other learning rates), the one with the most design seeds.

    Empty if there is none.
    """
    plain = trials[(trials["title"] == BASELINE) & (trials["outcome"] == "finished")]
    if plain.empty:
        return ""
    seeds = plain.assign(design=plain["arm"] == "design").groupby("recipe", sort=False)["design"].sum()
    return str(seeds.idxmax())


def image_error(rows: pd.DataFrame, metric: str) -> float:
    """Standard error of a trial's metric by the number of images that it was measured on; NaN where unknown."""
    if f"{metric}_error" not in rows:
        return float("nan")
    return float((rows[f"{metric}_error"].astype(float) ** 2).mean() ** 0.5)


def mean_interval(rows: pd.DataFrame, metric: str, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of a fraction over trials, with an interval in [0, 1]; see `analysis.records.intervals.bounded_interval`.

    Args:
        rows: Trials of one recipe, one for each seed; those without the metric are left out.
        metric: A column that is a fraction.
        level: Coverage of the interval.
    """
    known = rows[rows[metric].notna()]
    values = known[metric].tolist()
    images = effective_images(sum(values) / len(values), image_error(known, metric)) if values else 0.0
    same = metric.startswith("test/") or ("correct" in known and bool(known["correct"].map(len).any()))
    return bounded_interval(values, level, images=images, same_images=same)


def ranking(trials: pd.DataFrame, metric: str = "final/accuracy", level: float = 0.95) -> pd.DataFrame:
    """Recipes, best first.

    The confirmed winner comes first. A recipe that ran in the race on fresh seeds comes before one that did not,
    one with more of them before one that dropped out earlier; within these, by the mean. The mean of a recipe that
    was not confirmed was looked at when it was chosen, so it flatters. The baseline is confirmed beside the winner
    and keeps the place that it has without that.

    Args:
        trials: Table of trials; only those that finished count.
        metric: Column to rank by, of the val split.
        level: Coverage of the intervals.

    Returns:
        One row per recipe: recipe, title, tricks, arm (that speaks for it), seeds, diverged (trials of any arm),
        mean, low, high, gain, gain_low, gain_high, gain_seeds (over the baseline, paired by seed; NaN without common
        seeds), epochs, images, run_id (of one trial).

    Raises:
        RecordError: The metric is one of the test split, or no trial has it.
    """
    choosable(metric)
    finished = len(trials) > 0 and bool((trials["outcome"] == "finished").any())
    if finished and metric not in trials:
        near = difflib.get_close_matches(metric, [str(c) for c in trials.columns], n=1)
        raise RecordError(f"no trial has the metric {metric!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    values: dict[str, dict[str, dict[int, float]]] = {}
    rows: dict[str, Any] = {}
    done = trials[(trials["outcome"] == "finished") & trials[metric].notna()] if finished else trials.iloc[:0]
    for trial in done.to_dict("records"):
        values.setdefault(trial["recipe"], {}).setdefault(trial["arm"], {})[trial["seed"]] = trial[metric]
        rows.setdefault(trial["recipe"], trial)
    plain = baseline(trials)
    reference: dict[int, float] = {}
    for arm in reversed(ESTIMATES):
        reference |= values.get(plain, {}).get(arm, {})
    lost = trials[trials["outcome"] == "diverged"]["recipe"].value_counts().to_dict()
    places: dict[str, tuple[bool, bool, int, float]] = {}
    table = []
    for recipe, trial in rows.items():
        arm, seeds = estimate(values[recipe])
        if not arm:
            continue
        own = done[(done["recipe"] == recipe) & (done["arm"] == arm)].drop_duplicates("seed", keep="last")
        mean, low, high = mean_interval(own, metric, level)
        gains = [value - reference[seed] for seed, value in seeds.items() if seed in reference]
        if recipe == plain:
            gains = []
        gain, gain_low, gain_high = difference_interval(gains, level)
        places[recipe] = place(values[recipe], plain=recipe == plain)
        table.append(
            {
                "recipe": recipe, "title": trial["title"], "tricks": trial["tricks"], "arm": arm, "seeds": len(seeds),
                "diverged": lost.get(recipe, 0), "mean": mean, "low": low, "high": high,
                "gain": gain, "gain_low": gain_low, "gain_high": gain_high, "gain_seeds": len(gains),
                "epochs": trial["epochs"], "images": trial["images"], "run_id": trial["run_id"],
            }
        )  # fmt: skip
    columns = [
        "recipe", "title", "tricks", "arm", "seeds", "diverged", "mean", "low", "high", "gain", "gain_low",
        "gain_high", "gain_seeds", "epochs", "images", "run_id",
    ]  # fmt: skip
    ranked = sorted(table, key=lambda row: (*places[row["recipe"]], row["recipe"]), reverse=True)
    return pd.DataFrame(ranked, columns=columns)

"""MLflow to one checked table of trials, and the one ranking of recipes that follows from it.

Whatever writes the records (`search.mlflow_tracker`), this module reads them back: `searches` lists what is in a
store, `records` gives the trials of one search, one row each, `curves` their learning curves. `frame` makes
the same table from records in memory, so that everything in `analysis/` runs during a search as well.

The columns of a trial are the names of `analysis.records.schema.Record` (`COLUMNS`), then its metrics
("final/accuracy", …) and the recall of every class ("recall/0", …), all of them fractions.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pandas as pd

from analysis.records.mlflow_store import StoreError, address, connect, database, name_of
from analysis.records.schema import (
    ARM,
    ARMS,
    BASELINE,
    OUTCOMES,
    SCHEMA,
    Record,
    RecordError,
    bounded_interval,
    choosable,
    difference_interval,
    effective_images,
)

EXPERIMENTS = "longtail/"
"""What the names of our MLflow experiments begin with; the data set's name follows."""

PAGE = 1000
"""Runs that are asked for at a time; a store may hold more."""

COLUMNS = (
    "search", "trial", "arm", "recipe", "title", "seed", "split_seed", "first_stage", "tricks", "context", "outcome",
    "choices", "data", "model", "imbalance", "fingerprint", "counts", "epochs", "epochs_trained", "images", "steps",
    "seconds", "seconds_saved", "reused", "reason", "started", "schema", "run_id",
    "setting", "stop", "families", "val_counts", "class_names", "correct", "gpus", "memory",
)  # fmt: skip
"""Columns of a table of trials, before the metrics. `run_id` is empty for records in memory."""

ELSEWHERE = "in record.json"
"""Tag of what is too long for one."""

COSTS = ("epochs", "epochs_trained", "images", "steps", "seconds", "seconds_saved")
"""Fields of a record that MLflow keeps as metrics "cost/<name>"."""

ESTIMATES = ("confirm", "race", "design", "adaptive")
"""Arms whose seeds speak for a recipe, best first: fresh seeds, then complete blocks, then what the adaptive
arm happened to draw. A recipe is judged by the best arm it has, never by a mixture."""


LoadError = StoreError
"""A store, or a search in it, that cannot be read."""


# ---------------------------------------------------------------------------------------------- the store


def pages(client: Any, experiments: Sequence[str], query: str) -> list[Any]:
    """Every run that `query` selects, oldest first, however many there are."""
    found: list[Any] = []
    token = None
    while experiments:
        page = client.search_runs(
            list(experiments), query, max_results=PAGE, page_token=token, order_by=["attributes.start_time ASC"]
        )
        found.extend(page)
        token = page.token
        if not token:
            break
    return found


def _experiments(client: Any) -> dict[str, str]:
    """Id of every experiment of ours, with the name of its data set."""
    found: dict[str, str] = {}
    token = None
    while True:
        page = client.search_experiments(filter_string=f"name LIKE '{EXPERIMENTS}%'", page_token=token)
        found.update({e.experiment_id: e.name.removeprefix(EXPERIMENTS) for e in page})
        token = page.token
        if not token:
            return found


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


def _searches(client: Any) -> list[Search]:
    experiments = _experiments(client)
    runs = pages(client, list(experiments), "tags.level = 'search'")
    found = [
        Search(
            name=run.data.tags["search"],
            data=run.data.tags.get("data", experiments[run.info.experiment_id]),
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
        One row per search: name, data, started (UTC), trials, finished, best_accuracy, best_arm, status, run_id and
        output, the folder of results that it was started with.

    Raises:
        LoadError: There is no store at `uri`.
    """
    columns = ["name", "data", "started", "trials", "finished", "best_accuracy", "best_arm", "status", "run_id"]
    found = _searches(connect(uri))
    rows = [[*(getattr(search, column) for column in columns), search.params.get("output", "")] for search in found]
    table = pd.DataFrame(rows, columns=[*columns, "output"])
    table["started"] = pd.to_datetime(table["started"], unit="s", utc=True)
    return table


def find(uri: str, search: str | None = None) -> Search:
    """The search of this name, or the latest where `search` is None.

    Raises:
        LoadError: There is no such search; the nearest name is offered.
    """
    return _find(connect(uri), address(uri), search)


def _find(client: Any, uri: str, search: str | None) -> Search:
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


def plan(uri: str, search: str | None, recipe: str) -> dict[str, Any]:
    """Plan of one recipe of a search.

    Raises:
        LoadError: There is no such store, search or recipe, or the files beside the store are gone.
    """
    uri = address(uri)
    client = connect(uri)
    found = _find(client, uri, search)
    query = f"tags.search = '{found.name}' and tags.level = 'recipe'"
    for run in pages(client, [found.experiment_id], query):
        if run.data.tags.get("recipe") == recipe:
            return dict(json.loads(_artifact(client, run, "plan.json")))
    raise LoadError(f"search {found.name!r} in the MLflow store at {uri} has no recipe {recipe!r}")


def _artifact(client: Any, run: Any, name: str) -> str:
    """Text of a run's artifact; of a local one without MLflow's copy to a temporary folder."""
    folder = str(run.info.artifact_uri)
    try:
        place = local_folder(client.uri, folder)
        path = Path(client.download_artifacts(run.info.run_id, name)) if place is None else place / name
        return path.read_text(encoding="utf-8")
    except Exception as error:
        raise LoadError(
            f"{name} of run {run.info.run_id} cannot be read from {folder} ({error}); write the artifacts again with: "
            f"python -m search.sync {run.data.tags.get('search', '--all')}"
        ) from error


def local_folder(uri: str, artifacts: str) -> Path | None:
    """The folder of a run's artifacts on this machine; None where they are elsewhere.

    MLflow notes absolute places. Ours lie beside the database, also after both were moved or copied.

    Args:
        uri: Address of the store.
        artifacts: As MLflow has noted it.
    """
    if not artifacts.startswith(("file://", "/")):
        return None
    noted = Path(url2pathname(urlparse(artifacts).path))
    file = database(uri)
    ours = EXPERIMENTS.replace("/", "-")
    if file is not None and noted.parts[-4:-3] == ("mlruns",) and noted.parts[-3].startswith(ours):
        # mlruns/longtail-<data>/<run>/artifacts
        return file.parent.joinpath(*noted.parts[-4:])
    return noted


# ---------------------------------------------------------------------------------------------- trials


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """The table of trials of records in memory, equal to what `records` reads back."""
    rows = []
    for record in records:
        row = {name: getattr(record, name) for name in COLUMNS if name != "run_id"}
        row["run_id"] = ""
        for name in ("stop", "families"):
            row[name] = dict(row[name])
        row["choices"] = _made(record.choices)
        row |= record.metrics
        row |= {f"recall/{index}": value for index, value in enumerate(record.recalls)}
        rows.append(row)
    return _table(rows)


def records(uri: str, search: str | None = None) -> tuple[str, pd.DataFrame]:
    """The trials of one search.

    Args:
        uri: Address of the store.
        search: Name of the search; the latest where None.

    Returns:
        The name of the search that was read, and its trials, one row each, in the order of their start.

    Raises:
        LoadError: There is no such store or search, or its runs are not the ones that a search writes.
    """
    uri = address(uri)
    client = connect(uri)
    found = _find(client, uri, search)
    query = f"tags.search = '{found.name}' and tags.level = 'trial' and attributes.status != 'RUNNING'"
    runs = pages(client, [found.experiment_id], query)
    return found.name, _checked(found.name, _table([_row(client, run) for run in runs]))


def _row(client: Any, run: Any) -> dict[str, Any]:
    tags, params, metrics = run.data.tags, dict(run.data.params), dict(run.data.metrics)
    try:
        schema = int(tags["schema"])
        if schema != SCHEMA:
            raise LoadError(
                f"run {run.info.run_id} was written in schema {schema}, this version of longtail-tune reads schema "
                f"{SCHEMA}; use the version that wrote it"
            )
        row: dict[str, Any] = {
            "search": tags["search"],
            "trial": tags["trial"],
            "arm": tags["arm"],
            "recipe": tags["recipe"],
            "title": tags["title"],
            "seed": int(tags["seed"]),
            "split_seed": int(tags["split_seed"]),
            "first_stage": tags["first_stage"],
            "tricks": tuple(json.loads(tags["tricks"])),
            "context": tags.get("context", ""),
            "outcome": tags["outcome"],
            "data": params.pop("data"),
            "model": params.pop("model"),
            "imbalance": float(params.pop("imbalance")),
            "fingerprint": tags.get("fingerprint", ""),
            "counts": _listed(tags, "counts"),
            "reused": tuple(json.loads(tags.get("reused", "[]"))),
            "reason": tags.get("reason", ""),
            "started": run.info.start_time / 1000,
            "schema": schema,
            "run_id": run.info.run_id,
            "setting": tags.get("setting", ""),
            "stop": {key.removeprefix("stop/"): parsed(text) for key, text in tags.items() if key.startswith("stop/")},
            "families": json.loads(tags.get("families", "{}")),
            "val_counts": _listed(tags, "val_counts"),
            "class_names": _listed(tags, "class_names"),
            "correct": (),
            "gpus": metrics.get("cost/gpus", 0.0),
            "memory": metrics.get("cost/memory", 0.0),
        }
        # thousands of images or classes are too many for a tag
        large = [name for name in ("counts", "val_counts", "class_names") if tags.get(name) == ELSEWHERE]
        if large or tags.get("correct"):
            whole = json.loads(_artifact(client, run, "record.json"))
            row |= {name: tuple(whole[name]) for name in [*large, "correct"]}
        for name in COSTS:
            value = metrics[f"cost/{name}"]
            row[name] = int(value) if name in ("images", "steps") else value
    except LoadError:
        raise
    except (KeyError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise LoadError(
            f"run {run.info.run_id} carries a search's tags but is not a trial of longtail-tune: {what}; mend that "
            f"with: python -m search.sync {tags.get('search', '--all')}"
        ) from error
    row["choices"] = _made({name_of(k): parsed(v) for k, v in params.items() if k not in ("epochs", "seed")})
    row |= {k: v for k, v in metrics.items() if k.startswith(("final/", "test/", "recall/"))}
    return row


def _made(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The choices that were made: in MLflow, every choice of the space that a recipe does without is "none"."""
    return {name: value for name, value in choices.items() if value is not None}


def _listed(tags: Mapping[str, str], name: str) -> tuple[Any, ...]:
    """A tag that is a list; empty where it stands elsewhere or nowhere."""
    text = tags.get(name, "[]")
    return () if text == ELSEWHERE else tuple(json.loads(text))


def parsed(text: str) -> Any:
    """A parameter's value from the text that MLflow keeps.

    >>> parsed("0.1"), parsed("class_balanced"), parsed("none")
    (0.1, 'class_balanced', None)
    """
    if text == "none":
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    names = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    finals = sorted(name for name in names if not name.startswith("recall/"))
    recalls = sorted((name for name in names if name.startswith("recall/")), key=lambda n: int(n.split("/")[1]))
    table = pd.DataFrame(rows, columns=[*COLUMNS, *finals, *recalls])
    return table.sort_values(["started", "trial"], ignore_index=True)


def _checked(search: str, trials: pd.DataFrame) -> pd.DataFrame:
    # a further phase of a search may have an arm of its own
    arms = (*ARMS, *sorted(arm for arm in set(map(str, trials["arm"])) - set(ARMS) if ARM.fullmatch(arm)))
    for column, allowed in (("arm", arms), ("outcome", OUTCOMES)):
        unknown = sorted(set(trials[column]) - set(allowed))
        if unknown:
            raise LoadError(
                f"search {search!r}: {column} {unknown[0]!r} is unknown; allowed are {', '.join(allowed)}. "
                "The runs were written by another version or changed by hand"
            )
    twice = trials["trial"][trials["trial"].duplicated()]
    if len(twice):
        raise LoadError(
            f"search {search!r}: trial {twice.iloc[0]!r} is in the store twice; mend that with: "
            f"python -m search.sync {search}"
        )
    return trials


def curves(uri: str, trials: pd.DataFrame | str, metrics: Sequence[str] = ("accuracy",)) -> pd.DataFrame:
    """Learning curves on val.

    Args:
        uri: Address of the store.
        trials: Rows of `records`, or one MLflow run id.
        metrics: Names without prefix.

    Returns:
        One row per evaluation: run_id, trial, recipe, seed, metric, epoch, value; with several members in a stage,
        their mean. `trial`, `recipe` and `seed` are empty for a bare run id.
    """
    client = connect(uri)
    if isinstance(trials, str):
        _exists(client, uri, trials)
        keys = [{"run_id": trials, "trial": "", "recipe": "", "seed": ""}]
    else:
        keys = trials[["run_id", "trial", "recipe", "seed"]].to_dict("records")
    rows = []
    for key in keys:
        for metric in metrics:
            points = {point.step: point.value for point in client.get_metric_history(key["run_id"], f"val/{metric}")}
            rows += [key | {"metric": metric, "epoch": step, "value": points[step]} for step in sorted(points)]
    return pd.DataFrame(rows, columns=["run_id", "trial", "recipe", "seed", "metric", "epoch", "value"])


def _exists(client: Any, uri: str, run_id: str) -> None:
    try:
        client.get_run(run_id)
    except LoadError as error:
        raise LoadError(f"no run {run_id!r} in the MLflow store at {address(uri)}") from error


def curve_frame(records: Iterable[Record], metrics: Sequence[str] = ("accuracy",)) -> pd.DataFrame:
    """The same curves of records in memory."""
    rows = []
    for record in records:
        key = {"run_id": "", "trial": record.trial, "recipe": record.recipe, "seed": record.seed}
        for metric in metrics:
            for epoch, value in curve(record, metric):
                rows.append(key | {"metric": metric, "epoch": epoch, "value": value})
    return pd.DataFrame(rows, columns=["run_id", "trial", "recipe", "seed", "metric", "epoch", "value"])


def curve(record: Record, metric: str, stage: str | None = None) -> list[tuple[int, float]]:
    """(epoch, value) of one metric of one record, the members of a stage averaged."""
    gathered: dict[int, dict[str, list[float]]] = {}
    for point in record.curve:
        if metric in point.metrics and stage in (None, point.stage):
            gathered.setdefault(point.epoch, {}).setdefault(point.stage, []).append(point.metrics[metric])
    # Two stages meet at one epoch where the second is evaluated as it starts: the later one speaks.
    last = {epoch: list(stages.values())[-1] for epoch, stages in gathered.items()}
    return [(epoch, sum(values) / len(values)) for epoch, values in sorted(last.items())]


# ---------------------------------------------------------------------------------------------- recipes


def estimate(values: Mapping[str, Mapping[int, float]]) -> tuple[str, dict[int, float]]:
    """The arm that speaks for a recipe, and its value per seed: the first of `ESTIMATES` that has any.

    Args:
        values: Arm to seed to value.

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

    Empty where there is none.
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
    """Mean of a fraction over trials, with an interval in [0, 1]; see `analysis.records.schema.bounded_interval`.

    Args:
        rows: Trials of one recipe, one for each seed; those without the metric are left out.
        metric: A column that is a fraction.
        level: Of the interval.
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
        level: Of the intervals.

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

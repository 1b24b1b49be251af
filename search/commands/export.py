"""A recipe of a search as a file that trains the final model.

The file holds the plan with every number, what was measured and how sure that is, which verdicts concern the
recipe, and where all of it comes from. `python -m trainables.train best.yaml` trains it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import files
from analysis.conflicts.search_verdicts import margin_of, verdict_table
from analysis.formatting import coverage
from analysis.recipes import pareto, reliability
from analysis.recipes.pareto import HARMONIC_MEAN
from analysis.records import mlflow_store, reader
from analysis.records.intervals import bounded_interval, difference_interval, prediction_interval
from analysis.records.mlflow_store import address
from analysis.records.schema import BASELINE
from analysis.text import command, echo, sentence
from search.workspace.identity import changes_in
from trainables import data
from trainables.data.catalogue import DataError
from trainables.final.data_identity import has_own_tail, identity
from trainables.final.own_code import hashes, tricks_of
from trainables.final.recipe import to_yaml, with_relative_places
from trainables.training.numerics import Numerics

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1

CALIBRATION = (
    "temperature", "prior_exponent", "calibration_error_uncalibrated", "calibrated_error", "loss_uncalibrated",
    "calibrated_loss", "accuracy_uncalibrated", "calibrated_accuracy",
)  # fmt: skip
"""Metrics of a calibration that a recipe names: means over seeds, on val at equal frequencies."""

MOST_CONFUSIONS = 10
"""Confusions that a recipe names."""


class ExportError(ValueError):
    """A recipe that cannot be exported."""


def document(
    trials: pd.DataFrame,
    plan_of: Callable[[str], Mapping[str, Any]],
    *,
    rank: int = 1,
    recipe: str | None = None,
    pick: str | None = None,
    conflicts: pd.DataFrame | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A recipe as a YAML-able document.

    Args:
        trials: Table of trials, as `analysis.records.reader` gives it.
        plan_of: Recipe id -> plan.
        rank: Which one, 1 is the best.
        recipe: Its id instead.
        pick: Instead of both, one of `pareto.PICKS`: the best in accuracy or harmonic mean, or the knee of
            the front.
        conflicts: Table of pairs, for the verdicts that concern the recipe.
        settings: Of the search, for the provenance.

    Raises:
        ExportError: No such rank or recipe, or nothing has finished; a pick that val is too small for.
    """
    ranking = reader.ranking(trials)
    if ranking.empty:
        raise ExportError("no trial of this search has finished: there is no recipe to export yet")
    if pick is not None:
        recipe = pick_from_front(trials, pick, (settings or {}).get("val_images_per_class"))
    if recipe is not None:
        found = ranking[ranking["recipe"] == recipe]
        if found.empty:
            raise ExportError(f"no finished recipe has the id {recipe!r}; the best is {ranking['recipe'].iloc[0]!r}")
        row = found.iloc[0]
    elif 1 <= rank <= len(ranking):
        row = ranking.iloc[rank - 1]
    else:
        raise ExportError(f"--rank must be 1 to {len(ranking)} (that many recipes have finished), got {rank}")
    own = trials[
        (trials["recipe"] == row["recipe"]) & (trials["outcome"] == "finished") & (trials["arm"] == row["arm"])
    ]
    first = own.iloc[0]
    values = [float(value) for value in own.sort_values("seed")["final/accuracy"]]
    plan = dict(plan_of(str(row["recipe"])))
    low, high = prediction_interval(values, error=reader.image_error(own, "final/accuracy"))
    part = coverage(first["val_counts"], first["class_names"])
    return {
        "format": FORMAT,
        "recipe": str(row["recipe"]),
        "title": str(row["title"]),
        "data": _data(first, settings or {}),
        "model": str(first["model"]),
        "numerics": _numerics(settings or {}),
        "plan": plan,
        "measured": {
            "metric": "accuracy on val (fractions), at the last epoch" + (f"; {part}" if part else ""),
            "arm": str(row["arm"]),
            "epochs_scale": float((settings or {}).get("epochs_scale", 1.0)),
            **_length(settings or {}),
            "seeds": [int(seed) for seed in own.sort_values("seed")["seed"]],
            "values": values,
            **_named(reader.mean_interval(own, "final/accuracy"), ("mean", "low", "high")),
            "prediction": _named((low, high), ("low", "high")),
            **_worst_classes(own),
            **_reliability(own),
            "gain_over_baseline": _gain(trials, row, reader.baseline(trials)),
            "images_seen": {
                "recipe": float(own["images"].mean()),
                "baseline": _images(trials, reader.baseline(trials)),
            },
        },
        "conflicts": _verdicts(row["tricks"], conflicts, settings or {}),
        "provenance": {
            "search": str(first["search"]),
            "fingerprints": sorted({str(mark) for mark in own["fingerprint"]}),
            **_code(plan, str(first["model"]), settings or {}),
            "data_root": (settings or {}).get("data_root"),
            "longtail_tune": _version("longtail-tune"),
            "torch": _version("torch"),
        },
    }


def pick_from_front(trials: pd.DataFrame, pick: str, val_images: int | None) -> str:
    """Id of the recipe of the Pareto front that a word names.

    Args:
        trials: Table of trials.
        pick: One of `analysis.recipes.pareto.PICKS`.
        val_images: Of the class with the fewest; `None` where the search did not note it.

    Raises:
        ExportError: Val is too small for a harmonic mean as a target.
    """
    if pick != "accuracy" and val_images is not None:
        refused = pareto.too_few(f"--pick {pick}", str(trials["data"].iloc[0]), [val_images])
        if refused is not None:
            raise ExportError(refused)
    table = pareto.front(trials)
    best = table[table["on_front"]]
    row = best[best["knee"]].iloc[0] if pick == "knee" else best.loc[best[pick].idxmax()]
    return str(row["recipe"])


def write(content: Mapping[str, Any], path: Path) -> None:
    """Writes a document as YAML, with a line that says what to do with it; its places are relative to the file."""
    # YAML ends a line, and thereby a comment, at more characters than one sees
    named = sentence(f"Recipe {content['recipe']} of the search {content['provenance']['search']}: {content['title']}")
    head = f"# {named}\n# {command('python', '-m', 'trainables.train', Path(path.name))}\n"
    files.write(path, head + to_yaml(with_relative_places(content, path.parent)))


def _data(first: pd.Series, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Which data the recipe was found on; without their identity where they are no longer those.

    Data that were taken with their own tail have no imbalance: it would cut away images that are added later.
    """
    name = str(first["data"])
    found: dict[str, Any] = {"name": name, "imbalance": _imbalance(first, settings)}
    root, seed = settings.get("data_root"), int(first["split_seed"])
    # where they cannot be read, final training compares the fingerprints of the trials and says what is wrong
    with contextlib.suppress(DataError, OSError):
        there = data.load(name, root=root, split_seed=seed, imbalance=found["imbalance"])
        if there.fingerprint == first["fingerprint"]:
            found |= identity(name, root, found["imbalance"])
    return found


def _imbalance(first: pd.Series, settings: Mapping[str, Any]) -> float | None:
    """The imbalance that the data were cut to; `None` where they were taken with a tail of their own."""
    whole = False
    # data that this version does not know were cut to what the record says
    with contextlib.suppress(DataError):
        whole = bool(settings) and settings.get("imbalance") is None and has_own_tail(str(first["data"]))
    return None if whole else float(first["imbalance"])


def _code(plan: Mapping[str, Any], model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Folders of further tricks where the plan has one of theirs, and hashes of all own code that it runs."""
    folders = [str(folder) for folder in settings.get("tricks") or ()] if tricks_of(plan) else []
    return {"tricks": folders, "code": hashes(plan, folders, model)}


def _version(package: str) -> str:
    """The version of a package; the project itself may run from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def check_identity(uri: str, name: str, trials: pd.DataFrame, settings: Mapping[str, Any]) -> tuple[list[str], str]:
    """Whether a recipe may be told from these trials: all on the same data, which are what they were, as is the code.

    Args:
        uri: Store of the search.
        name: Of the search.
        trials: Its trials.
        settings: As the store has them.

    Returns:
        What has changed since the search, for whoever exports it all the same; why that is not known, or "".

    Raises:
        ExportError: The trials of the search do not stand on the same data.
    """
    marks = trials.groupby("split_seed")["fingerprint"].nunique()
    blocks = [str(seed) for seed in marks[marks > 1].index]
    counts = {str(list(count)) for count in trials["counts"]}
    if blocks or len(counts) > 1:
        what = f"seed blocks {', '.join(blocks)}" if blocks else f"training images of {' and of '.join(sorted(counts))}"
        raise ExportError(
            f"search {name!r} has trials on different data ({what}), so that its recipes cannot be compared: the data "
            "changed while it ran; start a new search"
        )
    output = str(settings.get("output", ""))
    database = mlflow_store.database(uri)
    places = [Path(output), *([database.parent / output] if database is not None else [])] if output else []
    folder = next((place / name for place in places if (place / name / "search.json").is_file()), None)
    if folder is None:
        return [], "the folder of its results is not here"
    try:
        return changes_in(folder), ""
    except (ValueError, OSError) as error:
        return [], str(error)


def _worst_classes(own: pd.DataFrame) -> dict[str, Any]:
    """The smoothed harmonic mean over the same seeds, where it was recorded."""
    if HARMONIC_MEAN not in own or own[HARMONIC_MEAN].isna().any():
        return {}
    found = bounded_interval([float(value) for value in own[HARMONIC_MEAN]])
    return {HARMONIC_MEAN.removeprefix("final/"): _named(found, ("mean", "low", "high"))}


def _reliability(own: pd.DataFrame) -> dict[str, Any]:
    """Precision by class, the largest confusions and the calibration, where the records say them."""
    mine = reliability.with_decisions(own)
    if mine.empty:
        return {}
    names = [str(name) for name in mine.iloc[0]["class_names"]]
    ends = ("mean", "low", "high")
    calibrated = [name for name in CALIBRATION if f"final/{name}" in mine and mine[f"final/{name}"].notna().all()]
    means = {name: round(float(mine[f"final/{name}"].mean()), 6) for name in calibrated}
    return {
        "precision": [
            {"class": name} | _named(reliability.precision(mine, label), ends) for label, name in enumerate(names)
        ],
        "confusions": [
            {"true": names[each.true], "predicted": names[each.predicted], "images": each.images}
            | {"share": _named(each.share, ends)}
            for each in reliability.confusions(mine)[:MOST_CONFUSIONS]
        ],
        **({"calibration": means} if "temperature" in means else {}),
    }


def _gain(trials: pd.DataFrame, row: pd.Series, baseline: str) -> dict[str, Any]:
    """Gain over the baseline, paired by seed, within the arm that speaks for the recipe."""
    done = trials[(trials["outcome"] == "finished") & (trials["arm"] == row["arm"])]
    reference = done[done["recipe"] == baseline].set_index("seed")["final/accuracy"].to_dict()
    own = done[done["recipe"] == row["recipe"]].set_index("seed")["final/accuracy"].to_dict()
    gains = [own[seed] - reference[seed] for seed in own if seed in reference]
    return _named(difference_interval(gains), ("mean", "low", "high")) | {"seeds": len(gains)}


def _numerics(settings: Mapping[str, Any]) -> dict[str, str]:
    """How the search's trials computed, for `--as-searched`; what it did not note is at its default."""
    names = [field.name for field in dataclasses.fields(Numerics)]
    return Numerics.of({name: str(settings[name]) for name in names if name in settings}).to_dict()


def _length(settings: Mapping[str, Any]) -> dict[str, str]:
    """Says so where the trials were shorter than the final training."""
    share = float(settings.get("final_share", 1.0))
    return {} if share >= 1 else {"length": f"measured at {100 * share:g} % of the final length"}


def _images(trials: pd.DataFrame, recipe: str) -> float | None:
    """Images that a recipe's training sees; `None` where it did not finish."""
    own = trials[(trials["recipe"] == recipe) & (trials["outcome"] == "finished")]
    return float(own["images"].mean()) if len(own) else None


def _verdicts(
    tricks: Sequence[str], conflicts: pd.DataFrame | None, settings: Mapping[str, Any]
) -> list[dict[str, str]]:
    """What the conflict table says of pairs that the recipe has both of, and how far below the final length.

    A verdict that was run again at the final length says in "holds" what became of it.
    """
    if conflicts is None:
        return []
    on = set(tricks)
    both = [row for row in conflicts.to_dict("records") if row["a"] in on and row["b"] in on]
    return [
        {"pair": f"{row['a']} × {row['b']}", "verdict": row["verdict"], "reason": row["reason"]}
        | ({"holds": f"{row['holds']}: {row['holds_why']}"} if row.get("holds") else {})
        | ({} if "full length" in str(row.get("holds_why", "")) else _length(settings))
        for row in both
    ]


def _named(values: Sequence[float], names: Sequence[str]) -> dict[str, Any]:
    """Numbers by name; unknown ones are null, never zero."""
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in zip(names, values, strict=True)}


def run(options: argparse.Namespace) -> int:
    """Exports the recipe that the options select."""
    uri = address(options.tracking_uri)
    name, trials = reader.records(uri, options.search)
    settings = reader.settings(uri, name)
    changed, unknown = check_identity(uri, name, trials, settings)
    if changed and not options.accept_changes:
        raise ExportError(
            f"search {name!r}: {'; '.join(changed)} since it was started; undo that, or give --accept-changes, "
            "which exports the recipe all the same and notes it in the file"
        )
    try:
        conflicts = verdict_table(
            trials,
            margin=margin_of(settings),
            primary=settings.get("primary") or (),
            firsts=reader.looks(uri, name),
        )
    except ValueError:
        conflicts = None  # no complete design arm: the file then lists no verdicts
    content = document(
        trials,
        dict(zip(trials["recipe"], trials["plan"], strict=True)).__getitem__,
        rank=options.rank,
        recipe=options.recipe,
        pick=options.pick,
        conflicts=conflicts,
        settings=settings,
    )
    if changed:
        content["provenance"] |= {"changed_since": changed}
    write(content, options.out)
    measured = content["measured"]
    spread = "" if measured["low"] is None else f" ({100 * measured['low']:.1f} to {100 * measured['high']:.1f})"
    kind = "baseline" if content["title"] == BASELINE else "recipe"
    notes = [f"note: since the search was started, {sentence(text)}" for text in changed]
    if unknown:
        notes.append(f"note: its data and code could not be compared with those of the search: {sentence(unknown)}")
    echo(
        f"search {sentence(name)} in {sentence(uri)}",
        *notes,
        f"{kind} {content['recipe']}: {sentence(content['title'])}, accuracy on val {100 * measured['mean']:.1f} "
        f"%{spread} over {len(measured['seeds'])} {'seed' if len(measured['seeds']) == 1 else 'seeds'} "
        f"({measured['arm']})",
        f"written to {sentence(options.out)}; train it with: "
        f"{command('python', '-m', 'trainables.train', options.out)}",
    )
    return 0

"""Trains the recipes of a search on balanced data, as a search of its own, and sets both beside each other."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import files
from analysis.records import reader
from analysis.records.schema import BASELINE, RECIPE, Record
from analysis.text import command, echo
from search import papers
from search.commands.explain import latest_search
from search.context import SearchContext
from search.option import More, SettingsError
from search.recipes.written import stages_of
from search.request import make_request
from search.run import run
from search.scheduling.journal import Journal
from search.settings import Settings
from search.upper_bound.__main__ import PASSED_ON
from search.upper_bound.measures import BIASED, LEVEL, METRIC, Measured, measured, note, percent
from search.workspace.folder import kept_space
from spaces.domain import LONGEST_NAME, Space, recipe
from trainables.data import DataError, load, with_balanced_train
from trainables.plan import Plan
from trainables.registry import did_you_mean, discover

OWN = {"trials": 0, "race": False, "start_points": False, "check_seeds": 0, "epochs_scale": 1.0}
"""Options of the search on balanced data: nothing but the recipes, whose epochs are written out."""


@dataclass(frozen=True)
class Method:
    """A recipe of the search that is measured.

    Args:
        title: The recipe in words.
        plan: What is trained.
        trials: Its trials, one for each seed block.
        chosen: Whether it was chosen by the accuracy of these trials.
    """

    title: str
    plan: Plan
    trials: pd.DataFrame
    chosen: bool = False

    @property
    def name(self) -> str:
        """Its label in the search on balanced data."""
        words = re.sub(r"\W+", "_", self.title, flags=re.ASCII).strip("_")
        return f"{words[: LONGEST_NAME - len(self.plan.id) - 1]}_{self.plan.id}"


def measure(settings: Settings, titles: Sequence[str] = (), **options: Any) -> list[Measured] | None:
    """Upper bound and relative accuracy of recipes of a finished search, the baseline first.

    The balanced trainings are a search of their own, named after this one, which is continued where it exists.

    Args:
        settings: Of the finished search.
        titles: Recipes to measure (default: those of the design with one trick on, and the best one).
        **options: Options of the search on balanced data, of `PASSED_ON`.

    Returns:
        The measures; `None` if the trainings were interrupted.

    Raises:
        ValueError: No balanced set can be drawn, or the search has no such recipe.
    """
    methods = methods_of(settings, titles)
    given = _options(settings, options)
    space = _space(settings, methods)
    if Path(given["output"], given["name"]).is_dir():
        stored = Settings.stored(given["output"], given["name"])
        _check_same(space, stored)
        grown = {"seeds": More(settings.seeds - stored.seeds)} if settings.seeds > stored.seeds else {}
        result = run(space, **options, **grown, name=stored.name, output=stored.output, resume=True)
    else:
        result = run(space, **given)
    return None if result.interrupted else measures_of(methods, result.trials)


def methods_of(settings: Settings, titles: Sequence[str] = ()) -> list[Method]:
    """The recipes of a finished search to measure, the baseline first.

    Raises:
        SettingsError: There is no finished baseline, or no such recipe.
    """
    for folder in settings.tricks:
        discover(folder)
    records = Journal(settings.folder / "journal.jsonl").records().values()
    finished = [
        r for r in records if r.outcome == "finished" and not r.setting and not r.set_aside and METRIC in r.metrics
    ]
    trials = reader.frame(finished)
    plain = reader.baseline(trials)
    if not plain:
        raise SettingsError(
            f"--search {settings.name}: no trial of its baseline has finished, which is what the upper bound is "
            "measured by; let the search finish its design first"
        )
    ranked = [str(one) for one in reader.ranking(trials, METRIC)["recipe"]]
    by_id = {one: [record for record in finished if record.recipe == one] for one in (plain, *ranked)}
    known = {rows[0].title: one for one, rows in reversed(by_id.items())} | {BASELINE: plain}
    for title in titles:
        if title not in known:
            raise SettingsError(f"--recipe {title}: {did_you_mean(title, known)}")
    alone = [one for one, rows in by_id.items() if any(r.arm == "design" and len(r.tricks) == 1 for r in rows)]
    chosen = [known[title] for title in titles] or [*sorted(alone, key=lambda one: by_id[one][0].title), *ranked[:1]]
    return [_method(by_id[one], best=one == ranked[0] != plain) for one in dict.fromkeys((plain, *chosen))]


def _method(records: Sequence[Record], best: bool) -> Method:
    by_arm: dict[str, dict[int, float]] = {}
    for record in records:
        by_arm.setdefault(record.arm, {})[record.seed] = record.metrics[METRIC]
    # the design's blocks are those that the balanced trainings have
    arm = "design" if len(by_arm.get("design", ())) > 1 else reader.estimate(by_arm)[0]
    trials = reader.frame([record for record in records if record.arm == arm])
    plan = Plan.from_dict(records[0].plan)
    return Method(records[0].title, plan, trials, chosen=best and arm != "confirm")


def measures_of(methods: Sequence[Method], trials: pd.DataFrame) -> list[Measured]:
    """The measures of methods, from the table of their trials on balanced data."""
    done = trials[(trials["outcome"] == "finished") & trials[METRIC].notna()]
    names = done["tricks"].map(lambda tricks: "+".join(tricks).removeprefix(RECIPE))
    return [
        measured(one.title, one.trials, done[names == (one.name if number else "")], done[names == ""], one.chosen)
        for number, one in enumerate(methods)
    ]


def _space(settings: Settings, methods: Sequence[Method]) -> Space:
    plain, *others = methods
    return Space(
        stages=stages_of(plain.plan),
        model=settings.model,
        recipes=[recipe(one.name, *stages_of(one.plan)) for one in others],
    )


def _options(settings: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the search on balanced data.

    Raises:
        DataError: No balanced training set can be drawn from these data.
    """
    data = with_balanced_train(settings.data)
    try:
        load(data, root=settings.data_root, imbalance=settings.imbalance)
    except DataError as error:
        raise DataError(f"upper bound of {settings.name}: {error}") from error
    inherited = {name: getattr(settings, name) for name in papers.PASSED_ON}
    return inherited | OWN | {"data": data, "name": f"{settings.name}-balanced"} | dict(given)


def _check_same(space: Space, stored: Settings) -> None:
    """Refuses to continue a search on balanced data that trains other recipes."""
    if {one.name for one in kept_space(stored)[0].recipes} != {one.name for one in space.recipes}:
        raise SettingsError(
            f"{stored.folder} has the balanced trainings of other recipes: name the same ones with --recipe, or move "
            "the folder away"
        )


# --- the table ----------------------------------------------------------------------------------------------------


def table(found: Sequence[Measured]) -> Iterator[str]:
    """The measures as a Markdown table, in percent."""
    yield f"| recipe | accuracy | on balanced data | {BIASED} | relative accuracy | |"
    yield "|---|---|---|---|---|---|"
    for one in found:
        words = note(one) + ("; chosen by this accuracy, which is therefore biased upwards" if one.chosen else "")
        cells = (one.title, *map(percent, (one.accuracy, one.balanced, one.upper, one.relative)), words)
        yield f"| {' | '.join(cells)} |"


def explanation(settings: Settings, data: str) -> str:
    """What the table shows, in words; `data` describes the balanced set."""
    return (
        f"Search {settings.name}; {data}. The upper bound of a recipe is the larger of two accuracies on the balanced "
        "set: its own and that of the baseline, which is plain cross-entropy unless the space fixes tricks. The larger "
        "of two noisy means overestimates the larger true value, so upper bounds are biased upwards and relative "
        "accuracies downwards. Relative accuracy is the recipe's accuracy divided by its upper bound. All accuracies "
        f"are means over seed blocks on val, in percent, with {100 * LEVEL:.0f} % intervals that hold one by one; that "
        "of the ratio is paired within blocks."
    )


# --- the command --------------------------------------------------------------------------------------------------


def run_command(options: argparse.Namespace) -> int:
    """Previews or measures, and prints the table; returns 130 after an interruption."""
    settings = Settings.stored(options.output, options.search or latest_search(options.output), "--search")
    given = {name: getattr(options, name) for name in PASSED_ON if hasattr(options, name)}
    if options.dry_run:
        echo(_outlook(settings, options.recipe, given))
        return 0
    found = measure(settings, options.recipe, **given)
    if found is None:
        return 130
    data = load(with_balanced_train(settings.data), root=settings.data_root, imbalance=settings.imbalance)
    words = explanation(settings, data.notes[-1])
    text = "\n".join(table(found))
    echo(f"\n{words}\n\n{text}")
    if options.page is not None:
        asked = [word for title in options.recipe for word in ("--recipe", title)]
        line = command("longtail-tune", "upper-bound", "--search", settings.name, *asked)
        files.write(Path(options.page), f"# Upper bound and relative accuracy\n\n{words}\n\n    {line}\n\n{text}\n")
        echo(f"Written: {options.page}")
    return 0


def _outlook(settings: Settings, titles: Sequence[str], given: Mapping[str, Any]) -> str:
    methods = methods_of(settings, titles)
    options = _options(settings, given)
    space = _space(settings, methods)
    request = make_request({"space": space, **options})
    design = SearchContext.make(space, request.settings).factory.design
    trials = len(design.cells) * request.settings.seeds
    shown = "".join(f"\n  {one.title}" for one in methods)
    return (
        f"{options['name']}: {trials} trials, at most {design.epochs * request.settings.seeds} epochs, on "
        f"{options['data']}{shown}"
    )

"""A search in MLflow's "Views" menu: its pairs and its recipes, with the columns and charts that answer a question.

MLflow keeps a saved view as a tag of the experiment: a JSON object with the view's name and the state of the page. The
format is the one that MLflow 3.17 writes itself; an older MLflow has no such menu and ignores the tag.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from analysis.records.schema import Record

PREFIX = "mlflow.sharedViewState."
"""Of the tag; the view's id follows."""

OURS = "longtail-"
"""How the id of a view begins that a search has saved."""

KEPT = 10
"""Searches whose views stay in an experiment when further ones save theirs; MLflow's menu takes 40 views."""

LARGEST = 5_000
"""Characters of a tag of an experiment."""

MOST_COLUMNS = 8
"""Tricks that the table and the parallel coordinates show, those of the design first."""

WORST = "pair/worst_change"
"""Metric of the recipe that has the two tricks of a pair and nothing else."""

VIEWS = ("which tricks conflict", "all recipes")

NAME, CREATED = "attributes.`Run Name`", "runDateAndNestInfo"
"""Columns that MLflow's table always has."""

SECTION = "findings"
"""Id of the section of charts."""


def view_id(search: str, view: str) -> str:
    """Id of a view of a search, by which a link opens it."""
    return f"{OURS}{str(uuid.uuid5(uuid.NAMESPACE_OID, search))[:13]}-{VIEWS.index(view)}"


def link(experiment: str, search: str, view: str) -> str:
    """Where a view is in MLflow's pages."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={view_id(search, view)}"


def trick_columns(records: Iterable[Record]) -> list[str]:
    """Parameters that say which trick a recipe has at a place in training: those that differ between recipes.

    Args:
        records: The trials of the search; what the design varies comes first.

    Returns:
        At most `MOST_COLUMNS` names, e.g. "representation/weight".
    """
    rows = [{"stages": "", **record.choices} for record in sorted(records, key=lambda record: record.arm != "design")]
    places = dict.fromkeys(
        name for row in rows for name, value in row.items() if isinstance(value, str) and "." not in name
    )
    return [name for name in places if len({row.get(name) for row in rows}) > 1][:MOST_COLUMNS]


def saved_view(search: str, view: str, columns: Sequence[str], created: int) -> str:
    """The value of the tag.

    Args:
        search: Name of the search.
        view: One of `VIEWS`.
        columns: Parameters that the table and the parallel coordinates show.
        created: Unix time in milliseconds.
    """
    shown = list(columns)
    while True:
        state = json.dumps(_state(search, view, shown), separators=(",", ":")).encode()
        packed = "deflate;" + base64.b64encode(zlib.compress(state, 9)).decode("ascii")
        name = f"{search}: {view}"
        value = json.dumps({"name": name, "createdAt": created, "updatedAt": created, "state": packed})
        if len(value) <= LARGEST or not shown:
            return value
        shown.pop()


def superseded(tags: Mapping[str, str], search: str) -> list[str]:
    """Tags of views that make room: those of all but the youngest `KEPT` searches, this one among them."""
    own = {PREFIX + view_id(search, view) for view in VIEWS}
    others = [name for name in tags if name.startswith(PREFIX + OURS) and name not in own]
    youngest = sorted(others, key=lambda name: (_created(tags[name]), name), reverse=True)
    return youngest[(KEPT - 1) * len(VIEWS) :]


def save(client: Any, experiment: str, search: str, records: Collection[Record], created: int) -> None:
    """Puts a search into MLflow's "Views" menu.

    Args:
        client: MLflow's client of the store.
        experiment: Id of the search's experiment.
        search: Name of the search.
        records: Its trials.
        created: Unix time in milliseconds.
    """
    there = client.get_experiment(experiment).tags
    columns = trick_columns(records)
    for view in VIEWS:
        name, value = PREFIX + view_id(search, view), saved_view(search, view, columns, created)
        if there.get(name) != value:
            client.set_experiment_tag(experiment, name, value)
    for old in superseded(there, search):
        client.delete_experiment_tag(experiment, old)


def _created(value: str) -> float:
    try:
        return float(json.loads(value)["createdAt"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def _state(search: str, view: str, columns: Sequence[str]) -> dict[str, Any]:
    """Search box, sorting, columns and charts of the page of runs."""
    filters = [f"tags.search = '{search}'", "tags.level = 'recipe'"]
    tricks = [_column("params", name) for name in columns]
    gain = [_column("metrics", name) for name in ("gain", "gain_low", "gain_high", "final/accuracy", "seeds")]
    worst = [_column("metrics", f"{WORST}{end}") for end in ("", "_low", "_high")]
    if view == VIEWS[0]:
        filters.append(f"metrics.`{WORST}` >= -1")
        shown = [_column("tags", "verdict"), *worst, *tricks]
        charts = [_chart("BAR", "what adding one trick to the other changes at worst", metricKey=WORST)]
    else:
        shown = [_column("tags", "conflicts"), *gain, *tricks]
        charts = [
            _chart("BAR", "gain over the baseline", metricKey="gain"),
            _chart("PARALLEL", "tricks and accuracy", selectedParams=list(columns),
                   selectedMetrics=["final/accuracy"], showAllRuns=True),
        ]  # fmt: skip
    return {
        "searchFilter": " and ".join(filters),
        "orderByKey": worst[0] if view == VIEWS[0] else gain[0],
        "orderByAsc": view == VIEWS[0],
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": shown,
        "columnOrder": [NAME, CREATED, *shown],
        "columnWidths": {NAME: 300, CREATED: 40, _column("tags", "verdict"): 120, _column("tags", "conflicts"): 120},
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": True,
        "hideEmptyCharts": True,
        "compareRunSections": [_section(view)],
        "compareRunCharts": charts,
        "isAccordionReordered": True,
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _section(title: str) -> dict[str, Any]:
    return {"uuid": SECTION, "name": title, "display": True, "isReordered": True, "deleted": False,
            "isGenerated": False, "columns": 1, "cardHeight": 460}  # fmt: skip


def _chart(kind: str, title: str, **more: Any) -> dict[str, Any]:
    """A chart of all runs that the table has."""
    return {"uuid": title, "type": kind, "metricSectionId": SECTION, "deleted": False, "isGenerated": False,
            "displayName": title, "runsCountToCompare": 100, **more}  # fmt: skip

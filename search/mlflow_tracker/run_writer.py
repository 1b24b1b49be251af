"""The runs of one search in MLflow, each brought to the content that it must have."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.records import mlflow_models, mlflow_runs
from analysis.records.mlflow_index import clip
from analysis.records.mlflow_store import Client, StoreError
from analysis.records.reader import RECORDS
from analysis.records.schema import Record
from search.mlflow_tracker import saved_view
from search.mlflow_tracker.names import distinct_name
from search.mlflow_tracker.pictures import LOGGED, chart_pictures
from search.mlflow_tracker.run_content import RunContent, of_recipe, of_trial
from search.mlflow_tracker.search_run import FINDINGS, NO_CONFLICT, SearchRun
from search.mlflow_tracker.store import TrackingError
from search.mlflow_tracker.summaries import SearchSummary, alike, number

PICTURE = "conflicts.png"
"""The artifact that is also shown among the charts."""

SET_ASIDE = "set_aside"
"""Tag of trials and recipes that lie outside the space since it was changed: why."""

MEASURED = ("final/", "test/")
"""Prefixes of the metrics that are of a model and a data set."""

MOST_DATA_SETS = 100
"""Splits that a search's run has as inputs."""

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as a run's description."""


class RunWriter:
    """Writes the runs of one search; every call leaves alone what is right already.

    Args:
        uri: Address of the store.
        search: Name of the search.
        data: Name of the data set.
        resume: Whether the store may hold a search of this name.
        thorough: Whether artifacts on another machine are looked for as well.

    Raises:
        StoreError: The store does not answer.
        TrackingError: The name is taken, and `resume` is False.
    """

    def __init__(self, uri: str, search: str, data: str, resume: bool, thorough: bool) -> None:
        self.client = Client(uri)
        self.summary = SearchSummary()
        self.written: Counter[str] = Counter()
        self.search, self.data = search, data
        self.kept = SearchRun(data, 0)
        self._thorough = thorough
        self._experiment = mlflow_runs.experiment(self.client, data)
        self._found: dict[str, dict[str, list[Any]]] = {"search": {}, "recipe": {}, "trial": {}}
        self._recipes: dict[str, Any] = {}
        self._done: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._unanswered: set[tuple[str, str]] = set()  # runs that may have been created all the same
        for run in mlflow_runs.pages(self.client, [self._experiment], f"tags.search = '{search}'"):
            level = run.data.tags.get("level", "")
            if level in self._found:
                self._found[level].setdefault(run.data.tags.get(level, ""), []).append(run)
        runs = self._found["search"].get(search, [])
        if runs and not resume:
            if self._found["recipe"] or self._found["trial"]:
                raise TrackingError(
                    f"the MLflow store at {uri} already holds a search {search!r} on {data}; choose another --name, or "
                    f"continue that search with --resume {search}"
                )
            self._remove(runs)  # a start that failed before its first trial does not keep the name
        self.own: Any = runs[0] if runs else None
        self._remove(runs[1:])

    # ------------------------------------------------------------------------------ the search's own run

    def start(self, kept: SearchRun) -> str:
        """Creates the search's run, or continues it.

        Args:
            kept: What it must hold; later changes to it are written as well.

        Returns:
            Id of the run.
        """
        self.kept = kept
        found = kept.findings.get("conflicts", "not known yet")  # first, as MLflow shows tags in the order of writing
        tags = {"search": self.search, "conflicts": found, "level": "search", "data": self.data} | kept.tags
        if kept.changed:
            tags["resumed"] = clip(json.dumps(kept.changed))
        if self.own is None:
            self.own = self.client.create_run(
                self._experiment, start_time=kept.started, tags=tags, run_name=self.search
            )
        else:
            self.client.update_run(self.run_id, status="RUNNING")
        params = _differing(kept.params, self.own.data.params, known=True)
        _log(self.client, self.own, params=params, tags=_differing(tags, self.own.data.tags))
        return self.run_id

    @property
    def run_id(self) -> str:
        """Id of the search's run."""
        return str(self.own.info.run_id)

    def refresh(self) -> None:
        """Brings means on the changed recipe runs and counts on the search's run up to date.

        Not after every trial if trials come faster than they can be written.
        """
        summary = self.summary
        while summary.changed:
            name = summary.changed.pop()
            try:
                self._write_recipe(name)
            except Exception:
                summary.changed.add(name)
                raise
        there = self.own.data
        tags = _differing(summary.leader(), there.tags)
        if tags or not _has_all(there.metrics, summary.metrics):
            _log(self.client, self.own, metrics=summary.unwritten, tags=tags)
        there.tags.update(tags)
        there.metrics.update(summary.metrics)
        summary.unwritten = []

    def write_results(self, artifacts: Mapping[str, str | bytes], replaced: tuple[str, ...] = FINDINGS) -> None:
        """Writes the search's results; of its tags that begin with `replaced`, those that no longer hold go away."""
        kept = self.kept
        metrics = [(name, number(value), kept.concluded, 0) for name, value in kept.metrics.items()]
        tags = dict(kept.findings)
        if NOTE in tags:
            views = (f"[{view}]({saved_view.link(self._experiment, self.search, view)})" for view in saved_view.VIEWS)
            tags[NOTE] = clip(f"**Tables and charts:** {', '.join(views)}.\n\n{tags[NOTE]}")
        _log(self.client, self.own, metrics=metrics, tags=tags)
        if replaced:
            for name in self.client.get_run(self.run_id).data.tags:
                if name.startswith(replaced) and name not in kept.findings:
                    self.client.delete_tag(self.run_id, name)
        contents = dict(artifacts)
        picture = contents.get(PICTURE)
        if isinstance(picture, bytes):
            contents |= chart_pictures("conflicts", picture, kept.started)
            _log(self.client, self.own, tags={LOGGED: "True"})
        for name, content in contents.items():
            mlflow_runs.write_artifact(self.client, self.own, name, content)

    def end(self, status: str) -> None:
        """Writes the records of all trials that have a run into one artifact, and ends the search's run."""
        written = [record for trial, record in self.summary.records.items() if trial in self._done]
        if written:
            lines = "".join(f"{record.to_json()}\n" for record in written)
            mlflow_runs.write_artifact(self.client, self.own, RECORDS, lines)
        self.client.set_terminated(self.run_id, status)

    # ------------------------------------------------------------------------------ runs of recipes and trials

    def write_trial(self, record: Record) -> None:
        """Writes the run of a trial, under that of its recipe."""
        content = of_trial(record, self.search, self.kept.choices)
        if self._done.get(record.trial) == content.digest:
            return
        parent = self._recipe_run(record.recipe).info.run_id
        run = self._put(content, self._found["trial"].setdefault(record.trial, []), parent)
        _set_aside(self.client, run, record.set_aside)
        self._done[record.trial] = content.digest

    def write_verdicts(self) -> None:
        """Gives each recipe its gain and the verdicts on the pairs whose two tricks it has, and saves the views.

        The recipe of a pair alone also gets the worst change from adding one of its tricks to the other.
        """
        gains = self.summary.gains()
        for name, recipe in self.summary.recipes.items():
            # at another learning rate the pair may fare otherwise: that is what the check arm asks
            tags = {"conflicts": NO_CONFLICT} if recipe.arms == {"check"} else self.kept.verdicts(recipe.first.tricks)
            verdict, metrics = self.kept.of_pair(recipe.cells)
            tags |= {"verdict": verdict} if verdict else {}
            metrics |= gains.get(name, {})
            run = self._recipe_run(name)
            there = run.data.metrics
            metrics |= {key: math.nan for key in there if key.startswith(("gain", "pair/")) and key not in metrics}
            changed = {key: value for key, value in metrics.items() if key not in there or not alike(there[key], value)}
            points = [(key, value, recipe.ended, 0) for key, value in changed.items()]
            _log(self.client, run, metrics=points, tags=_differing(tags, run.data.tags))
            run.data.tags.update(tags)
            there.update(changed)
            for tag in [tag for tag in run.data.tags if tag.startswith(("conflict/", "verdict")) and tag not in tags]:
                self.client.delete_tag(run.info.run_id, tag)
                del run.data.tags[tag]
        saved_view.save(self.client, self._experiment, self.search, self.summary.records.values(), self.kept.started)

    def write_models(self) -> None:
        """Writes winner and baseline as models, with their numbers and data, and the search's data as its inputs.

        Their trials, and the search's run, have their data sets as inputs; other trials have a fingerprint as a tag, as
        a request for each trial would cost half as much again as all that is written of it.
        """
        records = [self.summary.records[trial] for trial in self._done]
        if not records:
            return
        # a baseline that wins is one model
        roles = {self.summary.leader().get("best_recipe", ""): "winner", self.summary.baseline(): "baseline"}
        models = [self._model(role, name) for name, role in roles.items() if name in self.summary.recipes]
        sets = {record.fingerprint: data_set(record) for record in records if record.fingerprint}
        mlflow_models.log_data(self.client, self.run_id, list(sets.values())[:MOST_DATA_SETS], "train, val")
        for model in models:
            for each in model.measurements:
                if each.data is not None:
                    tested = ", test" * any(name.startswith("test/") for name, *_ in each.metrics)
                    mlflow_models.log_data(self.client, each.run, [each.data], f"train, val{tested}")
        mlflow_models.write_models(self.client, self._experiment, self.search, models)

    def _model(self, role: str, name: str) -> mlflow_models.Model:
        """A recipe as a model: the means over seeds of its run, and what each of its trials has measured."""
        recipe, run = self.summary.recipes[name], self._recipe_run(name)
        arms = {recipe.shown[0], "confirm"}
        measurements = []
        for _, record in sorted(self.summary.records.items()):
            if (
                record.recipe == name
                and record.arm in arms
                and record.outcome == "finished"
                and record.trial in self._done
            ):
                content = of_trial(record, self.search, ())
                points = [
                    (key, value, content.start, step)
                    for key, value, step in content.metrics
                    if key.startswith(MEASURED)
                ]
                own = self._found["trial"][record.trial][0].info.run_id
                measurements.append(mlflow_models.Measurement(str(own), points, data_set(record)))
        means = [point for key, point in recipe.points.items() if key.startswith(MEASURED) and not math.isnan(point[1])]
        measurements.append(mlflow_models.Measurement(str(run.info.run_id), means))
        tags = {"search": self.search, "level": "recipe", "role": role, "recipe": name, "title": recipe.first.title}
        params = of_recipe(recipe.first, self.search, self.kept.choices).params | recipe.length
        return mlflow_models.Model(f"{self.search} {role}", str(run.info.run_id), tags, params, measurements)

    def remove_unknown(self) -> None:
        """Removes runs of the search that no record speaks of."""
        for level, known in (("trial", self.summary.records), ("recipe", self.summary.recipes)):
            for name, runs in self._found[level].items():
                if name not in known:
                    self._remove(runs)

    def _recipe_run(self, name: str) -> Any:
        """The run of a recipe; created before its first trial."""
        if name not in self._recipes:
            content = of_recipe(self.summary.recipes[name].first, self.search, self.kept.choices)
            content = replace(content, name=distinct_name(content.name, name, self._names))
            run = self._put(content, self._found["recipe"].setdefault(name, []), self.run_id)
            if run.info.run_name != content.name:  # an earlier version called it otherwise
                self.client.update_run(run.info.run_id, name=content.name)
            self._recipes[name] = run
        return self._recipes[name]

    def _write_recipe(self, name: str) -> None:
        recipe, run = self.summary.recipes[name], self._recipe_run(name)
        there = run.data
        tags = _differing({"arm": ",".join(sorted(recipe.arms)), "arm_counted": recipe.shown[0]}, there.tags)
        params = _differing(recipe.length, there.params, known=True)
        if tags or params or not _has_all(there.metrics, recipe.metrics):
            _log(self.client, run, metrics=recipe.unwritten, params=params, tags=tags)
        there.tags.update(tags)
        there.params.update(params)
        there.metrics.update(recipe.metrics)
        _set_aside(self.client, run, recipe.set_aside)
        recipe.unwritten = []

    def _put(self, content: RunContent, runs: list[Any], parent: str) -> Any:
        """The one run of `runs` that has this content: found, completed or created; the others are removed."""
        level = content.tags["level"]
        name = content.tags[level]
        if (level, name) in self._unanswered:
            query = f"tags.search = '{self.search}' and tags.level = '{level}' and tags.{level} = '{name}'"
            runs[:] = mlflow_runs.pages(self.client, [self._experiment], query)
        complete: Any = next(
            (
                run
                for run in runs
                if content.is_complete(run) and _has(self.client, run, content.artifact, self._thorough)
            ),
            None,
        )
        begun = (run for run in runs if str(run.info.status) == "RUNNING" and content.is_begun(run))
        run = complete or next(begun, None)
        self._remove([other for other in runs if other is not run])
        if run is None:
            tags = content.tags | {"digest": content.digest, "mlflow.parentRunId": parent}
            start = content.start or round(time.time() * 1000)
            self._unanswered.add((level, name))
            run = self.client.create_run(self._experiment, start_time=start, tags=tags, run_name=content.name)
            runs.append(run)
        self._unanswered.discard((level, name))
        if run is not complete:
            metrics = [(name, value, content.start, step) for name, value, step in content.metrics]
            _log(self.client, run, metrics=metrics, params=content.params)
            mlflow_runs.write_artifact(self.client, run, content.artifact, content.content)
            # last, because a run that is not RUNNING counts as completely written
            self.client.set_terminated(run.info.run_id, content.status, end_time=content.end)
            self.written["written"] += 1
        elif not content.is_begun(run):  # an earlier version wrote the artifact
            mlflow_runs.write_artifact(self.client, run, content.artifact, content.content)
            self.client.set_tag(run.info.run_id, "digest", content.digest)
            self.written["written"] += 1
        if run.data.tags.get("mlflow.parentRunId") != parent:
            self.client.set_tag(run.info.run_id, "mlflow.parentRunId", parent)
        return run

    def _remove(self, runs: Sequence[Any]) -> None:
        """Moves runs to MLflow's deleted ones."""
        for run in list(runs):
            self.client.delete_run(run.info.run_id)
            self.written["removed"] += 1
            for named in self._found.values():
                for each in named.values():
                    each[:] = [other for other in each if other is not run]


def data_set(record: Record) -> mlflow_models.DataSet:
    """The data of a trial."""
    about = {"classes": len(record.counts), "train": sum(record.counts), "val": sum(record.val_counts)}
    return mlflow_models.DataSet(record.data, record.fingerprint, about)


def _set_aside(client: Client, run: Any, why: str) -> None:
    """Tags the run of a trial or a recipe that lies outside the space since that was changed."""
    there = run.data.tags
    if why and there.get(SET_ASIDE) != why:
        _log(client, run, tags={SET_ASIDE: clip(why)})
        there[SET_ASIDE] = clip(why)
    elif not why and SET_ASIDE in there:
        client.delete_tag(run.info.run_id, SET_ASIDE)
        del there[SET_ASIDE]


def _has(client: Client, run: Any, artifact: str, thorough: bool) -> bool:
    """Whether an artifact exists; on another machine this is only asked if everything is looked at."""
    local = mlflow_runs.local_folder(client.uri, str(run.info.artifact_uri)) is not None
    return not (local or thorough) or mlflow_runs.has_artifact(client, run, artifact)


def _log(client: Client, run: Any, **content: Any) -> None:
    try:
        mlflow_runs.log(client, run.info.run_id, **content)
    except StoreError:
        # what is not answered may have been written all the same, so that nothing is known of it
        for name in content.get("tags") or ():
            run.data.tags.pop(name, None)
        for name, *_ in content.get("metrics") or ():
            run.data.metrics.pop(name, None)
        raise


def _differing(wanted: Mapping[str, str], there: Mapping[str, str], known: bool = False) -> dict[str, str]:
    """What has to be written; with `known`, only keys that are not there at all: MLflow never changes a parameter."""
    return {name: text for name, text in wanted.items() if (name not in there if known else there.get(name) != text)}


def _has_all(there: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(name in there and alike(there[name], value) for name, value in wanted.items())

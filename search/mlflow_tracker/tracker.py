"""The one object through which a search writes to MLflow."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.records import mlflow_store
from analysis.records.mlflow_index import clip, text
from analysis.records.mlflow_runs import BARRED
from analysis.records.mlflow_store import NOWHERE, StoreError, key
from analysis.records.schema import Record
from analysis.text import command
from search.mlflow_tracker.background import BackgroundCall, BackgroundWriter, Job
from search.mlflow_tracker.run_writer import RunWriter
from search.mlflow_tracker.search_run import INDEX, SearchRun
from search.mlflow_tracker.store import TrackingError, check, prepare

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds without an answer after which a search that has ended no longer waits for MLflow."""


class Tracker:
    """Writes one search into MLflow.

    Creating the store starts in the background at once; `start` waits for it. The tracker knows of a search what it is
    given: one that is resumed gives it all earlier records again (`replay`).

    Args:
        uri: Address of the store, e.g. `default_uri()`; `NOWHERE` writes only what `search.sync` needs later.
        search: Name of the search, without slashes and quotes.
        data: Name of the data set; the experiment is "longtail/<data>".
        folder: The search's results, where the content of its own run is kept.

    Raises:
        TrackingError: The name cannot be one, or the store cannot be written.
    """

    def __init__(self, uri: str, search: str, data: str, folder: Path | None = None) -> None:
        if not search or BARRED.search(search):
            raise TrackingError(f"name of the search: no slash, quote, percent sign or line end, got {search!r}")
        self.uri = uri if uri == NOWHERE else mlflow_store.address(uri)
        check(self.uri)
        self.search = search
        self.data = data
        self.errors: list[str] = []
        """What went wrong and could not be repaired; complete after `close`."""
        self.before = ""
        """Status of the search as it was found, "" of a new one; set by `start`."""
        self.written: Counter[str] = Counter()
        """How many trial and recipe runs were "written" and "removed"."""
        self._folder = folder
        self._kept = SearchRun(data, round(time.time() * 1000))
        self._thorough = False
        self._runs: RunWriter | None = None
        self._writer: BackgroundWriter | None = None
        self._closed = False
        self._preparing = BackgroundCall(lambda: prepare(self.uri))

    # ------------------------------------------------------------------------------ start

    def start(
        self, params: Mapping[str, Any], tags: Mapping[str, str], *, choices: Iterable[str] = (), resume: bool = True
    ) -> str:
        """Creates the search run, or continues it.

        Args:
            params: What the search was started with. MLflow never changes a parameter, so one that differs on
                resuming keeps its first value there and is noted in the tag "resumed".
            tags: Further tags of the search run.
            choices: Names of all choices of the space.
            resume: Whether a search of this name may exist already.

        Returns:
            Id of the search run, "" if nothing is tracked.

        Raises:
            TrackingError: The store cannot be opened, or the name is taken and `resume` is False.
        """
        kept = SearchRun.read(self._folder) if resume else None
        if kept is not None:
            self._kept, self.before = kept, kept.status
        self._kept.data = self.data
        self._kept.choices = sorted({*self._kept.choices, *choices})
        self._kept.tags |= {key(name): clip(str(value)) for name, value in tags.items()}
        return self._start({key(name): text(value) for name, value in params.items()}, resume)

    def restore(self, records: Iterable[Record]) -> str:
        """Starts and hands in everything, for a search whose driver has ended: the rest is kept in its folder.

        Every artifact is looked for as well, and runs that no record speaks of are removed by `close`.

        Raises:
            TrackingError: The store cannot be opened, or nothing is kept.
        """
        kept = SearchRun.read(self._folder)
        if kept is None:
            raise TrackingError(f"there is no {INDEX} in {self._folder}: nothing is known of the search's own run")
        self._kept, self._thorough = kept, True
        run_id = self._start(kept.params, resume=True)
        self.replay(records)
        folder = self._folder or Path()
        contents = {name: (folder / name).read_bytes() for name in kept.artifacts if (folder / name).is_file()}
        if kept.concluded:
            self._put("the search's summary", lambda runs: runs.write_results(contents))
            self._put("the models", RunWriter.write_models)
        self._put("the verdicts on recipes", RunWriter.write_verdicts)
        return run_id

    def _start(self, params: dict[str, str], resume: bool) -> str:
        self._preparing.wait()
        folder = None if self._thorough else self._folder
        if not resume:
            self._kept.begin(params, {}, folder)  # before anything is written: a kill from here on can be repaired
        run_id = ""
        try:
            if self.uri != NOWHERE:
                self._runs = RunWriter(self.uri, self.search, self.data, resume, self._thorough)
                self.written = self._runs.written
            own = None if self._runs is None else self._runs.own
            if own is not None:
                self.before = self.before or str(own.info.status)
            self._kept.begin(params, {} if own is None else own.data.params, folder)
            if self._runs is not None:
                run_id = self._runs.start(self._kept)
        except StoreError as error:
            raise TrackingError(str(error)) from error
        self._writer = BackgroundWriter(self._runs, Job("the means over seeds", RunWriter.refresh))
        return run_id

    # ------------------------------------------------------------------------------ what is written

    def log(self, record: Record) -> None:
        """Hands in one finished, stopped, diverged or failed trial; returns at once."""
        self.replay([record])

    def replay(self, records: Iterable[Record]) -> None:
        """Hands in what a journal has, in its order; of a trial with several records, the last one counts."""
        records = list(records)
        last = {record.trial: number for number, record in enumerate(records)}
        for number, record in enumerate(records):
            self._put("", lambda runs, record=record: runs.summary.add(record))  # type: ignore[misc]
            if last[record.trial] == number:
                self._put(f"trial {record.trial}", lambda runs, record=record: runs.write_trial(record))  # type: ignore[misc]

    def summary(
        self,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        artifacts: Mapping[str, str | bytes] | None = None,
        replace: Sequence[str] = (),
    ) -> None:
        """Puts results onto the search run; returns at once.

        Args:
            metrics: Name to number.
            tags: E.g. those of `conflict_tags`.
            artifacts: File names with their text, or the bytes of a picture.
            replace: Prefixes of tags; earlier tags that begin so and are not given now are removed, because they
                describe a former winner.
        """
        contents, replaced = dict(artifacts or {}), tuple(replace)
        self._kept.conclude(metrics or {}, tags or {}, contents, replaced)
        self._kept.save(self._folder)
        self._put("the search's summary", lambda runs: runs.write_results(contents, replaced))
        self._put("the models", RunWriter.write_models)

    def mark(self, *tables: pd.DataFrame) -> None:
        """Gives each recipe run its gain and the verdicts on the pairs whose tricks it has; returns at once.

        The tags are those of the search run, `conflict/<a>--<b>`, so that one query finds the recipes as well.

        Args:
            tables: Tables of pairs; of a pair that is in several, the last one counts.
        """
        for table in tables:
            self._kept.mark(table)
        self._kept.save(self._folder)
        self._put("the verdicts on recipes", RunWriter.write_verdicts)

    def _put(self, description: str, write: Callable[[RunWriter], None]) -> None:
        if self._writer is None or self._closed:
            raise TrackingError(
                f"search {self.search!r} is not open in MLflow: call start() before, and not after close()"
            )
        self._writer.put(Job(description, write))

    def seconds_to_write(self, trials: int) -> float:
        """Seconds after which everything is written that was handed in, and so many trials that are still to come."""
        # a trial is two jobs
        return 0.0 if self._writer is None else self._writer.seconds_per_job * (self._writer.waiting + 2 * trials)

    # ------------------------------------------------------------------------------ end

    def flush(self) -> None:
        """Waits until everything handed in is written; what failed is tried once more."""
        if self._writer is not None:
            self._writer.flush()

    def close(
        self, status: str = "FINISHED", patience: float = PATIENCE, tell: Callable[[str], None] = _logger.info
    ) -> list[str]:
        """Writes the rest and ends the search run.

        Args:
            status: FINISHED, or KILLED for a search that was interrupted and may be resumed.
            patience: Seconds without an answer of the store after which it is given up. Ctrl-C ends the wait.
            tell: Takes sentences for people about what is still to be written, if it takes longer than a moment.

        Returns:
            What could not be written, empty as a rule; `missing` says it in a sentence.
        """
        if self._closed or self._writer is None:
            self._closed = True
            return self.errors
        self._kept.status = status
        self._kept.save(self._folder)
        last = [
            Job("the means over seeds", RunWriter.refresh),
            Job("the end of the search", lambda runs: runs.end(status)),
        ]
        if self._thorough:
            last.insert(0, Job("the removal of runs that the journal does not know", RunWriter.remove_unknown))
        self.errors = self._writer.close(last, patience, tell)
        self._closed = True
        return self.errors

    def discard(self) -> None:
        """Ends a search of which nothing was recorded, and deletes its run, so that its name stays free."""
        self.close("KILLED")
        if self._runs is not None and self._runs.own is not None and not self.before:
            try:
                self._runs.client.delete_run(self._runs.run_id)
            except StoreError as error:
                _logger.warning("MLflow keeps the empty run of search %s (%s)", self.search, error)

    @property
    def missing(self) -> str:
        """What MLflow lacks after `close`, why, and the command that writes it; empty if it lacks nothing."""
        if not self.errors or self._writer is None:
            return ""
        trials = [what for what in self.errors if what.startswith("trial ")]
        others = [what for what in self.errors if not what.startswith("trial ")]
        if len(trials) > 3:
            trials = [f"{len(trials)} trials"]
        folder = self._folder
        output = [] if folder is None or folder.parent == Path("results") else ["--output", folder.parent]
        reason = self._writer.reason or f"the store at {self.uri} has not answered in time"
        return (
            f"MLflow lacks {', '.join([*trials, *others])}: {reason}. The journal has everything; write it later with: "
            f"{command('python', '-m', 'search.sync', self.search, *output)}"
        )

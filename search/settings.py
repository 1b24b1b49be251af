"""The options of a search, each declared once, and the settings they make: checked, stored and read again.

A field of `Settings` or `Invocation` is an option. From its declaration come the command line, the keywords of
`search.run`, the checks, what a resumed search may change, what `search.json` holds, and `docs/cli.md`: a new option is
one field, and the code that reads it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from analysis import files
from analysis.command_line import byte_count
from analysis.text import command, printable
from search.option import (
    CHANGES,
    FIXED,
    GROWS,
    THIS_RUN,
    More,
    SettingsError,
    is_text,
    note,
    option,
    options_of,
    short,
    validate,
)
from search.scheduling.early_stopping import SCORES
from search.workspace import paths
from trainables.code_identity import relocated
from trainables.data import FEEDS, resolve_root, with_feed
from trainables.data.catalogue import VALS
from trainables.training.numerics import GROUP_OF_OPTIONS, Numerics, NumericsSettings

__all__ = ["ALL_OPTIONS", "OPTIONS", "UNDO", "Invocation", "More", "Settings", "SettingsError", "gpus"]

FILE = "search.json"

UNDO = "undo what changed it, or start a new search"

BARRED = re.compile(r"[/\\'\"`%\x00-\x1f]")
"""What a name must not hold: it is a folder, a file in a store's address, and quoted in MLflow's queries."""

NAMES_TAKEN = ("stages", "pace.json")
"""What else lies in a folder of results."""

OBJECTIVES = ("accuracy", "harmonic_mean", "both")

SPEND_ON = ("nothing", "verdicts")

WHAT, MUCH, STOP = "what to search", "how much to run", "early stopping in the adaptive arm"
WHERE, KEEP, NOW = "where it runs", "what is kept", "this run"
GROUPS = (WHAT, MUCH, STOP, WHERE, GROUP_OF_OPTIONS, KEEP, NOW)


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be fractions like 0.5,0.75, got {text!r}") from None


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@dataclass(frozen=True, kw_only=True)
class Settings(NumericsSettings):
    """Everything that decides a search, as `search.json` holds it; how trials compute is declared by the base class."""

    # how a stored search is read, see `checked`
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    name: str = option(KEEP, "name of the search", shown="name of the space and the time", compared=False)
    space: str = option(
        WHAT, "space file, e.g. spaces/full_combo.py; with --resume, a changed one: trials inside it count", "FILE",
        CHANGES, shown=None, compared=False,
    )  # fmt: skip
    data: str = option(WHAT, "data set", shown="the space's own, otherwise digits-lt")
    data_root: str | None = option(
        WHAT, "folder that holds the data, if they are not bundled", "DIR", CHANGES,
        default=None, shown=None, path=True,
    )  # fmt: skip
    feed: str = option(
        WHAT, "how images reach training: from memory, streamed from their files, or whichever suits their size",
        default="auto", choices=FEEDS,
    )  # fmt: skip
    imbalance: float | None = option(
        WHAT, "size of the largest class divided by that of the smallest", "X",
        default=None, at_most=1e9, shown="the data set's standard value",
    )  # fmt: skip
    prior: str | None = option(
        WHAT, "class prior in deployment: uniform, train, or a CSV file; reports prior_accuracy", "FILE",
        default=None, path=True, compared=False,
    )  # fmt: skip
    cost: str | None = option(
        WHAT, "CSV matrix of what each mistake costs; reports expected_cost", "FILE",
        default=None, path=True, compared=False,
    )  # fmt: skip
    model: str | None = option(
        WHAT, "network: NAME[?pretrained=FILE] or module:function",
        default=None, shown="the space's own, otherwise the data set's",
    )  # fmt: skip
    objective: str = option(
        WHAT, "what is maximised: accuracy, the harmonic mean of the recalls, which favours the worst classes, or both",
        default="accuracy", choices=OBJECTIVES,
    )  # fmt: skip
    tricks: tuple[str, ...] = option(
        WHAT, "folder with your own tricks; repeat the option for several folders", "DIR", CHANGES,
        default=(), path=True,
    )  # fmt: skip

    trials: int = option(
        MUCH, "trials of the adaptive arm; with --resume, +N adds N more", "N", GROWS,
        default=40, at_least=0, at_most=1_000_000,
    )  # fmt: skip
    # seed blocks of the arms lie 1,000 apart, and some recipes get several times as many as asked for
    seeds: int = option(
        MUCH, "seed blocks of the design arm; with --resume, +N adds N more", "N", GROWS,
        default=5, at_least=0, at_most=200,
    )  # fmt: skip
    design: str | None = option(
        MUCH, "cells of the design arm: pairs, factorial, which is exploratory, or list:FILE", "KIND",
        default=None, shown="pairs",
    )  # fmt: skip
    primary: tuple[str, ...] = option(
        MUCH, "pairs to declare before the search; 'a x b' works too", "A×B,C×D", default=(), parse=_listed
    )
    children_per_start: int = option(
        MUCH, "variants of the later stages to try for each first stage", "N",
        default=6, at_least=1, at_most=1_000_000,
    )  # fmt: skip
    lag: int = option(
        MUCH, "let a proposal of the adaptive arm learn from all earlier ones except the last N - 1, so that N trials "
        "can run at the same time and the search stays reproducible", "N",
        default=0, at_least=0, at_most=1_000_000, shown="4, or the number of trials that fit if that is larger",
    )  # fmt: skip
    patience: int | None = option(
        MUCH, "end the adaptive arm when N proposals in a row have not improved on the best recipe by the margin and "
        "the next N will, with a probability of 0.9, gain less than it; 0 runs them all", "N",
        default=None, at_least=0, at_most=1_000_000, shown="15, or a third of --trials if that is larger",
        off="--no-early-end",
    )  # fmt: skip
    patience_is_default: bool = note("--patience", default=False, compared=False)
    spend_on: str = option(
        MUCH, "what to spend the epochs on that an early end saves: nothing, or verdicts, which are further seeds for "
        "the directions of declared pairs that are not known yet", default="nothing", choices=SPEND_ON,
    )  # fmt: skip
    race: bool = option(MUCH, "do not race the best recipes on fresh seeds", default=True)
    like: str | None = option(
        WHAT, "earlier search in OUTPUT to begin with: its space and settings where no others are given, and what its "
        "trials have shown", "SEARCH", default=None, compared=False,
    )  # fmt: skip
    start: tuple[str, ...] = option(
        MUCH, "exported recipe to train, learn from and race as well, e.g. a colleague's best.yaml; repeat the option "
        "for several", "FILE", default=(), path=True, compared=False,
    )  # fmt: skip
    start_points: bool = option(MUCH, "do not train and race the published recipes", default=True)
    tune_baseline: bool = option(
        MUCH, "first tune the learning rate and weight decay of the baseline on a small grid", default=False
    )
    check_seeds: int = option(
        MUCH, "seeds for the robustness checks, the nominated pairs and the ablation of the best recipe", "N", CHANGES,
        default=3, at_least=0, at_most=200, off="--no-checks",
    )  # fmt: skip
    check_full_length: bool = option(
        MUCH, "also check the pairs of the best recipe at the length of final training", on_resume=CHANGES,
        default=False,
    )  # fmt: skip
    # a search that is resumed without it has what is left of the last one
    time_budget: float | None = option(
        MUCH, "end gracefully after this time, summed over all runs of the search", "SECONDS", THIS_RUN,
        default=None, above=0, at_most=1e9, unit="seconds", shown="no limit",
    )  # fmt: skip
    gpu_hours: float | None = option(
        MUCH, "end gracefully after this many GPU hours; half a GPU counts half", "X", CHANGES,
        default=None, above=0, at_most=1e9, unit="hours", shown="no limit",
    )  # fmt: skip
    epochs_scale: float = option(
        MUCH, "factor that multiplies the epochs of every stage", "X", default=1.0, above=0, at_most=10_000
    )
    seed: int = option(MUCH, "base of all random seeds", "N", default=0, at_least=0, at_most=1_000_000_000)

    # docs/rung_scores.md measures these three defaults
    rungs: tuple[float, ...] = option(
        STOP, "fractions of a plan at which trials are judged", "X,Y", default=(0.25,), parse=_fractions
    )
    reduction_factor: float = option(
        STOP, "the best 1/η of a cohort continue after a rung", "η", default=4.0, above=1, at_most=1e6
    )
    rung_score: str = option(
        STOP, "score to compare at a rung; shortened trains the whole plan in fewer epochs first",
        default="shortened", choices=SCORES,
    )  # fmt: skip

    cpus_per_trial: float = option(WHERE, "CPUs that each trial gets", "X", THIS_RUN, default=1.0, above=0, at_most=1e6)
    gpus_per_trial: float = option(
        WHERE, "GPUs that each trial gets: a number, a fraction such as 0.25, or auto, which measures it", "X",
        THIS_RUN, default=0.0, at_least=0, at_most=1e6, parse=str,
    )  # fmt: skip
    gpus_auto: bool = note("--gpus-per-trial", THIS_RUN, default=False)
    gpus_reason: str = note("--gpus-per-trial", compared=False)
    max_concurrent: int | None = option(
        WHERE, "maximum number of trials that run at the same time", "N", THIS_RUN,
        default=None, at_least=1, at_most=1_000_000, shown="all that fit",
    )  # fmt: skip
    address: str | None = option(
        WHERE, "Ray cluster to join", "HOST:PORT", THIS_RUN,
        default=None, shown="start a local one for this search",
    )  # fmt: skip

    workers: int | None = option(
        WHERE, "have trials trained by processes of `longtail-tune worker` that share OUTPUT, without Ray; so many at "
        "a time", "N", THIS_RUN, default=None, at_least=0, at_most=1_000_000, shown="Ray trains them",
    )  # fmt: skip

    output: str = option(KEEP, "folder for the results", "DIR", default="results", compared=False)
    store: str | None = option(
        KEEP, "folder for finished stages", "DIR", CHANGES, default=None, shown="OUTPUT/stages", path=True
    )
    store_limit: int | None = option(
        KEEP, "maximum size of that folder, e.g. 20GB", "SIZE", THIS_RUN,
        default=None, at_least=0, at_most=2**60, unit="bytes", parse=byte_count, shown="no limit",
    )  # fmt: skip
    reuse: bool = option(KEEP, "train every stage of every trial, re-using none", default=True)
    tracking_uri: str | None = option(
        KEEP, "MLflow store, or none", "URI", THIS_RUN,
        default=None, shown="MLFLOW_TRACKING_URI, or mlflow.db in this directory",
    )  # fmt: skip
    continues: str = note("--accept-changes", compared=False)

    def __post_init__(self) -> None:
        name = self.name
        for holds, allowed in (
            (name.strip(". ") and not BARRED.search(name), "a name without slashes, quotes, percent signs and line "
             "ends"),
            (printable(name, keep="") == name and not name.startswith((".", "-")), "a name of visible characters that "
             "does not begin with a dot or a dash"),
            (len(name.encode(errors="replace")) <= 200, "at most 200 bytes long"),
            (name not in NAMES_TAKEN, f"another name than {' and '.join(NAMES_TAKEN)}"),
        ):  # fmt: skip
            if not holds:
                raise SettingsError(f"--name must be {allowed}, got {short(name)}")
        for known in OPTIONS.values():
            known.check(getattr(self, known.name))
        if self.spend_on == "verdicts" and not (self.primary and self.patience != 0):
            missing = "declared pairs: --primary a×b" if not self.primary else "an early end: leave --no-early-end out"
            raise SettingsError(f"--spend-on verdicts needs {missing}")
        if self.fused_trials != "off" and not self.reuse:
            raise SettingsError(
                "--fused-trials must be off with --no-reuse, because what a trial trains for others lies in the "
                f"store, got {self.fused_trials!r}"
            )

    @property
    def numerics(self) -> Numerics:
        """How trials compute."""
        return Numerics(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Numerics)})

    @property
    def gpu_seconds(self) -> float | None:
        """Budget of GPU time in seconds; `None` for no limit."""
        return None if self.gpu_hours is None else 3600 * self.gpu_hours

    @property
    def folder(self) -> Path:
        """Folder of the search's results."""
        return Path(self.output) / self.name

    @property
    def store_folder(self) -> Path:
        """Folder of finished stages; by default all searches of one results folder share it."""
        return Path(self.store) if self.store is not None else Path(self.output) / "stages"

    @property
    def store_place(self) -> str:
        """The same for a process in another directory: an absolute path, or the URL that was given."""
        return self.store if self.store is not None and "://" in self.store else str(self.store_folder.resolve())

    def save(self, folder: Path | None = None) -> None:
        """Writes the settings beside the results, places relative to where the search was started.

        Args:
            folder: The folder to write into, while the search's own is still being made beside its place.
        """
        file = (folder or self.folder) / FILE
        before = _content(file, f"--resume {self.name}") if file.is_file() else {}
        project = paths.project_of(self.folder, before) or Path.cwd()
        own = {
            paths.ID: before.get(paths.ID) or uuid.uuid4().hex,
            paths.PROJECT: paths.written_project(self.folder, project),
        }
        fields = paths.relative(dataclasses.asdict(self), project)
        files.write(file, files.to_json(own | fields, indent=2) + "\n")

    def changed(self, given: Mapping[str, Any]) -> Settings:
        """The settings of a search that is resumed with some options given again.

        Raises:
            SettingsError: An option is unknown, out of its range, or differs although it is fixed.
        """
        more = {name: getattr(self, name) + value for name, value in given.items() if isinstance(value, More)}
        fields = _rooted({**given, **more}, self)
        asked = validate(Settings, {**dataclasses.asdict(self), **fields}, f"--resume {self.name}: ")
        new = {name: value for name in fields if not _same(name, getattr(self, name), value := getattr(asked, name))}
        fixed = (FIXED, GROWS)
        refused = [OPTIONS[name] for name in new if OPTIONS[name].on_resume in fixed and name not in more]
        if refused:
            grows = [f" ({known.flag} +N adds)" for known in refused if known.on_resume is GROWS]
            raise SettingsError(
                f"--resume {self.name}: {', '.join(known.flag for known in refused)} cannot change in a search that "
                f"has begun; leave it out{''.join(grows)}, or start a new search"
            )
        return dataclasses.replace(self, **new)

    def keep_changes(self) -> None:
        """Stores what a resumed search was given for its rest, and not for this run alone."""
        kept = [name for name, known in OPTIONS.items() if known.on_resume in (GROWS, CHANGES)]
        stored = Settings.stored(self.output, self.name)
        dataclasses.replace(stored, **{name: getattr(self, name) for name in kept}).save()

    @staticmethod
    def stored(output: str | Path, name: str, option: str = "--resume") -> Settings:
        """The settings of a search that was started before.

        Args:
            output: Folder of results.
            name: Of the search.
            option: With which the user named it, for messages.

        Raises:
            SettingsError: There is none of that name; its file is damaged; the folder is a copy of another search's.
        """
        folder = Path(output) / name
        file, asked = folder / FILE, f"{option} {name}".strip()
        if not file.is_file():
            known = sorted(path.parent.name for path in Path(output).glob(f"[!.]*/{FILE}"))
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            there = f"searches in {output} are {', '.join(known)}" if known else f"there is no search in {output}"
            raise SettingsError(f"{asked}: no such search: {hint}{there}")
        fields = _content(file, asked)
        where = f"{asked}: {file}: "
        written = fields.get(paths.PROJECT, "")
        if not isinstance(written, str) or not is_text(written):
            raise SettingsError(
                f"{where}project must be the folder that the search was started in, got {short(written)}; {UNDO}"
            )
        before = paths.original(folder, fields)
        if before is not None:
            raise SettingsError(
                f"{asked}: {folder} is a copy of {before}, and both would write into the same runs of MLflow; "
                f"resume that one, or remove it if this copy is the one to keep"
            )
        project = paths.project_of(folder, fields)
        own = {key: value for key, value in fields.items() if key not in (paths.PROJECT, paths.ID)}
        # where the results lie now: the folder may have moved
        here = {"output": str(output)}
        fields = (own if project is None else paths.absolute(own, project)) | here
        found = validate(Settings, fields, where, f"; {UNDO}")
        if found.name != name:
            raise SettingsError(
                f"{asked}: {folder} holds the search {found.name!r}, whose trials have that name in MLflow; "
                f"rename the folder: {command('mv', folder, folder.with_name(found.name))}"
            )
        return found


@dataclass(frozen=True)
class Invocation:
    """Options of one run of the command, which are not stored."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    val: str | None = option(
        WHAT, "validation split: balanced, or realistic, with the class proportions of training",
        default=None, choices=VALS, shown="balanced",
    )  # fmt: skip
    resume: str | None = option(
        NOW, "continue an interrupted search, or add to a finished one", default=None, shown=None
    )
    accept_changes: bool = option(
        NOW, "with --resume: if data, space or code have changed, start NAME-2 on fresh seeds instead of refusing",
        default=False,
    )  # fmt: skip
    settle: bool = option(NOW, "with --resume: run further seeds for unresolved primary pairs", default=False)
    settle_budget: int = option(
        NOW, "with --settle: maximum number of further seeds over all pairs", "SEEDS",
        default=20, at_least=1, at_most=1_000_000,
    )  # fmt: skip
    explain: bool = option(NOW, "say why a trial is stopped, as it happens", default=False)
    dry_run: bool = option(
        NOW, "show the space, what would run and how long it would take; run nothing", default=False, command_only=True
    )
    measure: bool = option(
        NOW, "with --dry-run: train for some seconds to estimate the duration", default=False, command_only=True
    )

    def __post_init__(self) -> None:
        for known in options_of(Invocation).values():
            known.check(getattr(self, known.name))


OPTIONS = options_of(Settings)
"""Settings by name."""

ALL_OPTIONS = MappingProxyType({**OPTIONS, **options_of(Invocation)})
"""Everything that a command line may hold, by name."""


def _content(file: Path, asked: str) -> dict[str, Any]:
    """What a file of settings holds.

    Raises:
        SettingsError: It cannot be read, or holds no settings.
    """
    try:
        # ValueError: also of bytes that are no UTF-8, and of numbers of thousands of digits
        found = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(f"{asked}: {file} cannot be read ({why}); {UNDO}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{asked}: {file} must hold an object of settings, got {short(found)}; {UNDO}")
    return found


def _rooted(given: Mapping[str, Any], stored: Settings) -> dict[str, Any]:
    """The options given, with data and networks named as a stored search names them."""

    def place(text: str) -> str:
        return os.path.realpath(os.path.expanduser(text))

    fields = dict(given)
    data, root, feed = (fields.get(name, getattr(stored, name)) for name in ("data", "data_root", "feed"))
    if "data" in fields and isinstance(data, str) and isinstance(fields.get("data_root"), str | None):
        # the root that is stored belongs to the stored name
        data = data if feed in ("auto", None) else with_feed(data, str(feed))
        fields["data"], root = resolve_root(data, fields.get("data_root"))
        if "data_root" in fields or root is not None:
            fields["data_root"] = root
    elif isinstance(fields.get("data_root"), str):
        fields["data_root"] = place(fields["data_root"])
    if isinstance(fields.get("model"), str):
        fields["model"] = relocated(fields["model"], place)
    return fields


def _same(name: str, was: Any, given: Any) -> bool:
    """Whether an option is given as it was; a path may be spelt in another way."""
    if was == given or not OPTIONS[name].path or was is None or given is None:
        return bool(was == given)
    old, new = ((value,) if isinstance(value, str) else value for value in (was, given))
    return [Path(one).expanduser().resolve() for one in old] == [Path(one).expanduser().resolve() for one in new]


def gpus(given: float | str) -> dict[str, Any]:
    """The settings of `--gpus-per-trial`: a number, or "auto".

    >>> gpus(0.25), gpus("auto")
    ({'gpus_per_trial': 0.25, 'gpus_auto': False}, {'gpus_per_trial': 1.0, 'gpus_auto': True})

    Raises:
        SettingsError: It is neither.
    """
    if given == "auto":
        # a whole one until it is measured
        return {"gpus_per_trial": 1.0, "gpus_auto": True}
    try:
        return {"gpus_per_trial": float(given), "gpus_auto": False}
    except (TypeError, ValueError):
        raise SettingsError(f"--gpus-per-trial must be a number or auto, got {given!r}") from None

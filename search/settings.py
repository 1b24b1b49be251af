"""What a search is started with, checked, and kept beside its results so that it can be resumed."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.numerics import Numerics

BARRED = re.compile(r"[/\\'\"`%\x00-\x1f]")
"""What a name must not hold: it is a folder, a file in a store's address, and quoted in MLflow's queries."""


OBJECTIVES = ("accuracy", "harmonic_mean", "both")

MAY_CHANGE = {
    "time_budget", "cpus_per_trial", "gpus_per_trial", "gpus_auto", "max_concurrent", "address", "tracking_uri",
    "store_limit", "gpu_hours", "check_seeds", "check_full_length",
}  # fmt: skip
"""Settings that a resumed search may be given anew: they decide where it runs and how long, not what it finds."""

MAY_GROW = ("trials", "seeds")
"""Settings that a resumed search may be given more of: `--trials +50`."""

FLAGS = {
    "gpus_auto": "--gpus-per-trial", "gpus_reason": "--gpus-per-trial", "race": "--no-race", "reuse": "--no-reuse",
    "start_points": "--no-start-points",
}  # fmt: skip
"""Options that are not called like their setting."""


class SettingsError(ValueError):
    """A search that cannot be started as asked."""


class More(int):
    """A number that is added to what a search has: `--trials +50`."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a search, JSON-able.

    Args:
        name: Of the search.
        space: Where the space came from, for people.
        data: Name of the data set.
        data_root: Its folder, where it is not bundled.
        imbalance: Largest class over smallest; the data set's standard one where absent.
        model: Name of the network; the data set's standard one where absent.
        trials: Of the adaptive arm.
        prior: "uniform", "train" or a file of classes and weights: how often each class occurs where the model is used.
        cost: A file with what each mistake costs.
        seeds: Seed blocks of the design arm.
        design: "pairs", "factorial" or "list:FILE"; by the number of crossable labels where absent.
        primary: Pairs declared beforehand, "a×b"; the others are explored.
        children_per_start: Later stages proposed for each new first stage.
        race: Whether contenders race on fresh seeds.
        start_points: Whether the published recipes are trained, and race.
        tune_baseline: Whether the baseline's learning rate and weight decay are found first, on a small grid.
        check_seeds: Seed blocks of the checks of verdicts, of nominated pairs and of the recipes around the winner;
            0 for none of them.
        check_full_length: Whether the winner's pairs are run again at the final length, where the search is shorter.
        time_budget: Seconds of wall time. A search that goes on without it has what is left of the last one; given
            anew, it begins anew. `None` for no bound.
        gpu_hours: Hours times share of GPUs of all trials of the search, over all its runs; `None` for no bound.
        epochs_scale: Multiplies every stage's epochs.
        seed: Base of all seeds.
        rungs: Fractions of a plan at which the adaptive arm is judged.
        reduction_factor: The best 1/η go on.
        rung_score: What is compared at a rung. This default and those of the two before: `docs/rung_scores.md`.
        objective: What is maximised: accuracy, harmonic_mean or both; with both nothing is stopped early.
        cpus_per_trial: Ray CPUs of a trial.
        gpus_per_trial: Ray GPUs of a trial, may be a fraction.
        gpus_auto: Whether that fraction is measured before the search, which then puts it in.
        gpus_reason: Why it is what was measured, in a sentence.
        max_concurrent: Trials at a time; as many as fit where absent.
        address: Of a Ray cluster; a local one is started where absent.
        output: Folder of results.
        store: Folder of finished stages.
        store_limit: Bytes that the store may hold; `None` for no bound.
        reuse: Whether finished stages are re-used.
        tracking_uri: MLflow store.
        tricks: Folders of further tricks.
        feed: How images get to training: "resident", "streamed", or "auto", by their size.
        precision: Of training, see `trainables.numerics.Numerics`, as the next four.
        channels_last: Memory format.
        fused_members: Whether members are trained together.
        graph: Whether steps are replayed as CUDA graphs.
        fused_trials: Whether seeds of a recipe are trained together.
    """

    name: str
    space: str
    data: str
    data_root: str | None = None
    imbalance: float | None = None
    model: str | None = None
    prior: str | None = None
    cost: str | None = None
    trials: int = 40
    seeds: int = 5
    design: str | None = None
    primary: tuple[str, ...] = ()
    children_per_start: int = 6
    race: bool = True
    start_points: bool = True
    tune_baseline: bool = False
    check_seeds: int = 3
    check_full_length: bool = False
    time_budget: float | None = None
    gpu_hours: float | None = None
    epochs_scale: float = 1.0
    seed: int = 0
    rungs: tuple[float, ...] = (0.25,)
    reduction_factor: float = 4.0
    rung_score: str = "shortened"
    objective: str = "accuracy"
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    gpus_auto: bool = False
    gpus_reason: str = ""
    max_concurrent: int | None = None
    address: str | None = None
    output: str = "results"
    store: str | None = None
    store_limit: int | None = None
    reuse: bool = True
    tracking_uri: str | None = None
    tricks: tuple[str, ...] = ()
    feed: str = "auto"
    precision: str = "fp32"
    channels_last: str = "auto"
    fused_members: str = "off"
    graph: str = "off"
    fused_trials: str = "off"

    def __post_init__(self) -> None:
        _ = self.numerics  # refuses what it does not know
        rules = (
            ("trials", self.trials >= 0, "at least 0"),
            ("seeds", self.seeds >= 0, "at least 0"),
            ("primary", not isinstance(self.primary, str), "a list of pairs such as ['a×b']"),
            ("children_per_start", self.children_per_start >= 1, "at least 1"),
            ("time_budget", self.time_budget is None or self.time_budget > 0, "above 0 seconds"),
            ("gpu_hours", self.gpu_hours is None or self.gpu_hours > 0, "above 0 hours"),
            ("check_seeds", self.check_seeds >= 0, "at least 0"),
            ("epochs_scale", self.epochs_scale > 0, "above 0"),
            ("cpus_per_trial", self.cpus_per_trial > 0, "above 0"),
            ("gpus_per_trial", self.gpus_per_trial >= 0, "at least 0"),
            ("max_concurrent", self.max_concurrent is None or self.max_concurrent >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
            (
                "fused_trials",
                self.fused_trials == "off" or self.reuse,
                "off with --no-reuse, because what a trial trains for others lies in the store",
            ),
            ("objective", self.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
            (
                "name",
                bool(self.name.strip(". ")) and not BARRED.search(self.name),
                "a name without slashes, quotes, percent signs and line ends",
            ),
        )
        for field in MAY_GROW:
            if isinstance(getattr(self, field), More):
                raise SettingsError(
                    f"{flag(field)} +{getattr(self, field)} adds to a search that is there: give its name with "
                    "--resume, or leave the plus out"
                )
        for field, holds, allowed in rules:
            if not holds:
                raise SettingsError(f"{flag(field)} must be {allowed}, got {getattr(self, field)!r}")

    @property
    def numerics(self) -> Numerics:
        """How trials compute."""
        return Numerics(self.precision, self.channels_last, self.fused_members, self.graph, self.fused_trials)

    @property
    def folder(self) -> Path:
        """Where the search leaves its results."""
        return Path(self.output) / self.name

    @property
    def store_folder(self) -> Path:
        """Where finished stages lie: shared by all searches of one results folder, unless told otherwise."""
        return Path(self.store) if self.store is not None else Path(self.output) / "stages"

    @property
    def store_place(self) -> str:
        """The same for whoever works in another directory: an absolute path, or the URL that was given."""
        return self.store if self.store is not None and "://" in self.store else str(self.store_folder.resolve())

    def save(self) -> None:
        """Writes the settings beside the results."""
        text = json.dumps(dataclasses.asdict(self), indent=2)
        (self.folder / "search.json").write_text(text + "\n", encoding="utf-8")

    def changed(self, given: Mapping[str, Any]) -> Settings:
        """The settings of a search that goes on, with some given anew.

        Raises:
            SettingsError: One that decides what the search finds is not as it was.
        """
        more = {name: getattr(self, name) + value for name, value in given.items() if isinstance(value, More)}
        given = {**given, **more}
        new = {name: value for name, value in given.items() if not _same(name, getattr(self, name), value)}
        refused = [flag(name) for name in new if name not in MAY_CHANGE and name not in more]
        if refused:
            grows = [f"{flag(name)} +N adds" for name in MAY_GROW if flag(name) in refused]
            raise SettingsError(
                f"--resume {self.name}: {', '.join(refused)} cannot change in a search that has begun; "
                f"leave it out{''.join(f' ({text})' for text in grows)}, or start a new search"
            )
        return dataclasses.replace(self, **new)

    def keep_changes(self) -> None:
        """Writes down what a resumed search was given that belongs to the search and not to this run of it."""
        stored = Settings.stored(self.output, self.name)
        kept = {name: getattr(self, name) for name in (*MAY_GROW, "gpu_hours", "check_seeds", "check_full_length")}
        dataclasses.replace(stored, **kept).save()

    @staticmethod
    def stored(output: str, name: str) -> Settings:
        """The settings of a search that was started before.

        Raises:
            SettingsError: There is none of that name.
        """
        file = Path(output) / name / "search.json"
        if not file.is_file():
            known = sorted(path.parent.name for path in Path(output).glob("*/search.json"))
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            there = f"searches in {output} are {', '.join(known)}" if known else f"there is no search in {output}"
            raise SettingsError(f"--resume {name}: no such search: {hint}{there}")
        try:
            fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            for key in ("rungs", "tricks", "primary"):
                fields[key] = tuple(fields[key])
            # where the results lie now: the folder may have moved
            return Settings(**{**fields, "output": output})
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise SettingsError(
                f"--resume {name}: {file} is damaged or of another version ({error}); start a new search"
            ) from error


def _same(name: str, was: Any, given: Any) -> bool:
    """Whether a setting is given as it was; a folder may be spelt in another way."""
    if name == "tricks":
        return len(was) == len(given) and all(_same("", *pair) for pair in zip(was, given, strict=True))
    if name in ("", "data_root", "store") and was is not None and given is not None:
        return bool(was == given or Path(was).expanduser().resolve() == Path(given).expanduser().resolve())
    return bool(was == given)


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
    except ValueError:
        raise SettingsError(f"--gpus-per-trial must be a number or auto, got {given!r}") from None


def flag(field: str) -> str:
    """The option of a setting.

    >>> flag("max_concurrent"), flag("reuse")
    ('--max-concurrent', '--no-reuse')
    """
    return FLAGS.get(field, "--" + field.replace("_", "-"))


def judged(data: str, val: str) -> str:
    """The name of the data with a val of that kind; see `trainables.data.judged`."""
    from trainables.data import judged as named

    return named(data, val)


def byte_count(text: str) -> int:
    """Bytes from text such as 500MB or 20GB, as the store's own command reads it."""
    from trainables.stage_store import byte_count as read

    return read(text)

"""What a search is started with, checked, and kept beside its results so that it can be resumed."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from analysis import files
from analysis.text import command, printable
from search import paths
from trainables.training.numerics import Numerics

BARRED = re.compile(r"[/\\'\"`%\x00-\x1f]")
"""What a name must not hold: it is a folder, a file in a store's address, and quoted in MLflow's queries."""


OBJECTIVES = ("accuracy", "harmonic_mean", "both")

MAY_CHANGE = {
    "time_budget", "cpus_per_trial", "gpus_per_trial", "gpus_auto", "max_concurrent", "address", "tracking_uri",
    "store_limit", "gpu_hours", "check_seeds", "check_full_length", "data_root", "store", "tricks",
}  # fmt: skip
"""Settings that a resumed search may be given anew: they decide where it runs and how long, not what it finds.

Data and code may lie elsewhere than before: whether they are the same is judged by what they hold."""

KEPT = ("trials", "seeds", "gpu_hours", "check_seeds", "check_full_length", "data_root", "store", "tricks")
"""Settings of these that belong to the search and not to one run of it."""

MAY_GROW = ("trials", "seeds")
"""Settings that a resumed search may be given more of: `--trials +50`."""

FLAGS = {
    "gpus_auto": "--gpus-per-trial", "gpus_reason": "--gpus-per-trial", "race": "--no-race", "reuse": "--no-reuse",
    "start_points": "--no-start-points", "continues": "--accept-changes",
}  # fmt: skip
"""Options that are not called like their setting."""

TYPES = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
         "tuple[str, ...]": "a list of texts", "tuple[float, ...]": "a list of numbers"}  # fmt: skip
UNITS = {"time_budget": "a number of seconds", "gpu_hours": "a number of hours", "store_limit": "a number of bytes"}
"""What a setting must be, in words, by its annotation or its name."""

MOST = {
    "trials": 1_000_000, "seeds": 200, "check_seeds": 200, "children_per_start": 1_000_000, "seed": 1_000_000_000,
    "max_concurrent": 1_000_000, "lag": 1_000_000,
    "epochs_scale": 10_000, "store_limit": 2**60, "time_budget": 1e9, "gpu_hours": 1e9,
    "cpus_per_trial": 1e6, "gpus_per_trial": 1e6, "imbalance": 1e9, "reduction_factor": 1e6,
}  # fmt: skip
"""Upper bounds. Seed blocks of the arms lie 1,000 apart, and some recipes get several times as many as asked for."""

NAMES_TAKEN = ("stages", "pace.json")
"""What else lies in a folder of results."""


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
        design: "pairs", "factorial" or "list:FILE"; pairs where absent.
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
        lag: Proposal k of the adaptive arm knows the results of proposals 0 to k − lag; 0 is 4, or the number of slots
            where that is larger, and is replaced by it when the search begins.
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
        precision: Of training, see `trainables.training.numerics.Numerics`, as the next four.
        channels_last: Memory format.
        fused_members: Whether members are trained together.
        graph: Whether steps are replayed as CUDA graphs.
        fused_trials: Whether seeds of a recipe are trained together.
        continues: The search whose settings this one has, and what had changed since that one was started.
    """

    # how a stored search is read, see `checked`
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

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
    lag: int = 0
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
    continues: str = ""

    def __post_init__(self) -> None:
        _ = self.numerics  # refuses what it does not know
        rules = (
            ("trials", self.trials >= 0, "at least 0"),
            ("seeds", self.seeds >= 0, "at least 0"),
            ("lag", self.lag >= 0, "at least 0"),
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
            ("reduction_factor", self.reduction_factor > 1, "above 1"),
            ("store_limit", self.store_limit is None or self.store_limit >= 0, "at least 0 bytes"),
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
            (
                "name",
                printable(self.name, keep="") == self.name and not self.name.startswith((".", "-")),
                "a name of characters that can be seen, without a dot or a dash at its beginning",
            ),
            ("name", len(self.name.encode(errors="replace")) <= 200, "at most 200 bytes long"),
            ("name", self.name not in NAMES_TAKEN, f"another name than {' and '.join(NAMES_TAKEN)}"),
            *((field, getattr(self, field) != "", "a name, and not empty") for field in ("space", "data", *PLACES)),
            *((name, (getattr(self, name) or 0) <= most, f"at most {most:,.0f}") for name, most in MOST.items()),
        )
        for field in MAY_GROW:
            if isinstance(getattr(self, field), More):
                raise SettingsError(
                    f"{flag(field)} +{getattr(self, field)} adds to a search that is there: give its name with "
                    "--resume, or leave the plus out"
                )
        for field, holds, allowed in rules:
            if not holds:
                raise SettingsError(f"{flag(field)} must be {allowed}, got {_short(getattr(self, field))}")
        for field, value in vars(self).items():
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, float) and not math.isfinite(one):
                    raise SettingsError(f"{flag(field)} must be a finite number, got {one}")
                if isinstance(one, str) and not _is_text(one):
                    raise SettingsError(
                        f"{flag(field)} must be text in UTF-8 without NUL characters, got {_short(one)}"
                    )

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

    def save(self, folder: Path | None = None) -> None:
        """Writes the settings beside the results, places relative to where the search was started.

        Args:
            folder: Into which, where the search's own is still being made beside its place.
        """
        file = (folder or self.folder) / FILE
        before = _read(file) if file.is_file() else {}
        project = paths.project_of(self.folder, before) or Path.cwd()
        own = {
            paths.ID: before.get(paths.ID) or uuid.uuid4().hex,
            paths.PROJECT: paths.written_project(self.folder, project),
        }
        fields = paths.relative(dataclasses.asdict(self), project)
        files.write(file, files.to_json(own | fields, indent=2) + "\n")

    def changed(self, given: Mapping[str, Any]) -> Settings:
        """The settings of a search that goes on, with some given anew.

        Raises:
            SettingsError: One that decides what the search finds is not as it was, or is none at all.
        """
        more = {name: getattr(self, name) + value for name, value in given.items() if isinstance(value, More)}
        fields = _rooted({**given, **more}, self)
        asked = checked({**dataclasses.asdict(self), **fields}, f"--resume {self.name}: ")
        new = {name: value for name in fields if not _same(name, getattr(self, name), value := getattr(asked, name))}
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
        dataclasses.replace(stored, **{name: getattr(self, name) for name in KEPT}).save()

    @staticmethod
    def stored(output: str | Path, name: str) -> Settings:
        """The settings of a search that was started before.

        Raises:
            SettingsError: There is none of that name; its file is damaged; the folder is a copy of another search's.
        """
        folder = Path(output) / name
        file = folder / FILE
        if not file.is_file():
            known = sorted(path.parent.name for path in Path(output).glob(f"[!.]*/{FILE}"))
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            there = f"searches in {output} are {', '.join(known)}" if known else f"there is no search in {output}"
            raise SettingsError(f"--resume {name}: no such search: {hint}{there}")
        fields = _read(file)
        where = f"--resume {name}: {file}: "
        written = fields.get(paths.PROJECT, "")
        if not isinstance(written, str) or not _is_text(written):
            raise SettingsError(
                f"{where}project must be the folder that the search was started in, got {_short(written)}; {UNDO}"
            )
        before = paths.original(folder, fields)
        if before is not None:
            raise SettingsError(
                f"--resume {name}: {folder} is a copy of {before}, and both would write into the same runs of MLflow; "
                f"resume that one, or remove it if this copy is the one to keep"
            )
        project = paths.project_of(folder, fields)
        own = {key: value for key, value in fields.items() if key not in (paths.PROJECT, paths.ID)}
        # where the results lie now: the folder may have moved
        here = {"output": str(output)}
        found = checked((own if project is None else paths.absolute(own, project)) | here, where)
        if found.name != name:
            raise SettingsError(
                f"--resume {name}: {folder} holds the search {found.name!r}, whose trials have that name in MLflow; "
                f"give the folder its name back: {command('mv', folder, folder.with_name(found.name))}"
            )
        return found


FILE = "search.json"

PLACES = ("data_root", "model", "prior", "cost", "design", "address", "output", "store", "tracking_uri")
"""Settings that name something outside the search: absent, but never empty."""


def _read(file: Path) -> dict[str, Any]:
    """What a file of settings holds.

    Raises:
        SettingsError: It cannot be read, or holds no settings.
    """
    try:
        # ValueError: also of bytes that are no UTF-8, and of numbers of thousands of digits
        found = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(f"--resume {file.parent.name}: {file} cannot be read ({why}); {UNDO}") from error
    if not isinstance(found, dict):
        raise SettingsError(
            f"--resume {file.parent.name}: {file} must hold an object of settings, got {_short(found)}; {UNDO}"
        )
    return found


UNDO = "undo what changed it, or start a new search"


def checked(fields: Mapping[str, Any], where: str) -> Settings:
    """Settings from fields that may be of any type, as a file or a caller from Python gives them.

    Args:
        fields: Name to value; lists, paths and NumPy's numbers are taken as well.
        where: What stands before the sentence of an error.

    Raises:
        SettingsError: A field that is unknown, absent, of another type or out of its range.
    """
    from pydantic import ValidationError

    texts, undo = {}, f"; {UNDO}" if FILE in where else ""
    for name, value in fields.items():
        try:
            texts[str(name)] = json.dumps(value, default=_plain, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            raise SettingsError(f"{where}{_must(str(name), value)}{undo}") from None
        if not _is_text(str(name) + texts[str(name)]):
            raise SettingsError(f"{where}{_short(name)[1:-1]} must be text in UTF-8, got {_short(value)}{undo}")
    body = ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items())
    try:
        return _adapter().validate_json(f"{{{body}}}")  # type: ignore[no-any-return]
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = str(found["loc"][0]) if found["loc"] else ""
        if found["type"] == "value_error":
            sentence = str(found["ctx"]["error"])
        elif found["type"] == "missing":
            sentence = f"{name} is missing"
        elif name in texts:
            sentence = _must(name, fields[name])
        else:
            sentence = str(found["msg"])
        raise SettingsError(f"{where}{sentence}{undo}") from error


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Settings)


def _plain(value: Any) -> Any:
    """What JSON can say of a path or of one of NumPy's numbers."""
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and value.ndim == 0:
        return value.item()
    raise TypeError(type(value).__name__)


def _must(name: str, value: Any) -> str:
    """What a setting must be."""
    types = {field.name: str(field.type) for field in dataclasses.fields(Settings)}
    if name not in types:
        near = difflib.get_close_matches(name, types, n=1)
        return f"there is no setting {_short(name)}: " + (
            f"did you mean {near[0]!r}?" if near else f"known are {', '.join(types)}"
        )
    base, _, optional = types[name].partition(" | ")
    words = UNITS.get(name, TYPES[base]) + (" or none" if optional else "")
    return f"{name} must be {words}, got {_short(value)}"


def _short(value: Any) -> str:
    """A value as a message shows it."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}…"


def _rooted(given: Mapping[str, Any], stored: Settings) -> dict[str, Any]:
    """What is given anew, with data and networks named as a stored search names them."""
    from trainables.code_identity import relocated
    from trainables.data import fed, rooted

    def place(text: str) -> str:
        return os.path.realpath(os.path.expanduser(text))

    fields = dict(given)
    data, root, feed = (fields.get(name, getattr(stored, name)) for name in ("data", "data_root", "feed"))
    if "data" in fields and isinstance(data, str) and isinstance(fields.get("data_root"), str | None):
        # the root that is stored belongs to the stored name
        data = data if feed in ("auto", None) else fed(data, str(feed))
        fields["data"], root = rooted(data, fields.get("data_root"))
        if "data_root" in fields or root is not None:
            fields["data_root"] = root
    elif isinstance(fields.get("data_root"), str):
        fields["data_root"] = place(fields["data_root"])
    if isinstance(fields.get("model"), str):
        fields["model"] = relocated(fields["model"], place)
    return fields


def _is_text(text: str) -> bool:
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False


def _same(name: str, was: Any, given: Any) -> bool:
    """Whether a setting is given as it was; a folder may be spelt in another way."""
    if name == "tricks":
        return len(was) == len(given) and all(_same("", *pair) for pair in zip(was, given, strict=True))
    if name in ("", "data_root", "store", "prior", "cost") and was is not None and given is not None:
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
    except (TypeError, ValueError):
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
    from trainables.pipeline.storage import byte_count as read

    return read(text)

"""Turns the options of the command line or of `search.run` into the search to run."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from search.context import BUNDLED
from search.design.labels import pair_of
from search.design.power_preview import FEWEST_BLOCKS
from search.option import SettingsError, must, options_of, validate
from search.recipes.earlier import like
from search.scheduling.early_end.rule import default_patience
from search.settings import ALL_OPTIONS, OPTIONS, Invocation, Settings, gpus
from search.workspace.folder import kept_space
from search.workspace.space_file import load_space
from spaces.domain import Space
from trainables.data import with_val

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Request:
    """A search, as a command line or a call of `search.run` describes it.

    Args:
        space: What may vary.
        settings: Everything else that decides it.
        file: The space's file; `None` for a space made in Python.
        resume: Whether the search exists.
        extra_blocks: Further blocks that unresolved primary pairs may get, over all of them; `None` for a search that
            continues as planned.
        accept_changes: Whether a resumed search whose data, space or code have changed is followed by a new one.
        space_given: Whether a resumed search was given a space, which may be another one.
        explain: Whether to say why a trial is stopped.
    """

    space: Space
    settings: Settings
    file: Path | None = None
    resume: bool = False
    extra_blocks: int | None = None
    accept_changes: bool = False
    explain: bool = False
    space_given: bool = False


def make_request(given: Mapping[str, Any], where: str = "") -> Request:
    """The search that options ask for.

    Args:
        given: Name to value, of the options that were given; `space` may be a `Space` or the path of a space file.
        where: Beginning of the sentence of an error.

    Raises:
        ValueError: It cannot be started as asked, in one sentence.
    """
    for name, value in given.items():
        if name not in ALL_OPTIONS:
            raise SettingsError(f"{where}{must(ALL_OPTIONS, name, value)}")
    fields = {name: value for name, value in given.items() if name in OPTIONS and name != "space"}
    once = validate(Invocation, {name: given[name] for name in options_of(Invocation) if name in given}, where)
    if "gpus_per_trial" in fields:
        fields |= gpus(fields["gpus_per_trial"])
    if isinstance(pairs := fields.get("primary"), list | tuple) and all(isinstance(pair, str) for pair in pairs):
        fields["primary"] = tuple("×".join(pair_of(pair)) for pair in pairs)
    if once.resume is not None:
        return _resumed(given.get("space"), fields, once, "settle_budget" in given)
    for name in ("accept_changes", "settle", "settle_budget"):
        if given.get(name):
            raise SettingsError(f"{where}{ALL_OPTIONS[name].flag} needs a search that exists: name it with --resume")
    if fields.get("like") is not None:
        earlier = Settings.stored(str(fields.get("output", "results")), str(fields["like"]), "--like")
        fields = like(earlier) | fields
        given = {"space": kept_space(earlier)[1], **given}
    if "space" not in given:
        raise SettingsError("--space FILE is needed, e.g. --space spaces/full_combo.py (or --resume NAME)")
    space, file = _space(given["space"])
    stem = "space" if file is None else file.stem
    chosen: dict[str, Any] = {
        "name": f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}", "space": "<python>" if file is None else str(file),
        "data": space.data or BUNDLED, **fields,
    }  # fmt: skip
    if once.val is not None and isinstance(chosen["data"], str):
        chosen["data"] = with_val(chosen["data"], once.val)
    settings = validate(Settings, chosen, where)
    if settings.patience is None:
        settings = replace(settings, patience=default_patience(settings.trials), patience_is_default=True)
    if settings.primary and settings.seeds < FEWEST_BLOCKS:
        raise SettingsError(
            f"{where}--seeds {settings.seeds}: the declared pairs (--primary) need at least {FEWEST_BLOCKS} seed "
            "blocks; the default is 5"
        )
    return Request(space, settings, file, explain=once.explain)


def _space(given: Any) -> tuple[Space, Path | None]:
    return (given, None) if isinstance(given, Space) else (load_space(given), Path(given))


def _resumed(space: Any, fields: dict[str, Any], once: Invocation, limited: bool) -> Request:
    """The request to continue a search; what was not given is as it is stored."""
    asked, name, output = str(once.resume), fields.pop("name", once.resume), fields.pop("output", "results")
    if once.val is not None:
        raise SettingsError(f"--val {once.val}: a resumed search keeps its val; leave --val out")
    if name != asked:
        raise SettingsError(f"--name {name}: a resumed search keeps its name; leave --name out")
    settings = Settings.stored(str(output), asked).changed({"time_budget": None, **fields})
    if limited and not once.settle:
        raise SettingsError("--settle-budget limits --settle, which must be given as well")
    if once.settle:
        _check_settle(fields, settings, once)
    loaded, file = kept_space(settings) if space is None else _space(space)
    return Request(
        loaded, settings, file, resume=True, extra_blocks=once.settle_budget if once.settle else None,
        accept_changes=once.accept_changes, explain=once.explain, space_given=space is not None,
    )  # fmt: skip


def _check_settle(fields: Mapping[str, Any], settings: Settings, once: Invocation) -> None:
    if once.accept_changes:
        raise SettingsError("--settle extends this search, --accept-changes starts a new one: give only one of them")
    if "trials" in fields or "seeds" in fields:
        raise SettingsError(
            "--settle runs further blocks of primary pairs and nothing else: leave --trials and --seeds out"
        )
    if not settings.primary:
        raise SettingsError(
            f"--resume {settings.name} --settle: no primary pairs were declared, and choosing them after looking would "
            "void their error rate; declare them when a search starts: --primary a×b"
        )


def takes_options(function: Function) -> Function:
    """Gives a function `(space, **options)` the signature that its options have, for `help()` and for editors."""
    keywords = [
        inspect.Parameter(known.name, inspect.Parameter.KEYWORD_ONLY, default=known.default)
        for known in ALL_OPTIONS.values()
        if known.help and not known.command_only and known.name != "space"
    ]  # fmt: skip
    first = inspect.Parameter("space", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    function.__signature__ = inspect.Signature([first, *keywords])  # type: ignore[attr-defined]
    return function

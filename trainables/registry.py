"""Seams, the `@trick` decorator, and the discovery of every trick.

A trick is a frozen dataclass of numbers with one method, `build(facts)`, that returns a pure function for
one **seam** of training. Its file's name is its name. Files are found in `trainables/tricks/` and in any
folder passed to `discover` (`--tricks DIR`).

A trick may own modules with parameters or buffers, `modules(facts) -> {name: nn.Module}`; its function gets them from
`facts.own_modules(self)`. They belong to the state, the optimiser and the carry-over of their chain, but not to the
exported network. The object that `build` returns may have `begin_epoch(progress, generator)` and `after_step(model,
outputs, batch)`; both may write only into buffers of the trick's own modules, so that a stage can be resumed and
re-used.

    from trainables.registry import make, names

    make("effective_number", beta=0.999).build(facts)
    names(seam="draw")

Where each seam acts. A word in capitals is a seam; the comments name the function that holds the code::

    for stage in plan:                                          # StageExecutor
        for member in stage.members:                            # one, except in balanced training
            network = carry-over of the stage before            # network_setup.network_at_start
            if the stage starts a chain:
                network = HEAD(network)                         # another kind of classifier
            groups = TRAIN(network)                             # what learns; may freeze, reset or wrap
            network.extra[trick] = trick.modules(facts)         # of every trick that owns modules; they learn
            facts = counts, labels, network, generators, …      # the argument of build(facts) of all other tricks

            for epoch in stage.epochs:                          # StageRun.train_epoch
                begin_epoch(progress, generator)                # of every built object that has it
                indices = DRAW(progress, generator)             # which images, how often
                PARTNER(progress, generator)                    # the images of batch.partner, prepared like the others
                for index in batches of indices:                # StageFeed
                    batch = IMAGE(batch, generator)             # in the order of the plan, on raw images
                    batch = shift and flip of the data set
                    batch = AUGMENT(batch, generator)           # in the order of the plan
                    batch = normalise(batch)
                    batch = MIX(batch, generator)               # y (B, K), share (B, K), and a Blend

                    outputs = network(batch.images, batch.blend)    # behind its layer: INSIDE(x, batch, generator)
                    for y, share in the K parts of the mixture:                  # Objective
                        z = LOGITS(outputs.logits, y)                            # in the order of the plan
                        weight = share * WEIGHT(y)                               # (B,); several multiply
                        losses += weight * LOSS(z, TARGET(y), y, generator)      # (B,)
                    loss = reduce(losses, weights) + mean(PENALTY(outputs, batch, generator))
                    STEP(loss.backward, optimiser)              # one backward pass, or several at perturbed weights
                    optimiser.step()

                    AFTER_STEP(network, outputs, batch)         # project weights, update buffers
                    after_step(network, outputs, batch)         # of every other built object that has it
                    averaged = AVERAGE(averaged, state, step)   # also once after every epoch

                if the epoch is measured:                       # Evaluator, on val
                    z = READOUT(outputs of averaged or network)

        if the stage has members:
            state = MERGE(states of the members)                # network_setup.merge_members
        carry over to the next stage
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import importlib.util
import math
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from analysis import command_line, text
from analysis.command_line import Parser
from analysis.text import echo
from spaces.domain import DOMAINS

T = TypeVar("T")


class PlanError(ValueError):
    """A plan that cannot be trained; raised before training starts."""


@dataclass(frozen=True)
class Seam:
    """One place in training at which a trick acts."""

    name: str
    many: bool
    builds: str


SEAMS: Mapping[str, Seam] = MappingProxyType(
    {
        seam.name: seam
        for seam in (
            Seam("draw", False, "(progress, generator) -> image indices of one epoch (M,)"),
            Seam("partner", False, "(progress, generator) -> image indices of a second stream, as Batch.partner"),
            Seam("image", True, "(Batch, generator) -> Batch, raw images, before crop and flip"),
            Seam("augment", True, "(Batch, generator) -> Batch, after crop and flip"),
            Seam("mix", False, "(Batch, generator) -> Batch with y, share and a Blend"),
            Seam("inside", True, "at a layer, training only: (x, Batch, generator) -> (x, Batch), may add rows"),
            Seam("target", False, "labels (B,) -> (B, C), rows sum to 1"),
            Seam("logits", True, "(z (B, C), y (B,)) -> z (B, C), training only"),
            Seam("loss", False, "(Outputs, q (B, C), y (B,), generator) -> (B,)"),
            Seam("penalty", True, "(Outputs, Batch, generator) -> (B,)"),
            Seam("weight", True, "labels (B,) -> (B,); several multiply"),
            Seam("head", False, "Model -> Model, at the stage's start"),
            Seam("train", False, "Model -> parameter groups that learn"),
            Seam("step", False, "(gradient, optimiser) -> None, leaves the gradient that the optimiser steps along"),
            Seam("average", False, "(averaged, state, step, epoch) -> averaged state, evaluated and handed over"),
            Seam("after_step", True, "(Model, Outputs, Batch) -> None"),
            Seam("merge", False, "list of member states -> state"),
            Seam("readout", False, "Outputs -> z (B, C), evaluation only"),
        )
    }
)


@dataclass(frozen=True)
class Entry:
    """A registered trick."""

    name: str
    seam: str
    family: str
    source: str
    cls: type
    space: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, Any]:
        """The trick's numbers with their defaults."""
        return {f.name: f.default for f in dataclasses.fields(self.cls)}


_ENTRIES: dict[str, Entry] = {}
_DISCOVERED: set[str] = set()


def trick(
    *,
    seam: str,
    family: str,
    source: str,
    space: Mapping[str, Any] | None = None,
    needs: Iterable[str] = (),
    provides: Iterable[str] = (),
) -> Callable[[type[T]], type[T]]:
    """Registers a frozen dataclass as a trick, under the name of its file.

    Args:
        seam: Where it acts; a key of `SEAMS`.
        family: Its kind, in the literature's term.
        source: Authors, year, id, equation.
        space: For each number the range worth searching, as a domain of `spaces.domain`.
        needs: Capabilities that an earlier part of the plan must provide, e.g. "cosine".
        provides: Capabilities that later parts of the plan can rely on.
    """
    if seam not in SEAMS:
        raise ValueError(f"@trick(seam={seam!r}): {did_you_mean(seam, SEAMS)}; the seams are {', '.join(SEAMS)}")

    def register(cls: type[T]) -> type[T]:
        name = cls.__module__.rpartition(".")[2]
        params = getattr(cls, "__dataclass_params__", None)
        if params is None or not params.frozen:
            raise TypeError(f"trick {name!r}: {cls.__name__} must be a @dataclass(frozen=True) below @trick")
        fields = {f.name: f.default for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key, default in fields.items():
            if default is dataclasses.MISSING:
                raise TypeError(f"trick {name!r}: {key} needs a default")
        for key, domain in (space or {}).items():
            if key not in fields or not isinstance(domain, DOMAINS):
                raise TypeError(f"trick {name!r}: space[{key!r}] must be a range for one of {', '.join(fields)}")
        known = _ENTRIES.get(name)
        if known is not None and (known.cls.__module__, known.cls.__qualname__) != (cls.__module__, cls.__qualname__):
            first, second = (f"{c.__name__} in {source_file(c)}" for c in (known.cls, cls))
            raise PlanError(f"trick {name!r} is defined twice: {first} and {second}; rename one file")
        entry = Entry(name, seam, family, source, cls, dict(space or {}), tuple(needs), tuple(provides))
        _ENTRIES[name] = entry
        cls.entry = entry  # type: ignore[attr-defined]
        return cls

    return register


def source_file(cls: type) -> Path:
    """The file that defines a trick."""
    return Path(str(sys.modules[cls.__module__].__file__))


def discover(*folders: str | Path) -> None:
    """Imports every trick of `trainables/tricks/` and of the given folders; calling it again is harmless.

    Raises:
        PlanError: A folder does not exist, a file cannot be imported, or a name is already taken.
    """
    if "trainables.tricks" not in _DISCOVERED:
        _DISCOVERED.add("trainables.tricks")
        package = importlib.import_module("trainables.tricks")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"trainables.tricks.{module.name}")
    for folder in folders:
        path = Path(folder).resolve()
        if str(path) in _DISCOVERED:
            continue
        if not path.is_dir():
            raise PlanError(f"--tricks {folder}: no such folder")
        for file in sorted(path.glob("*.py")):
            if not file.stem.startswith("_"):
                _import_file(file)
        _DISCOVERED.add(str(path))


def _import_file(file: Path) -> None:
    # the folder is part of the module's name: files of one name in two folders are a clash, not a replacement
    module_name = f"longtail_tricks_{hashlib.sha256(str(file.parent).encode()).hexdigest()[:8]}.{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except PlanError:
        raise
    except Exception as error:
        raise PlanError(f"--tricks: {file} cannot be imported: {type(error).__name__}: {error}") from error


def entries() -> dict[str, Entry]:
    """Every known trick by name, in alphabetical order."""
    discover()
    return dict(sorted(_ENTRIES.items()))


def entry(name: str) -> Entry:
    """The registry entry of one trick.

    Raises:
        PlanError: The name is unknown; the message offers the nearest known one.
    """
    discover()
    if name not in _ENTRIES:
        raise PlanError(f"unknown trick {name!r}: {did_you_mean(name, _ENTRIES)}")
    return _ENTRIES[name]


def names(seam: str | None = None, family: str | None = None) -> list[str]:
    """The names of all tricks, optionally of one seam or one family.

    >>> "cost_sensitive" in names(seam="weight"), "cost_sensitive" in names(seam="draw")
    (True, False)
    """
    if seam is not None and seam not in SEAMS:
        raise ValueError(f"names(seam={seam!r}): {did_you_mean(seam, SEAMS)}")
    return [known.name for known in entries().values() if seam in (None, known.seam) and family in (None, known.family)]


def make(name: str, **numbers: Any) -> Any:
    """A trick with the given numbers and defaults for the others.

    >>> make("cost_sensitive", power=0.5)
    CostSensitive(power=0.5)

    Raises:
        PlanError: Unknown trick or number, or a number outside its range.
    """
    known = entry(name)
    for key in numbers:
        if key not in known.numbers:
            allowed = f"it has {', '.join(known.numbers)}" if known.numbers else "it has none"
            raise PlanError(f"trick {name!r} has no number {key!r}: {did_you_mean(key, known.numbers)} ({allowed})")
    try:
        return known.cls(**numbers)
    except (TypeError, ValueError) as error:
        raise PlanError(str(error)) from error


def name_of(made: Any) -> str:
    """The name of a trick that `make` returned."""
    return str(type(made).entry.name)


def seam_of(made: Any) -> str:
    """The seam of a trick that `make` returned."""
    return str(type(made).entry.seam)


def provides_of(made: Any) -> tuple[str, ...]:
    """The capabilities that a trick provides; its property `provides`, if it has one, overrides the entry."""
    own = getattr(made, "provides", type(made).entry.provides)
    return tuple(own)


def numbers_of(made: Any) -> dict[str, Any]:
    """The numbers of a trick, JSON-serialisable; `make(name, **numbers)` gives an equal trick.

    A `view` of `None` is left out, so that the ids of plans with a single view do not depend on the field.
    """
    numbers = dataclasses.asdict(made)
    return {key: value for key, value in numbers.items() if key != "view" or value is not None}


def in_range(
    made: Any,
    number: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    whole: bool = False,
) -> None:
    """Checks one number of a trick; for `__post_init__`.

    Args:
        made: The trick.
        number: Field name.
        low: Smallest allowed value, excluded if `above`.
        high: Largest allowed value, excluded if `below`.
        above: Exclude `low`.
        below: Exclude `high`.
        whole: Only whole numbers.

    Raises:
        ValueError: The message names the trick, the number, its value and the allowed range.
    """
    value = getattr(made, number)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    fits = is_number and low <= value <= high and not (above and value == low) and not (below and value == high)
    if fits and (not whole or isinstance(value, int)):
        return
    left = "(" if above or low == -math.inf else "["
    right = ")" if below or high == math.inf else "]"
    kind = "a whole number" if whole else "a number"
    where = type(made).__module__.rpartition(".")[2]
    raise ValueError(f"trick {where!r}: {number} must be {kind} in {left}{low:g}, {high:g}{right}, got {value!r}")


def among(made: Any, number: str, allowed: Iterable[Any]) -> None:
    """Checks that a field of a trick is one of the allowed values; for `__post_init__`."""
    options = tuple(allowed)
    if getattr(made, number) not in options:
        where = type(made).__module__.rpartition(".")[2]
        shown = ", ".join(repr(option) for option in options)
        raise ValueError(f"trick {where!r}: {number} must be one of {shown}, got {getattr(made, number)!r}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or all known names."""
    options = sorted(known)
    return text.did_you_mean(name, options, 0.5) or f"known are {', '.join(options) or 'none'}"


def gallery() -> str:
    """Every known trick as a Markdown table, by family and seam."""
    lines = ["| trick | seam | family | numbers = default (worth searching) | source |", "|---|---|---|---|---|"]
    seams = list(SEAMS)
    for known in sorted(entries().values(), key=lambda e: (e.family, seams.index(e.seam), e.name)):
        needs = f", needs {' and '.join(known.needs)}" if known.needs else ""
        cells = (f"`{known.name}`", known.seam + needs, known.family, _numbers(known), known.source)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def _numbers(known: Entry) -> str:
    """A trick's numbers with their defaults and ranges."""
    shown = []
    for key, default in known.numbers.items():
        text = f"{default:g}" if isinstance(default, float) else str(default)
        domain = known.space.get(key)
        shown.append(f"`{key}` = {text}" + (f" ({domain})" if domain is not None else ""))
    return ", ".join(shown) or "none"


def parser(prog: str = "python -m trainables.registry") -> Parser:
    """The command, which has no options."""
    return Parser(prog, description="List every trick with its seam, family, numbers and source, as a Markdown table.")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m trainables.registry") -> int:
    """Prints the gallery."""

    def body(_: argparse.Namespace) -> int:
        echo(gallery())
        return 0

    return command_line.run(parser(prog), arguments, body)


if __name__ == "__main__":
    # run as `python -m`, this module is `__main__`; the tricks register with the imported one
    sys.exit(importlib.import_module("trainables.registry").main())

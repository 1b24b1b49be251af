"""The words a space file is written in.

A **space** is a list of stages with choices and ranges left open::

    from spaces.domain import Space, Stage, one_of, trick, uniform

    SPACE = Space(
        stages=[Stage("train", choose=[one_of(None, trick("input_mixup", alpha=uniform(0.2, 2.0)))])],
        screen=["train/input_mixup"],
    )

Everything here is plain data: nothing is imported, looked up or trained. Tricks are named by string;
whether a name exists is checked when the space is loaded (`trainables.plan.check_space`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias

Scalar: TypeAlias = bool | int | float | str | None


class SpaceError(ValueError):
    """A space, or a part of one, that cannot be meant."""


@dataclass(frozen=True)
class Uniform:
    """A real number between `low` and `high`, on a grid of width `step` if one is given."""

    low: float
    high: float
    step: float | None = None

    def __post_init__(self) -> None:
        _ordered(self, "uniform")
        if self.step is None:
            return
        object.__setattr__(self, "step", _plain(self.step))
        if not (_is_finite(self.step) and 0 < self.step <= self.high - self.low):
            raise SpaceError(
                f"uniform({self.low}, {self.high}): step must be above 0 and at most {self.high - self.low:g}, "
                f"got {_shown(self.step)}"
            )

    def __contains__(self, value: object) -> bool:
        return _within(value, self.low, self.high)

    def nearest(self, value: float) -> float:
        """The value of the domain that is nearest to `value`."""
        clipped = min(max(float(value), self.low), self.high)
        if self.step is None:
            return clipped
        count = math.floor((self.high - self.low) / self.step + 1e-9)
        return round(self.low + self.step * min(count, round((clipped - self.low) / self.step)), 12)

    @property
    def middle(self) -> float:
        """The default where nothing else says one."""
        return self.nearest((self.low + self.high) / 2)

    def __str__(self) -> str:
        grid = "" if self.step is None else f" step {self.step:g}"
        return f"{self.low:g} … {self.high:g}{grid}"


PER_DECADE = {"decades": 1, "halves": 2, "thirds": 3, "quarters": 4, "fifths": 5}


@dataclass(frozen=True)
class LogUniform:
    """A real number between `low` and `high`, uniform in its logarithm.

    `step` quantises it to that part of a decade, counted from `low`: with `"thirds"`, 0.01 is followed by
    0.0215, 0.0464 and 0.1. Numbers of early stages should be quantised: a continuous one makes every first
    stage unique, so that none can be re-used.
    """

    low: float
    high: float
    step: str | None = None

    def __post_init__(self) -> None:
        _ordered(self, "log_uniform")
        if not self.low > 0:
            raise SpaceError(f"log_uniform({self.low}, {self.high}): the range must lie above 0")
        if self.step is not None and (not isinstance(self.step, str) or self.step not in PER_DECADE):
            raise SpaceError(
                f"log_uniform({self.low}, {self.high}): step must be one of {', '.join(PER_DECADE)} "
                f"(a part of a decade), got {self.step!r}"
            )

    def grid(self) -> tuple[float, ...]:
        """The allowed values; empty where the range is continuous."""
        if self.step is None:
            return ()
        per_decade = PER_DECADE[self.step]
        count = math.floor(per_decade * math.log10(self.high / self.low) + 1e-9)
        points = (float(f"{self.low * 10 ** (k / per_decade):.4g}") for k in range(count + 1))
        return tuple(min(max(point, self.low), self.high) for point in points)

    def __contains__(self, value: object) -> bool:
        return _within(value, self.low, self.high)

    def nearest(self, value: float) -> float:
        """The value of the domain that is nearest to `value` on the logarithmic scale."""
        clipped = min(max(float(value), self.low), self.high)
        return min(self.grid(), key=lambda point: abs(math.log(point / clipped)), default=clipped)

    @property
    def middle(self) -> float:
        """The default where nothing else says one."""
        return self.nearest(math.sqrt(self.low * self.high))

    def __str__(self) -> str:
        grid = "" if self.step is None else f" {self.step} of a decade"
        return f"{self.low:g} … {self.high:g} log{grid}"


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _ordered(self, "integer")
        if not all(isinstance(end, int) and not isinstance(end, bool) for end in (self.low, self.high)):
            raise SpaceError(f"integer({self.low}, {self.high}): both ends must be whole numbers")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and _within(value, self.low, self.high)

    def nearest(self, value: float) -> int:
        """The value of the domain that is nearest to `value`."""
        return min(max(round(value), self.low), self.high)

    @property
    def middle(self) -> int:
        """The default where nothing else says one: the low end, because it is the cheap one."""
        return self.low

    def __str__(self) -> str:
        return f"{self.low} … {self.high}"


@dataclass(frozen=True)
class Trick:
    """A trick by name, with numbers that are fixed or open. Written `trick("focal", gamma=2)`."""

    name: str
    numbers: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise SpaceError(f"trick({self.name!r}): a trick is named by the name of its file, e.g. trick('focal')")
        numbers = tuple((key, _number(value, f"trick {self.name!r}: {key}")) for key, value in self.numbers)
        object.__setattr__(self, "numbers", numbers)

    def __str__(self) -> str:
        if not self.numbers:
            return self.name
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in self.numbers)})"


@dataclass(frozen=True)
class OneOf:
    """Exactly one of the options: scalars (a number), tricks, or whole stages; `None` is "none of them"."""

    options: tuple[Any, ...]
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.options:
            raise SpaceError("one_of(): needs at least one option")
        if any(isinstance(option, (*DOMAINS, SomeOf)) for option in self.options):
            raise SpaceError("one_of(...): options cannot be choices or ranges themselves; write them side by side")
        options = tuple(
            option if isinstance(option, (Trick, Stage)) else _scalar(option, "one_of(...): an option")
            for option in self.options
        )
        object.__setattr__(self, "options", options)
        if any(option in options[:position] for position, option in enumerate(options)):
            raise SpaceError(f"one_of(...): an option stands twice in {options!r}")
        # what a plan derives from a choice has names of its own
        if self.name is not None and type(self) is OneOf:
            _check_name(self.name, "one_of(...)", (*RESERVED, *STAGE_NUMBERS))

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def nearest(self, value: float) -> Any:
        """The numeric option nearest to `value`; the first option where they are not numbers."""
        numbers = [option for option in self.options if _is_number(option)]
        if len(numbers) != len(self.options) or not _is_number(value):
            return value if value in self.options else self.options[0]
        if value > 0 and all(number > 0 for number in numbers):
            return min(numbers, key=lambda number: abs(math.log(number / value)))
        return min(numbers, key=lambda number: abs(number - value))

    @property
    def middle(self) -> Any:
        """The default where nothing else says one: the first option."""
        return self.options[0]

    def __str__(self) -> str:
        return " | ".join("none" if option is None else _short(option) for option in self.options)


@dataclass(frozen=True)
class SomeOf:
    """Any of the tricks together, between `at_least` and `at_most` of them."""

    options: tuple[Trick, ...]
    at_least: int = 0
    at_most: int | None = None

    def __post_init__(self) -> None:
        names = [option.name for option in self.options]
        for name in names:
            if names.count(name) > 1:
                raise SpaceError(f"some_of(...): {name!r} stands twice")
        most = len(names) if self.at_most is None else self.at_most
        bounds = (self.at_least, most)
        if not all(type(bound) is int for bound in bounds) or not 0 <= self.at_least <= most <= len(names):
            raise SpaceError(
                f"some_of(...): 0 ≤ at_least ≤ at_most ≤ {len(names)} must hold, "
                f"got at_least={self.at_least!r}, at_most={self.at_most!r}"
            )

    def __str__(self) -> str:
        return "any of " + ", ".join(option.name for option in self.options)


Domain: TypeAlias = Uniform | LogUniform | Integer | OneOf
DOMAINS = (Uniform, LogUniform, Integer, OneOf)


STAGE_NUMBERS = (
    "length", "epochs", "lr", "weight_decay", "momentum", "batch_size", "schedule", "reduction", "members", "views",
    "nesterov", "optimizer", "layer_decay", "clip",
)  # fmt: skip
"""The fields of a stage that may be left open."""

RESERVED = ("none", "baseline", "factorial", "numbers")
"""What tables, labels and contexts mean by these words is no stage."""

LONGEST_NAME = 60
"""Characters of a name: MLflow's keys hold two labels of a stage and a trick each."""


@dataclass(frozen=True)
class Stage:
    """One phase of training, as the user writes it.

    Args:
        name: The space's own name of the stage; tricks are labelled `<stage>/<trick>`.
        length: Share of the data set's standard schedule, above 0 (1.0 is 30 epochs of digits, 200 of CIFAR).
        epochs: Fixes the number of epochs instead.
        lr: Peak learning rate; the data set's standard one where absent.
        weight_decay: L2 penalty of SGD, decoupled decay of AdamW; the data set's standard one where absent.
        momentum: SGD's momentum, AdamW's β₁, in [0, 1).
        batch_size: Images per step.
        schedule: A learning-rate schedule, with its options, or a published one by name (`training.schedule`):
            "cosine", "cosine(warm_up=5, of=100)", "multistep(at=30/60/80, of=90, by=0.1, warm_up=0)", "bag_of_tricks".
        nesterov: Nesterov's momentum; the data set's standard where absent.
        reduction: How per-image losses become one: "expected", "mean" or "weighted_mean".
        carry: What is taken over from the stage before: "all" (weights, optimiser, schedule: one chain) or
            "weights" (weights alone: a new chain). Ignored in the first stage.
        keep: Which tricks of the last stage without members stay on: `True` (all), `False` (none) or a tuple
            of seams. An own trick on the same seam replaces a kept one.
        members: Number of independent trainings from the same start, merged at the end.
        views: For a stage whose backbone does not move: how many augmented views of each image it learns from. Their
            features are computed once and shared by all stages from the same start; 0 augments anew every epoch.
        choose: The tricks: names, `trick(...)`, `one_of(...)`, `some_of(...)`.
        optimizer: "sgd" or "adamw"; SGD where absent.
        layer_decay: Layer-wise learning rates, in (0, 1]: each layer of the backbone learns at this multiple of the
            rate of the layer behind it, the last one at this multiple of the head's (`training.optimizer`); 1 where
            absent.
        clip: Largest L2 norm of a step's whole gradient, above 0; not clipped where absent.
    """

    name: str
    length: Any = None
    epochs: Any = None
    lr: Any = None
    weight_decay: Any = None
    momentum: Any = None
    batch_size: Any = None
    schedule: Any = None
    reduction: Any = None
    carry: str = "weights"
    keep: bool | tuple[str, ...] = False
    members: Any = 1
    views: Any = 0
    choose: Sequence[Any] = ()
    nesterov: Any = None
    optimizer: Any = None
    layer_decay: Any = None
    clip: Any = None

    def __post_init__(self) -> None:
        _check_name(self.name, "stage", RESERVED)
        where = f"stage {self.name!r}"
        if (self.length is None) == (self.epochs is None):
            raise SpaceError(f"{where}: give either length= (a share of the standard schedule) or epochs=")
        for key in STAGE_NUMBERS:
            object.__setattr__(self, key, _number(getattr(self, key), f"{where}: {key}"))
        if self.carry not in ("all", "weights"):
            raise SpaceError(f"{where}: carry must be 'all' or 'weights', got {self.carry!r}")
        if isinstance(self.choose, str) or not isinstance(self.choose, Sequence):
            raise SpaceError(f"{where}: choose must be a list, got {self.choose!r}; write choose=[…]")
        object.__setattr__(self, "choose", tuple(_trick_choice(item, where) for item in self.choose))
        _check_once(self.choose, where)
        if isinstance(self.keep, (list, tuple)) and all(isinstance(seam, str) for seam in self.keep):
            object.__setattr__(self, "keep", tuple(self.keep))
        elif not isinstance(self.keep, bool):
            raise SpaceError(f"{where}: keep must be True, False or a tuple of seams, got {self.keep!r}")


@dataclass(frozen=True)
class Forbidden:
    """Labels that must not be on together, and why."""

    labels: tuple[str, ...]
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _labels(self.labels, "forbid(...)"))
        if len(self.labels) < 2 or not isinstance(self.reason, str) or not self.reason:
            raise SpaceError("forbid(...): needs at least two labels and a reason")


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe that a search's design runs exactly as it is written.

    Args:
        name: Its label in tables.
        stages: Its stages, in order. A choice in them takes its default.
    """

    name: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        _check_name(self.name, "recipe", RESERVED)
        if not self.stages or not all(isinstance(stage, Stage) for stage in self.stages):
            raise SpaceError(f"recipe({self.name!r}, ...): expected one Stage or several, got {self.stages!r}")


@dataclass(frozen=True)
class Space:
    """A plan with choices and ranges left open.

    Args:
        stages: In order; each a `Stage` or a `one_of` over stages (`None` included).
        screen: The labels that the design arm crosses: `<stage>/<trick>`, or `<stage>` for a whole stage.
        forbid: Combinations that are never tried, each with its reason.
        data: The data set to use where the command names none.
        model: The network to use where the command names none.
        recipes: Recipes that the design arm trains as they are written, on the same seed blocks as its cells; the
            search compares each with the baseline.
        defaults: Values of open numbers in the baseline and the design's cells, by name, e.g. `{"first/lr": 0.1}`,
            where they are not the usual ones. A search whose space is changed keeps its baseline by them.
    """

    stages: Sequence[Stage | OneOf]
    screen: Sequence[str] = ()
    forbid: Sequence[Forbidden] = ()
    data: str | None = None
    model: str | None = None
    doc: str = field(default="", compare=False)
    recipes: Sequence[NamedRecipe] = ()
    defaults: Any = ()

    def __post_init__(self) -> None:
        for name in ("stages", "forbid", "recipes"):
            if isinstance(getattr(self, name), str) or not isinstance(getattr(self, name), Sequence):
                raise SpaceError(f"Space({name}=...): must be a list, got {getattr(self, name)!r}")
        stages = tuple(self.stages)
        if not stages:
            raise SpaceError("Space(stages=[]): a space needs at least one stage")
        seen: set[str] = set()
        for slot in stages:
            options = slot.options if isinstance(slot, OneOf) else (slot,)
            for option in options:
                if option is None:
                    continue
                if not isinstance(option, Stage):
                    raise SpaceError(f"Space(stages=...): expected a Stage or one_of(stages), got {option!r}")
                if option.name in seen:
                    raise SpaceError(f"stage {option.name!r} is named twice; every stage needs its own name")
                seen.add(option.name)
        choices = [slot.name for slot in stages if isinstance(slot, OneOf) and slot.name is not None]
        for name in choices:
            if choices.count(name) > 1:
                raise SpaceError(f"one_of(..., name={name!r}): two choices of stages have this name; give each its own")
        for rule in self.forbid:
            if not isinstance(rule, Forbidden):
                raise SpaceError(f"Space(forbid=...): expected forbid('label', 'label', reason='…'), got {rule!r}")
        named = [one.name if isinstance(one, NamedRecipe) else None for one in self.recipes]
        for name, given in zip(named, self.recipes, strict=True):
            if name is None:
                raise SpaceError(f"Space(recipes=...): expected recipe('name', Stage(...), ...), got {given!r}")
            if named.count(name) > 1:
                raise SpaceError(f"recipe {name!r} is named twice; give each recipe its own name")
            if name in seen:
                raise SpaceError(f"recipe {name!r} has the name of a stage; give it another one")
        for name in ("data", "model"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise SpaceError(f"Space({name}=...): must be a name, got {value!r}")
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "screen", _labels(self.screen, "screen"))
        object.__setattr__(self, "forbid", tuple(self.forbid))
        object.__setattr__(self, "recipes", tuple(self.recipes))
        try:
            values = sorted(dict(self.defaults).items())
        except (TypeError, ValueError):
            raise SpaceError(
                f"Space(defaults=...): must be a dict of names and values, got {self.defaults!r}"
            ) from None
        fixed = tuple((name, _scalar(value, f"Space(defaults=...): {name!r}")) for name, value in values)
        object.__setattr__(self, "defaults", fixed)

    @property
    def written_stages(self) -> Iterator[Stage]:
        """Every stage of the space, those of its recipes included."""
        for slot in self.stages:
            yield from filter(None, slot.options if isinstance(slot, OneOf) else (slot,))
        for named in self.recipes:
            yield from named.stages


# --- the words --------------------------------------------------------------------------------------------


def uniform(low: float, high: float, step: float | None = None) -> Uniform:
    """A real number in [low, high], on a grid of width `step` if given.

    >>> uniform(0.2, 2.0, step=0.2).nearest(1.05)
    1.0
    """
    return Uniform(low, high, step)


def log_uniform(low: float, high: float, step: str | None = None) -> LogUniform:
    """A real number in [low, high], uniform in its logarithm, quantised to a part of a decade if given.

    >>> log_uniform(0.01, 0.3, step="thirds").grid()
    (0.01, 0.02154, 0.04642, 0.1, 0.2154)
    """
    return LogUniform(low, high, step)


def integer(low: int, high: int) -> Integer:
    """A whole number in {low, …, high}."""
    return Integer(low, high)


def trick(name: str, **numbers: Any) -> Trick:
    """A trick by name; each number a value, or a domain that is left open.

    >>> print(trick("effective_number", beta=one_of(0.9, 0.99)))
    effective_number(beta=0.9 | 0.99)
    """
    return Trick(name, tuple(numbers.items()))


def one_of(*options: Any, name: str | None = None) -> OneOf:
    """Exactly one of the options: scalars, tricks (by name or `trick(...)`), whole stages; `None` is "none".

    >>> print(one_of(None, "class_balanced", "square_root"))
    none | class_balanced | square_root
    """
    return OneOf(tuple(options), name)


def some_of(*options: Any, at_least: int = 0, at_most: int | None = None) -> SomeOf:
    """Any of the tricks together.

    >>> print(some_of("cutout", "rand_augment"))
    any of cutout, rand_augment
    """
    tricks = tuple(_as_trick(option, "some_of(...)") for option in options)
    return SomeOf(tricks, at_least, at_most)


def forbid(*labels: str, reason: str) -> Forbidden:
    """Labels that are never on together, with the reason that the preview prints."""
    return Forbidden(labels, reason)


def recipe(name: str, *stages: Stage) -> NamedRecipe:
    """A recipe for `Space(recipes=[...])`, which the design arm trains as it is written.

    >>> print(recipe("short", Stage("only", epochs=3)).stages[0].epochs)
    3
    """
    return NamedRecipe(name, stages)


# --- helpers ----------------------------------------------------------------------------------------------


def to_dict(value: Any) -> Any:
    """A space, or a part of one, as JSON-serialisable objects; `from_dict` is the inverse."""
    if is_dataclass(value):
        return {"is": type(value).__name__} | {one.name: to_dict(getattr(value, one.name)) for one in fields(value)}
    return [to_dict(item) for item in value] if isinstance(value, tuple) else value


def from_dict(content: Any) -> Any:
    """The inverse of `to_dict`, also after a passage through JSON.

    >>> from_dict(to_dict(one_of(0.5, trick("focal", gamma=integer(1, 3))))) == one_of(
    ...     0.5, trick("focal", gamma=integer(1, 3))
    ... )
    True

    Raises:
        SpaceError: It is not what `to_dict` gives.
    """
    if isinstance(content, dict):
        known = {
            kind.__name__: kind
            for kind in (Uniform, LogUniform, Integer, OneOf, SomeOf, Trick, Stage, Forbidden, NamedRecipe, Space)
        }
        try:
            return known[content["is"]](**{key: from_dict(item) for key, item in content.items() if key != "is"})
        except (KeyError, TypeError) as error:
            raise SpaceError(f"a space cannot be read: {error}") from error
    return tuple(map(from_dict, content)) if isinstance(content, list) else content


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _within(value: object, low: float, high: float) -> bool:
    return _is_number(value) and low <= value <= high  # type: ignore[operator]


def _plain(value: Any) -> Any:
    """One of NumPy's numbers as Python's: a space is written down."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 else value


def _is_finite(value: Any) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _scalar(value: Any, where: str) -> Scalar:
    """A value that can be written down and read again.

    Raises:
        SpaceError: It is no scalar, or a number that is not finite.
    """
    value = _plain(value)
    if _is_number(value) and not (_is_finite(value) and abs(value) < LARGEST):
        raise SpaceError(f"{where} must be a finite number below {LARGEST:g}, got {_shown(value)}")
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise SpaceError(f"{where} must be a number, a text, True, False or None, got {value!r}")
    return value  # type: ignore[no-any-return]


LARGEST = 1e15
"""Above whole numbers of this size, JSON's readers and Optuna's tables lose digits."""


def _shown(value: Any) -> str:
    """A value for a message, also a whole number whose digits would fill the screen."""
    long = isinstance(value, int) and value.bit_length() > 200
    return f"a number of {value.bit_length()} bits" if long else repr(value)


def _number(value: Any, where: str) -> Any:
    """A value or a range.

    Raises:
        SpaceError: It is neither.
    """
    if isinstance(value, OneOf) and any(isinstance(option, (Trick, Stage)) for option in value.options):
        raise SpaceError(f"{where} must be a value or a range, got a choice of tricks or stages")
    if isinstance(value, (SomeOf, Trick, Stage)):
        raise SpaceError(f"{where} must be a value or a range, got {value!r}")
    return value if isinstance(value, DOMAINS) else _scalar(value, where)


def _check_name(name: Any, where: str, reserved: Sequence[str]) -> None:
    """Refuses a name that tables, labels or MLflow's keys could not hold.

    Raises:
        SpaceError: It is no word of letters, digits and underscores, too long, or means something else.
    """
    if not isinstance(name, str) or not name.replace("_", "").isalnum() or len(name) > LONGEST_NAME:
        raise SpaceError(
            f"{where} {name!r}: a name is made of letters, digits and underscores, {LONGEST_NAME} characters at most"
        )
    if name.casefold() in reserved:
        raise SpaceError(f"{where} {name!r}: this name means something else; reserved are {', '.join(reserved)}")


def _check_once(choose: Sequence[Any], where: str) -> None:
    """Refuses a trick that stands twice in a stage, whose label would mean two things."""
    names = [
        option.name
        for item in choose
        for option in (item.options if isinstance(item, (OneOf, SomeOf)) else (item,))
        if option is not None
    ]
    for name in names:
        if names.count(name) > 1:
            raise SpaceError(
                f"{where}: {name!r} stands twice; leave its number open instead: trick({name!r}, number=one_of(...))"
            )


def _labels(labels: Any, where: str) -> tuple[str, ...]:
    """Labels as a tuple.

    Raises:
        SpaceError: They are no list of texts, or one stands twice.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not all(isinstance(one, str) for one in labels):
        raise SpaceError(f"{where}: must be a list of labels like 'stage/trick', got {labels!r}")
    for label in labels:
        if list(labels).count(label) > 1:
            raise SpaceError(f"{where}: {label!r} stands twice")
    return tuple(labels)


def _ordered(span: Uniform | LogUniform | Integer, kind: str) -> None:
    for end in ("low", "high"):
        object.__setattr__(span, end, _plain(getattr(span, end)))
    low, high = span.low, span.high
    if not (_is_finite(low) and _is_finite(high) and max(abs(low), abs(high)) < LARGEST):
        raise SpaceError(f"{kind}({_shown(low)}, {_shown(high)}): both ends must be finite numbers below {LARGEST:g}")
    if not low < high:
        raise SpaceError(f"{kind}({low}, {high}): low < high must hold")


def _short(option: Any) -> str:
    return option.name if isinstance(option, Stage) else str(option)


def _as_trick(option: Any, where: str) -> Trick:
    if isinstance(option, str):
        return Trick(option)
    if isinstance(option, Trick):
        return option
    raise SpaceError(f"{where}: expected a trick's name or trick(...), got {option!r}")


def _trick_choice(item: Any, where: str) -> Trick | OneOf | SomeOf:
    if isinstance(item, SomeOf):
        return item
    if isinstance(item, OneOf):
        options = tuple(None if option is None else _as_trick(option, where) for option in item.options)
        return OneOf(options, item.name)
    return _as_trick(item, where)

"""What an option is: one declaration, from which its place on the command line, its checks and its documentation come.

`search.settings` declares the options of a search with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import enum
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

OPTION = "option"
"""Key of an `Option` in the metadata of its field."""

TYPES: Mapping[Any, str] = MappingProxyType(
    {
        str: "text", int: "a whole number", float: "a number", bool: "true or false",
        tuple[str, ...]: "a list of texts", tuple[float, ...]: "a list of numbers",
    }
)  # fmt: skip
"""What a value must be, in words, by the type of its field."""


class SettingsError(ValueError):
    """A search that cannot be started as asked."""


class More(int):
    """A number that is added to what a search has: `--trials +50`."""


class OnResume(enum.Enum):
    """Whether a resumed search may be given another value, in the words of `docs/cli.md`."""

    FIXED = "fixed"
    GROWS = "`+N` adds N"
    CHANGES = "may change"
    THIS_RUN = "may change, for that run only"


FIXED, GROWS, CHANGES, THIS_RUN = OnResume


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its name, type and default, which its field has.

    Args:
        group: Heading in `--help`.
        help: One line for `--help`; the default is appended. Empty where the field is no option of its own.
        metavar: What stands for the value.
        on_resume: Whether a resumed search may be given another value.
        choices: The allowed values of an enumeration.
        at_least: Smallest allowed number.
        above: Largest number that is too small.
        at_most: Largest allowed number.
        unit: Of the number.
        parse: Reads the text of the command line, where the type does not say how.
        shown: The default in words, where it is decided later; `None` for an option without one.
        flag: Name on the command line, where it is not that of the field.
        off: A further flag that sets the option to 0.
        path: Whether it names files, which may be spelt in several ways.
        compared: Whether the value itself is part of a search's identity; labels, and places whose contents are
            compared instead, are not.
        command_only: Whether `search.run` lacks it.
        name: Of the field, as are the next three.
        type: Without `None`.
        optional: Whether it may be `None`.
        default: `None` also where there must be a value.
    """

    group: str = ""
    help: str = ""
    metavar: str = "NAME"
    on_resume: OnResume = FIXED
    choices: tuple[str, ...] = ()
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    unit: str = ""
    parse: Callable[[str], Any] | None = None
    shown: str | None = ""
    flag: str = ""
    off: str = ""
    path: bool = False
    compared: bool = True
    command_only: bool = False
    name: str = ""
    type: Any = str
    optional: bool = False
    default: Any = None

    @property
    def full_help(self) -> str:
        """The help with the default."""
        if self.type is bool or self.shown is None:
            return self.help
        value = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        text = f"{value:g}" if isinstance(value, int | float) else value or "none"
        return f"{self.help} (default: {self.shown or text})"

    @property
    def words(self) -> str:
        """What a value must be."""
        if self.choices:
            return " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
        return (f"a number of {self.unit}" if self.unit else TYPES[self.type]) + (" or none" if self.optional else "")

    def read(self, text: str) -> Any:
        """The value of a text on the command line.

        Raises:
            argparse.ArgumentTypeError: It is none.
        """
        try:
            if self.parse is not None:
                return self.parse(text)
            if self.on_resume is GROWS and text.startswith("+"):
                return More(text)
            if self.choices and text not in self.choices:
                raise ValueError
            return self.type(text) if self.type in (int, float) else text
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {self.words}, got {text!r}{self._near(text)}") from None

    def check(self, value: Any) -> None:
        """Refuses a value of the right type that is out of its range.

        Raises:
            SettingsError: With the option, what is allowed and what was got.
        """
        unit = f" {self.unit}" if self.unit else ""
        number = isinstance(value, int | float)
        if isinstance(value, More):
            raise SettingsError(
                f"{self.flag} +{value} adds to a search that exists: name it with --resume, or leave the plus out"
            )
        for holds, allowed in (
            (not number or self.at_least == -math.inf or value >= self.at_least, f"at least {self.at_least:g}{unit}"),
            (not number or self.above == -math.inf or value > self.above, f"above {self.above:g}{unit}"),
            (not number or value <= self.at_most, f"at most {self.at_most:,.0f}"),
            (not self.choices or value is None or value in self.choices, self.words),
            (value != "" or not self.help, "a name, and not empty"),
        ):
            if not holds:
                raise SettingsError(f"{self.flag} must be {allowed}, got {short(value)}{self._near(value)}")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise SettingsError(f"{self.flag} must be a finite number, got {one}")
            if isinstance(one, str) and not is_text(one):
                raise SettingsError(f"{self.flag} must be text in UTF-8 without NUL characters, got {short(one)}")

    def _near(self, value: Any) -> str:
        near = difflib.get_close_matches(str(value), self.choices, n=1)
        return f": did you mean {near[0]!r}?" if near else ""

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        """Adds the option to a parser whose `argument_default` is `argparse.SUPPRESS`: what is not given is absent."""
        named: dict[str, Any] = {"dest": self.name, "help": self.full_help}
        if self.type is bool:
            group.add_argument(self.flag, **named, action="store_const", const=not self.default)
            return
        if self.type == tuple[str, ...] and self.parse is None:
            named["action"] = "append"
        if self.choices:
            named["choices"] = self.choices
        else:
            named["metavar"] = self.metavar
        group.add_argument(self.flag, **named, type=self.read)
        if self.off:
            group.add_argument(self.off, dest=self.name, action="store_const", const=0, help=f"same as {self.flag} 0")


def option(
    group: str,
    help: str,
    metavar: str = "NAME",
    on_resume: OnResume = FIXED,
    *,
    default: Any = dataclasses.MISSING,
    **known: Any,
) -> Any:
    """A field that is an option; the arguments are those of `Option`."""
    return dataclasses.field(default=default, metadata={OPTION: Option(group, help, metavar, on_resume, **known)})


def note(flag: str, on_resume: OnResume = FIXED, *, default: Any = "", compared: bool = True) -> Any:
    """A field that the search itself fills in, because of the option `flag`."""
    known = Option(flag=flag, on_resume=on_resume, compared=compared)
    return dataclasses.field(default=default, metadata={OPTION: known})


def options_of(kind: type) -> Mapping[str, Option]:
    """The options of a dataclass by name, with what their fields say of them."""
    hints, found = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        known, own = field.metadata[OPTION], hints[field.name]
        optional = get_origin(own) is UnionType
        own = next(part for part in get_args(own) if part is not NoneType) if optional else own
        default = None if field.default is dataclasses.MISSING else field.default
        flag = known.flag or f"--{'no-' if own is bool and default is True else ''}{field.name}"
        found[field.name] = dataclasses.replace(
            known, name=field.name, type=own, optional=optional, default=default, flag=flag.replace("_", "-")
        )
    return MappingProxyType(found)


def validate(kind: type[T], fields: Mapping[str, Any], where: str, after: str = "") -> T:
    """A dataclass of options from fields that may be of any type, as a file or a caller from Python gives them.

    Args:
        kind: The dataclass.
        fields: Name to value; lists, paths and NumPy's numbers are accepted as well.
        where: Beginning of the sentence of an error.
        after: End of that sentence.

    Raises:
        SettingsError: A field is unknown, absent, of another type or out of its range.
    """
    known, texts = options_of(kind), {}
    for name, value in fields.items():
        if isinstance(value, More) and name in known:
            known[name].check(value)
        try:
            texts[str(name)] = json.dumps(value, default=_plain, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            raise SettingsError(f"{where}{must(known, str(name), value)}{after}") from None
        if not is_text(str(name) + texts[str(name)]):
            raise SettingsError(f"{where}{short(name)[1:-1]} must be text in UTF-8, got {short(value)}{after}")
    body = ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items())
    try:
        return TypeAdapter(kind).validate_json(f"{{{body}}}")
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = str(found["loc"][0]) if found["loc"] else ""
        if found["type"] == "value_error":
            sentence = str(found["ctx"]["error"])
        elif found["type"] == "missing":
            sentence = f"{name} is missing"
        elif name in texts:
            sentence = must(known, name, fields[name])
        else:
            sentence = str(found["msg"])
        raise SettingsError(f"{where}{sentence}{after}") from error


def _plain(value: Any) -> Any:
    """What JSON can say of a path or of one of NumPy's numbers."""
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and value.ndim == 0:
        return value.item()
    raise TypeError(type(value).__name__)


def must(known: Mapping[str, Option], name: str, value: Any) -> str:
    """What the option of a name must be, or that there is none."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        return f"there is no option {short(name)}: " + (
            f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        )
    return f"{name} must be {known[name].words}, got {short(value)}"


def short(value: Any) -> str:
    """A value as a message shows it."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}…"


def is_text(text: str) -> bool:
    """Whether a text is UTF-8 without NUL characters."""
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False

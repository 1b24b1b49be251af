"""Which data sets there are, and the standard schedule of each. Light: nothing here imports torch.

A new data set is one module with two functions, and one line in `MODULES` (or in `PREFIXES`, where the name
says what to read, as in `folder:photos`):

    def standard(name: str, root: str | None = None) -> Standard: ...
    def load(name: str, *, root, imbalance: float | None, split_seed: int, fold_val: bool) -> LongTailed: ...

A module may import torch: `module_of` imports it when a name is used, and is the one place that does. What answers at
once (`--help`, `list`) reads names from here alone. A module that understands `?option=value` after the name lists the
options in `OPTIONS`. One whose data are no images says in `PROVIDES` what they bring, see `Standard`. One that can say
what it holds without decoding it has `index`, for `describe`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from analysis.text import did_you_mean, printable

if TYPE_CHECKING:
    from trainables.data.long_tail import LongTailed

MODULES: Mapping[str, str] = MappingProxyType(
    {
        "digits-lt": "trainables.data.digits",
        "cifar10-lt": "trainables.data.cifar",
        "cifar10-lt:first": "trainables.data.cifar",
        "cifar100-lt": "trainables.data.cifar",
        "cifar100-lt:first": "trainables.data.cifar",
        "imagenet-lt": "trainables.data.list_files",
        "places-lt": "trainables.data.list_files",
        "inaturalist18": "trainables.data.list_files",
    }
)

PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "folder": "trainables.data.user_data.own",
        "csv": "trainables.data.user_data.own",
        "npz": "trainables.data.user_data.own",
        "features": "trainables.data.features",
    }
)
"""Kinds of own data: `folder:PATH`, `csv:FILE`, `npz:FILE`, `features:FILE`."""


VALS = ("balanced", "realistic")
"""Values of `val=`, for data whose val is cut from a balanced pool: equal classes, or proportions as in training."""


TRAINS = ("long-tailed", "balanced")
"""Values of `train=`: "balanced" draws as many images of every class, in all as many as the long tail has, which is
what the upper bound of a method is measured on (`longtail-tune upper-bound`)."""


class DataError(ValueError):
    """A data set that does not exist, or cannot be cut as asked."""


def spelled(path: object) -> str:
    r"""Makes a path printable: escapes control characters and bytes that are not UTF-8.

    >>> spelled("k\udce4fer.png"), spelled("two\nlines.png")
    ('k\\xe4fer.png', 'two\\x0alines.png')
    """
    return printable(str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), keep="")


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8, which the name of a file need not be."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def cache_folder() -> Path:
    """Folder for files that can be downloaded or computed again.

    Raises:
        RuntimeError: The user has no home directory.
    """
    return Path(os.environ.get("LONGTAIL_DATA") or Path.home() / ".cache" / "longtail-tune").expanduser()


@dataclass(frozen=True)
class Standard:
    """Default training of a data set.

    Args:
        epochs: Epochs of the whole plan; a stage's `length=` is a fraction of them.
        lr: Peak learning rate of SGD.
        weight_decay: L2 penalty of SGD.
        batch_size: Images per step.
        schedule: Name of the learning-rate schedule.
        model: A name of `trainables.models`.
        imbalance: Images of the largest class over those of the smallest; `None` takes the data as they are.
        eval_every: Epochs between evaluations.
        margin: Difference in accuracy that matters, in [0, 1], declared before anything is measured: the δ
            of the conflict verdicts.
        final_epochs: Epochs of the final training of an exported recipe.
        provides: What data and network bring before anything is trained: "images", where the data are some, and
            "trained", where the network has been trained before.
        sd: Noise of one trial's accuracy on val within its seed block, in [0, 1]: what a preview assumes when it says
            what a design can show. Half a point, as in most of the literature's repeated runs, where nothing is known.
        momentum: Momentum of SGD, in [0, 1).
        nesterov: Nesterov's momentum instead of Polyak's.
    """

    epochs: int
    lr: float
    weight_decay: float
    batch_size: int
    schedule: str
    model: str
    imbalance: float | None
    eval_every: int
    margin: float
    final_epochs: int
    sd: float = 0.005
    provides: tuple[str, ...] = ("images",)
    momentum: float = 0.9
    nesterov: bool = False


@dataclass(frozen=True)
class Name:
    """A data set's name, taken apart: `kind[:path][?option=value[&option=value]]`.

    Args:
        text: The whole name.
        kind: A key of `MODULES` or of `PREFIXES`.
        path: What stands after the prefix; empty for a key of `MODULES`.
        options: What stands after the question mark.
    """

    text: str
    kind: str
    path: str
    options: Mapping[str, str]

    @staticmethod
    def parse(text: str) -> Name:
        """Parses a name, without checking that there is such a data set.

        A question mark begins the options only where `option=value` follows, so a path may have one.

        >>> Name.parse("folder:my photos?size=32&broken=skip").options["size"]
        '32'
        >>> Name.parse("cifar10-lt:first").kind, Name.parse("csv:a?b.csv").path
        ('cifar10-lt:first', 'a?b.csv')
        """
        found = re.fullmatch(r"(.*?)(?:\?((?:[a-z_]+=[^&?]*)(?:&[a-z_]+=[^&?]*)*))?", text, re.DOTALL)
        assert found is not None
        base, query = found.group(1), found.group(2)
        options = dict(pair.split("=", 1) for pair in query.split("&")) if query else {}
        kind, colon, path = base.partition(":")
        if colon and base not in MODULES and kind in PREFIXES:
            return Name(text, kind, path, options)
        return Name(text, base, "", options)

    def place(self, root: str | None) -> Path:
        """The path, relative to the root if one is given, otherwise to the working directory."""
        path = Path(self.path).expanduser()
        return path if root is None else Path(root).expanduser() / path

    def advice(self, option: str, value: object) -> str:
        """Text that a message can suggest to add an option to this name, or to change it.

        >>> Name.parse("folder:photos").advice("size", 32), Name.parse("folder:photos?val=5").advice("size", 32)
        ('?size=32', '&size=32')
        >>> Name.parse("folder:photos?size=9&val=5").advice("size", 32)
        'size=32 instead of size=9'
        """
        if option in self.options:
            return f"{option}={value} instead of {option}={self.options[option]}"
        return f"{'&' if self.options else '?'}{option}={value}"

    def whole(self, option: str, default: int, least: int = 0) -> int:
        """The value of an option that is a whole number.

        Raises:
            DataError: The value is not a whole number, or it is too small.
        """
        text = self.options.get(option, str(default))
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise DataError(f"{self.text}: option {option} must be a whole number of at least {least}, got {text!r}")
        return int(text)

    def choice(self, option: str, allowed: tuple[str, ...]) -> str:
        """The value of an option with a list of allowed values; the first of them is the default.

        Raises:
            DataError: The value is not allowed.
        """
        text = self.options.get(option, allowed[0])
        if text not in allowed:
            raise DataError(f"{self.text}: option {option} must be {' or '.join(allowed)}, got {text!r}")
        return text


class DataModule(Protocol):
    """Functions that the module of a data set must have."""

    def standard(self, name: str, root: str | None = None) -> Standard:
        """The standard schedule; for own data it follows from the data under the root."""
        ...

    def load(
        self, name: str, *, root: str | None, imbalance: float | None, split_seed: int, fold_val: bool
    ) -> LongTailed:
        """The data, cut to a long tail and split. An imbalance of `None` takes the data as they are."""
        ...


def module_of(name: str) -> DataModule:
    """Imports the module of a data set.

    Raises:
        DataError: The name or one of its options is unknown; the message suggests the nearest one.
    """
    if not is_utf8(name):
        raise DataError(f"{spelled(name)}: the name of a data set must be UTF-8, because records have it; rename it")
    parsed = Name.parse(name)
    if parsed.kind in PREFIXES and parsed.path:
        module = importlib.import_module(PREFIXES[parsed.kind])
    elif parsed.kind in MODULES:
        module = importlib.import_module(MODULES[parsed.kind])
    else:
        raise DataError(_unknown(parsed))
    options: tuple[str, ...] = getattr(module, "OPTIONS", ())
    for option in parsed.options:
        if option not in options:
            hint = did_you_mean(option, options)
            allowed = f"allowed are {', '.join(options)}" if options else f"{parsed.kind} has none"
            raise DataError(f"{name}: unknown option {option!r}: {hint}{hint and ' '}{allowed}")
    return cast(DataModule, module)


def _unknown(name: Name) -> str:
    own = [f"{prefix}:{'PATH' if prefix == 'folder' else 'FILE'}" for prefix in PREFIXES]
    prefix, colon, path = name.kind.partition(":")
    hint = did_you_mean(name.kind, MODULES)
    if not hint and colon and path and (kind := difflib.get_close_matches(prefix, PREFIXES, n=1)):
        hint = f"did you mean {f'{kind[0]}:{path}'!r}?"
    known = f"known are {', '.join(MODULES)}; your own: {', '.join(own)}"
    return f"unknown data set {name.text!r}: {hint}{hint and ' '}{known}"

"""What a data set is, before hours are spent on it: counts, groups, splits, problems, and the profile as a picture."""

from __future__ import annotations

import argparse
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from rich.table import Column, Table
from rich.text import Text

from analysis.console import Console, styled
from analysis.text import echo, html_text, printable, sentence
from trainables.data import load
from trainables.data.catalogue import DataError, Name, module_of, spelled
from trainables.data.images.files import digest, examined, headers_of, several_sizes, to_one
from trainables.data.images.notices import examples
from trainables.data.splits import Division, divide
from trainables.data.user_data.source import SPLITS, Options, Source, file_notices

MANY, FEW = 100, 20
"""A class is many above the first number of training images, few below the second, and medium otherwise."""

WIDEST = 100
"""Largest width of the profile in columns; a pipe has no width of its own."""

BARS = 40
"""Lines of the profile in a terminal; more classes share a line."""

COLOURS = {"many": "green", "medium": "yellow", "few": "red"}
"""Colours in a terminal."""

SHADES = {"many": "#3b8f5a", "medium": "#d9a521", "few": "#c4463d"}
"""Colours of the HTML page."""


@dataclass(frozen=True)
class Description:
    """Counts and problems of a data set.

    Args:
        name: Name of the data set.
        class_names: C names.
        counts: For train, val and test, the number of images of each class (C).
        size: (c, H, W) of the images, or (D,) of features; `None` where they differ.
        imbalance: As `LongTailed.imbalance`.
        split_seed: Seed of the split described.
        fingerprint: Of the data as they would be trained on; empty where they cannot be yet.
        notes: What was held out or left out.
        problems: What should be mended, or at least known.
    """

    name: str
    class_names: tuple[str, ...]
    counts: Mapping[str, Sequence[int]]
    size: tuple[int, ...] | None
    imbalance: float
    split_seed: int
    fingerprint: str
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def groups(self) -> dict[str, int]:
        """Classes of each group; an empty group is absent."""
        found = Counter(group(count) for count in self.counts["train"])
        return {name: found[name] for name in COLOURS if found[name]}


def group(count: int) -> str:
    """Returns the group (many, medium or few) of a class with this many training images.

    >>> group(101), group(100), group(20), group(19)
    ('many', 'medium', 'medium', 'few')
    """
    return "many" if count > MANY else "few" if count < FEW else "medium"


def describe(
    name: str, *, root: str | None = None, imbalance: float | None = None, split_seed: int = 0, fold_val: bool = False
) -> Description:
    """Reads every image of a data set.

    Broken images and images of several sizes are reported as problems and raise no error.

    Raises:
        DataError: The data are absent, or cannot be divided at all.
    """
    module: Any = module_of(name)
    if hasattr(module, "index"):
        source: Source = module.index(name, root)
        if source.files:
            options = module.options_of(name) if hasattr(module, "options_of") else Options.of(Name.parse(name))
            return _files(
                name, source, options, root=root, imbalance=imbalance, split_seed=split_seed, fold_val=fold_val
            )
    data = load(name, root=root, imbalance=imbalance, split_seed=split_seed, fold_val=fold_val)
    hashes = {split: [digest(image.numpy()) for image in getattr(data, f"{split}_images")] for split in SPLITS}
    labels = {split: getattr(data, f"{split}_labels").tolist() for split in SPLITS}
    names = {split: [f"{split} image {number}" for number in range(len(found))] for split, found in labels.items()}
    own = set(data.problems)
    return Description(
        name=name,
        class_names=data.class_names,
        counts={split: _counts(found, data.classes) for split, found in labels.items()},
        size=tuple(map(int, data.train_images.shape[1:])),
        imbalance=data.imbalance,
        split_seed=split_seed,
        fingerprint=data.fingerprint,
        notes=tuple(note for note in data.notes if note not in own),
        problems=(*data.problems, *duplicates(hashes, labels, names)),
    )


def _files(
    name: str,
    source: Source,
    options: Options,
    *,
    root: str | None,
    imbalance: float | None,
    split_seed: int,
    fold_val: bool,
) -> Description:
    """Describes image files, each of which is decoded."""
    files = source.all_files
    plain = options.preprocessing(3)
    headers = headers_of(name, files, plain.background, plain.orientation)
    sizes = headers.sizes(headers.broken)
    side = next(iter(sizes)) if options.size is None and len(sizes) == 1 else None
    preprocessing = options.preprocessing(headers.channels(headers.broken))
    seen = examined(name, files, headers.broken, preprocessing, side)
    broken, sizes = seen.broken, headers.sizes(seen.broken)
    problems = [f"unreadable: {spelled(files[number])}: {broken[number]}" for number in sorted(broken)[:10]]
    if broken:
        advice = Name.parse(name).advice("broken", "skip")
        fate = "are left out" if options.skip_broken else f"stop training; {advice} in the name leaves them out"
        problems.append(f"{len(broken)} of {len(files)} images are unreadable and {fate}")
    if options.size is None and len(sizes) > 1:
        problems.append(
            f"{several_sizes(sizes)}: training needs one; {to_one(name, sizes)} in the name brings them to it"
        )
    more, notes = file_notices(name, source, headers, seen, headers.channels(broken), options)
    problems += [*source.problems, *more]
    hashes, before = {}, 0
    for split in (split for split in SPLITS if split in source.labels):
        count = len(source.labels[split])
        hashes[split] = [seen.digests[number] for number in range(before, before + count) if number not in broken]
        before += count
    source = source.without(broken)
    division: Division = divide(
        name, source.labels, source.class_names,
        imbalance=imbalance, split_seed=split_seed, fold_val=fold_val, val=options.val, test=options.test,
        balanced=options.balanced,
    )  # fmt: skip
    problems += division.problems
    parts = {split: (given, index.tolist()) for split, (given, index) in division.index.items()}
    labels = {split: [int(source.labels[given][row]) for row in rows] for split, (given, rows) in parts.items()}
    problems += duplicates(
        {split: [hashes[given][row] for row in rows] for split, (given, rows) in parts.items()},
        labels,
        {split: [spelled(source.files[given][row]) for row in rows] for split, (given, rows) in parts.items()},
    )
    size = None
    if options.size is not None or len(sizes) == 1:
        high, wide = (options.size, options.size) if options.size is not None else next(iter(sizes))
        size = (headers.channels(broken), high, wide)
    fingerprint = ""
    if size is not None and (options.skip_broken or not broken):
        try:
            data = load(name, root=root, imbalance=imbalance, split_seed=split_seed, fold_val=fold_val)
            fingerprint = data.fingerprint
        except DataError as error:
            problems.append(str(error))
    return Description(
        name=name,
        class_names=source.class_names,
        counts={split: _counts(found, len(source.class_names)) for split, found in labels.items()},
        size=size,
        imbalance=division.imbalance,
        split_seed=split_seed,
        fingerprint=fingerprint,
        notes=(*source.notes, *notes, *division.notes),
        problems=tuple(problems),
    )


def _counts(labels: Sequence[int], classes: int) -> list[int]:
    found = Counter(labels)
    return [found[label] for label in range(classes)]


def duplicates(
    hashes: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[int]], names: Mapping[str, Sequence[str]]
) -> list[str]:
    """Reports equal images: in two splits, under two labels of train, and under one label.

    Args:
        hashes: Hash of the content of each image, per split.
        labels: Class of each image, per split.
        names: Display name of each image, per split.

    >>> same = {"train": ["a", "b", "b"], "test": ["b", "c"]}
    >>> found = duplicates(same, {"train": [0, 1, 1], "test": [1, 0]}, {"train": ["1", "2", "3"], "test": ["4", "5"]})
    >>> print(*found, sep="; ")
    1 image of test is in train as well: 4 = 2; 1 image is in train more than once: 2 = 3
    """
    found = []
    splits = [split for split in SPLITS if split in hashes]
    first = {split: dict(zip(reversed(hashes[split]), reversed(names[split]), strict=True)) for split in splits}
    for position, split in enumerate(splits):
        for other in splits[position + 1 :]:
            both = [
                f"{name} = {first[split][content]}"
                for content, name in zip(hashes[other], names[other], strict=True)
                if content in first[split]
            ]
            if both:
                several = "image of" if len(both) == 1 else "images of"
                verb = "is" if len(both) == 1 else "are"
                found.append(f"{len(both)} {several} {other} {verb} in {split} as well: {examples(both)}")
    if "train" in hashes:
        seen: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for content, label, name in zip(hashes["train"], labels["train"], names["train"], strict=True):
            seen[content][label].append(name)
        torn = [[of_label[0] for of_label in same.values()] for same in seen.values() if len(same) > 1]
        # a cut val of another split seed may get one of them
        repeated = [of_label for same in seen.values() for of_label in same.values() if len(of_label) > 1]
        for groups, how in ((torn, "under two labels"), (repeated, "more than once")):
            if groups:
                images = "image is" if len(groups) == 1 else "images are"
                shown = [" = ".join(group[:2]) + (" = …" if len(group) > 2 else "") for group in groups[:4]]
                found.append(f"{len(groups)} {images} in train {how}: {examples(shown)}")
    return found


# --- for people -----------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Describes a data set for the command line.

    Args:
        options: Those of `python -m trainables.data describe`.

    Raises:
        DataError: The data cannot be trained on as they are.
    """
    if options.split_seed < 0:
        raise DataError(f"--split-seed must be at least 0, got {options.split_seed}")
    found = describe(
        options.name, root=options.data_root, imbalance=options.imbalance, split_seed=options.split_seed,
        fold_val=options.final,
    )  # fmt: skip
    show(found, Console())
    if options.html is not None:
        figure(found).write_html(options.html, include_plotlyjs=True)
        echo(f"\nwritten to {sentence(options.html)}")
    if not found.fingerprint:
        raise DataError(f"{options.name}: cannot be trained on as it is; the problems above say why and what helps")
    return 0


def show(found: Description, console: Console) -> None:
    """Prints a description and draws the profile."""
    train = found.counts["train"]
    table = Table("", Column(overflow="fold"), box=None, show_header=False, pad_edge=False)
    size = "several sizes" if found.size is None else "×".join(map(str, found.size))
    what = f"features of {size} numbers" if found.size is not None and len(found.size) == 1 else f"images {size}"
    table.add_row("data", styled(f"{found.name}: {len(train)} classes, {what}"))
    for split in SPLITS:
        counts = found.counts[split]
        if not sum(counts):
            table.add_row(split, "none")
            continue
        extent = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        seed = f" (split seed {found.split_seed})" if split == "train" else ""
        table.add_row(split, f"{sum(counts):,} images, {extent} of a class{seed}")
    table.add_row("imbalance", f"{found.imbalance:.6g}; of the training images {max(train) / min(train):.6g}")
    groups = Text(", ").join(Text(f"{name} {count}", COLOURS[name]) for name, count in found.groups.items())
    table.add_row("classes", groups + Text(f"  (many > {MANY} training images, few < {FEW})"))
    if found.fingerprint:
        table.add_row("fingerprint", found.fingerprint)
    console.print(table, highlight=False)
    console.print()
    draw(found, console)
    for title, sentences, colour in (("notes", found.notes, "none"), ("problems", found.problems, "red")):
        if sentences:
            console.print()
            console.print(title, style="bold")
            # a grid, so that a sentence of several lines is seen to be one
            listed = Table.grid(padding=(0, 1))
            for sentence in sentences:
                listed.add_row(" •", styled(printable(sentence, keep=""), colour))
            console.print(listed)
    if not found.problems:
        console.print("\nno problems found")


def draw(found: Description, console: Console) -> None:
    """Bars of the training images, the largest class first; many classes share a line, which shows their mean."""
    counts = found.counts["train"]
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    lines = min(BARS, len(order))
    cuts = [round(number * len(order) / lines) for number in range(lines + 1)]
    binned = [order[low:high] for low, high in itertools.pairwise(cuts)]
    heads = [
        printable(found.class_names[labels[0]], keep="") + (f" +{len(labels) - 1}" if len(labels) > 1 else "")
        for labels in binned
    ]
    width = min(24, max(map(len, heads)))
    means = [sum(counts[label] for label in labels) / len(labels) for labels in binned]
    room = max(10, min(console.width, WIDEST) - width - 12)
    for head, mean in zip(heads, means, strict=True):
        bar = "█" * max(1, round(room * mean / max(means)))
        shown = head if len(head) <= width else head[: width - 1] + "…"
        console.print(
            Text(f"{shown:<{width}} {mean:>8,.0f} ") + Text(bar, COLOURS[group(round(mean))]), no_wrap=True, crop=True
        )


def figure(found: Description) -> Any:
    """The profile as a plotly figure, images on a logarithmic axis, the largest class first."""
    counts = found.counts["train"]
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    picture = go.Figure()
    for name, colour in SHADES.items():
        inside = [rank for rank, label in enumerate(order) if group(counts[label]) == name]
        if inside:
            picture.add_bar(
                x=inside,
                y=[counts[order[rank]] for rank in inside],
                name=f"{name} ({len(inside)})",
                marker_color=colour,
                # plotly reads a little HTML in its texts
                hovertext=[html_text(found.class_names[order[rank]], quote=False) for rank in inside],
            )
    images = f"{sum(counts):,} training images in {len(counts)} classes"
    picture.update_layout(
        title=html_text(f"{found.name}: {images}, imbalance {found.imbalance:.6g}", quote=False),
        xaxis_title="class, by falling number of images",
        yaxis={
            "title": "training images",
            "type": "log",
            "tickvals": [digit * 10**power for power in range(7) for digit in (1, 2, 5)],
        },
        bargap=0,
    )
    return picture

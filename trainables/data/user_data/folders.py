"""A folder of images: which folders are classes, which are splits, and which files are images."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.text import did_you_mean
from trainables.data.catalogue import DataError, is_utf8, spelled
from trainables.data.images.decoding import header
from trainables.data.images.notices import examples, inside
from trainables.data.user_data.source import SPLITS, Source, check_classes

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Usual endings of image files, in lower case."""

RARER = frozenset(
    {".avif", ".dib", ".heic", ".heif", ".hif", ".jfi", ".jfif", ".jif", ".jp2", ".jpe", ".jpx", ".j2k", ".jxl", ".mpo",
     ".pnm", ".qoi"}
)  # fmt: skip
"""Further endings of images, which other programs may leave out."""

RAW = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef",
     ".raf", ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f"}
)  # fmt: skip
"""Raw files of cameras, of which only a thumbnail could be read."""

SYSTEM_FOLDERS = frozenset({"@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found"})
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
"""Files and folders of operating systems, in lower case; names of hidden ones begin with a dot."""

SPLIT_WORDS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"})
"""Common names of folders of splits, in lower case."""

MASK = re.compile(r"(.*?)[ _.-]*(?:masks?|seg|segmentation|gt|label|labels|annotation|depth)(?:[ _.-]?\d+)?", re.I)
"""Names of files that accompany an image, such as masks."""


@dataclass
class _Found:
    """Files of the class folders that are unusual or left out."""

    foreign: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    unusual: list[Path] = field(default_factory=list)
    nested: list[Path] = field(default_factory=list)


def folder(place: Path) -> Source:
    """The images of a folder with a folder for each class, or with folders of splits above or below these.

    Raises:
        DataError: Classes and splits cannot be distinguished, a folder cannot be read, or a class has no training
            image.
    """
    found = _Found()
    _check_links(place)
    top = folders(place)
    found.hidden += [Path(one.path) for one in _entries(place) if _is_system(one.name, folder=True)]
    parts, how = _parts(place, top)
    class_names = tuple(sorted(parts["train"]))
    if not class_names:
        raise DataError(f"{place / 'train' if how == ABOVE else place}: has no folders; it needs one for each class, "
                        "with its images")  # fmt: skip
    for class_name in class_names:
        if not is_utf8(class_name):
            raise DataError(
                f"{place}: the name of the class folder {spelled(class_name)} is no UTF-8; rename it, because tables "
                "and records have it"
            )
    number = {class_name: label for label, class_name in enumerate(class_names)}
    labels: dict[str, NDArray[np.int64]] = {}
    files: dict[str, list[Path]] = {}
    for split, classes in parts.items():
        of_split: list[int] = []
        files[split] = []
        for class_name, where in sorted(classes.items()):
            if class_name not in number:
                hint = did_you_mean(class_name, class_names)
                raise DataError(f"{spelled(where)}: there is no class {class_name!r} in train{hint and '; '}{hint}")
            images = list(_images(where, found))
            files[split] += images
            of_split += [number[class_name]] * len(images)
        labels[split] = np.array(of_split, dtype=np.int64)
    problems = [*_layout(place, parts, how), *_stray(place, parts, how), *_said(place, found, files)]
    try:
        check_classes(str(place), labels, class_names)
    except DataError as error:  # what lies there and is no image may be the cause
        if found.foreign:
            raise DataError(f"{error}; {_foreign(place, found.foreign)}") from error
        raise
    return Source(str(place), class_names, labels, files, problems=tuple(problems))


# --- classes and splits ---------------------------------------------------------------------------------------

ABOVE, BELOW, NONE = "above", "below", "none"
"""Where the folders of splits lie: photos/train/ant, photos/ant/train, or nowhere."""


def _parts(place: Path, top: Sequence[Path]) -> tuple[dict[str, dict[str, Path]], str]:
    """The folders of each split's classes, and where the folders of splits lie."""
    names = {one.name for one in top}
    worded = [one for one in top if one.name.lower() in SPLIT_WORDS]
    # a class may be called train: then it holds images and no folders, and lies beside other classes
    alone = len(worded) == len(top)
    splits = [one for one in worded if alone or not (_holds_images(one) and not folders(one))]
    if splits and "train" in names and place / "train" in splits:
        if other := sorted(names - set(SPLITS)):
            raise DataError(
                f"{place}: beside train there may be val and test only, got {', '.join(map(spelled, other))}; call the "
                "folders of splits train, val and test, and where train is a class, keep its images in it without "
                "further folders"
            )
        parts = {split: place / split for split in SPLITS if split in names}
        for split, part in parts.items():
            _check_links(part)
            _check_below(folders(part), given=True)
            if not folders(part) and (split == "train" or _holds_images(part)):
                raise DataError(f"{part}: has no folders; it needs one for each class, with its images")
        return {split: {one.name: one for one in folders(part)} for split, part in parts.items()}, ABOVE
    if near := sorted(one.name for one in splits if one.name not in SPLITS):
        raise DataError(f"{place}: has {', '.join(near)}; folders of splits are written train, val and test")
    if splits:
        raise DataError(f"{place}: has {', '.join(sorted(one.name for one in splits))} but no train")
    if _check_below(top, given=False):
        below = {one.name: {sub.name: sub for sub in folders(one)} for one in top}
        given = [split for split in SPLITS if any(split in subs for subs in below.values())]
        return {
            split: {name: subs[split] for name, subs in below.items() if split == "train" or split in subs}
            for split in given
        }, BELOW
    return {"train": {one.name: one for one in top}}, NONE


def _check_below(classes: Sequence[Path], given: bool) -> bool:
    """Whether every class folder consists of folders of splits.

    Args:
        classes: Folders of classes.
        given: Whether there are folders of splits above them.

    Raises:
        DataError: Some do, in part or under other names: merging train and test would go unnoticed.
    """
    odd, whole = [], True
    for one in classes:
        subs = [sub.name for sub in folders(one)]
        words = [name for name in subs if name.lower() in SPLIT_WORDS]
        if len(words) > 1 or (words and len(words) == len(subs)):
            odd.append((one, words))
        whole &= "train" in subs and set(subs) <= set(SPLITS) and not _holds_images(one)
    if not odd or (whole and not given):
        return bool(odd)
    where, words = odd[0]
    raise DataError(
        f"{spelled(where)}: has the folders {' and '.join(sorted(words))}; where they are splits, put them above the "
        f"classes ({words[0]}/{where.name}), or let every class folder consist of train, val and test; where they are "
        "no splits, rename them"
    )


def _layout(place: Path, parts: Mapping[str, Mapping[str, Path]], how: str) -> list[str]:
    """Reports assumptions about folders whose names are ambiguous."""
    if how == BELOW:
        return [f"{place}: the folders {', '.join(parts)} below the classes are used as the given splits"]
    words = sorted(name for name in parts["train"] if name.lower() in SPLIT_WORDS)
    if words and how == NONE:
        return [f"{place}: {', '.join(words)} holds images itself and is therefore a class, not a split"]
    return []


# --- files ----------------------------------------------------------------------------------------------------


def folders(place: Path) -> list[Path]:
    """The folders in a folder, in order, without hidden ones and those of operating systems.

    Raises:
        DataError: It cannot be read.
    """
    names = [one.name for one in _entries(place) if not _is_system(one.name, folder=True) and os.path.isdir(one.path)]
    return [place / name for name in sorted(names)]


def _check_links(place: Path) -> None:
    """Refuses a class folder that is a dangling link, e.g. to a disk that is not mounted.

    Raises:
        DataError: A link leads nowhere.
    """
    for one in _entries(place):
        hidden = _is_system(one.name, folder=True) or _ends_like_an_image(one.name)
        if one.is_symlink() and not os.path.exists(one.path) and not hidden:
            raise DataError(
                f"{spelled(one.path)}: is a link to {spelled(os.readlink(one.path))}, which is not there; mend or "
                "remove the link"
            )


def _entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{spelled(place)}: cannot be read ({error.strerror})") from error


def _images(where: Path, found: _Found) -> Iterator[Path]:
    """The image files of a class in order, at any depth; each folder once, though links may lead to it again.

    Dangling links are included, because they are broken images.

    Raises:
        DataError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{spelled(error.filename)}: cannot be read ({error.strerror})") from error

    there: list[Path] = []
    seen: set[str] = set()
    for here, subfolders, names in os.walk(where, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        found.hidden += [Path(here, name) for name in subfolders if _is_system(name, folder=True)]
        subfolders[:] = [name for name in subfolders if not _is_system(name, folder=True)]
        for name in names:
            file = Path(here, name)
            if _is_system(name, folder=False):
                found.hidden.append(file)
            elif _ends_like_an_image(name):
                there.append(file)
            elif not _is_image(file):
                found.foreign.append(file)
            else:
                found.unusual.append(file)
                there.append(file)
    found.nested += [file for file in there if file.parent != where]
    yield from sorted(there)


def _is_system(name: str, folder: bool) -> bool:
    return name.startswith(".") or name.lower() in (SYSTEM_FOLDERS if folder else SYSTEM_FILES)


def _ends_like_an_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in ENDINGS


def _is_image(file: Path) -> bool:
    """Whether a file without a usual ending is an image."""
    ending = file.suffix.lower()
    if ending in RARER:
        return True
    if ending in RAW:
        return False
    try:
        found = file.stat()
    except OSError:
        return file.is_symlink()  # a link to nothing
    return _has_image(str(file), found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=2**20)
def _has_image(file: str, size: int, changed: int) -> bool:
    """Whether a file's content is an image, be it one that needs a further package."""
    try:
        problem = header(file).problem
    except OSError:
        return False
    return not problem or problem.startswith(("is an AVIF image", "is a HEIC image", "is a JPEG XL image"))


def _holds_images(place: Path) -> bool:
    return any(
        not _is_system(one.name, folder=False) and not os.path.isdir(one.path)
        and (_ends_like_an_image(one.name) or _is_image(Path(one.path)))
        for one in _entries(place)
    )  # fmt: skip


# --- notices ---------------------------------------------------------------------------------------------


def _stray(place: Path, parts: Mapping[str, Mapping[str, Path]], how: str) -> Iterator[str]:
    """Reports images that lie outside the folders of classes."""
    for where in [place, *([place / split for split in parts] if how == ABOVE else [])]:
        names = [
            one.name for one in _entries(where)
            if not os.path.isdir(one.path) and not _is_system(one.name, folder=False)
            and (_ends_like_an_image(one.name) or _is_image(Path(one.path)))
        ]  # fmt: skip
        if names:
            shown = examples(sorted(map(spelled, names)))
            yield f"{where}: images that are in no folder of a class are left out, {len(names)}: {shown}"


def _foreign(place: Path, files: Sequence[Path]) -> str:
    count = "1 file is not an image and is" if len(files) == 1 else f"{len(files)} files are not images and are"
    raw = sorted({file.suffix for file in files if file.suffix.lower() in RAW})
    how = f"; develop raw files ({', '.join(raw)}) to JPEG or PNG first" if raw else ""
    shown = examples([inside(place, file) for file in sorted(files)])
    return f"{place}: {count} left out: {_endings(files)} ({shown}){how}"


def _said(place: Path, found: _Found, files: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """Reports files of the classes that are left out, assumed to be images, or doubtful."""
    if found.foreign:
        yield _foreign(place, found.foreign)
    if found.hidden:
        what = "hidden files and folders, and those of operating systems, are left out"
        shown = examples([inside(place, file) for file in sorted(found.hidden)])
        yield f"{place}: {what}, {len(found.hidden)}: {shown}"
    if found.unusual:
        count = "1 file ends" if len(found.unusual) == 1 else f"{len(found.unusual)} files end"
        yield f"{place}: {count} otherwise than images usually do, and count as images: {_endings(found.unusual)}"
    if found.nested:
        below = Counter(file.parent for file in found.nested)
        shown = examples([f"{inside(place, where)} ({number})" for where, number in sorted(below.items())])
        yield f"{place}: images in folders below the class folders count as the class, {len(found.nested)}: {shown}"
    every = [file for of_split in files.values() for file in of_split]
    for sentence, pairs in (
        ("differ in the ending of their names alone", _of_one_stem(every)),
        ("are named like another image's mask", _masks(every)),
    ):
        if pairs:
            shown = examples([f"{inside(place, one)} beside {inside(place, other)}" for one, other in pairs])
            yield (
                f"{place}: {len(pairs)} pairs of images {sentence}, and both of each count as images: {shown}; where "
                "one is a mask or a copy of the other, move it to another place"
            )


def _endings(files: Sequence[Path]) -> str:
    count = Counter(spelled(file.suffix.lower()) or "no ending" for file in files)
    first = sorted(count, key=lambda ending: (-count[ending], ending))[:6]
    return ", ".join(f"{ending} ({count[ending]})" for ending in first) + (", …" if len(count) > 6 else "")


def _of_one_stem(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    first: dict[Path, Path] = {}
    pairs = []
    for file in files:
        before = first.setdefault(file.with_suffix(""), file)
        if before is not file:
            pairs.append((file, before))
    return pairs


def _masks(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    by_stem = {(file.parent, file.stem.lower()): file for file in files}
    pairs = []
    for file in files:
        found = MASK.fullmatch(file.stem)
        base = by_stem.get((file.parent, found.group(1).lower())) if found else None
        if base is not None and base is not file:
            pairs.append((file, base))
    return pairs

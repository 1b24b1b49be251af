"""Classes and their names, from labels that are names or whole numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.data.catalogue import DataError
from trainables.data.tables import shorten


def classes_of(file: Path, labels: Sequence[str]) -> tuple[tuple[str, ...], Mapping[str, int], list[str]]:
    """Class names in order, the number of each label as it is written, and what is odd about them."""
    written = sorted(set(labels))
    whole = [text for text in written if re.fullmatch(r"[+-]?[0-9]+(\.0*)?", text)]
    if len(whole) < len(written):
        if len(whole) > len(written) / 2:
            name = next(text for text in written if text not in whole)
            raise DataError(f"{file}: labels must be whole numbers from 0, or all of them names, got {name!r}")
        return tuple(written), {text: label for label, text in enumerate(written)}, alike(str(file), written)
    digits = {text: text.partition(".")[0] for text in written}
    if longest := max((text for text in digits.values() if len(text) > 18), key=len, default=""):
        raise DataError(f"{file}: labels must be whole numbers from 0 of at most 18 digits, got one of {len(longest)}")
    spelt: dict[int, str] = {}
    for text, kept in digits.items():
        before = spelt.setdefault(int(kept), text)
        if before != text:
            raise DataError(f"{file}: labels {before!r} and {text!r} are the same number; write it in one way")
    numbers = sorted(spelt)
    class_names = tuple(spelt[number] if spelt[number].isdigit() else str(number) for number in numbers)
    number = {spelt[number]: label for label, number in enumerate(numbers)}
    return class_names, number, numbered(str(file), numbers)


def numbered(where: str, numbers: Sequence[int]) -> list[str]:
    """Warns of numeric labels other than 0 to C − 1.

    Raises:
        DataError: A label is negative.
    """
    if numbers[0] < 0:
        raise DataError(
            f"{where}: labels must be whole numbers from 0, got {numbers[0]}; take out the images that have no label"
        )
    if list(numbers) == list(range(len(numbers))):
        return []
    shown = shorten([str(number) for number in numbers])
    return [
        f"{where}: the labels are not 0 to {len(numbers) - 1}, so the {len(numbers)} classes are named by them: {shown}"
    ]


def alike(where: str, class_names: Sequence[str]) -> list[str]:
    """A sentence on names that people would take for one.

    >>> alike("x.csv", ["Cat", "cat", "dog"])
    ["x.csv: class names that differ in case or spaces alone are different classes: 'Cat' = 'cat'"]
    """
    groups: dict[str, list[str]] = {}
    for name in class_names:
        groups.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    same = [" = ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    how = "class names that differ in case or spaces alone are different classes"
    return [f"{where}: {how}: {shorten(same)}"] if same else []


def class_names_of(
    file: Path, written: Sequence[Any], names_in: str, names: Sequence[str] | None
) -> tuple[tuple[str, ...], Mapping[Any, int], list[str]]:
    """Class names in order, the number of each label as it is written, and what is odd about them.

    Args:
        file: The npz file.
        written: The labels that there are: whole numbers, or names.
        names_in: The array of names.
        names: What it holds; `None` where there is none.
    """
    if names is None:
        if isinstance(written[0], str):
            return classes_of(file, written)
        return tuple(map(str, written)), {n: label for label, n in enumerate(written)}, numbered(str(file), written)
    if isinstance(written[0], str):
        if lacking := [name for name in written if name not in set(names)]:
            raise DataError(
                f"{file}: {names_in} has no name for the labels {shorten(lacking)}; add them, or take it out"
            )
        used = {name: name for name in written}
    else:
        if written[-1] >= len(names):
            raise DataError(
                f"{file}: {names_in} has {len(names)} names, but labels go up to {written[-1]}; the first name is that "
                f"of label 0: add what is missing, or take {names_in} out, and classes are named by their labels"
            )
        used = {names[label]: label for label in written}
    kept = [name for name in names if name in used]
    absent = [name for name in names if name not in used]
    odd = (
        [f"{file}: {names_in} names classes without any image, which are left out: {shorten(absent)}"] if absent else []
    )
    return tuple(kept), {used[name]: label for label, name in enumerate(kept)}, odd + alike(str(file), kept)

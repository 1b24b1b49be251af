"""Notices about image files: what is left out, assumed or converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainables.data.catalogue import spelled

PHRASES = {
    "turned": "turned as the EXIF orientation says",
    "exif unreadable": "taken as they lie, because their EXIF data are damaged",
    "transparent": "transparent pixels are laid on {background}",
    "invisible": "transparent everywhere, so that only {background} is left",
    "frames": "of several frames or pages the first one is used",
    "cmyk": "CMYK is converted to RGB without a colour profile",
    "grey": "grey among colour images, repeated in three channels",
    "16 bits": "more than 8 bits per channel ({more}), of which the upper 8 are used",
    "dark": "almost black in 8 bits, because only the lowest sixteenth of the 16-bit range is used; stretch them first",
    "profile": "the colour profile {more!r} is not applied",
    "smaller": "enlarged to {size} pixels",
}
"""Text for each trait; `more` is the part of the trait after the colon."""


def notices(
    root: Path,
    files: Sequence[Path],
    traits: Mapping[int, Sequence[str]],
    *,
    channels: int,
    background: str,
    advice: str | None,
    size: int | None,
    smaller: Sequence[int],
) -> tuple[list[str], list[str]]:
    """Describes the traits of many files.

    Args:
        root: Folder that names are shown relative to.
        files: All image files.
        traits: Keys of `PHRASES`, by index of a file.
        channels: Channels of the data set.
        background: Colour under transparent pixels.
        advice: The option of the name that chooses another colour; `None` where this one was asked for.
        size: Side that images are brought to.
        smaller: Indices of the files that are enlarged to it.

    Returns:
        Problems, and notes: the latter on what is done because the file or the user asks for it.
    """
    having: dict[str, list[int]] = {"smaller": list(smaller)} if smaller else {}
    for number in sorted(traits):
        for trait in traits[number]:
            having.setdefault(trait, []).append(number)
    problems: list[str] = []
    notes: list[str] = []
    for trait, numbers in sorted(having.items()):
        kind, _, more = trait.partition(":")
        if kind == "grey" and channels == 1:
            continue
        asked = kind == "turned" or (kind == "transparent" and advice is None)
        more_advice = f"; {advice} in the name chooses another one" if kind == "transparent" and advice else ""
        shown = examples([inside(root, files[number]) for number in numbers])
        phrase = PHRASES[kind].format(background=background, more=more, size=size)
        (notes if asked else problems).append(f"{phrase}{more_advice}: {len(numbers)} of {len(files)} images ({shown})")
    return problems, notes


def inside(root: Path, file: Path) -> str:
    """A file's path below a folder, as text that can be shown."""
    return spelled(file.relative_to(root) if file.is_relative_to(root) else file)


def examples(items: Sequence[str], shown: int = 3) -> str:
    """The first few of many, separated by commas.

    >>> examples(["a", "b", "c", "d"])
    'a; b; c; …'
    """
    return "; ".join(items[:shown]) + ("; …" if len(items) > shown else "")

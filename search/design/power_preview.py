"""What a design can show, before anything is trained: which harm, which interaction, which margin. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from analysis.stats.power import Detectable, detectable
from search.design.fractional_factorial import LETTERS
from search.design.labels import Design

POWER = 0.8
"""Probability with which an effect of the shown size is found."""

FEWEST_BLOCKS = 2
FEWEST_FIRST_STAGES = 3
"""Of a claim about a trick of the first stage; as in `analysis.conflicts`, which takes pandas to import."""

MOST_SEEDS = 100
"""Where the search for enough seeds ends: nobody would run more."""


@dataclass(frozen=True)
class Prospect:
    """What pairs of one kind can show.

    Args:
        pairs: "primary" or "others", "all" where none is primary.
        count: How many.
        blocks: Of the pair's own cell.
        shown: The smallest effects, as fractions.
    """

    pairs: str
    count: int
    blocks: int
    shown: Detectable


def words(design: Design) -> Iterator[str]:
    """The design in sentences."""
    if design.fraction is None:
        return
    named = ", ".join(f"{letter} {label}" for letter, label in zip(LETTERS, design.fraction.labels, strict=False))
    yield (
        f"Factorial of {named}: {design.fraction}, each block. Its pairs are exploratory: they are fitted to all runs "
        "assuming no interactions of three tricks, and nothing is promised about what it can show."
    )


def prospects(design: Design, seeds: int, sd: float) -> list[Prospect]:
    """What primary and other pairs can show; empty where nothing can be shown.

    Args:
        design: The design.
        seeds: Its blocks.
        sd: Noise of one trial within its block, a fraction above 0.
    """
    plain = [pair for pair in design.pairs if not _crossed(design, pair)]
    if seeds < FEWEST_BLOCKS or not plain:
        return []
    found = []
    for primary in (True, False):
        count = sum((pair in design.primary) is primary for pair in plain)
        if count:
            kind = "primary" if primary else "others" if design.primary else "all"
            # the first look has its share of the error rate only where further blocks may follow
            look = 1 if primary else None
            shown = detectable(n_pairs=count, blocks=seeds, sd=sd, primary=primary, look=look, power=POWER)
            found.append(Prospect(kind, count, seeds, shown))
    return found


def _crossed(design: Design, pair: tuple[str, str]) -> bool:
    return design.fraction is not None and set(pair) <= set(design.fraction.labels)


def enough(design: Design, sd: float, margin: float) -> int | None:
    """The fewest seeds for which every pair without harm is shown to be safe to combine; `None` above 100.

    Args:
        design: The design.
        sd: Noise of one trial within its block.
        margin: The harm that would not matter, a fraction above 0.
    """

    def does(seeds: int) -> bool:
        return all(one.shown.compatible <= margin for one in prospects(design, seeds, sd))

    if not design.pairs or not does(MOST_SEEDS):
        return None
    low, high = FEWEST_BLOCKS, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle + 1, high)
    return low


def show(design: Design, seeds: int, sd: float, margin: float, data: str) -> Iterator[str | Table]:
    """Sentences and a table for the preview.

    Args:
        design: The design.
        seeds: Its blocks.
        sd: Noise of one trial within its block, a fraction.
        margin: The harm that would not matter, a fraction.
        data: Name of the data set.
    """
    yield from words(design)
    if not design.pairs:
        yield "No pair can be judged: there is nothing to say about conflicts."
        return
    found = prospects(design, seeds, sd)
    if not found and seeds >= FEWEST_BLOCKS:
        return
    if not found:
        blocks = "1 seed block shows" if seeds == 1 else f"{seeds} seed blocks show"
        yield f"{blocks} nothing about pairs; at least {FEWEST_BLOCKS} are needed, and the default is 5 (--seeds)."
        return
    title = f"Minimum detectable effects, in points of accuracy ({100 * POWER:.0f} % power)"
    table = Table(title=title, title_justify="left")
    for column in ("pairs", "number", "blocks", "harm from", "interaction from", "safe to combine at a margin from"):
        table.add_column(column, justify="left" if column == "pairs" else "right")
    for one in found:
        points = [f"{100 * value:.1f}" for value in (one.shown.harm, one.shown.interaction, one.shown.compatible)]
        table.add_row(one.pairs, str(one.count), str(one.blocks), *points)
    yield table
    if seeds == FEWEST_BLOCKS:
        yield (
            "2 blocks are enough for tricks of later stages only: a claim about one of the first stage needs "
            f"{FEWEST_FIRST_STAGES} (--seeds {FEWEST_FIRST_STAGES})."
        )
    said = (
        "The table takes each pair as the only real one and assumes, before anything is measured, that "
        f"a trial's noise within its block is {100 * sd:.1f} points on {data}. The margin of {data} is "
        f"{100 * margin:.1f} points: "
    )
    if all(one.shown.compatible <= margin for one in found):
        yield said + "a pair without harm will be called safe to combine."
        return
    needed = enough(design, sd, margin)
    yield said + (
        f"to call a pair without harm safe to combine takes --seeds {needed}; with fewer, most such pairs stay open."
        if needed
        else f"no {MOST_SEEDS} seeds would show a pair without harm to be safe."
    )

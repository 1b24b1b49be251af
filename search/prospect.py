"""What a design can show, before anything is trained: which harm, which interaction, which margin. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from analysis.power import Detectable, detectable
from analysis.sequential import level_at
from search.design import FACTORIAL, Design
from search.fractions import LETTERS

POWER = 0.8
"""Probability with which an effect of the shown size is found."""

FEWEST_BLOCKS = 2
FEWEST_FIRST_STAGES = 3
"""Of a claim about a trick of the first stage; as in `analysis.cells`, which takes pandas to import."""

MOST_SEEDS = 100
"""Where the search for enough seeds ends: nobody would run more."""


@dataclass(frozen=True)
class Prospect:
    """What pairs of one kind can show.

    Args:
        pairs: "primary" or "others", "all" where none is primary; and where the pairs are crossed.
        count: How many.
        blocks: Of the pair's own cell.
        shown: The smallest effects, as fractions.
    """

    pairs: str
    count: int
    blocks: int
    shown: Detectable


def words(design: Design, seeds: int) -> Iterator[str]:
    """The design in sentences."""
    if design.fraction is not None:
        named = ", ".join(
            f"{letter} {label}" for letter, label in zip(LETTERS, design.fraction.labels, strict=False)
        )  # fmt: skip
        yield f"Factorial of {named}: {design.fraction}, each block."
        if design.fraction.generators:
            order = design.fraction.resolution - 2
            first, second = design.fraction.labels[:2]
            other = min(design.fraction.aliases(first, second, most=len(design.fraction.labels)), key=len)
            letters = dict(zip(design.fraction.labels, LETTERS, strict=False))
            yield (
                "No trick alone and no pair is aliased with another trick or pair (checked over all of them). A pair "
                f"is measured together with interactions of {order} tricks and more (A × B with "
                f"{' × '.join(sorted(letters[label] for label in other))}), which are taken to be small; its harms are "
                "those with the other tricks off, fitted to all runs."
            )
        crossed = sum(cell.context.split("+")[0] == FACTORIAL for cell in design.cells)
        beside = crossed - len(design.fraction.runs)
        if beside:
            yield (
                f"{beside} cells beside it (tricks alone, pairs that it lacks) tell whether these are small; "
                "where they are not, each pair is judged by its own four cells."
            )
        others = [cell for cell in design.cells if cell.context.split("+")[0] != FACTORIAL]
        rest = sum(1 for cell in others if cell.context or cell.tricks)
        if rest:
            yield f"{rest} further cells, for pairs of labels that cannot be crossed with all of these."
    extra = {context: blocks for context, blocks in design.extra_blocks(seeds).items() if blocks}
    for context, blocks in sorted(extra.items()):
        where = f", with {context}" if context else ""
        yield f"{blocks} more blocks of the baseline and of tricks alone{where}: they enter many pairs."


def prospects(design: Design, seeds: int, sd: float) -> list[Prospect]:
    """What primary and other pairs can show, each where it shows least; empty where nothing can be shown.

    Args:
        design: The design.
        seeds: Its blocks.
        sd: Noise of one trial within its block, a fraction above 0.
    """
    if seeds < FEWEST_BLOCKS:
        return []
    kinds: dict[tuple[bool, bool], list[tuple[str, str]]] = {}
    for pair in design.pairs:
        kinds.setdefault((pair in design.primary, _crossed(design, pair)), []).append(pair)
    found = []
    for (primary, crossed), pairs in sorted(kinds.items(), reverse=True):
        # the first look has its share of the error rate only where further blocks may follow
        level = level_at(1 if primary else None)
        family = sum(len(some) for (declared, _), some in kinds.items() if declared is primary)
        if crossed:
            assert design.fraction is not None
            runs, labels = len(design.fraction.runs), len(design.fraction.labels)
            least = detectable(
                n_pairs=family, blocks=seeds, sd=sd, level=level, n_labels=labels, factorial_runs=runs,
                primary=primary, power=POWER,
            )  # fmt: skip
            blocks = seeds
        else:
            each = {_blocks(design, seeds, pair) for pair in pairs}
            shown = [
                (detectable(
                    n_pairs=family, blocks=own, extra_blocks=extra, sd=sd, level=level, n_labels=labels,
                    primary=primary, power=POWER,
                ), own)
                for own, extra, labels in sorted(each)
            ]  # fmt: skip
            least, blocks = max(shown, key=lambda one: one[0].harm)
        kind = "primary" if primary else "others" if design.primary else "all"
        where = " in the factorial" if crossed else " in pairs" if design.fraction is not None else ""
        found.append(Prospect(kind + where, len(pairs), blocks, least))
    return found


def _crossed(design: Design, pair: tuple[str, str]) -> bool:
    return design.fraction is not None and len(design.fraction.runs) > 4 and set(pair) <= set(design.fraction.labels)


def _blocks(design: Design, seeds: int, pair: tuple[str, str]) -> tuple[int, int, int]:
    """Blocks of a pair's own cell, further blocks of its other cells, and labels of its context."""
    contexts = [cell.context for cell in design.cells if set(pair) <= set(cell.tricks)]
    context = min(contexts, key=len)
    labels = {label for cell in design.cells if cell.context == context for label in cell.tricks}
    extra = design.extra_blocks(seeds)[context]
    own = extra if pair in design.primary else 0
    return seeds + own, extra - own, len(labels)


def enough(design: Design, sd: float, margin: float) -> int | None:
    """The fewest seeds for which every pair without harm is shown to be compatible; `None` above 100.

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
    yield from words(design, seeds)
    if not design.pairs:
        yield "No pair can be judged: there is nothing to say about conflicts."
        return
    found = prospects(design, seeds, sd)
    if not found:
        blocks = "1 seed block shows" if seeds == 1 else f"{seeds} seed blocks show"
        yield f"{blocks} nothing about pairs; at least {FEWEST_BLOCKS} are needed, and the default is 5 (--seeds)."
        return
    title = f"Minimum detectable effects, in points of accuracy ({100 * POWER:.0f} % power)"
    table = Table(title=title, title_justify="left")
    for column in ("pairs", "number", "blocks", "harm from", "interaction from", "compatible at a margin from"):
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
        yield said + "a pair without harm will be called compatible."
        return
    needed = enough(design, sd, margin)
    yield said + (
        f"to call a pair without harm compatible takes --seeds {needed}; with fewer, most such pairs stay unresolved."
        if needed
        else f"no {MOST_SEEDS} seeds would show a pair without harm to be compatible."
    )

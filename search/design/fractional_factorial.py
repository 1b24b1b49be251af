"""Two-level fractions in which no effect and no pair of tricks is mixed up with another effect or pair.

A fraction of the 2ⁿ combinations of n tricks is made from p base factors, all of whose 2ᵖ combinations are run,
and n − p generated ones: "E = ABCD" says that E is on where an odd number of A, B, C, D is on. The combination
with nothing on is always among them. Multiplying generators gives the defining relation, whose shortest word is
the resolution: with five letters or more (resolution V) neither an effect alone nor an interaction of two is
aliased with another of these. What a pair is aliased with are interactions of three and more.

Source: Box, Hunter & Hunter 2005, Statistics for Experimenters, table 6.22; Montgomery 2017, Design and Analysis
of Experiments, table 8.14. Every fraction is checked again when it is made.
Differs: the half in which nothing is on belongs to the fraction, hence a generator of even length has the opposite
sign of the books' ±1 notation; aliases are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import xor
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

LETTERS = "ABCDEFGHJKL"
"""Of the factors, in order; the books leave I out, which stands for the identity."""

GENERATORS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        2: (),
        3: (),
        4: (),
        5: ("ABCD",),
        6: ("ABCDE",),
        7: ("ABCDEF",),
        8: ("ABCD", "ABEF"),
        9: ("ACDFG", "BCEFG"),
        10: ("ABCG", "BCDE", "ACDF"),
        11: ("ABCG", "BCDE", "ACDF", "ABCDEFG"),
    }
)
"""Of the smallest fractions of resolution V, by the number of factors; up to four factors nothing can be saved."""

MOST = max(GENERATORS)

ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI")


@dataclass(frozen=True)
class Fraction:
    """The combinations that are run.

    Args:
        labels: n factors; the first is A, the second B.
        generators: "E = ABCD" of each generated factor, in order.
        runs: The factors that are on, in each of the 2ᵖ runs; nothing on first.
    """

    labels: tuple[str, ...]
    generators: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> tuple[frozenset[str], ...]:
        """The defining relation: sets of labels whose product is constant over the runs, shortest first."""
        masks = [_mask(word.replace(" = ", "")) for word in self.generators]
        products = [reduce(xor, some) for size in range(1, len(masks) + 1) for some in combinations(masks, size)]
        return tuple(sorted((self._named(mask) for mask in products), key=lambda word: (len(word), sorted(word))))

    @property
    def resolution(self) -> int:
        """Letters of the shortest word; one more than there are factors where every combination is run."""
        return min((len(word) for word in self.words), default=len(self.labels) + 1)

    def aliases(self, *effect: str, most: int = 4) -> tuple[frozenset[str], ...]:
        """Interactions of at most `most` factors that cannot be told from one effect, smallest first.

        >>> made = fraction(("a", "b", "c", "d", "e"))
        >>> [sorted(other) for other in made.aliases("a", "b")]
        [['c', 'd', 'e']]
        """
        found = [frozenset(effect) ^ word for word in self.words]
        return tuple(sorted((f for f in found if len(f) <= most), key=lambda other: (len(other), sorted(other))))

    def _named(self, mask: int) -> frozenset[str]:
        return frozenset(label for bit, label in enumerate(self.labels) if mask >> bit & 1)

    def __str__(self) -> str:
        if not self.generators:
            return f"all {len(self.runs)} combinations"
        what = "generator" if len(self.generators) == 1 else "generators"
        return f"resolution {ROMAN[self.resolution]}, {len(self.runs)} runs, {what} {', '.join(self.generators)}"


def fraction(labels: Sequence[str]) -> Fraction:
    """The smallest fraction of resolution V for 2 to 11 factors.

    Raises:
        ValueError: Another number of factors, or one named twice.
        RuntimeError: The fraction mixes effects up; never, unless the table above is wrong.

    >>> made = fraction(("a", "b", "c", "d", "e"))
    >>> print(made)
    resolution V, 16 runs, generator E = ABCD
    >>> made.runs[:4]
    ((), ('a', 'e'), ('b', 'e'), ('a', 'b'))
    """
    count = len(labels)
    if count not in GENERATORS or len(set(labels)) != count:
        raise ValueError(f"a fraction takes 2 to {MOST} different factors, got {list(labels)}")
    words = GENERATORS[count]
    base = count - len(words)
    masks = [_mask(word) for word in words]
    runs = []
    for low in range(2**base):
        levels = low
        for position, mask in enumerate(masks):
            levels |= ((low & mask).bit_count() & 1) << (base + position)
        runs.append(tuple(label for bit, label in enumerate(labels) if levels >> bit & 1))
    named = tuple(f"{LETTERS[base + position]} = {word}" for position, word in enumerate(words))
    made = Fraction(tuple(labels), named, tuple(runs))
    check(made)
    return made


def check(made: Fraction) -> None:
    """Asserts the alias table: the mean, all effects and all pairs are orthogonal over the runs.

    Raises:
        RuntimeError: Which two are not.
    """
    names, columns = table(made)
    products = columns.T @ columns
    mixed = np.argwhere(np.triu(products, 1))
    if len(mixed):
        first, second = (" × ".join(names[i]) or "the mean" for i in mixed[0])
        raise RuntimeError(
            f"a fraction of {len(made.labels)} factors in {len(made.runs)} runs cannot tell {first} from {second}"
        )


def table(made: Fraction) -> tuple[list[tuple[str, ...]], NDArray[np.int64]]:
    """The mean, effects and pairs of a fraction, and their columns of ±1, (runs, columns)."""
    levels = {
        label: np.array([1 if label in run else -1 for run in made.runs], dtype=np.int64) for label in made.labels
    }
    names: list[tuple[str, ...]] = [(), *((label,) for label in made.labels), *combinations(made.labels, 2)]
    start = np.ones(len(made.runs), dtype=np.int64)
    columns = [reduce(np.multiply, (levels[label] for label in name), start) for name in names]
    return names, np.column_stack(columns)


def _mask(word: str) -> int:
    """The factors of a word as bits.

    >>> bin(_mask("ACD"))
    '0b1101'
    """
    return sum(1 << LETTERS.index(letter) for letter in word)

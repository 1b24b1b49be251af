"""Two-level fractions against hand-worked groups and brute force over all levels."""

from itertools import combinations, product

import numpy as np
import pytest

from search.design.fractional_factorial import GENERATORS, LETTERS, Fraction, check, fraction


@pytest.mark.parametrize("count, runs, resolution", [
    (2, 4, 3), (3, 8, 4), (4, 16, 5), (5, 16, 5), (6, 32, 6), (7, 64, 7), (8, 64, 5), (9, 128, 6), (10, 128, 5),
    (11, 128, 5),
])  # fmt: skip
def test_sizes_and_resolutions_are_those_of_the_books(count, runs, resolution):
    # Montgomery 2017, table 8.14: the smallest designs of resolution V or more; 2^n where nothing can be saved
    made = fraction(LETTERS[:count])
    assert len(made.runs) == len(set(made.runs)) == runs
    assert made.resolution == resolution
    assert made.runs[0] == ()


def test_the_half_fraction_of_five_by_hand():
    # E is on where an odd number of A, B, C, D is: the sixteen combinations with an even number of letters
    made = fraction("ABCDE")
    even = {tuple(some) for size in (0, 2, 4) for some in combinations("ABCDE", size)}
    assert set(made.runs) == even
    assert made.words == (frozenset("ABCDE"),)
    assert made.aliases("A", "B") == (frozenset("CDE"),)
    assert made.aliases("A") == (frozenset("BCDE"),)
    assert str(made) == "resolution V, 16 runs, generator E = ABCD"


def test_the_word_group_of_the_quarter_fraction_of_eight_by_hand():
    # G = ABCD and H = ABEF: I = ABCDG = ABEFH, and their product CDEFGH
    made = fraction("ABCDEFGH")
    assert made.words == (frozenset("ABCDG"), frozenset("ABEFH"), frozenset("CDEFGH"))
    assert made.aliases("A", "B") == (frozenset("CDG"), frozenset("EFH"))
    assert made.aliases("C", "E") == (frozenset("DFGH"),)  # ABCDG·CE and ABEFH·CE have five letters
    assert str(made) == "resolution V, 64 runs, generators G = ABCD, H = ABEF"


@pytest.mark.parametrize("count", sorted(GENERATORS))
def test_no_effect_or_pair_is_aliased_with_another_by_brute_force(count):
    """The effect of every factor and every pair, recovered from a response made of all of them."""
    names = LETTERS[:count]
    made = fraction(names)
    effects = [(), *combinations(names, 1), *combinations(names, 2)]
    sign = {run: {name: 1 if name in run else -1 for name in names} for run in made.runs}
    for number, effect in enumerate(effects):
        # a response that is this effect alone: all other contrasts must read 0, in whole numbers
        response = {run: int(np.prod([sign[run][name] for name in effect])) for run in made.runs}
        seen = [
            sum(response[run] * int(np.prod([sign[run][name] for name in other])) for run in made.runs)
            for other in effects[: number + 1]
        ]
        assert seen == [0] * number + [len(made.runs)]


@pytest.mark.parametrize("count", [5, 8, 10])
def test_words_are_constant_over_the_runs_and_nothing_else_is(count):
    made = fraction(LETTERS[:count])
    constant = set()
    for levels in product((0, 1), repeat=count):
        word = frozenset(name for name, level in zip(made.labels, levels, strict=True) if level)
        if word and len({len(word & set(run)) % 2 for run in made.runs}) == 1:
            constant.add(word)
    assert constant == set(made.words)


def test_a_fraction_that_mixes_effects_up_is_found_out():
    # the best-known trap: 32 runs for seven factors, of which resolution IV is the most that can be had
    runs = []
    for low in product((0, 1), repeat=5):
        a, b, c, d, e = low
        levels = (*low, (a + b + c + d) % 2, (a + b + d + e) % 2)
        runs.append(tuple(name for name, level in zip("ABCDEFG", levels, strict=True) if level))
    with pytest.raises(RuntimeError, match="a fraction of 7 factors in 32 runs cannot tell C × E from F × G"):
        check(Fraction(tuple("ABCDEFG"), ("F = ABCD", "G = ABDE"), tuple(runs)))


@pytest.mark.parametrize("labels", ["A", LETTERS + "M", "AAB"])
def test_other_numbers_of_factors_are_refused(labels):
    with pytest.raises(ValueError, match="a fraction takes 2 to 11 different factors"):
        fraction(labels)

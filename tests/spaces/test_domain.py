"""The words of a space: what they accept, what they refuse, and the grids they make."""

import math

import pytest

from spaces.domain import (
    Forbidden,
    OneOf,
    Space,
    SpaceError,
    Stage,
    Trick,
    forbid,
    integer,
    log_uniform,
    one_of,
    some_of,
    trick,
    uniform,
)

INF = math.inf


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: uniform(1, 1), r"uniform\(1, 1\): low < high must hold"),
        (lambda: uniform(2, 1), r"uniform\(2, 1\): low < high must hold"),
        (lambda: uniform("a", 1), r"uniform\('a', 1\): both ends must be finite numbers"),
        (lambda: uniform(True, 2), r"uniform\(True, 2\): both ends must be finite numbers"),
        (lambda: uniform(0, INF), r"uniform\(0, inf\): both ends must be finite numbers"),
        (lambda: uniform(math.nan, 1), r"uniform\(nan, 1\): both ends must be finite numbers"),
        (lambda: uniform(0, 1, step=0), r"uniform\(0, 1\): step must be above 0, got 0"),
        (lambda: log_uniform(0, 1), r"log_uniform\(0, 1\): the range must lie above 0"),
        (lambda: log_uniform(1, 0.1), r"log_uniform\(1, 0.1\): low < high must hold"),
        (lambda: log_uniform(1, 2, step="sixths"), r"step must be one of decades, .*fifths .*, got 'sixths'"),
        (lambda: integer(1.0, 2), r"integer\(1.0, 2\): both ends must be whole numbers"),
        (lambda: integer(3, 2), r"integer\(3, 2\): low < high must hold"),
        (lambda: one_of(), r"one_of\(\): needs at least one option"),
        (lambda: one_of(one_of(1, 2), 3), r"options cannot be choices themselves; write them side by side"),
        (lambda: one_of(some_of("a"), None), r"options cannot be choices themselves"),
        (lambda: one_of("a", None, "a"), r"an option stands twice in \('a', None, 'a'\)"),
        (lambda: some_of("a", "b", at_least=2, at_most=1), r"0 ≤ at_least ≤ at_most ≤ 2 must hold, got at_least=2"),
        (lambda: some_of("a", "b", at_most=3), r"≤ 2 must hold, got at_least=0, at_most=3"),
        (lambda: some_of("a", at_least=-1), r"got at_least=-1"),
        (lambda: some_of("a", None), r"some_of\(...\): expected a trick's name or trick\(...\), got None"),
        (lambda: forbid("a", reason="because"), r"forbid\(...\): needs at least two labels and a reason"),
        (lambda: forbid("a", "b", reason=""), r"needs at least two labels and a reason"),
        (lambda: trick("focal", gamma=some_of("a")), r"trick 'focal': gamma must be a value or a range, got SomeOf"),
        (lambda: trick("focal", gamma=trick("a")), r"trick 'focal': gamma must be a value or a range, got Trick"),
        (lambda: Stage("a b", epochs=1), r"stage 'a b': a name is made of letters, digits and underscores"),
        (lambda: Stage("", epochs=1), r"stage '': a name is made of"),
        (lambda: Stage("a"), r"stage 'a': give either length= .* or epochs="),
        (lambda: Stage("a", length=1, epochs=1), r"stage 'a': give either length= .* or epochs="),
        (lambda: Stage("a", epochs=1, carry="some"), r"stage 'a': carry must be 'all' or 'weights', got 'some'"),
        (lambda: Stage("a", epochs=1, keep="mix"), r"stage 'a': keep must be True, False or a tuple of .*, got 'mix'"),
        (lambda: Stage("a", epochs=1, choose="focal"), r"stage 'a': choose must be a list, got 'focal'; write choose="),
        (lambda: Stage("a", epochs=1, choose=[3]), r"stage 'a': expected a trick's name or trick\(...\), got 3"),
        (
            lambda: Stage("a", epochs=1, choose=[one_of(trick("x", n=1), trick("x", n=2))]),
            r"stage 'a': 'x' stands twice in one choice; leave its number open instead: trick\('x', number=one_of",
        ),
        (lambda: Space(stages=[]), r"a space needs at least one stage"),
        (lambda: Space(stages=["a"]), r"expected a Stage or one_of\(stages\), got 'a'"),
        (lambda: Space(stages=[one_of("a", None)]), r"expected a Stage or one_of\(stages\), got 'a'"),
        (
            lambda: Space(stages=[Stage("a", epochs=1), one_of(None, Stage("a", epochs=2))]),
            r"stage 'a' is named twice; every stage needs its own name",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(made, message):
    with pytest.raises(SpaceError, match=message):
        made()


@pytest.mark.parametrize(
    ("domain", "grid"),
    [
        (log_uniform(0.01, 0.3, step="thirds"), (0.01, 0.02154, 0.04642, 0.1, 0.2154)),
        (log_uniform(1e-4, 1e-1, step="decades"), (1e-4, 1e-3, 1e-2, 1e-1)),
        (log_uniform(5e-4, 0.1, step="halves"), (5e-4, 1.581e-3, 5e-3, 1.581e-2, 0.05)),
        (log_uniform(0.01, 0.3), ()),
    ],
)
def test_grids_of_decades(domain, grid):
    assert domain.grid() == grid


@pytest.mark.parametrize("step", ["decades", "halves", "thirds", "quarters", "fifths"])
@pytest.mark.parametrize(("low", "high"), [(0.012345, 0.9), (0.0123456, 0.0123457e3), (3.14159e-5, 1)])
def test_a_grid_lies_in_its_range_however_many_digits_the_ends_have(low, high, step):
    domain = log_uniform(low, high, step=step)
    assert domain.grid()[0] == pytest.approx(low, rel=1e-3)
    assert all(value in domain for value in domain.grid())
    assert list(domain.grid()) == sorted(set(domain.grid()))


def test_nearest_by_hand():
    assert [uniform(0, 1).nearest(value) for value in (-1, 0.3, 7)] == [0, 0.3, 1]
    # 0.2, 0.6, 1.0: the grid ends before the range does
    assert [uniform(0.2, 1.2, step=0.4).nearest(value) for value in (0.39, 0.41, 1.2)] == [0.2, 0.6, 1.0]
    assert uniform(0.1, 0.3, step=0.1).nearest(0.3) == 0.3
    # between 0.02154 and 0.04642 the logarithmic middle is 0.0316, the plain one 0.0340
    thirds = log_uniform(0.01, 0.3, step="thirds")
    assert [thirds.nearest(value) for value in (0.031, 0.033, 5)] == [0.02154, 0.04642, 0.2154]
    assert log_uniform(0.01, 1).nearest(0.5) == 0.5
    assert [integer(2, 6).nearest(value) for value in (1, 3.4, 9)] == [2, 3, 6]
    assert one_of(0.001, 1.0).nearest(0.1) == 1.0  # by ratio: 10 times against 100 times
    assert one_of(0.0, 1.0).nearest(0.4) == 0.0
    assert one_of("a", "b").nearest(3) == "a"


def test_middles_are_defaults_in_the_range():
    assert uniform(0, 1).middle == 0.5
    assert uniform(0, 1, step=0.4).middle == 0.4
    assert log_uniform(0.01, 1).middle == pytest.approx(0.1)
    assert log_uniform(0.01, 0.3, step="thirds").middle == 0.04642
    assert integer(2, 10).middle == 2
    assert one_of(5, 10).middle == 5


def test_membership():
    assert 0.3 in uniform(0, 1)
    assert 2 not in uniform(0, 1)
    assert True not in uniform(0, 1)
    assert "x" not in log_uniform(1, 2)
    assert 3 in integer(2, 4)
    assert 3.0 not in integer(2, 4)
    assert None in one_of(None, "a")


def test_some_of_takes_its_bounds():
    assert some_of("a", "b").at_least == 0
    assert some_of("a", "b", at_least=1, at_most=2).options == (Trick("a"), Trick("b"))
    assert some_of().options == ()


def test_names_become_tricks_and_lists_become_tuples():
    stage = Stage("a", epochs=1, keep=["mix"], choose=["focal", one_of(None, "x", name="which")])
    assert stage.choose == (Trick("focal"), OneOf((None, Trick("x")), "which"))
    assert stage.keep == ("mix",)
    space = Space(stages=[stage], screen=["a/focal"], forbid=[forbid("a/x", "a/y", reason="r")])
    assert space.stages == (stage,)
    assert space.screen == ("a/focal",)
    assert space.forbid == (Forbidden(("a/x", "a/y"), "r"),)


def test_what_the_preview_prints():
    assert str(trick("effective_number", beta=one_of(0.9, 0.99))) == "effective_number(beta=0.9 | 0.99)"
    assert str(log_uniform(0.01, 0.3, step="thirds")) == "0.01 … 0.3 log thirds of a decade"
    assert str(uniform(0, 1, step=0.1)) == "0 … 1 step 0.1"
    assert str(integer(2, 6)) == "2 … 6"
    assert str(one_of(None, Stage("a", epochs=1))) == "none | a"
    assert str(some_of("cutout", "mixup")) == "any of cutout, mixup"

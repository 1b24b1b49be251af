"""The words of a space: what they accept, what they refuse, and the grids they make."""

import json
import math

import numpy as np
import pytest

from spaces.domain import (
    Forbidden,
    OneOf,
    Space,
    SpaceError,
    Stage,
    Trick,
    forbid,
    from_dict,
    integer,
    log_uniform,
    one_of,
    some_of,
    to_dict,
    trick,
    uniform,
)

pytestmark = pytest.mark.smoke

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
        (lambda: uniform(0, 1, step=0), r"uniform\(0, 1\): step must be above 0 and at most 1, got 0"),
        (lambda: uniform(0, 1, step=INF), r"step must be above 0 and at most 1, got inf"),
        (lambda: uniform(0, 1, step=math.nan), r"step must be above 0 and at most 1, got nan"),
        (lambda: uniform(0, 1, step=2), r"step must be above 0 and at most 1, got 2"),
        (lambda: uniform(0, 1, step="a"), r"step must be above 0 and at most 1, got 'a'"),
        (lambda: integer(1, 10**400), r"integer\(1, a number of 1329 bits\): both ends must be finite numbers below"),
        (lambda: log_uniform(1, 2, step=["halves"]), r"step must be one of decades"),
        (lambda: log_uniform(0, 1), r"log_uniform\(0, 1\): the range must lie above 0"),
        (lambda: log_uniform(1, 0.1), r"log_uniform\(1, 0.1\): low < high must hold"),
        (lambda: log_uniform(1, 2, step="sixths"), r"step must be one of decades, .*fifths .*, got 'sixths'"),
        (lambda: integer(1.0, 2), r"integer\(1.0, 2\): both ends must be whole numbers"),
        (lambda: integer(3, 2), r"integer\(3, 2\): low < high must hold"),
        (lambda: one_of(), r"one_of\(\): needs at least one option"),
        (lambda: one_of(one_of(1, 2), 3), r"options cannot be choices or ranges themselves; write them side"),
        (lambda: one_of(uniform(0, 1), 3), r"options cannot be choices or ranges themselves"),
        (lambda: OneOf((1, math.nan)), r"one_of\(...\): an option must be a finite number below 1e\+15, got nan"),
        (lambda: one_of(1, INF), r"an option must be a finite number below 1e\+15, got inf"),
        (lambda: one_of(1, 10**400), r"an option must be a finite number below 1e\+15, got a number of 1329 bits"),
        (lambda: one_of([1], 2), r"an option must be a number, a text, True, False or None, got \[1\]"),
        (lambda: one_of(1, 2, name="a/b"), r"one_of\(...\) 'a/b': a name is made of letters, digits and underscores"),
        (lambda: one_of(1, 2, name="lr"), r"one_of\(...\) 'lr': this name means something else"),
        (lambda: one_of(some_of("a"), None), r"options cannot be choices or ranges themselves"),
        (lambda: one_of("a", None, "a"), r"an option stands twice in \('a', None, 'a'\)"),
        (lambda: some_of("a", "b", at_least=2, at_most=1), r"0 ≤ at_least ≤ at_most ≤ 2 must hold, got at_least=2"),
        (lambda: some_of("a", "b", at_most=3), r"≤ 2 must hold, got at_least=0, at_most=3"),
        (lambda: some_of("a", at_least=-1), r"got at_least=-1"),
        (lambda: some_of("a", at_least="1"), r"got at_least='1'"),
        (lambda: some_of("a", "a"), r"some_of\(...\): 'a' stands twice"),
        (lambda: some_of("a", None), r"some_of\(...\): expected a trick's name or trick\(...\), got None"),
        (lambda: forbid("a", reason="because"), r"forbid\(...\): needs at least two labels and a reason"),
        (lambda: forbid("a", "b", reason=""), r"needs at least two labels and a reason"),
        (lambda: forbid("a", "a", reason="because"), r"forbid\(...\): 'a' stands twice"),
        (lambda: forbid("a", 3, reason="because"), r"forbid\(...\): must be a list of labels"),
        (lambda: trick("focal", gamma=math.nan), r"trick 'focal': gamma must be a finite number below 1e\+15, got nan"),
        (lambda: trick("focal", gamma=one_of("a", trick("b"))), r"trick 'focal': gamma must be a value or a range"),
        (lambda: trick("focal", gamma=[1]), r"trick 'focal': gamma must be a number, a text, .* got \[1\]"),
        (lambda: trick("a/b"), r"trick\('a/b'\): a trick is named by the name of its file"),
        (lambda: trick("focal", gamma=some_of("a")), r"trick 'focal': gamma must be a value or a range, got SomeOf"),
        (lambda: trick("focal", gamma=trick("a")), r"trick 'focal': gamma must be a value or a range, got Trick"),
        (lambda: Stage("a b", epochs=1), r"stage 'a b': a name is made of letters, digits and underscores"),
        (lambda: Stage("", epochs=1), r"stage '': a name is made of"),
        (lambda: Stage(5, epochs=1), r"stage 5: a name is made of letters"),
        *(
            (lambda name=name: Stage(name, epochs=1), rf"stage '{name}': this name means something else; reserved are")
            for name in ("none", "None", "baseline", "Baseline", "factorial", "numbers")
        ),
        *(
            (
                lambda name=name: Stage(name, epochs=1),
                r"a name is made of letters, digits and underscores, 60 characters",
            )
            for name in ("a--b", "a/b", "a[b]", "a|b", "a\x1b", "a\u202eb", "a.b", "_", "a" * 61)
        ),
        (lambda: Stage("a", epochs=INF), r"stage 'a': epochs must be a finite number below 1e\+15, got inf"),
        (lambda: Stage("a", length=math.nan), r"stage 'a': length must be a finite number below 1e\+15, got nan"),
        (lambda: Stage("a", epochs=1, lr=one_of("b", trick("c"))), r"stage 'a': lr must be a value or a range"),
        (lambda: Stage("a", epochs=1, batch_size=[8]), r"stage 'a': batch_size must be a number, a text"),
        (lambda: Stage("a", epochs=1, keep=[3]), r"stage 'a': keep must be True, False or a tuple of seams, got \[3\]"),
        (
            lambda: Stage("a", epochs=1, choose=[one_of(None, "x"), one_of(None, "x", "y")]),
            r"stage 'a': 'x' stands twice; leave its number open",
        ),
        (lambda: Stage("a"), r"stage 'a': give either length= .* or epochs="),
        (lambda: Stage("a", length=1, epochs=1), r"stage 'a': give either length= .* or epochs="),
        (lambda: Stage("a", epochs=1, carry="some"), r"stage 'a': carry must be 'all' or 'weights', got 'some'"),
        (lambda: Stage("a", epochs=1, keep="mix"), r"stage 'a': keep must be True, False or a tuple of .*, got 'mix'"),
        (lambda: Stage("a", epochs=1, choose="focal"), r"stage 'a': choose must be a list, got 'focal'; write choose="),
        (lambda: Stage("a", epochs=1, choose=[3]), r"stage 'a': expected a trick's name or trick\(...\), got 3"),
        (
            lambda: Stage("a", epochs=1, choose=[one_of(trick("x", n=1), trick("x", n=2))]),
            r"stage 'a': 'x' stands twice; leave its number open instead: trick\('x', number=one_of",
        ),
        (lambda: Space(stages=[]), r"a space needs at least one stage"),
        (lambda: Space(stages=Stage("a", epochs=1)), r"Space\(stages=...\): must be a list, got Stage"),
        (lambda: Space(stages="ab"), r"Space\(stages=...\): must be a list, got 'ab'"),
        (lambda: Space(stages=[Stage("a", epochs=1)], screen="a/x"), r"screen: must be a list of labels .* got 'a/x'"),
        (lambda: Space(stages=[Stage("a", epochs=1)], screen=["a/x", "a/x"]), r"screen: 'a/x' stands twice"),
        (lambda: Space(stages=[Stage("a", epochs=1)], forbid=["a"]), r"Space\(forbid=...\): expected forbid\('label'"),
        (lambda: Space(stages=[Stage("a", epochs=1)], data=3), r"Space\(data=...\): must be a name, got 3"),
        (
            lambda: Space(stages=[one_of(None, Stage(n, epochs=1), name="end") for n in "ab"]),
            r"one_of\(..., name='end'\): two choices of stages have this name",
        ),
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


def test_a_space_is_written_down_and_read_again():
    """With NumPy's numbers, which JSON lacks and which print otherwise."""
    stage = Stage(
        "a", length=uniform(np.float64(0.5), 1.0, step=0.25), lr=one_of(*np.linspace(0.1, 0.5, 3)),
        members=integer(1, 3),
        keep=("mix",), nesterov=True, schedule="cosine", weight_decay=log_uniform(1e-4, 1e-2),
        choose=[one_of(None, "x", trick("y", n=one_of(np.int64(1), 2)), name="which"), some_of("z", "w", at_most=1)],
    )  # fmt: skip
    end = one_of(None, Stage("b", epochs=2, carry="all"), name="end")
    space = Space([stage, end], ["a/x", "b"], [forbid("a/x", "a/z", reason="r")], data="digits-lt", doc="words")
    again = from_dict(json.loads(json.dumps(to_dict(space))))
    assert again == space and repr(again) == repr(space) and "np." not in repr(space)


@pytest.mark.parametrize("content", [{"is": "Nothing"}, {"is": ["x"]}, {}, {"is": "Stage", "names": 1}])
def test_what_is_no_space_cannot_be_read(content):
    with pytest.raises(SpaceError, match="a space cannot be read"):
        from_dict(content)


def test_what_the_preview_prints():
    assert str(trick("effective_number", beta=one_of(0.9, 0.99))) == "effective_number(beta=0.9 | 0.99)"
    assert str(log_uniform(0.01, 0.3, step="thirds")) == "0.01 … 0.3 log thirds of a decade"
    assert str(uniform(0, 1, step=0.1)) == "0 … 1 step 0.1"
    assert str(integer(2, 6)) == "2 … 6"
    assert str(one_of(None, Stage("a", epochs=1))) == "none | a"
    assert str(some_of("cutout", "mixup")) == "any of cutout, mixup"

"""What a design is said to show, by hand and against what the conflict table finds in simulated trials."""

import numpy as np
import pandas as pd
import pytest

from analysis.conflicts import pairwise
from analysis.power import detectable
from search.design import Design, make_design
from search.prospect import enough, prospects, show
from search.space_file import load_space
from spaces.domain import Space, Stage, one_of
from trainables.data import standard

STANDARD = standard("digits-lt")
NAMES = ("cost_sensitive", "class_balanced", "input_mixup", "cutout", "ema")
SPACE = Space(
    stages=[Stage("first", length=1, choose=[one_of(None, name) for name in NAMES])],
    screen=[f"first/{name}" for name in NAMES],
)


def told(design: Design, seeds: int, sd: float = 0.01, margin: float = 0.02) -> str:
    return "\n".join(part for part in show(design, seeds, sd, margin, "digits-lt") if isinstance(part, str))


def test_pairs_and_primaries_have_their_own_families():
    design = make_design(SPACE, STANDARD, kind="pairs", primary=["first/ema x first/cutout"])
    primary, others = prospects(design, 5, 0.01)
    # ten pairs, of which one is declared; it has the three further blocks as well
    assert (primary.pairs, primary.count, primary.blocks) == ("primary", 1, 8)
    assert (others.pairs, others.count, others.blocks) == ("others", 9, 5)
    # at the first look, which has three fifths of the error rate of 5 %
    shown = detectable(n_pairs=1, blocks=8, extra_blocks=0, sd=0.01, level=0.97, n_labels=5, primary=True)
    assert primary.shown == pytest.approx(shown)
    assert others.shown == detectable(n_pairs=9, blocks=5, extra_blocks=3, sd=0.01, n_labels=5)


def test_a_factorial_shows_more_than_its_pairs_would():
    factorial, pairs = (prospects(make_design(SPACE, STANDARD, kind=kind), 5, 0.01)[0] for kind in (None, "pairs"))
    assert factorial.pairs == "all in the factorial" and factorial.count == 10
    # a harm's variance is 20/16 of σ² a block, not 2 of it; the interaction's 16/16, not 4
    assert factorial.shown.harm < 0.9 * pairs.shown.harm
    assert factorial.shown.interaction < 0.6 * pairs.shown.interaction
    assert factorial.shown == detectable(n_pairs=10, blocks=5, sd=0.01, n_labels=5, factorial_runs=16)


def test_labels_left_over_show_what_pairs_show():
    crossed, left = prospects(make_design(load_space("spaces/full_combo.py"), STANDARD), 5, 0.01)
    assert (crossed.pairs, crossed.count) == ("all in the factorial", 10)
    assert (left.pairs, left.count) == ("all in pairs", 4)
    # the pair with the fewest other cells in its context: two labels
    assert left.shown == detectable(n_pairs=14, blocks=5, sd=0.01, n_labels=2)


@pytest.mark.parametrize("kind", ["pairs", "factorial"])
def test_a_harm_of_the_size_that_is_said_is_found_as_often_as_is_said(kind):
    """Planted: one trick harms beside another by what the preview names, and overlaps with it by as much."""
    sd, seeds = 0.01, 4
    design = make_design(SPACE, STANDARD, kind=kind)
    shown = prospects(design, seeds, sd)[0].shown
    a, b = "first/class_balanced", "first/cost_sensitive"
    draws = np.random.default_rng(3)
    runs = design.runs(seeds)
    found = []
    for _ in range(150):
        block = draws.normal(0, 0.02, 20)
        rows = [
            {
                "arm": "design",
                "seed": at,
                "first_stage": f"{number}",
                "tricks": cell.tricks,
                "context": cell.context,
                # each is useless alone, and both together lose the interaction: the harms are as large
                "final/accuracy": 0.6
                - shown.interaction * ({a, b} <= set(cell.tricks))
                + block[at]
                + draws.normal(0, sd),
            }
            for number, (at, cell) in enumerate(runs)
        ]
        table = pairwise(pd.DataFrame(rows), margin=0.02).set_index(["a", "b"])
        found.append(table.loc[(a, b), "adjusted_p"] <= 0.10 and table.loc[(a, b), "interaction_high"] < 0)
    # three standard errors of 150 draws around 0.8; a little above it, because the harms are shown more easily
    assert 0.68 <= np.mean(found) <= 0.95


def test_the_sentences_of_a_factorial():
    text = told(make_design(load_space("spaces/full_combo.py"), STANDARD), 5)
    assert "Factorial of A representation/cost_sensitive, B representation/class_balanced" in text
    assert "resolution V, 16 runs, generator E = ABCD, each block." in text
    assert "interactions of 3 tricks and more (A × B with C × D × E)" in text
    assert "5 cells beside it (tricks alone, pairs that it lacks)" in text
    assert "12 further cells" in text
    assert "a trial's noise within its block is 1.0 points on digits-lt" in text


def test_the_sentences_of_pairs():
    text = told(make_design(SPACE, STANDARD, kind="pairs"), 5)
    assert "3 more blocks of the baseline and of tricks alone: they enter many pairs." in text
    assert "aliased" not in text


def test_seeds_that_are_enough_are_named_and_are_the_fewest():
    design = make_design(SPACE, STANDARD, kind="pairs")
    needed = enough(design, 0.01, 0.012)
    assert needed is not None and needed > 5
    assert f"takes --seeds {needed};" in told(design, 5, margin=0.012)
    assert prospects(design, needed, 0.01)[0].shown.compatible <= 0.012
    assert prospects(design, needed - 1, 0.01)[0].shown.compatible > 0.012
    assert "a pair without harm will be called compatible" in told(design, needed, margin=0.012)
    assert enough(design, 0.01, 1e-4) is None
    assert "no 100 seeds would show" in told(design, 5, margin=1e-4)


def test_what_can_show_nothing_says_so():
    assert "1 seed block shows nothing about pairs" in told(make_design(SPACE, STANDARD), 1)
    assert "a claim about one of the first stage needs 3 (--seeds 3)" in told(make_design(SPACE, STANDARD), 2)
    assert "--seeds 3)" not in told(make_design(SPACE, STANDARD), 3)
    lonely = Space(stages=SPACE.stages, screen=SPACE.screen[:1])
    assert "No pair can be judged" in told(make_design(lonely, STANDARD), 5)

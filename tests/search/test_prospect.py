"""What a design is said to show, by hand and against what the conflict table finds in simulated trials."""

import numpy as np
import pandas as pd

from analysis.conflicts import pairwise
from analysis.stats.power import detectable
from search.design.labels import Design, make_design
from search.design.power_preview import enough, prospects, show
from search.workspace.space_file import load_space
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
    design = make_design(SPACE, STANDARD, primary=["first/ema x first/cutout"])
    primary, others = prospects(design, 5, 0.01)
    assert (primary.pairs, primary.count, primary.blocks) == ("primary", 1, 5)
    assert (others.pairs, others.count, others.blocks) == ("others", 9, 5)
    # the first look has three fifths of the error rate of 5 %
    assert primary.shown == detectable(n_pairs=1, blocks=5, sd=0.01, primary=True, look=1)
    assert others.shown == detectable(n_pairs=9, blocks=5, sd=0.01)


def test_nothing_is_promised_about_a_factorial():
    design = make_design(SPACE, STANDARD, kind="factorial")
    assert prospects(design, 5, 0.01) == []
    text = told(design, 5)
    assert "Its pairs are exploratory" in text and "nothing is promised about what it can show" in text
    assert "margin" not in text


def test_labels_beside_a_factorial_show_what_pairs_show():
    (left,) = prospects(make_design(load_space("spaces/full_combo.py"), STANDARD, kind="factorial"), 5, 0.01)
    assert (left.pairs, left.count) == ("all", 4)
    assert left.shown == detectable(n_pairs=4, blocks=5, sd=0.01)


def test_an_interaction_of_the_size_that_is_said_is_found_as_often_as_is_said():
    """Planted: two useless tricks overlap by as much as the preview names; both scales and both harms must be shown."""
    sd, seeds = 0.01, 4
    design = make_design(SPACE, STANDARD)
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
    text = told(make_design(load_space("spaces/full_combo.py"), STANDARD, kind="factorial"), 5)
    assert "Factorial of A representation/cost_sensitive, B representation/class_balanced" in text
    assert "resolution V, 16 runs, generator E = ABCD, each block." in text


def test_the_sentences_of_pairs():
    text = told(make_design(SPACE, STANDARD), 5)
    assert "Factorial" not in text and "a trial's noise within its block is 1.0 points on digits-lt" in text


def test_seeds_that_are_enough_are_named_and_are_the_fewest():
    design = make_design(SPACE, STANDARD, kind="pairs")
    needed = enough(design, 0.01, 0.012)
    assert needed is not None and needed > 5
    assert f"takes --seeds {needed};" in told(design, 5, margin=0.012)
    assert prospects(design, needed, 0.01)[0].shown.compatible <= 0.012
    assert prospects(design, needed - 1, 0.01)[0].shown.compatible > 0.012
    assert "a pair without harm will be called safe to combine" in told(design, needed, margin=0.012)
    assert enough(design, 0.01, 1e-4) is None
    assert "no 100 seeds would show" in told(design, 5, margin=1e-4)


def test_what_can_show_nothing_says_so():
    assert "1 seed block shows nothing about pairs" in told(make_design(SPACE, STANDARD), 1)
    assert "a claim about one of the first stage needs 3 (--seeds 3)" in told(make_design(SPACE, STANDARD), 2)
    assert "--seeds 3)" not in told(make_design(SPACE, STANDARD), 3)
    lonely = Space(stages=SPACE.stages, screen=SPACE.screen[:1])
    assert "No pair can be judged" in told(make_design(lonely, STANDARD), 5)

"""The cells of the design arm, by hand: digits-lt has 30 epochs."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, product

import pandas as pd
import pytest

from analysis.conflicts import pairwise
from search.design.labels import Cell, Design, DesignError, Impossible, lacking, make_design, pair_of, read_list
from search.workspace.space_file import load_space
from spaces.domain import Space, Stage, forbid, one_of, trick
from trainables.data import standard
from trainables.registry import PlanError

pytestmark = pytest.mark.smoke

STANDARD = replace(standard("digits-lt"), epochs=30, final_epochs=30)


def space(*screen: str) -> Space:
    return Space(
        stages=[
            Stage("first", length=0.5, choose=[
                one_of(None, "cost_sensitive"),
                one_of(None, "class_balanced", "square_root"),
            ]),
            one_of(None, Stage("extra", length=0.2, lr=0.01, carry="weights", choose=[
                one_of(None, "input_mixup"), one_of("square_root", "class_balanced")])),
            one_of(
                Stage("finish", length=0.3, carry="all"),
                Stage("deferred", length=0.3, carry="all", choose=[one_of("class_balanced", "cost_sensitive")]),
                Stage("classifier", length=0.3, lr=0.05, carry="weights", choose=["classifier"]),
            ),
        ],
        screen=screen,
    )  # fmt: skip


def design(*screen: str) -> Design:
    return make_design(space(*screen), STANDARD)


def shape(design: Design) -> dict[tuple[str, tuple[str, ...]], str]:
    """(context, labels that are on) -> stages with epochs and tricks, as one line."""
    return {(cell.context, cell.tricks): line(cell.recipe.plan) for cell in design.cells}


def line(plan) -> str:
    return ", ".join(
        f"{stage.name} {stage.epochs}" + "".join(f" +{trick.name}" for trick in stage.tricks) for stage in plan.stages
    )


def test_the_baseline_alone():
    assert shape(design()) == {("", ()): "first 15, finish 9"}


def test_a_pair_in_a_fixed_stage_has_four_cells():
    found = design("first/cost_sensitive", "first/class_balanced")
    assert shape(found) == {
        ("", ()): "first 15, finish 9",
        ("", ("first/cost_sensitive",)): "first 15 +cost_sensitive, finish 9",
        ("", ("first/class_balanced",)): "first 15 +class_balanced, finish 9",
        ("", ("first/class_balanced", "first/cost_sensitive")): "first 15 +cost_sensitive +class_balanced, finish 9",
    }
    assert found.cells[0].title == "baseline" and found.cells[0].tricks == ()
    assert found.epochs == 4 * 24


def test_the_zero_level_of_a_trick_in_an_optional_stage_is_that_stage_without_it():
    found = design("deferred/class_balanced", "first/cost_sensitive")
    assert shape(found) == {
        ("", ()): "first 15, finish 9",
        ("", ("first/cost_sensitive",)): "first 15 +cost_sensitive, finish 9",
        ("deferred", ()): "first 15, deferred 9",
        ("deferred", ("deferred/class_balanced",)): "first 15, deferred 9 +class_balanced",
        ("deferred", ("first/cost_sensitive",)): "first 15 +cost_sensitive, deferred 9",
        ("deferred", ("deferred/class_balanced", "first/cost_sensitive")):
            "first 15 +cost_sensitive, deferred 9 +class_balanced",
    }  # fmt: skip
    titles = [cell.title for cell in found.cells if cell.context]
    assert "baseline, with a plain deferred stage" in titles
    assert "first/cost_sensitive, with a plain deferred stage" in titles


def test_the_zero_level_of_an_added_stage_prolongs_the_stage_before():
    assert shape(design("extra")) == {
        ("", ()): "first 15, finish 9",
        ("extra", ()): "first 21, finish 9",
        ("extra", ("extra",)): "first 15, extra 6 +square_root, finish 9",
    }


def test_the_zero_level_of_a_stage_with_a_first_option_is_that_option():
    assert shape(design("classifier")) == {
        ("", ()): "first 15, finish 9",
        ("", ("classifier",)): "first 15, classifier 9 +classifier",
    }


def test_an_added_stage_and_another_stage_share_the_length_in_all_four_cells():
    found = design("extra", "classifier")
    pair = {on: text for (context, on), text in shape(found).items() if context == "extra"}
    assert pair == {
        (): "first 21, finish 9",
        ("extra",): "first 15, extra 6 +square_root, finish 9",
        ("classifier",): "first 21, classifier 9 +classifier",
        ("classifier", "extra"): "first 15, extra 6 +square_root, classifier 9 +classifier",
    }
    assert {cell.recipe.plan.epochs for cell in found.cells if cell.context == "extra"} == {30}


def test_a_trick_of_an_added_stage_is_measured_inside_it():
    found = shape(design("extra/input_mixup"))
    assert found["extra", ()] == "first 15, extra 6 +square_root, finish 9"
    assert found["extra", ("extra/input_mixup",)] == "first 15, extra 6 +input_mixup +square_root, finish 9"


@pytest.mark.parametrize(
    "a, b, reason",
    [
        (
            "first/class_balanced",
            "first/square_root",
            "class_balanced and first/square_root are options of one choice",
        ),
        ("classifier", "deferred", "classifier and deferred are options of one choice"),
        ("deferred/class_balanced", "classifier", "deferred and classifier are options of one choice"),
        ("extra", "extra/input_mixup", "extra/input_mixup does not exist without extra"),
    ],
)
def test_labels_that_exclude_each_other_are_not_applicable(a, b, reason):
    found = design(a, b)
    assert len(found.impossible) == 1
    pair = found.impossible[0]
    assert isinstance(pair, Impossible) and {pair.a, pair.b} == {a, b} and pair.a < pair.b
    assert reason in pair.reason
    # the singles are there all the same
    assert {cell.tricks for cell in found.cells} >= {(a,), (b,)}
    assert (min(a, b), max(a, b)) not in {cell.tricks for cell in found.cells}


def test_equal_plans_have_equal_ids():
    one, two = design("first/cost_sensitive", "extra"), design("extra", "first/cost_sensitive", "classifier")
    first = {(cell.context, cell.tricks): cell.recipe.plan.id for cell in one.cells}
    second = {(cell.context, cell.tricks): cell.recipe.plan.id for cell in two.cells}
    assert first.items() <= second.items()
    assert len(set(second.values())) == len(second)


def test_one_cell_is_there_once():
    found = design("first/cost_sensitive", "first/class_balanced", "classifier")
    assert len(found.cells) == 1 + 3 + 3
    keys = [(cell.context, cell.tricks) for cell in found.cells]
    assert len(set(keys)) == len(keys)


def test_epochs_are_scaled_with_the_stages():
    plan = make_design(space(), STANDARD, 0.1).cells[0].recipe.plan
    assert line(plan) == "first 2, finish 1"


def test_what_cannot_be_trained_alone_is_refused():
    broken = Space(
        stages=[Stage("first", length=1, choose=[one_of(None, "ldam")])],
        screen=["first/ldam"],
    )
    with pytest.raises(PlanError, match="ldam needs 'cosine'"):
        make_design(broken, STANDARD)


def test_an_unknown_label_is_refused():
    with pytest.raises(PlanError, match="no choice of the space has the label 'first/nothing'"):
        make_design(space("first/nothing"), STANDARD)


def test_the_default_space_in_pairs():
    found = make_design(load_space("spaces/full_combo.py"), STANDARD, kind="pairs")
    cells = shape(found)
    fixed = ("representation/class_balanced", "representation/cost_sensitive", "representation/input_mixup")
    # no context: the baseline; three tricks of the first stage and the classifier alone; their six pairs
    plain = {on for context, on in cells if not context}
    assert plain == {
        (), *((label,) for label in (*fixed, "classifier")),
        (fixed[0], fixed[1]), (fixed[0], fixed[2]), (fixed[1], fixed[2]), *(("classifier", label) for label in fixed),
    }  # fmt: skip
    # with the balanced stage, or as many epochs before: itself, its pairs, and their other halves
    assert {on for context, on in cells if context == "balanced"} == {
        (), ("balanced",), ("classifier",), ("balanced", "classifier"),
        *((label,) for label in fixed), *(("balanced", label) for label in fixed),
    }  # fmt: skip
    deferred = "deferred/class_balanced"
    assert {on for context, on in cells if context == "deferred"} == {
        (), (deferred,), *((label,) for label in fixed), *((deferred, label) for label in fixed),
    }  # fmt: skip
    assert {on for context, on in cells if context == "balanced+deferred"} == {
        (), ("balanced",), (deferred,), ("balanced", deferred),
    }  # fmt: skip
    assert [(pair.a, pair.b) for pair in found.impossible] == [("classifier", deferred)]
    assert {cell.recipe.plan.epochs for cell in found.cells if "balanced" in cell.context} == {34}
    assert {cell.recipe.plan.epochs for cell in found.cells if "balanced" not in cell.context} == {30}


def test_numbers_of_a_cell_are_at_their_defaults():
    numbered = Space(
        stages=[Stage("first", length=1, choose=[one_of(None, trick("effective_number", beta=one_of(0.9, 0.999)))])],
        screen=["first/effective_number"],
    )
    on = make_design(numbered, STANDARD).cells[1].recipe.plan.stages[0].tricks[0]
    assert on.numbers["beta"] == 0.999


# --- blocks -----------------------------------------------------------------------------------------------


def blocks(design: Design, seeds: int) -> dict[tuple[str, ...], list[int]]:
    """The blocks of every cell, where there is one context."""
    found: dict[tuple[str, ...], list[int]] = {}
    for block, cell in design.runs(seeds):
        found.setdefault(cell.tricks, []).append(block)
    return found


NAMES = ("cost_sensitive", "class_balanced", "input_mixup", "cutout", "ema")
FIVE = Space(
    stages=[Stage("first", length=1, choose=[
        one_of(None, "cost_sensitive"), one_of(None, "class_balanced"), one_of(None, "input_mixup"),
        one_of(None, "cutout"), one_of(None, "ema"),
    ])],
    screen=["first/cost_sensitive", "first/class_balanced", "first/input_mixup", "first/cutout", "first/ema"],
)  # fmt: skip


def test_every_cell_runs_in_every_block():
    found = blocks(make_design(FIVE, STANDARD), 5)
    assert {len(cell) for cell in found} == {0, 1, 2}
    assert all(at == list(range(5)) for at in found.values())


def test_a_cut_design_has_whole_blocks_first():
    design = make_design(FIVE, STANDARD, kind="pairs")
    runs = [(block, cell.tricks) for block, cell in design.runs(3)]
    every = [cell.tricks for cell in design.cells]
    assert runs[: len(every)] == [(0, tricks) for tricks in every]
    assert [block for block, _ in runs] == sorted(block for block, _ in runs)
    assert len(runs) == len(set(runs))
    assert design.runs(0) == []
    assert set(runs) <= {(block, cell.tricks) for block, cell in design.runs(4)}


def test_primary_pairs_are_kept_sorted():
    design = make_design(FIVE, STANDARD, primary=["first/ema x first/cutout"])
    assert design.primary == (("first/cutout", "first/ema"),)


# --- factorial --------------------------------------------------------------------------------------------


def test_five_freely_crossable_labels_as_a_factorial():
    design = make_design(FIVE, STANDARD, kind="factorial")
    assert design.kind == "factorial" and str(design.fraction) == "resolution V, 16 runs, generator E = ABCD"
    # the sixteen combinations of an even number of labels; the baseline is there once
    cells = {tuple(sorted(some)) for size in (0, 2, 4) for some in combinations(FIVE.screen, size)}
    assert {cell.tricks for cell in design.cells} == cells and len(design.cells) == 16
    assert {cell.context for cell in design.cells} == {"factorial"}
    assert design.cells[0].title == "baseline" and design.impossible == ()
    assert design.pairs == tuple(sorted(tuple(sorted(pair)) for pair in combinations(FIVE.screen, 2)))
    assert all(set(cell.recipe.labels) == set(cell.tricks) for cell in design.cells)


def test_pairs_are_the_default_at_every_size():
    four = Space(stages=FIVE.stages, screen=FIVE.screen[:4])
    assert make_design(four, STANDARD).kind == make_design(FIVE, STANDARD).kind == "pairs"
    asked = make_design(four, STANDARD, kind="factorial")
    assert asked.kind == "factorial" and len(asked.cells) == 16 and str(asked.fraction) == "all 16 combinations"


def test_a_factorial_shares_one_context():
    screen = ["first/cost_sensitive", "first/class_balanced", "extra", "deferred/class_balanced", "classifier"]
    design = make_design(space(*screen), STANDARD, kind="factorial")
    # classifier and deferred exclude each other; the first in written order of the fewest optional stages is taken
    assert design.fraction is not None and len(design.fraction.labels) == 4
    assert set(design.fraction.labels) == {*screen[:3], "classifier"}
    crossed = [cell for cell in design.cells if cell.context == "factorial+extra"]
    assert len(crossed) == 16 and {cell.recipe.plan.epochs for cell in crossed} == {30}
    texts = {cell.tricks: line(cell.recipe.plan) for cell in crossed}
    assert texts[()] == "first 21, finish 9"
    assert texts["classifier", "extra"] == "first 15, extra 6 +square_root, classifier 9 +classifier"
    assert crossed[0].title == "baseline, as long as with extra"
    # the label that was left over keeps its pairs, each in its own context, beside the plain baseline
    assert design.cells[0].context == "" and design.cells[0].tricks == ()
    others = {(cell.context, cell.tricks) for cell in design.cells} - {(c.context, c.tricks) for c in crossed}
    deferred = "deferred/class_balanced"
    assert others == {
        ("", ()), *(("deferred", on) for on in ((), (deferred,))),
        *(("deferred", tuple(sorted(on))) for label in screen[:2] for on in ((label,), (label, deferred))),
        *(("deferred+extra", on) for on in ((), ("extra",), (deferred,), (deferred, "extra"))),
    }  # fmt: skip
    assert [(pair.a, pair.b) for pair in design.impossible] == [("classifier", deferred)]
    assert len(design.pairs) == 9


def test_a_primary_pair_decides_which_labels_are_crossed():
    screen = ["first/cost_sensitive", "first/class_balanced", "extra", "deferred/class_balanced", "classifier"]
    design = make_design(space(*screen), STANDARD, kind="factorial", primary=["extra×deferred/class_balanced"])
    assert design.fraction is not None and "deferred/class_balanced" in design.fraction.labels


def test_what_a_space_forbids_together_is_not_crossed():
    three = ("first/cost_sensitive", "first/class_balanced", "first/input_mixup")
    barred = Space(stages=FIVE.stages, screen=FIVE.screen, forbid=[forbid(*three, reason="a test")])
    design = make_design(barred, STANDARD, kind="factorial")
    assert design.fraction is not None and set(design.fraction.labels) == {*three[:2], "first/cutout", "first/ema"}
    assert make_design(barred, STANDARD).kind == "pairs"


def test_without_two_crossable_labels_there_is_no_factorial():
    with pytest.raises(DesignError, match="no two of the 2 labels of screen= can be freely crossed; use"):
        make_design(space("classifier", "deferred"), STANDARD, kind="factorial")


def test_the_default_space_as_a_factorial():
    design = make_design(load_space("spaces/full_combo.py"), STANDARD, kind="factorial")
    assert design.kind == "factorial" and str(design.fraction) == "resolution V, 16 runs, generator E = ABCD"
    assert set(design.fraction.labels) == {
        "representation/cost_sensitive", "representation/class_balanced", "representation/input_mixup", "balanced",
        "classifier",
    }  # fmt: skip
    assert Counter(cell.context for cell in design.cells) == {
        "": 1, "factorial+balanced": 16, "deferred": 8, "balanced+deferred": 4,
    }  # fmt: skip
    assert {cell.recipe.plan.epochs for cell in design.cells if cell.context == "factorial+balanced"} == {34}
    assert [(pair.a, pair.b) for pair in design.impossible] == [("classifier", "deferred/class_balanced")]
    assert len(design.pairs) == 14


def trials(cells: list[Cell], worth: dict[frozenset[str], float], seeds: int = 3) -> pd.DataFrame:
    """Trials without interactions but those given, and a little noise by hand."""
    rows = []
    for seed, (number, cell) in product(range(seeds), enumerate(cells)):
        value = 0.5 + sum(gain for on, gain in worth.items() if on <= set(cell.tricks))
        wiggle = 1e-3 * ((seed * 7 + number * 5) % 11 - 5)
        rows.append(
            {
                "arm": "design",
                "seed": seed,
                "first_stage": f"{number}-{seed}",
                "tricks": cell.tricks,
                "context": cell.context,
                "final/accuracy": value + wiggle,
            }
        )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("kind", "context"), [("pairs", ""), ("factorial", "factorial+balanced")])
def test_the_conflict_table_reads_the_design(kind, context):
    design = make_design(load_space("spaces/full_combo.py"), STANDARD, kind=kind)
    weights, sampler = "representation/cost_sensitive", "representation/class_balanced"
    worth = {frozenset({weights}): 0.09, frozenset({sampler}): 0.10, frozenset({weights, sampler}): -0.15}
    table = pairwise(trials(list(design.cells), worth), margin=0.02).set_index(["a", "b"])
    assert {pair for pair, row in table.iterrows() if row["verdict"] != "not applicable"} == set(design.pairs)
    judged = table.loc[sampler, weights]
    assert judged["verdict"] == "conflict" and judged["context"] == context
    assert judged["interaction"] == pytest.approx(-0.15, abs=0.005)
    others = table.drop(index=(sampler, weights))
    assert set(others["verdict"]) <= {"compatible", "better together", "not applicable"}


# --- primary pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a×b", "b × a", "a x b", " b  x a "])
def test_pairs_are_written_in_two_ways(text):
    assert pair_of(text) == ("a", "b")


@pytest.mark.parametrize("text", ["a", "a×a", "a×b×c", "×b", "axb", ""])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(DesignError, match="is not a pair of two different labels; write a×b or 'a x b'"):
        pair_of(text)


@pytest.mark.parametrize(
    "pair, reason",
    [
        ("first/cost_sensitiv × classifier", "no label 'first/cost_sensitiv' in screen=: did you mean"),
        ("classifier x deferred", "classifier × deferred cannot be judged: .* are options of one choice"),
    ],
)
def test_primary_pairs_that_cannot_be_judged_are_refused(pair, reason):
    with pytest.raises(DesignError, match=f"--primary: {reason}"):
        make_design(space("classifier", "deferred", "first/cost_sensitive"), STANDARD, primary=[pair])


@pytest.mark.parametrize("kind", ["factorials", "list", "list:", "pairs:x", "x"])
def test_another_kind_is_refused(kind):
    with pytest.raises(DesignError, match=r"allowed are pairs, factorial, list:FILE"):
        make_design(FIVE, STANDARD, kind=kind)


# --- lists ------------------------------------------------------------------------------------------------


def listed(tmp_path, text: str, name: str = "cells.txt") -> str:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return f"list:{file}"


LIST = """# two tricks of the first stage
baseline
first/cost_sensitive
first/class_balanced  # alone
first/class_balanced + first/cost_sensitive
first/cost_sensitive + extra
---
baseline
deferred/class_balanced
first/cost_sensitive
first/cost_sensitive+deferred/class_balanced
"""


def test_a_list_of_cells(tmp_path):
    design = make_design(space(), STANDARD, kind=listed(tmp_path, LIST))
    assert shape(design) == {
        ("", ()): "first 15, finish 9",
        ("extra", ()): "first 21, finish 9",
        ("extra", ("first/cost_sensitive",)): "first 21 +cost_sensitive, finish 9",
        ("extra", ("first/class_balanced",)): "first 21 +class_balanced, finish 9",
        ("extra", ("first/class_balanced", "first/cost_sensitive")):
            "first 21 +cost_sensitive +class_balanced, finish 9",
        ("extra", ("extra", "first/cost_sensitive")): "first 15 +cost_sensitive, extra 6 +square_root, finish 9",
        ("deferred", ()): "first 15, deferred 9",
        ("deferred", ("deferred/class_balanced",)): "first 15, deferred 9 +class_balanced",
        ("deferred", ("first/cost_sensitive",)): "first 15 +cost_sensitive, deferred 9",
        ("deferred", ("deferred/class_balanced", "first/cost_sensitive")):
            "first 15 +cost_sensitive, deferred 9 +class_balanced",
    }  # fmt: skip
    assert design.kind == "list" and design.cells[0].title == "baseline"
    assert design.pairs == (
        ("deferred/class_balanced", "first/cost_sensitive"), ("first/class_balanced", "first/cost_sensitive"),
    )  # fmt: skip
    assert {(pair.a, pair.b): pair.reason for pair in design.impossible} == {
        ("extra", "first/class_balanced"): "the list has no cell with extra and first/class_balanced together",
        ("extra", "first/cost_sensitive"): "the list has no cell with extra without first/cost_sensitive",
    }
    assert Counter(block for block, _ in design.runs(2)) == {0: 10, 1: 10}
    # what is said to be judged is what the conflict table judges
    table = pairwise(trials(list(design.cells), {}), margin=0.02)
    judged = table[table["verdict"] != "not applicable"]
    assert tuple(zip(judged["a"], judged["b"], strict=True)) == design.pairs


def test_a_list_in_yaml_and_one_with_commas_say_the_same(tmp_path):
    lines = "\n\nfirst/cost_sensitive\nfirst/class_balanced,first/cost_sensitive\nfirst/class_balanced\n"
    comma = make_design(space(), STANDARD, kind=listed(tmp_path, lines, "cells.csv"))
    text = (
        "- baseline\n- first/cost_sensitive\n- [first/cost_sensitive, first/class_balanced]\n- first/class_balanced\n"
    )
    yaml = make_design(space(), STANDARD, kind=listed(tmp_path, text, "cells.yaml"))
    assert shape(comma) == shape(yaml) and len(comma.cells) == 4
    documents = read_list_of(tmp_path, "- null\n- a\n---\n- baseline\n- [b]\n")
    assert documents == [[(), ("a",)], [(), ("b",)]]


def read_list_of(tmp_path, text: str) -> list[list[tuple[str, ...]]]:
    file = tmp_path / "groups.yaml"
    file.write_text(text, encoding="utf-8")
    return [[cell for _, cell in group] for group in read_list(file)]


def test_a_fraction_by_hand_judges_its_pairs():
    half = {frozenset(some) for size in (0, 2, 4) for some in combinations("abcde", size)}
    assert {lacking(half, a, b) for a, b in combinations("abcde", 2)} == {""}
    # without one run the others are no longer balanced
    assert lacking(half - {frozenset("cd")}, "a", "b") == "its four cells never have the same other tricks"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "the file lists no cell"),
        ("# nothing\n", "the file lists no cell"),
        ("first/cost_sensitive\n", "line 1: the baseline is not among the cells; add a line baseline"),
        ("baseline\nfirst/cost_sensitve\n", "line 2: no label 'first/cost_sensitve' in the space: did you mean"),
        ("baseline\nextra\n\nextra\n", "line 4: extra is there already, at .* line 2; remove one"),
        ("baseline\nextra+extra\n", "line 2: a label stands twice in extra . extra"),
        ("baseline\nclassifier\ndeferred\n", "line 1: .* options of one choice.*groups of their own"),
        (
            "baseline\nfirst/class_balanced + first/square_root\n",
            "line 2: first/class_balanced . first/square_root cannot be trained: .* are options of one choice",
        ),
    ],
)
def test_a_list_with_a_mistake_is_refused(tmp_path, text, reason):
    with pytest.raises(DesignError, match=reason):
        make_design(space(), STANDARD, kind=listed(tmp_path, text))


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DesignError, match=r"--design list:nowhere.txt: cannot read the file \(No such file"):
        make_design(space(), STANDARD, kind="list:nowhere.txt")
    with pytest.raises(DesignError, match=r"expected a list of cells, got \{'a': 1\}"):
        make_design(space(), STANDARD, kind=listed(tmp_path, "a: 1\n", "cells.yml"))
    with pytest.raises(DesignError, match=r"cell 1: expected labels joined by . or a list of them, got 3"):
        make_design(space(), STANDARD, kind=listed(tmp_path, "- 3\n", "cells.yml"))
    with pytest.raises(DesignError, match="not YAML"):
        make_design(space(), STANDARD, kind=listed(tmp_path, "- [a\n", "cells.yml"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DesignError, match="it is not UTF-8 text"):
        make_design(space(), STANDARD, kind=f"list:{tmp_path / 'binary.txt'}")


def test_a_primary_pair_must_be_among_the_pairs_of_a_list(tmp_path):
    kind = listed(tmp_path, LIST)
    pair = "first/cost_sensitive×first/class_balanced"
    assert make_design(space(), STANDARD, kind=kind, primary=[pair]).primary == (tuple(sorted(pair.split("×"))),)
    with pytest.raises(DesignError, match="extra × first/cost_sensitive cannot be judged: the list has no cell with"):
        make_design(space(), STANDARD, kind=kind, primary=["extra×first/cost_sensitive"])
    with pytest.raises(DesignError, match="no label 'classifier' in the list of cells"):
        make_design(space(), STANDARD, kind=kind, primary=["classifier×first/cost_sensitive"])

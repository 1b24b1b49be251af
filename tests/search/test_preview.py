"""`--dry-run`: counts and epochs by hand."""

import pytest
from rich.console import Console

from analysis.conflicts.contrasts import FEWEST_FIRST_STAGES as FEWEST
from search.console import preview
from search.console.preview import count, seconds_per_epoch, show, trained, tree
from search.context import SearchContext
from search.design.labels import make_design
from search.design.power_preview import FEWEST_FIRST_STAGES
from search.execution import epoch_time
from search.execution.joint_training import trained_apart
from search.scheduling.time_left.random_recipes import random_recipes
from search.settings import Settings
from spaces.domain import Space, Stage, forbid, integer, log_uniform, one_of, some_of, trick, uniform
from trainables.data import standard
from trainables.plan import build, defaults
from trainables.registry import PlanError

SPACE = Space(
    stages=[
        Stage("first", length=0.5, lr=log_uniform(0.01, 0.3, step="thirds"), choose=[
            one_of(None, "cost_sensitive", trick("effective_number", beta=one_of(0.9, 0.99, 0.999))),
            one_of(None, trick("input_mixup", alpha=uniform(0.2, 1.0, step=0.2))),
            some_of(trick("cutout", size=one_of(0.25, 0.5))),
        ]),
        one_of(None, Stage("balanced", length=0.2, members=integer(2, 4), choose=["few_shot", "average"])),
        one_of(Stage("finish", length=0.5, carry="all"),
               Stage("deferred", length=0.5, carry="all", choose=["class_balanced"])),
    ],
    screen=["first/cost_sensitive", "deferred"],
    forbid=[forbid("first/cost_sensitive", "first/input_mixup", reason="it is a test")],
)  # fmt: skip


def test_combinations_by_hand():
    # first: 3 weights × 2 mixes × 2 (cutout or not) = 12; balanced: none or it; two last stages
    # with numbers: 5 rates × (1 + 1 + 3) × (1 + 5) × (1 + 2) = 450; balanced: 1 + 3; last: 2
    assert count(SPACE) == (12 * 2 * 2, 450 * 4 * 2, False)


def test_a_continuous_number_is_said_and_counted_once():
    space = Space(stages=[Stage("only", length=1, lr=log_uniform(0.01, 0.3), choose=[one_of(None, "cost_sensitive")])])
    assert count(space) == (2, 2, True)


def plan(*labels):
    return build(SPACE, defaults(labels), standard("digits-lt")).plan


def test_epochs_with_reuse_by_hand():
    # of 90 epochs: one first stage of 45 (chains of one length share it), two ends of 45
    assert trained([plan(), plan("deferred")]) == 45 + 45 + 45
    # the same plan twice costs once
    assert trained([plan(), plan()]) == 90
    # another first stage is trained anew
    assert trained([plan(), plan("first/cost_sensitive")]) == 180
    # members multiply: 45, 2 × 18, and an end of 45 that starts from their merge
    assert trained([plan("balanced")]) == 45 + 36 + 45


def test_a_chain_of_another_length_shares_nothing():
    short = Space(stages=[Stage("first", length=0.5), Stage("finish", length=0.1, carry="all")])
    long = Space(stages=[Stage("first", length=0.5), Stage("finish", length=0.2, carry="all")])
    plans = [build(space, defaults(), standard("digits-lt")).plan for space in (short, long)]
    assert trained(plans) == (45 + 9) + (45 + 18)


def lines(renderable) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_tree_names_every_stage_and_choice():
    shown = lines(tree(SPACE))
    for text in ("first: length 0.5", "one of", "none", "balanced", "deferred", "carries all",
                 "none | cost_sensitive | effective_number(beta=0.9 | 0.99 | 0.999)", "any of cutout",
                 "screened for conflicts: first/cost_sensitive, deferred"):  # fmt: skip
        assert text in shown, text


def search(tmp_path, space=SPACE, **changes) -> SearchContext:
    settings = {"trials": 5, "seeds": 2, "epochs_scale": 0.1, "output": str(tmp_path), "max_concurrent": 2} | changes
    return SearchContext.make(space, Settings(name="x", space="s", data="digits-lt", **settings))


def test_it_shows_and_leaves_nothing(tmp_path):
    console = Console(width=160, record=True)
    show(console, search(tmp_path))
    shown = console.export_text()
    assert "At most 48 combinations of tricks and stages; 3,600 with their numbers." in shown
    assert "never together: first/cost_sensitive and first/input_mixup (it is a test)" in shown
    # design: 4 recipes of 4 + 4 epochs (45 × 0.1, rounded to even), 2 seeds: 8 × 8; the 8 ends are trained for each,
    # the starts shared by two: 8 × 4 + 4 × 4
    row = next(line for line in shown.splitlines() if "design" in line and "combinations" not in line).split("│")
    assert [cell.strip() for cell in row[1:7]][:6] == ["design", "4", "2", "8", "64", "48"]
    assert "on 2 slots" in shown and "How long that takes is unknown" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_time_is_that_of_the_last_search_here(tmp_path):
    looked = search(tmp_path)
    epoch_time.keep(looked.settings, looked.model, epoch_time.EpochTime(90.0, "median of search y"))
    console = Console(width=160, record=True)
    show(console, looked)
    shown = console.export_text()
    row = next(line for line in shown.splitlines() if "design" in line and "combinations" not in line).split("│")
    # 48 epochs of 90 s and 8 trials with 0.35 s around them, on 2 slots
    assert row[7].strip() == f"{(48 * 90 + 8 * 0.35) / 2 / 60:.1f} min" == "36.0 min"
    assert "90000 ms per epoch (median of search y)" in shown


def test_it_measures_where_asked_and_only_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(preview, "seconds_per_epoch", lambda looked: asked.append(1) or 0.5)
    for _ in range(2):
        console = Console(width=160, record=True)
        show(console, search(tmp_path), measure=True)
        assert "500 ms per epoch (of the baseline, measured on one slot of this machine)" in console.export_text()
    assert asked == [1]


def test_a_plan_of_one_epoch_has_a_length_in_time(tmp_path):
    space = Space(stages=[Stage("only", epochs=1)])
    assert seconds_per_epoch(search(tmp_path, space, epochs_scale=1.0)) > 1e-3


@pytest.mark.timeout(60)
def test_a_space_in_which_nothing_can_be_trained_does_not_hang(tmp_path):
    space = Space(
        stages=[Stage("first", length=1, choose=[one_of(None, "class_balanced"), one_of("cost_sensitive")])],
        forbid=[forbid("first/cost_sensitive", "first/class_balanced", reason="a test")],
    )
    recipes = list(random_recipes(search(tmp_path, space).factory, 5, 6))
    assert len(recipes) == 5 and len({recipe.plan.id for recipe in recipes}) == 1


def test_shortened_plans_are_counted(tmp_path):
    from search.console.preview import _arms

    made = search(
        tmp_path, Space(stages=[Stage("only", epochs=8)]), epochs_scale=1.0, rung_score="shortened", rungs=(0.25, 0.5)
    )
    arms = {name: row for name, *row in _arms(made, make_design(made.space, made.standard, 1.0))}
    # five trials of 2, 4 and 8 epochs; there is one recipe, so with re-use it is trained once
    assert arms["adaptive"][-2:] == [5 * 14, 14]


@pytest.mark.parametrize("blocks, said", [(2, True), (3, False), (0, False)])
def test_checks_that_can_show_nothing_are_said(tmp_path, blocks, said):
    console = Console(width=200, record=True)
    show(console, search(tmp_path, check_seeds=blocks))
    assert (f"--check-seeds {blocks} is too few for pairs of the first stage" in console.export_text()) == said
    assert FEWEST_FIRST_STAGES == FEWEST


def test_what_cannot_be_trained_jointly_is_said(tmp_path):
    space = Space(
        stages=[
            Stage("first", epochs=1, optimizer="adamw", lr=1e-3),
            Stage("balanced", epochs=1, members=2, choose=["few_shot", "classifier", "average"]),
            Stage("finish", epochs=1),
        ]
    )
    said = trained_apart(search(tmp_path, space, fused_trials="on", fused_members="on"))
    assert said == [
        "--fused-trials on: the seeds of a recipe are trained one by one in 'first' (AdamW, layer-wise learning rates "
        "or clipping), 'balanced' (members)",
        "--fused-members on: members are trained one by one in 'balanced' (a train trick)",
    ]
    assert trained_apart(search(tmp_path, space)) == []
    (everywhere,) = trained_apart(search(tmp_path, fused_trials="on", model="resnet10"))
    assert everywhere.endswith("one by one in all stages (MaxPool2d cannot be stacked)")
    console = Console(width=200, record=True)
    show(console, search(tmp_path, fused_trials="on", model="resnet10"))
    assert "all stages (MaxPool2d cannot be stacked)" in console.export_text()


def test_a_trick_that_finds_no_layer_is_refused(tmp_path):
    space = Space(
        stages=[Stage("first", epochs=1), Stage("tuned", epochs=1, choose=[one_of(None, "lora", "adapt_former")])]
    )
    with pytest.raises(PlanError, match="stage 'tuned': trick 'adapt_former': no block of the backbone has an MLP"):
        show(Console(record=True), search(tmp_path, space))

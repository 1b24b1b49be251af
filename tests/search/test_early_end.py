"""The adaptive arm ends early for a reason, the same one on any number of slots, and spends what it saves as asked."""

import dataclasses
import io
import json
import math
import random
import shutil
from contextlib import redirect_stdout

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from scipy.stats import norm

from analysis.conflicts import pairwise
from analysis.conflicts.verdicts import rule_for
from analysis.records.schema import Point
from search.option import SettingsError
from search.phases.verdicts import notes
from search.request import make_request
from search.scheduling.early_end import gain_bound as model
from search.scheduling.early_end.gain_bound import encoded, gain_bound
from search.scheduling.early_end.rule import EarlyEnd
from search.scheduling.epochs import of_proposals
from spaces.domain import Space, Stage, log_uniform, one_of, to_dict
from tests.search import in_process
from tests.search.test_orchestrator import World, accuracy, played, record
from tests.search.test_verify import events_of, rewrite, verified

PLATEAU = {"seeds": 2, "trials": 26, "race": False, "children_per_start": 3, "patience": 6}

SPACE = Space(
    stages=[
        Stage("first", length=0.5, lr=log_uniform(0.01, 0.3, step="thirds"), choose=[
            one_of(None, "cost_sensitive"), one_of(None, "label_smoothing"), one_of(None, "input_mixup")]),
        one_of(Stage("finish", length=0.5, carry="weights"),
               Stage("deferred", length=0.5, carry="weights", choose=["class_balanced"])),
    ],
    screen=["first/cost_sensitive", "deferred/class_balanced"],
)  # fmt: skip
"""What helps is in the design: proposals cannot beat the pair by a margin of 30 points in the world of `accuracy`."""


def world(folder, **settings) -> World:
    return World(folder, SPACE, **{"margin": 0.3} | PLATEAU | settings)


def proposals(found: World) -> list[str]:
    return [name for name, request in found.orchestrator.state.requests.items() if request.number is not None]


# --- the model ----------------------------------------------------------------------------------------------


def tried(value, state=TrialState.COMPLETE, **params):
    domains = {"trick": CategoricalDistribution(["none", "a", "b"]), "lr": FloatDistribution(0.01, 1.0, log=True)}
    return create_trial(
        state=state, values=None if value is None else [value], params=params,
        distributions={name: domains[name] for name in params},
    )  # fmt: skip


def test_recipes_are_points_whose_distance_counts_their_different_choices():
    points = encoded([tried(0.5, trick="a", lr=0.01), tried(0.5, trick="b", lr=1.0), tried(0.5, trick="a", lr=0.1)])
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert np.allclose(gaps, [[0, math.sqrt(2), 0.5], [math.sqrt(2), 0, math.sqrt(1.25)], [0.5, math.sqrt(1.25), 0]])
    # a choice that a recipe does not have is a value of its own
    absent = encoded([tried(0.5, trick="a", lr=0.1), tried(0.5, lr=0.1)])
    assert np.linalg.norm(absent[0] - absent[1]) == pytest.approx(1)


def test_the_gain_is_that_of_a_gaussian_process_worked_out_by_hand(monkeypatch):
    """One recipe tried, one proposed, a single kernel: f₁ − f₀ is normal."""
    for name, value in {"FEWEST": 1, "SIGNALS": 1, "SCALES": (1.0,), "DRAWS": 400_000}.items():
        monkeypatch.setattr(model, name, value)
    signal, noise, level = 0.05, 0.03**2, 0.2**2  # the signal of a single one is a quarter of the margin of 0.2
    found = gain_bound(
        [tried(0.7, trick="a")], [tried(None, TrialState.RUNNING, trick="b")], lambda trial: noise, 0.2, 0
    )
    root = math.sqrt(5)
    between = signal**2 * (1 + root + 5 / 3) * math.exp(-root)
    prior = np.array([[signal**2, between], [between, signal**2]]) + level
    posterior = prior - np.outer(prior[:, 0], prior[0]) / (prior[0, 0] + noise)
    deviation = math.sqrt(posterior[0, 0] + posterior[1, 1] - 2 * posterior[0, 1])
    assert found == pytest.approx(deviation * norm.ppf(0.9), abs=2e-4)


def test_nothing_is_expected_of_recipes_that_were_tried_and_much_of_a_noisy_unknown_space():
    draws = random.Random(0)
    known = [
        tried(0.7 + 0.05 * (trick == "a") + draws.gauss(0, 0.002), trick=trick, lr=lr)
        for trick in ("none", "a") for lr in (0.01, 0.1, 1.0) for _ in range(3)
    ]  # fmt: skip
    same = [tried(None, TrialState.RUNNING, trick="none", lr=lr) for lr in (0.01, 0.1, 1.0)]
    other = [tried(None, TrialState.RUNNING, trick="b", lr=lr) for lr in (0.01, 0.1, 1.0)]
    gains = [gain_bound(known, ahead, lambda trial: 4e-6, 0.01, 0) for ahead in (same, other, [*same, *other])]
    assert 5 * gains[0] < 0.001 < gains[1] <= gains[2] + 1e-4
    # how good a trial would have been that was stopped is not known
    stopped = [tried(None, TrialState.PRUNED, trick="b", lr=lr) for lr in (0.01, 0.1, 1.0)]
    assert gain_bound([*known, *stopped], other, lambda trial: 4e-6, 0.01, 0) == gains[1]
    # what has turned out no better is not expected to be
    worse = [tried(0.70 + draws.gauss(0, 0.002), trick="b", lr=lr) for lr in (0.01, 0.1, 1.0)]
    assert gain_bound([*known, *worse], other, lambda trial: 4e-6, 0.01, 0) < gains[1] / 2
    assert gain_bound(known[:5], other, lambda trial: 4e-6, 0.01, 0) == math.inf


# --- the arm --------------------------------------------------------------------------------------------------


def test_an_arm_that_stagnates_ends_with_its_reason(tmp_path):
    ended = world(tmp_path)
    ended.play()
    (end,) = ended.orchestrator.state.early_ends
    assert end.asked == len(proposals(ended)) < 26 and end.asked + end.saved == 26
    assert end.stagnant >= 6 == end.ahead and end.gain < end.margin == 0.3
    assert ended.orchestrator.phase == "done" and ended.orchestrator.proposer.exhausted is False
    assert str(end).startswith(
        f"The adaptive arm ended after {end.asked} of 26 proposals: the last {end.stagnant} did not"
    )
    # the rule by hand: no result of the last proposals is better by the margin than the best before them
    values = [accuracy(ended.orchestrator.state.requests[name]) for name in proposals(ended)][: end.asked - 3]
    taught = [trial.values[0] for trial in ended.orchestrator.sampler.trials if "arm" in trial.user_attrs]
    assert max(values[-end.stagnant :]) < max(taught + values[: -end.stagnant]) + 0.3


@pytest.mark.parametrize("changed", [{"patience": 0}, {"patience": None}, {"patience": 26}, {"margin": 0.0001}])
def test_an_arm_makes_all_of_its_proposals_without_a_reason_to_end(tmp_path, changed):
    """Switched off, not patient enough to notice, or with more to gain than matters."""
    whole = world(tmp_path, **changed)
    whole.play()
    assert len(proposals(whole)) == 26 and not whole.orchestrator.state.early_ends


def test_slots_and_delays_change_neither_the_end_nor_any_trial(tmp_path):
    found = []
    for number, slots in enumerate((1, 2, 5)):
        one = world(tmp_path / str(number))
        trials = played(one, slots, random.Random(number))
        found.append((trials, one.orchestrator.state.early_ends))
    assert found[0][1] and all(other == found[0] for other in found[1:])


def test_a_search_that_is_killed_anywhere_comes_to_the_same_end(tmp_path):
    whole = world(tmp_path / "whole")
    whole.play()
    events = whole.journal.events()
    at = next(number for number, event in enumerate(events) if event["event"] == "early_end")
    for cut in (at - 5, at, at + 1):
        again = world(tmp_path / str(cut))
        lines = whole.journal.path.read_bytes().splitlines(keepends=True)
        again.journal.path.write_bytes(b"".join(lines[:cut]))
        again.begin()
        again.play()
        assert proposals(again) == proposals(whole)
        assert again.orchestrator.state.early_ends == whole.orchestrator.state.early_ends
        assert [event["event"] for event in again.journal.events()].count("early_end") == 1


def test_trials_that_are_added_after_the_end_are_as_many_as_asked_for(tmp_path):
    longer = world(tmp_path)
    longer.play()
    (end,) = longer.orchestrator.state.early_ends
    longer.change(trials=31)
    assert longer.orchestrator.schedule.unplanned["adaptive"] == 5
    longer.play()
    assert len(proposals(longer)) == end.asked + 5, "the patience begins again with them"
    assert len(longer.orchestrator.state.early_ends) == 1


def test_a_changed_space_gets_the_whole_patience(tmp_path):
    grown = world(tmp_path, patience=0, trials=12)
    grown.play()
    change = {"space": to_dict(SPACE), "differences": [], "set_aside": {}, "context": None, "trials": 20}
    grown.journal.write("space", **change)
    grown.change(patience=6, trials=26)
    grown.play()
    (end,) = grown.orchestrator.state.early_ends
    # the proposal that ends the arm knows all but the last three
    assert end.asked >= 12 + 6 + 3 and end.stagnant <= end.asked - 3 - 12


class Doubtful(World):
    """One direction stays unknown: its pair's accuracy lies about a margin below that of its first trick."""

    def end(self, request, outcome="finished", value=None):
        value = accuracy(request)
        if request.arm == "design" and len(request.tricks) == 2:
            value += 0.3 * (random.Random(request.seed).random() - (0.8 if request.seed < 5 else 0.55))
        return super().end(request, outcome, value)


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory):
    """A search whose arm has ended twice: the first end saves too little for one block, the second one enough."""
    pair = "deferred/class_balanced×first/cost_sensitive"
    settings = PLATEAU | {"trials": 10, "seeds": 5, "spend_on": "verdicts", "primary": (pair,)}
    deferred = Stage("deferred", length=0.5, carry="weights", choose=[one_of(None, "class_balanced")])
    space = dataclasses.replace(SPACE, stages=[SPACE.stages[0], one_of(SPACE.stages[1].options[0], deferred)])
    found = Doubtful(tmp_path_factory.mktemp("doubtful"), space, 0.1, **settings)
    found.play()
    assert len(found.orchestrator.state.early_ends) == 1 and not found.orchestrator.state.looks
    found.change(trials=30)
    found.play()
    assert len(found.orchestrator.state.early_ends) == 2
    return found


def test_each_early_end_is_spent_once(doubtful):
    state = doubtful.orchestrator.state
    (look,), end = state.looks, state.early_ends[-1]
    # 45 epochs for each stage that differs in what is trained, in the stage before it or in the seed
    trained = {
        (request.seed, *(repr(dataclasses.replace(stage, name="")) for stage in request.recipe.plan.stages[:number]))
        for request in (state.requests[name] for name in proposals(doubtful)[: end.asked]) for number in (1, 2)
    }  # fmt: skip
    assert look["asked"] == end.asked and look["saved"] == 45 * len(trained) * end.saved // end.asked
    added = [request for request in state.requests.values() if request.arm == "design" and request.seed >= 5]
    # two cells a block, whose first stage is the same
    assert look["spent"] == 135 * len(added) / 2 <= look["saved"]
    said = notes(state)
    assert said[1] == "This saved about 70 epochs, but no declared direction could use it."
    assert said[3].startswith(f"Of about {look['saved']} epochs that this saved, {look['spent']} went to further seeds")
    (row,) = state.conflicts().to_dict("records")
    assert row["a_given_b_verdict"] == "unknown", "more blocks would be wanted, and nothing is left to pay for them"


def test_seeds_that_are_added_after_an_early_end_was_spent_are_a_third_look(doubtful):
    doubtful.change(seeds=8)
    doubtful.play()
    state = doubtful.orchestrator.state
    assert state.added_blocks == [5, 5] and len(state.looks) == 1
    trials = state.frame(("design", "verdicts"))
    (row,) = state.conflicts().to_dict("records")
    (third,) = pairwise(trials, margin=0.1, primary=state.settings.primary, look=3).to_dict("records")
    assert row["look"] == 3 and row["b_given_a_p"] == third["b_given_a_p"]
    assert rule_for(True, 0.1, 0.95, 0.1, row["look"]).alpha == pytest.approx(0.2 * 0.05)


def test_what_proposals_cost_is_what_they_have_trained(tmp_path):
    """Hand-worked for plans of 45 + 45 epochs, shortened to 0.2 and 0.4 of them."""
    found = world(tmp_path, trials=4, rungs=(0.2, 0.4), children_per_start=1, lag=4)
    while len(proposals(found)) < 4:
        request = found.orchestrator.next()
        if request.number is None:
            found.end(request)
    state = found.orchestrator.state
    names, costs = proposals(found), []
    for name, outcome, reached in zip(names, ("finished", "stopped", "diverged", "failed"), (2, 1, 1, 0), strict=True):
        points = [Point("finish", 0, 90, rung, {"shortened": 0.5}) for rung in (0.2, 0.4)[:reached]]
        taken = dataclasses.replace(record(state.requests[name], outcome), curve=points)
        if outcome != "failed":
            state.records[name] = taken
        costs.append(of_proposals(state, [name]))
    assert costs == [18 + 36 + 90, 18, 18, 0] and of_proposals(state, names) == sum(costs)
    # what a later change of the space sets aside was trained all the same
    state.change_space(dict.fromkeys(names, "the space no longer has it"), None)
    assert not set(names) & set(state.records) and of_proposals(state, names) == sum(costs)


# --- the options ----------------------------------------------------------------------------------------------


def test_the_patience_follows_from_the_number_of_trials_and_is_kept():
    space = {"space": SPACE, "data": "digits-lt"}
    assert [make_request(space | {"trials": trials}).settings.patience for trials in (12, 40, 300)] == [15, 15, 100]
    assert make_request(space | {"patience": 0}).settings.patience == 0
    with pytest.raises(SettingsError, match="--spend-on verdicts needs declared pairs: --primary a×b"):
        make_request(space | {"spend_on": "verdicts"})
    with pytest.raises(SettingsError, match="--spend-on verdicts needs an early end: leave --no-early-end out"):
        make_request(space | {"spend_on": "verdicts", "primary": ["a×b"], "patience": 0})


def test_an_end_survives_its_way_through_the_journal():
    end = EarlyEnd(asked=26, saved=14, stagnant=15, ahead=15, gain=0.0083, margin=0.02)
    assert EarlyEnd(**json.loads(json.dumps(end.to_dict()))) == end
    assert str(end) == (
        "The adaptive arm ended after 26 of 40 proposals: the last 15 did not improve on the best recipe by the margin "
        "of 2.0 points, and by its model the next 15 gain at most 0.8 with 90 % probability"
    )


# --- whole searches -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A whole search that ends early and spends on its declared pair what it saves; its folder, and what was said.

    On 18 val images everything may still gain more than the margin: the median of the gain decides here.
    """
    place = tmp_path_factory.mktemp("ended")
    patch = pytest.MonkeyPatch()
    patch.setattr(model, "CONFIDENCE", 0.5)
    said = io.StringIO()
    with redirect_stdout(said):
        result = in_process.run(
            place, trials=24, seeds=4, patience=4, race=False, spend_on="verdicts",
            primary=["first/cost_sensitive×first/class_balanced"],
        )  # fmt: skip
    assert result.complete
    yield place / "results" / "s", said.getvalue(), result
    patch.undo()


def test_what_an_early_end_saves_goes_to_the_direction_that_is_not_known(ended):
    folder, said, result = ended
    events = events_of(folder)
    (end,) = [event["end"] for event in events if event["event"] == "early_end"]
    (look,) = [event["look"] for event in events if event["event"] == "look"]
    design, further = (result.trials[(result.trials["arm"] == "design") & mask] for mask in (
        result.trials["seed"] < 4, result.trials["seed"] >= 4))  # fmt: skip
    # the two cells that the direction is the difference of, block by block, and never more than was saved
    assert {frozenset(tricks) for tricks in further["tricks"]} == {
        frozenset({"first/cost_sensitive"}), frozenset({"first/cost_sensitive", "first/class_balanced"})
    }  # fmt: skip
    assert set(further["seed"]) == set(range(4, 4 + len(further) // 2)) and len(further) >= 2
    assert further["epochs"].sum() == look["spent"] <= look["saved"]
    spent = result.trials.loc[result.trials["arm"] == "adaptive", "epochs_trained"]
    assert look["saved"] <= spent.sum() / end["asked"] * end["saved"]
    # they are an interim analysis, whose share of the error rate was left for it
    (row,) = result.conflicts.to_dict("records")
    assert row["look"] == 2 and row["n_seeds"] == 4 and len(design) == 16
    # told on the screen, to programs and to people
    sentence = str(EarlyEnd(**end))
    assert sentence in said and f"{look['spent']} went to further seeds for declared pairs" in said
    assert json.loads((folder / "findings.json").read_text())["early_ends"] == [end]
    assert sentence in (folder / "report.html").read_text() and sentence in result._repr_html_()


def test_an_early_end_follows_from_the_journal_or_is_refused(ended, tmp_path, capsys):
    folder = ended[0]
    assert verified(folder, capsys)[0] == 0
    copy = tmp_path / "results" / "s"
    shutil.copytree(folder, copy)
    settings = json.loads((copy / "search.json").read_text())
    changed = {"id": "another", "project": str(tmp_path), "output": "results"}
    (copy / "search.json").write_text(json.dumps(settings | changed))
    honest = events_of(folder)
    at = next(number for number, event in enumerate(honest) if event["event"] == "early_end")
    number = next(number for number, event in enumerate(honest) if event["event"] == "task")
    forged = json.loads(json.dumps(honest))
    forged[at]["end"]["gain"] = 0.0001
    sooner = [*honest[: number + 2], honest[at]]
    for events, why in ((forged, "would have been decided otherwise"), (sooner, "would not have been decided there")):
        rewrite(copy, events)
        code, _, refused = verified(copy, capsys)
        assert code != 0 and any("early_end" in line and why in line for line in refused), refused

"""CohortASHA by hand: what is compared, with whom, and who is stopped."""

from types import SimpleNamespace

import pytest

from search.execution.gpu_shares import ResourceAllocator, Share
from search.execution.ray_tune import TuneScheduler
from search.scheduling.early_stopping import CohortASHA, Decision, stages_of
from spaces.domain import Space, Stage, one_of
from trainables.data import standard
from trainables.plan import build, defaults

pytestmark = pytest.mark.smoke


def point(progress: float, score: float, stage: str = "a", epoch: int = 5) -> dict:
    metrics = {"accuracy": score, "class_means": score, "adjusted": score}
    return {"stage": stage, "member": 0, "epoch": epoch, "progress": progress, "metrics": metrics}


def rule(rungs=(0.5, 0.75), factor=3.0, score="class_means", least=4) -> CohortASHA:
    return CohortASHA(rungs, factor, score, least)


TO_COME = {"a": "all", "b": ""}


def judged(halving: CohortASHA, scores: dict[str, float], kinds: dict[str, str] = TO_COME, **where) -> list[str]:
    """Names of the trials that are stopped."""
    return [
        name for name, score in scores.items()
        if halving.judge(name, kinds, [point(where.get("progress", 0.5), score, where.get("stage", "a"))])
    ]  # fmt: skip


def test_the_best_part_goes_on():
    halving = rule((0.5,), factor=2)
    # 4 trials: the best 2 are 0.6 and 0.5, so the 4th, 0.4, is below the cut of 0.5
    assert judged(halving, {"a": 0.6, "b": 0.5, "c": 0.3, "d": 0.4}) == ["d"]
    # 5 trials: still the best 2; 6: the best 3, 0.7, 0.6 and 0.55; 7: still these
    assert judged(halving, {"e": 0.7, "f": 0.55, "g": 0.5}) == ["g"]


def test_fewer_than_four_stop_nobody():
    assert judged(rule((0.5,), factor=3), {"a": 0.9, "b": 0.8, "c": 0.1}) == []
    assert judged(rule((0.5,), factor=3, least=3), {"a": 0.9, "b": 0.8, "c": 0.1}) == ["c"]


def test_the_first_of_a_rung_is_never_stopped_whatever_the_factor():
    # 4 trials, factor 10: max(1, 0) goes on
    assert judged(rule((0.5,), factor=10), {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}) == []


def test_ties_go_on():
    assert judged(rule((0.5,), factor=2), dict.fromkeys("abcdef", 0.5)) == []


def test_cohorts_are_kept_apart():
    halving = rule((0.5,), factor=2)
    strong = {"a": 0.9, "b": 0.9, "c": 0.9, "d": 0.9}
    assert judged(halving, strong) == []
    # other kinds of stages to come, or another stage of the plan: these are alone
    assert judged(halving, {"e": 0.1, "f": 0.1, "g": 0.1}, kinds={"a": "weights"}) == []
    assert judged(halving, {"h": 0.1, "i": 0.1, "j": 0.1}, stage="b") == []
    # and another rung of the same plans
    later = rule((0.5, 0.75), factor=2)
    assert judged(later, strong, progress=0.5) == []
    assert judged(later, {"k": 0.1, "l": 0.1}, progress=0.75) == ["k", "l"]  # by the rung of 0.5 that they pass
    assert judged(halving, {"m": 0.1}) == ["m"]


def test_a_trial_is_judged_once_at_a_rung():
    halving = rule((0.5,), factor=2)
    judged(halving, {"a": 0.9, "b": 0.8, "c": 0.7})
    assert halving.judge("d", TO_COME, [point(0.4, 0.1), point(0.6, 0.8), point(0.7, 0.1)]) is None


def test_a_reused_stage_is_judged_at_every_rung_that_it_passed():
    halving = rule((0.25, 0.5, 0.75), factor=2)
    for name, low, high in (("a", 0.9, 0.2), ("b", 0.8, 0.3), ("c", 0.7, 0.4)):
        assert halving.judge(name, TO_COME, [point(0.25, low), point(0.5, high)]) is None
    # its whole first stage comes at once: it holds at 0.25 (best 2 of 4: 0.9, 0.85) and falls short at 0.5
    decision = halving.judge("d", TO_COME, [point(0.25, 0.85, epoch=2), point(0.5, 0.1, epoch=4)])
    assert decision == Decision(
        0.5, "class_means", value=0.1, cut=0.3, among=4, cohort="a, with stages to come that carry all", epoch=4
    )
    # a fifth is compared with what the replay left at 0.25: 0.9, 0.85 of 5
    assert halving.judge("e", TO_COME, [point(0.25, 0.8)]).cut == 0.85


def test_one_point_may_pass_two_rungs():
    halving = rule((0.25, 0.5), factor=2)
    for name in "abc":
        halving.judge(name, TO_COME, [point(0.3, 0.5), point(0.6, 0.9)])
    assert halving.judge("d", TO_COME, [point(0.6, 0.6)]).rung == 0.5


def test_what_is_recalled_counts_and_is_not_judged():
    halving = rule((0.5, 0.75), factor=2)
    for name, score in zip("abcd", (0.9, 0.8, 0.7, 0.1), strict=True):
        halving.recall(name, TO_COME, [point(0.5, score), point(0.75, score)])
    # d would have been stopped at 0.5 and stands at 0.75 all the same: the best 2 of 5 are 0.9, 0.8
    decision = halving.judge("e", TO_COME, [point(0.5, 0.85), point(0.75, 0.5)])
    assert (decision.rung, decision.cut, decision.among) == (0.75, 0.8, 5)
    halving.recall("e", TO_COME, [point(0.75, 1.0)])  # once only
    assert halving.judge("f", TO_COME, [point(0.5, 0.85), point(0.75, 0.5)]).cut == 0.7


def test_what_is_recalled_of_a_stopped_trial_ends_where_it_was_stopped():
    """One point behind two rungs: the later one it never came to, neither when it was judged nor after a resume."""
    live, resumed = rule((0.25, 0.5), factor=2), rule((0.25, 0.5), factor=2)
    curves = {name: [point(0.6, score)] for name, score in zip("abcd", (0.9, 0.8, 0.7, 0.1), strict=True)}
    stops = {name: live.judge(name, TO_COME, curve) for name, curve in curves.items()}
    assert [name for name, stop in stops.items() if stop] == ["d"] and stops["d"].rung == 0.25
    for name, curve in curves.items():
        resumed.recall(name, TO_COME, curve, 1.0 if stops[name] is None else stops[name].rung)
    assert resumed.scores == live.scores
    cohort = "a, with stages to come that carry all"
    assert set(live.scores[0.25, cohort]) == set("abcd") and set(live.scores[0.5, cohort]) == set("abc")


def test_the_score_is_the_one_asked_for():
    for score in ("accuracy", "adjusted", "class_means"):
        halving = rule((0.5,), factor=2, score=score)
        for name, value in zip("abcd", (0.9, 0.8, 0.7, 0.1), strict=True):
            metrics = dict.fromkeys(("accuracy", "adjusted", "class_means"), 1.0) | {score: value}
            decision = halving.judge(name, TO_COME, [{**point(0.5, 0), "metrics": metrics}])
        assert (decision.score, decision.value) == (score, 0.1)


def test_the_sentence():
    decision = Decision(0.5, "adjusted", 0.4125, 0.625, 7, "first, with no stage to come", 12)
    assert str(decision) == (
        "stopped at 50% of its plan: adjusted 41.2% is below 62.5%, "
        "the cut among 7 trials in first, with no stage to come"
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"rungs": (0.75, 0.5)}, "--rungs must be ascending fractions in (0, 1), got 0.75, 0.5"),
        ({"rungs": (0.5, 0.5)}, "--rungs must be ascending fractions in (0, 1), got 0.5, 0.5"),
        ({"rungs": (0.0, 0.5)}, "--rungs must be ascending fractions in (0, 1), got 0.0, 0.5"),
        ({"rungs": (0.5, 1.0)}, "--rungs must be ascending fractions in (0, 1), got 0.5, 1.0"),
        ({"rungs": (float("nan"),)}, "--rungs must be ascending fractions in (0, 1), got nan"),
        ({"factor": 1}, "--reduction-factor must be above 1, got 1"),
        ({"factor": float("nan")}, "--reduction-factor must be above 1, got nan"),
        ({"score": "loss"}, "--rung-score must be one of accuracy, adjusted, class_means, shortened, got 'loss'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(arguments, sentence):
    with pytest.raises(ValueError) as caught:
        rule(**arguments)
    assert str(caught.value) == sentence


def test_the_newest_waiting_trial_gets_the_free_process():
    """Given to the oldest, a free process would call off the one that is on its way for it, again and again."""
    trials = [
        SimpleNamespace(name=name, status=status)
        for name, status in (
            ("done", "TERMINATED"),
            ("its process is on its way", "PENDING"),
            ("new", "PENDING"),
            ("runs", "RUNNING"),
        )
    ]
    scheduler = TuneScheduler(SimpleNamespace(running={}), rule(), ResourceAllocator(Share(1, 0), Share(1, 0)), 2)
    controller = SimpleNamespace(get_trials=lambda: trials, stop_trial=lambda trial: None)
    assert scheduler.choose_trial_to_run(controller).name == "new"
    trials[1:3] = []
    assert scheduler.choose_trial_to_run(controller) is None


def test_only_the_adaptive_arm_is_judged_and_what_finishes_is_noted():
    tasks = {
        name: SimpleNamespace(
            id=name, arm=arm, may_stop=arm == "adaptive", recipe=SimpleNamespace(plan=SimpleNamespace(stages=()))
        )
        for name, arm in (("a", "adaptive"), ("b", "adaptive"), ("c", "adaptive"), ("d", "design"), ("e", "adaptive"))
    }
    proposer = SimpleNamespace(peers=lambda trial: lambda other: True)
    driver = SimpleNamespace(state=SimpleNamespace(requests=tasks), proposer=proposer)
    scheduler = TuneScheduler(driver, rule((0.5,), factor=2), ResourceAllocator(Share(1, 0), Share(1, 0)), 2)

    def report(name, score, outcome="running"):
        trial = SimpleNamespace(config={"task": name})
        return scheduler.on_trial_result(None, trial, {"outcome": outcome, "points": [point(0.5, score)]})

    # two that came to their end in one report, all from a re-used stage: no verdict, but they are of the cohort
    assert [report(name, score, "finished") for name, score in (("a", 0.9), ("b", 0.8))] == ["CONTINUE"] * 2
    # so is a published recipe, which runs to its end whatever it shows
    tasks["c"].may_stop = False
    assert report("c", 0.2) == report("d", 0.1) == "CONTINUE"
    assert report("e", 0.5) == "STOP"
    assert scheduler.decisions["e"].among == 4 and set(scheduler.decisions) == {"e"}


def test_no_rungs_stop_nobody():
    assert judged(rule(()), {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.1}) == []


def test_kinds_are_how_the_stages_to_come_carry():
    last = one_of(Stage("finish", length=0.3, carry="all"), Stage("classifier", length=0.3, carry="weights"))
    space = Space(stages=[Stage("one", length=0.5), Stage("two", length=0.2, carry="weights"), last])
    assert stages_of(build(space, defaults(), standard("digits-lt")).plan) == {
        "one": "all and weights", "two": "all", "finish": "",
    }  # fmt: skip
    other = build(space, defaults(["classifier"]), standard("digits-lt")).plan
    assert stages_of(other) == {"one": "weights", "two": "weights", "classifier": ""}


def shortened(rung: float, value: float, stage: str = "b") -> dict:
    return {"stage": stage, "member": 0, "epoch": 5, "progress": rung, "metrics": {"shortened": value}}


def test_shortened_plans_are_one_cohort_and_the_plan_itself_is_not_judged():
    halving = rule((0.25, 0.5), factor=2, score="shortened")
    for name, value, last in (("a", 0.9, "b"), ("b", 0.8, "c"), ("c", 0.7, "b")):
        kinds = {"a": "all", last: ""}
        assert halving.judge(name, kinds, [shortened(0.25, value, last), shortened(0.5, value, last)]) is None
    # the plan itself passes the same fractions, with a low accuracy on its way
    assert halving.judge("a", TO_COME, [point(0.25, 0.01), point(0.5, 0.01)]) is None
    # ends of plans may be compared whatever the plan: the best 2 of 4 are 0.9, 0.85, then 0.9, 0.8
    decision = halving.judge("d", {"x": ""}, [shortened(0.25, 0.85, "x"), shortened(0.5, 0.75, "x")])
    assert decision == Decision(0.5, "shortened", 0.75, 0.8, 4, "all shortened plans", 5)
    assert decision.to_dict() == {
        "rung": 0.5, "score": "shortened", "value": 0.75, "cut": 0.8, "among": 4, "cohort": "all shortened plans",
        "epoch": 5,
    }  # fmt: skip


def test_the_standings_are_what_was_noted():
    halving = rule((0.5,), factor=2)
    judged(halving, {"a": 0.9, "b": 0.8})
    assert halving.scores == {(0.5, "a, with stages to come that carry all"): {"a": 0.9, "b": 0.8}}

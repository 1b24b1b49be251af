"""The time that a search has left: predicted while searches run whose true length is known."""

import heapq
from dataclasses import replace

import pytest

from search.scheduling.time_left.forecast import END_SECONDS, Forecast, Span, Steady
from search.scheduling.time_left.stage_times import StageTimes
from search.scheduling.trial_request import TrialRequest
from spaces.domain import Space, Stage, integer, one_of
from tests.search.test_orchestrator import World, keys, record
from tests.search.whole_searches import small_phases

SPACE = Space(
    stages=[
        Stage("first", length=0.5, choose=[one_of(None, "cost_sensitive"), one_of(None, "class_balanced")]),
        one_of(Stage("finish", length=0.5, carry="weights"),
               Stage("balanced", length=0.2, members=integer(2, 4), carry="weights", choose=["few_shot", "average"])),
    ],
    screen=["first/cost_sensitive", "first/class_balanced", "balanced"],
)  # fmt: skip

RATES = {"class_balanced": 3.0, "few_shot": 0.5}
"""Times of an epoch with a trick, as multiples of the plain one, which takes a second: over-sampling takes longest."""

OVERHEAD = 0.5


def accuracy(request: TrialRequest) -> float:
    """Each trick helps alone, two of them hurt each other; a little noise."""
    tricks = {trick.name for stage in request.recipe.plan.stages for trick in stage.tricks}
    both = {"cost_sensitive", "class_balanced"} <= tricks
    noise = int(request.recipe.plan.id[:4], 16) / 65536 + request.seed % 7 / 7
    return 0.5 + 0.05 * len(tricks) - 0.3 * both + 0.01 * noise


MARKS = [share / 20 for share in range(2, 20)]


class Simulated(World):
    """A search whose trials take the time that their stages take, in slots.

    Args:
        folder: Of the search.
        slots: Trials at a time.
        slow_from: Trial from which on everything takes three times as long.
        settings: Of the search.
    """

    phases = small_phases(3, 5, 8)

    def __init__(self, folder, slots: int, slow_from: float = float("inf"), **settings):
        self.slots, self.slow_from, self.ended = slots, slow_from, 0
        self.kept: set[str] = set()
        self.predicted: list[Span] = []
        """What was predicted when a trial had ended."""

        super().__init__(folder, SPACE, **settings)

    def forecast(self, seconds_per_epoch: float | None = None) -> Forecast:
        return Forecast(self.orchestrator.state, self.orchestrator.schedule, self.slots, seconds_per_epoch)

    def seconds(self, request: TrialRequest) -> tuple[float, int, tuple[str, ...]]:
        """Seconds of a trial, the epochs that it trains, and the stages that it re-uses."""
        seconds, epochs, reused = OVERHEAD, 0, []
        for stage, names in zip(request.recipe.plan.stages, keys(request), strict=True):
            new = [name for name in names[: stage.members] if name not in self.kept]
            rate = max([1.0, *(RATES.get(trick.name, 1.0) for trick in stage.tricks)])
            rate = min([rate, *(RATES[trick.name] for trick in stage.tricks if trick.name in RATES)])
            seconds, epochs = seconds + rate * stage.epochs * len(new), epochs + stage.epochs * len(new)
            reused += [] if new else [stage.name]
        return seconds * (3 if self.ended >= self.slow_from else 1), epochs, tuple(reused)

    def watched(self, seconds_per_epoch: float | None = None) -> tuple[float, list[tuple[float, Span]]]:
        """Runs to the end; its length without what follows the last trial, and what was shown when."""
        forecast = self.forecast(seconds_per_epoch)
        steady, now, running, seen = Steady(), 0.0, [], []
        while True:
            while len(running) < self.slots and (request := self.orchestrator.next()) is not None:
                took = self.seconds(request)
                heapq.heappush(running, (now + took[0], request.id, now, request, took))
            if not running:
                return now, seen
            end, _, _, request, (seconds, epochs, reused) = heapq.heappop(running)
            for step in (0.5, 1.0):  # the display asks between two events as well
                at = now + step * (end - now)
                progress = {name: (at - began) / took[0] for _, name, began, _, took in running}
                left = steady.show(lambda: forecast.left(progress), at)  # noqa: B023
                if left is not None:
                    seen.append((at, Span(*(max(0.0, one - END_SECONDS) for one in (left.low, left.high)))))
            now, self.ended = end, self.ended + 1
            taken = replace(
                record(request),
                started=end - seconds,
                first_stage=keys(request)[0][0],
                seconds=seconds,
                epochs=request.recipe.plan.cost,
                epochs_trained=epochs,
                reused=reused,
            )
            for stage in keys(request):
                self.kept.update(stage)
                for key in stage:
                    self.finish_stage(key)
            self.orchestrator.record(taken)
            forecast.add(taken)
            if (left := forecast.left({})) is not None:
                self.predicted.append(left)


def predicted(total: float, seen: list[tuple[float, Span]], share: float) -> tuple[float, float]:
    """Predicted length, at least and at most, by the real one, when a share of it has passed."""
    at, left = next(pair for pair in seen if pair[0] >= share * total)
    return (at + left.low) / total, (at + left.high) / total


@pytest.mark.parametrize("slots", [2, 16])
def test_the_time_left_is_right_from_a_tenth_of_the_search_on_and_does_not_fall(tmp_path, slots):
    world = Simulated(tmp_path, slots, seeds=8, trials=24, check_seeds=3, lag=slots)
    total, seen = world.watched()
    spans = [predicted(total, seen, share) for share in MARKS]
    right = [low <= 1 <= high or abs((low + high) / 2 - 1) <= 0.25 for low, high in spans]
    assert sum(right) >= 0.8 * len(MARKS), spans
    assert all(high <= 1.6 * low for low, high in spans), spans
    # besides the time that passes, it falls by no more than a third within a minute
    for at, left in seen:
        for then, later in seen:
            if at < then <= at + 60 and left.low > 120:
                assert left.low - later.low - (then - at) <= left.low / 3
                assert left.high - later.high - (then - at) <= left.high / 3


def test_a_machine_that_becomes_slower_is_noticed(tmp_path):
    world = Simulated(tmp_path, 2, slow_from=40, seeds=16, trials=0, race=False)
    total, seen = world.watched()
    before, after = predicted(total, seen, 0.1), predicted(total, seen, 0.75)
    assert before[1] < 0.6 and after[0] <= 1 <= 1.15 * after[1], (before, after)


def test_nothing_is_predicted_from_too_little_unless_an_earlier_search_has_shown_it(tmp_path):
    world = Simulated(tmp_path / "s", 2, seeds=4, trials=0, race=False)
    assert world.forecast().left({}) is None
    known = world.forecast(seconds_per_epoch=1.0).left({})
    total, _ = world.watched()
    assert known is not None and 0.6 <= known.low / total <= known.high / total <= 1.8


def test_what_an_earlier_search_has_left_in_the_store_is_not_waited_for(tmp_path):
    """Every stage is there: trials take their overhead alone."""
    first = Simulated(tmp_path / "first", 2, seeds=12, trials=0, race=False)
    whole, _ = first.watched()
    again = Simulated(tmp_path / "again", 2, seeds=12, trials=0, race=False)
    again.kept = first.kept
    again.watched(seconds_per_epoch=1.0)
    left = again.predicted[3 * len(again.predicted) // 4].high - END_SECONDS
    assert left < 0.1 * whole / 2, (left, whole)


def test_a_trial_that_is_set_aside_is_not_waited_for(tmp_path):
    world = Simulated(tmp_path, 2, seeds=4, trials=0, race=False)
    schedule, state = world.orchestrator.schedule, world.orchestrator.state
    planned, before = schedule.planned, world.forecast(seconds_per_epoch=1.0).by_phase({})[0]
    state.set_aside = {next(iter(state.requests)): "a test"}
    assert schedule.planned == planned - 1
    after = world.forecast(seconds_per_epoch=1.0).by_phase({})[0]
    assert len(after["design"]) == len(before["design"]) - 1


def test_the_times_of_stages_and_tricks_are_found_in_those_of_whole_trials():
    times = StageTimes()
    for _ in range(200):
        times.add({("a/",): 10, ("b/",): 10}, 0.5 + 10 * 1.0 + 10 * 2.0)
        times.add({("a/", "x"): 10, ("b/",): 10}, 0.5 + 10 * 4.0 + 10 * 2.0)
        times.add({("b/",): 10}, 0.5 + 10 * 2.0)
        times.add({}, 0.5)
    for _ in range(40):
        times.add({}, 0.5)
        times.fit()
    assert [times.of(kind) for kind in (("a/",), ("a/", "x"), ("b/",))] == pytest.approx([1, 4, 2], rel=0.1)
    assert times.overhead == pytest.approx(0.5, rel=0.2) and times.pace == pytest.approx(1, rel=0.05)
    # what a trick costs holds in other stages too; one that was never trained adds nothing that is known
    assert times.of(("b/", "x")) == pytest.approx(5, rel=0.1)
    assert times.of(("b/", "y")) == times.of(("b/",)) and not times.shown(("b/", "y"))
    assert times.of(("c/",)) == times.mean


def test_one_odd_prediction_changes_little_and_a_lasting_one_is_taken_in():
    steady = Steady()
    shown = [steady.show(lambda at=at: Span(1000.0 - at, 1200.0 - at), at) for at in (0.0, 2.0, 4.0)]
    assert shown == [Span(1000.0, 1200.0), Span(998.0, 1198.0), Span(996.0, 1196.0)]
    odd = steady.show(lambda: Span(100.0, 120.0), 6.0)
    assert odd.low > 0.95 * 994 and odd.high > 0.95 * 1194
    for at in range(8, 600, 2):
        last = steady.show(lambda at=at: Span(1500.0 - at, 1500.0 - at), float(at))
    assert last.low == pytest.approx(1500 - 598, rel=0.02) and last.high == pytest.approx(1500 - 598, rel=0.02)

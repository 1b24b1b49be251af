"""The time that a search has left: predicted while searches run whose true length is known."""

import heapq
from dataclasses import replace
from itertools import pairwise

import pytest

from search.scheduling.forecast import END_SECONDS, Forecast, StageTimes
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


MARKS = (0.10, 0.25, 0.50, 0.75)


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
        super().__init__(folder, SPACE, **settings)

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

    def watched(self, forecast: Forecast) -> tuple[float, list[tuple[float, float | None, str]]]:
        """Runs to the end; its length, and what was predicted when: (time, predicted length, phase)."""
        now, running, seen = 0.0, [], []
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
                left = forecast.seconds_left(progress, at)
                seen.append((at, None if left is None else at + left, self.orchestrator.phase))
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


def at_marks(total: float, seen: list[tuple[float, float | None, str]]) -> list[float]:
    """Predicted by real length, the end's few seconds apart, at shares of the real one."""
    found = []
    for mark in MARKS:
        predicted = next(end for at, end, _ in seen if at >= mark * total)
        assert predicted is not None
        found.append((predicted - END_SECONDS) / total)
    return found


@pytest.mark.parametrize(("slots", "near", "jump"), [(2, 1.5, 0.2), (16, 1.5, 0.4)])
def test_the_predicted_end_is_near_from_the_beginning_and_does_not_jump(tmp_path, slots, near, jump):
    world = Simulated(tmp_path, slots, seeds=8, trials=24, check_seeds=3, lag=slots)
    forecast = Forecast(world.orchestrator.state, world.orchestrator.schedule, slots)
    total, seen = world.watched(forecast)
    assert {"design", "adaptive", "race", "final", "confirm", "around"} <= {phase for _, _, phase in seen}
    marks = at_marks(total, seen)
    assert all(1 / near <= ratio <= near for ratio in marks), marks
    # where one phase ends and the next one begins, the end stays where it was
    known = [(end, phase) for at, end, phase in seen if end is not None and at >= 0.1 * total]
    borders = [abs(b - a) / total for (a, before), (b, after) in pairwise(known) if before != after]
    assert len(borders) >= 4 and max(borders) < jump, borders


def test_a_machine_that_becomes_slower_is_noticed(tmp_path):
    world = Simulated(tmp_path, 2, slow_from=40, seeds=16, trials=0, race=False)
    forecast = Forecast(world.orchestrator.state, world.orchestrator.schedule, 2)
    total, seen = world.watched(forecast)
    before, after = at_marks(total, seen)[0], at_marks(total, seen)[-1]
    assert before < 0.6 and 0.8 <= after <= 1.25, (before, after)


def test_nothing_is_predicted_from_too_little_unless_an_earlier_search_has_shown_it(tmp_path):
    world = Simulated(tmp_path, 2, seeds=4, trials=0, race=False)
    state, schedule = world.orchestrator.state, world.orchestrator.schedule
    assert Forecast(state, schedule, 2).seconds_left({}, 0.0) is None
    known = Forecast(state, schedule, 2, seconds_per_epoch=1.0).seconds_left({}, 0.0)
    total, _ = Simulated(tmp_path / "whole", 2, seeds=4, trials=0, race=False).watched(Forecast(state, schedule, 2))
    assert known is not None and 0.6 <= known / total <= 1.4


def test_what_an_earlier_search_has_left_in_the_store_is_not_waited_for(tmp_path):
    """Every stage is there: trials take their overhead alone."""
    first = Simulated(tmp_path / "first", 2, seeds=12, trials=0, race=False)
    whole, _ = first.watched(Forecast(first.orchestrator.state, first.orchestrator.schedule, 2))
    again = Simulated(tmp_path / "again", 2, seeds=12, trials=0, race=False)
    again.kept = first.kept
    forecast = Forecast(again.orchestrator.state, again.orchestrator.schedule, 2, seconds_per_epoch=1.0)
    total, seen = again.watched(forecast)
    left = next(end - at for at, end, _ in seen if at >= 0.5 * total) - END_SECONDS
    assert left < 0.1 * whole / 2, (left, whole)


def test_the_times_of_stages_are_found_in_those_of_whole_trials():
    times = StageTimes()
    for _ in range(200):
        times.add({("a",): 10, ("b",): 10}, 0.5 + 10 * 1.0 + 10 * 2.0)
        times.add({("a", "x"): 10, ("b",): 10}, 0.5 + 10 * 4.0 + 10 * 2.0)
        times.add({("b",): 10}, 0.5 + 10 * 2.0)
        times.add({}, 0.5)
    for _ in range(20):
        times.fit()
    assert [times.of(kind) for kind in (("a",), ("a", "x"), ("b",))] == pytest.approx([1, 4, 2], rel=0.1)
    assert times.overhead == pytest.approx(0.5, rel=0.2) and times.pace == pytest.approx(1, rel=0.05)
    # of what was never trained: the stage of that name with the same trick, else the plain one
    assert times.of(("a", "x", "y")) == times.of(("a", "x")) and times.of(("a", "y")) == times.of(("a",))
    assert times.of(("c",)) == times.mean

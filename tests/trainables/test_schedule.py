"""Learning-rate factors against torch's own schedules and the published ones."""

import math

import pytest
import torch

from trainables.training.schedule import (
    RECIPES,
    SCHEDULES,
    ScheduleError,
    constant,
    cosine,
    multistep,
    one_cycle,
    schedule_of,
)


def torch_factors(make, steps: int) -> list[float]:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimiser)
    factors = []
    for _ in range(steps):
        factors.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return factors


def test_one_cycle_equals_torchs():
    # torch reaches its end at the last of its steps, ours at position = total: 101 steps lie on 100 positions
    theirs = torch_factors(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=101, cycle_momentum=False), 101
    )
    # torch's rise takes 0.3 · 101 − 1 = 29.3 of its steps, so the two grids differ by that before the peak
    assert [one_cycle(p, 100, rise=0.293) for p in range(101)] == pytest.approx(theirs, abs=1e-9)


def test_cosine_equals_torchs():
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40), 40)
    assert [cosine(p, 40) for p in range(40)] == pytest.approx(theirs, abs=1e-9)


def test_multistep_is_the_cifar_recipe():
    # Cao et al. 2019: e/5 in epochs 1 … 5, then 1, ×0.01 from epoch 160, ×0.0001 from epoch 180, counted from 0
    expected = [0.2, 0.4, 0.6, 0.8, *[1.0] * 155, *[0.01] * 0]
    assert [multistep(e, 200) for e in range(159)] == pytest.approx(expected[:159])
    assert [multistep(e, 200) for e in (159, 160, 179, 180, 199)] == pytest.approx([1, 0.01, 0.01, 1e-4, 1e-4])
    assert multistep(160.99, 200) == multistep(160, 200)
    assert multistep(0, 5) == 1.0  # too short to warm up


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 7, 200])
def test_factors_are_of_the_peak(name, total):
    factors = [SCHEDULES[name](position / 4, total) for position in range(4 * total + 1)]
    assert all(0 <= factor <= 1 and math.isfinite(factor) for factor in factors)


def test_constant():
    assert constant(3.5, 10) == 1.0


# --- published ones, as rates per epoch, counted from 1 ---------------------------------------------------


def rates(name: str, total: int, lr: float, *epochs: int) -> list[float]:
    """The rate in the middle of some epochs."""
    return [lr * schedule_of(name)(epoch - 1 + 0.5, total) for epoch in epochs]


def test_ldam_and_mislas_drop_behind_their_milestones():
    epochs = (1, 2, 3, 4, 5, 6, 160, 161, 180, 181, 200)
    assert rates("ldam", 200, 0.1, *epochs) == pytest.approx(
        [0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5]
    )
    assert rates("mislas", 200, 0.1, *epochs)[6:] == pytest.approx([0.1, 1e-2, 1e-2, 1e-3, 1e-3])


def test_bag_of_tricks_drops_in_its_milestones_and_warms_up_from_a_third():
    epochs = (1, 2, 3, 4, 5, 6, 159, 160, 179, 180, 200)
    assert rates("bag_of_tricks", 200, 0.1, *epochs) == pytest.approx(
        [0.14 / 3, 0.18 / 3, 0.22 / 3, 0.26 / 3, 0.1, 0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5]
    )
    # its mixup runs are twice as long, with milestones 320 and 360
    assert rates("bag_of_tricks", 400, 0.1, 319, 320, 359, 360) == pytest.approx([0.1, 1e-3, 1e-3, 1e-5])
    assert rates("bag_of_tricks_classifier", 30, 0.1, 1, 5, 9, 10, 19, 20) == pytest.approx(
        [0.14 / 3, 0.1, 0.1, 0.01, 0.01, 0.001]
    )
    assert rates("bag_of_tricks_cam", 40, 1e-3, 1, 19, 20, 40) == pytest.approx([1.4e-3 / 3, 1e-3, 1e-5, 1e-5])
    assert rates("bag_of_tricks_fine_tuning", 20, 2e-3, 1, 7, 8, 15, 16) == pytest.approx(
        [2e-3, 2e-3, 2e-4, 2e-4, 2e-5]
    )
    assert rates("bag_of_tricks_large", 100, 0.2, 1, 59, 60, 80) == pytest.approx([0.2, 0.2, 0.02, 0.002])
    assert rates("bag_of_tricks_full_bag", 160, 0.2, 1, 119, 120, 160) == pytest.approx([0.2, 0.2, 0.02, 0.002])


def test_imagenet_lt_as_the_text_has_it():
    assert rates("imagenet_lt", 90, 0.2, 1, 30, 31, 60, 61, 80, 81) == pytest.approx(
        [0.2, 0.2, 0.02, 0.02, 0.002, 0.002, 0.0002]
    )


@pytest.mark.parametrize("name", ["kang", "los", "mislas_classifier"])
def test_cosine_by_epoch_equals_torchs_stepped_by_epoch(name):
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=10), 10)
    assert rates(name, 10, 1.0, *range(1, 11)) == pytest.approx(theirs)
    assert theirs[-1] > 0


def test_the_other_denominator_ends_at_zero():
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=9), 10)
    assert rates("cosine(per=epoch, last=zero)", 10, 1.0, *range(1, 11)) == pytest.approx(theirs)
    assert theirs[-1] == pytest.approx(0)


def test_cosine_behind_a_warm_up():
    # 5 of 20 epochs: 1/5 … 1, then over 15
    got = rates("cosine(per=epoch, warm_up=5, of=20)", 20, 1.0, 1, 5, 6, 7, 20)
    expected = [0.2, 1, 1, 0.5 * (1 + math.cos(math.pi / 15)), 0.5 * (1 + math.cos(math.pi * 14 / 15))]
    assert got == pytest.approx(expected)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("total", [1, 3, 90, 200])
def test_published_factors_are_of_the_peak_at_any_length(name, total):
    assert all(0 <= schedule_of(name)(position / 2, total) <= 1 for position in range(2 * total + 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("multistp", "unknown schedule 'multistp': did you mean 'multistep'?"),
        ("bag_of_trick", "did you mean 'bag_of_tricks'?"),
        ("cosine(", "unknown schedule 'cosine(': did you mean 'cosine'?"),
        ("multistep(wamr_up=3)", "has no option 'wamr_up=3': did you mean 'warm_up'?"),
        ("cosine(per)", "has no option 'per': did you mean 'per'?"),
        ("constant(at=3)", "has no option 'at=3': known are none"),
        ("cosine(per=iteration)", "per must be step or epoch, got 'iteration'"),
        ("multistep(at=160/x)", "at must be numbers ≥ 0, got '160/x'"),
        ("multistep(by=-1)", "by must be a number ≥ 0, got '-1'"),
        ("multistep(at=180/160)", "milestones must rise and lie within of=200 epochs"),
        ("multistep(at=100, of=90)", "milestones must rise and lie within of=90 epochs"),
        ("multistep(of=0, at=0)", "milestones must rise and lie within of=0 epochs"),
    ],
)
def test_bad_schedules_say_what_is_allowed(text, message):
    with pytest.raises(ScheduleError) as caught:
        schedule_of(text)
    assert message in str(caught.value)


def test_a_stage_has_its_own_schedule_and_momentum(make_plan, pipeline):
    from spaces.domain import Stage
    from trainables.registry import PlanError

    stage = Stage("a", epochs=2, lr=0.1, schedule="bag_of_tricks_classifier", nesterov=True)
    plan = make_plan(stage, Stage("b", epochs=1, carry="all"))
    assert [(s.schedule, s.nesterov) for s in plan.stages] == [("bag_of_tricks_classifier", True)] * 2
    run = pipeline(plan)
    run.advance()
    assert run.executor.training.run.optimiser.param_groups[0]["nesterov"] is True
    with pytest.raises(PlanError, match=r"stage 'a': schedule 'cosine\(pr=epoch\)' has no option 'pr=epoch'"):
        make_plan(Stage("a", epochs=1, schedule="cosine(pr=epoch)"))
    with pytest.raises(PlanError, match="stage 'a': nesterov must be true"):
        make_plan(Stage("a", epochs=1, nesterov="yes"))
    with pytest.raises(PlanError, match="takes nesterov over from the stage before"):
        make_plan(Stage("a", epochs=1), Stage("b", epochs=1, carry="all", nesterov=True))

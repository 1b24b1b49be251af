"""Learning-rate factors against torch's own schedules and the published ones."""

import math

import pytest
import torch

from trainables.schedule import SCHEDULES, constant, cosine, multistep, one_cycle


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

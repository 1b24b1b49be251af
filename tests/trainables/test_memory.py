"""What a process takes, measured on tensors of known size."""

import pytest
import torch

from trainables.training.acceleration import memory

CPU = torch.device("cpu")
MB = 2**20


@pytest.mark.skipif(memory.peak(CPU) == 0, reason="the system does not say what a process takes")
def test_the_peak_is_that_since_it_was_forgotten():
    memory.forget_peak(CPU)
    before = memory.peak(CPU)
    held = torch.ones(256 * MB // 4)
    del held
    assert 200 * MB < memory.peak(CPU) - before < 320 * MB
    memory.forget_peak(CPU)
    assert memory.peak(CPU) - before < 100 * MB


def test_the_device_has_more_than_a_process_takes():
    assert memory.total(CPU) > memory.peak(CPU)


@pytest.mark.parametrize(
    ("share", "total", "allowed"),
    # the context is 0.6 GB: 0.025 of 24 GB, and more than a tenth of 4 GB
    [(0.5, 24e9, 0.475), (0.1, 4e9, 0.05), (1.0, 24e9, 1.0), (4.0, 24e9, 1.0)],
)
def test_tensors_get_the_share_less_the_context(share, total, allowed):
    assert memory.fraction(share, total) == pytest.approx(allowed)


def test_nothing_is_capped_on_a_cpu():
    memory.cap(CPU, 1e-6)
    assert torch.ones(MB).sum() == MB


@pytest.mark.gpu
def test_a_greedy_process_fails_alone():
    device = torch.device("cuda")
    total = memory.total(device)
    try:
        memory.cap(device, 0.25)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.3 * total), dtype=torch.uint8, device=device)
        memory.forget_peak(device)
        held = torch.empty(int(0.1 * total), dtype=torch.uint8, device=device)
        assert memory.peak(device) >= held.numel()
    finally:
        memory.cap(device, 1.0)

"""Limits and measures the device memory of a trial."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

CONTEXT_BYTES = 600e6
"""Bytes of a GPU that a process takes besides its tensors: CUDA's context and handles of libraries, half a GB."""


def cap(device: torch.device, share: float) -> None:
    """Keeps this process within its share of a GPU: more is an out-of-memory error here, and not in a neighbour.

    Nothing on a CPU.

    Args:
        device: Device of the trial.
        share: Share of one GPU; 1 and above is all of it.
    """
    if device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(fraction(share, total), device)


def fraction(share: float, total: float) -> float:
    """What of a GPU a process may hold in tensors, its context left out.

    >>> fraction(0.25, 24e9), fraction(0.01, 24e9), fraction(2, 24e9)
    (0.225, 0.005, 1.0)
    """
    if share >= 1:
        return 1.0
    return max(share - CONTEXT_BYTES / total, share / 2)


def forget_peak(device: torch.device) -> None:
    """Restarts the measurement, after freeing what earlier trials of this process left over."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        # Linux: resets the peak of this process's resident set
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: torch.device) -> float:
    """Bytes since `forget_peak`: on a GPU what the allocator reserved, on a CPU the resident set of the process.

    0 where the system does not say.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    kilobytes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * float(kilobytes[0]) if kilobytes else 0.0


def total(device: torch.device) -> float:
    """Memory of the device in bytes; 0 if the system does not report it."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return 1024 * float(next((line.split()[1] for line in lines if line.startswith("MemTotal:")), 0))

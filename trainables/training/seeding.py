"""Random numbers that depend on what they are for, and on nothing else.

Every generator is seeded from a tuple such as (trial seed, chain, member, purpose, epoch). No global stream
is read, so resuming, re-using a stage and re-using a process change nothing, and two trials of one seed see
the same images in the same order wherever their plans agree.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from the parts.

    >>> seed_of(0, "draw", 1) == seed_of(0, "draw", 1), seed_of(0, "draw", 1) == seed_of(0, "draw", 2)
    (True, False)
    """
    digest = hashlib.blake2b("\x1f".join(f"{type(p).__name__}:{p}" for p in parts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded from the parts."""
    return torch.Generator().manual_seed(seed_of(*parts))


def sent(drawn: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies what was drawn on the host to the device; the host does not wait for the device's earlier work."""
    # from pinned memory alone is a copy really left to the device
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)

"""Keys of stages: the hash of everything that the result of a stage depends on.

These are the data and the split, the network, the seed, the stage's own plan, the key before it, the numerics, and the
code it uses (without comments and docstrings). Names, tracking and place are not part of a key.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trainables import code_identity
from trainables.models import identity
from trainables.plan.model import Plan, StagePlan
from trainables.registry import SEAMS, entry, source_file
from trainables.training.numerics import Numerics, can_be_fused, group_of


def digest(content: Any) -> str:
    """Hash of a JSON-serialisable value: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def stage_keys(plan: Plan, context: Mapping[str, Any]) -> list[list[str]]:
    """The keys of a plan's stages.

    Args:
        plan: The plan.
        context: Everything outside the plan: data fingerprint, network, seed, numerics.

    Returns:
        For every stage the keys of its members, followed by the key of the stage itself (equal to the only
        member's, where there is one).
    """
    keys: list[list[str]] = []
    before = start_key(context)
    for index, stage in enumerate(plan.stages):
        chain = plan.chain(index)
        own = {
            "before": before,
            "stage": _content(stage),
            "chain": [plan.chain_number(index), chain.index(index), sum(plan.stages[i].epochs for i in chain)],
        }
        members = [
            digest({**own, "member": member, **_together(stage, member, context)}) for member in range(stage.members)
        ]
        key = members[0] if stage.members == 1 else digest({"members": members, "merged": _tricks(stage, _OF_MERGED)})
        keys.append([*members, key])
        before = key
    return keys


def start_key(context: Mapping[str, Any]) -> str:
    """The key in front of the first stage: data, network, seed, numerics and code."""
    return digest({"context": dict(context), "code": code_version()})


def plain_features_key(before: str, split: str) -> str:
    """The key of a frozen backbone's features of a split's unchanged images."""
    return digest({"features": before, "split": split})


def features_key(before: str, stage: StagePlan) -> str:
    """The key of a frozen backbone's features: key before, number of views, and the tricks that change an image."""
    return digest({"features": before, "views": stage.views, "tricks": _tricks(stage, ("image", "augment"))})


def _together(stage: StagePlan, member: int, context: Mapping[str, Any]) -> dict[str, Any]:
    """Number of members that share a network with this one, because sharing changes the last bits of the result."""
    if not can_be_fused(stage) or context.get("numerics", {}).get("fused_members", "off") == "off":
        return {}
    return {"together": len(group_of(member, stage.members))}


_OF_MERGED = ("merge", "readout")
"""Seams that act only on the merged network, so that members are shared by all their settings."""


def _content(stage: StagePlan) -> dict[str, Any]:
    """The part of a stage that a member's result depends on: not names, nor the number of members, nor their merge."""
    fields = stage.to_dict()
    for field in ("name", "members", "carry"):
        del fields[field]
    alone = stage.members == 1
    others = [seam for seam in SEAMS if seam != "merge" and (alone or seam not in _OF_MERGED)]
    # only a stage without members is evaluated while it trains, so a member is a different entry
    return fields | {"measured": alone, "tricks": _tricks(stage, others)}


def _tricks(stage: StagePlan, seams: Collection[str]) -> list[dict[str, Any]]:
    """The stage's tricks on the given seams, in the order of the plan, each with the hash of its code."""
    return [
        {"name": trick.name, "numbers": dict(trick.numbers), "code": code_version(trick.name)}
        for trick in stage.tricks
        if entry(trick.name).seam in seams
    ]


def code_version(trick: str | None = None) -> str:
    """Hash of the code that determines results: the core that all stages share, or one trick's code.

    A user's trick consists of its module and the user's modules that this imports.
    """
    if trick is None:
        return _core_version(Path(__file__).parents[1])
    return code_identity.hash_of(code_identity.trick_code(source_file(entry(trick).cls)).values())


@functools.cache
def _core_version(root: Path) -> str:
    return code_identity.hash_of(code_identity.training_code(root).values())


def numerics(device: torch.device, asked: Numerics) -> dict[str, Any]:
    """Everything besides the code that affects floating-point results."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "device": device.type,
        "kind": kind,
        "threads": 1 if device.type == "cuda" else torch.get_num_threads(),
        **asked.to_dict(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # some tricks change images by it
    }


def trial_context(
    fingerprint: str,
    model: str,
    seed: int,
    device: torch.device,
    asked: Numerics | None = None,
    joint_seeds: Sequence[tuple[int, str]] = (),
) -> dict[str, Any]:
    """Everything outside the plan that the result of a stage depends on."""
    asked = asked or Numerics()
    context = {"data": fingerprint, "model": identity(model), "seed": seed, "numerics": numerics(device, asked)}
    return context | ({"joint_seeds": [list(each) for each in joint_seeds]} if len(joint_seeds) > 1 else {})

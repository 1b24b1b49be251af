"""Finished stages by content address: never train the same stage twice.

The key of a stage is the hash of everything its result depends on: the data and the split, the network, the
seed, the stage's own plan, the key before it, the numerics, and the code it uses (without comments and
docstrings). Names, tracking and place are not in it.

An entry is a folder `<root>/<2 digits>/<key>/` with `tensors.safetensors`, `state.json` and, written last,
`manifest.json` with their checksums. It is written beside and renamed, so an entry is there whole or not at
all; one that is damaged later is detected, reported and trained anew.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from trainables.plan import Plan, StagePlan
from trainables.registry import SEAMS, entry, source_file

log = logging.getLogger(__name__)

_NOT_IN_RESULTS = {"plan.py", "registry.py", "stage_store.py", "train.py", "trial.py", "data/catalogue.py"}
"""Modules that arrange work but do not decide what an entry holds: the plan they make is in the key."""


def digest(content: Any) -> str:
    """32 hexadecimal digits of a JSON-able value."""
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
    before = digest({"context": dict(context), "code": code_version()})
    for index, stage in enumerate(plan.stages):
        chain = plan.chain(index)
        own = {
            "before": before,
            "stage": _content(stage),
            "chain": [plan.chain_number(index), chain.index(index), sum(plan.stages[i].epochs for i in chain)],
        }
        members = [digest({**own, "member": member}) for member in range(stage.members)]
        key = members[0] if stage.members == 1 else digest({"members": members, "merged": _tricks(stage, _OF_MERGED)})
        keys.append([*members, key])
        before = key
    return keys


def features_key(before: str, stage: StagePlan) -> str:
    """The key of a frozen backbone's features: the start, the number of views, and what changes an image."""
    return digest({"features": before, "views": stage.views, "tricks": _tricks(stage, ("image", "augment"))})


_OF_MERGED = ("merge", "readout")
"""Seams that act on the merged network alone: members are shared between all their settings."""


def _content(stage: StagePlan) -> dict[str, Any]:
    """What a member's entry depends on: not names, not how many members there are, not what is done with them."""
    fields = asdict(stage)
    for field in ("name", "members", "carry"):
        del fields[field]
    alone = stage.members == 1
    others = [seam for seam in SEAMS if seam != "merge" and (alone or seam not in _OF_MERGED)]
    # only what trains alone is measured on its way, so a member is not the same entry as a stage without members
    return fields | {"measured": alone, "tricks": _tricks(stage, others)}


def _tricks(stage: StagePlan, seams: Collection[str]) -> list[dict[str, Any]]:
    """The stage's tricks on some seams, in written order, each with its code."""
    return [
        {"name": trick.name, "numbers": dict(trick.numbers), "code": code_version(trick.name)}
        for trick in stage.tricks
        if entry(trick.name).seam in seams
    ]


def code_version(trick: str | None = None) -> str:
    """Hash of the code that decides results: a trick's own module, or the core that all stages share."""
    return _core_version() if trick is None else _source_hash(source_file(entry(trick).cls))


@functools.cache
def _core_version() -> str:
    root = Path(__file__).parent
    modules = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py") if path.parent.name != "tricks"}
    return digest([[name, _source_hash(modules[name])] for name in sorted(modules.keys() - _NOT_IN_RESULTS)])


@functools.cache
def _source_hash(path: Path) -> str:
    """Hash of a module's code; comments, docstrings and layout are not in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not _is_text(line)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def numerics(device: torch.device) -> dict[str, Any]:
    """What floating-point results depend on besides the code."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "device": device.type,
        "kind": kind,
        "threads": 1 if device.type == "cuda" else torch.get_num_threads(),
        "precision": "float32",
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # some tricks change images by it
    }


@dataclass(frozen=True)
class StoredStage:
    """A finished stage as read from the store."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class StageStore:
    """Finished stages in one folder.

    Args:
        root: The folder; made when the first stage is written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def folder(self, key: str) -> Path:
        """Where an entry lies."""
        return self.root / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether an entry is there; it may still turn out damaged."""
        return (self.folder(key) / "manifest.json").is_file()

    def get(self, key: str) -> StoredStage | None:
        """An entry, or `None` if it is not there. A damaged one is reported, removed, and `None` too."""
        folder = self.folder(key)
        if not folder.is_dir():
            return None
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if manifest["key"] != key:
                raise ValueError(f"its manifest is that of {manifest['key']}")
            contents = {name: (folder / name).read_bytes() for name in manifest["sha256"]}
            for name, content in contents.items():
                if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
                    raise ValueError(f"the checksum of {name} does not fit")
            return StoredStage(load_tensors(contents["tensors.safetensors"]), json.loads(contents["state.json"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("stage %s in %s is damaged (%s): it is trained anew", key, self.root, error)
            self.remove(key)
            return None

    def put(self, key: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Writes an entry; one that is there already stays."""
        if self.has(key):
            return
        folder = self.folder(key)
        beside = folder.with_name(f".{key}.{uuid.uuid4().hex[:8]}")
        beside.mkdir(parents=True)
        try:
            contents = {
                "tensors.safetensors": save_tensors({n: t.detach().cpu().contiguous() for n, t in tensors.items()}),
                "state.json": json.dumps(state).encode(),
            }
            for name, content in contents.items():
                _write(beside / name, content)
            sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
            _write(beside / "manifest.json", json.dumps({"key": key, "sha256": sums}).encode())
            try:
                beside.rename(folder)
            except OSError:
                # another process finished the same stage first: its entry is as good as ours
                if not self.has(key):
                    self.remove(key)  # the rest of an entry that lost its manifest
                    beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def remove(self, key: str) -> None:
        """Removes an entry."""
        shutil.rmtree(self.folder(key), ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

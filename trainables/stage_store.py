"""Finished stages by content address: never train the same stage twice.

The key of a stage is the hash of everything its result depends on: the data and the split, the network, the
seed, the stage's own plan, the key before it, the numerics, and the code it uses (without comments and
docstrings). Names, tracking and place are not in it.

An entry is a folder `<root>/<2 digits>/<key>/` with `tensors.safetensors`, `state.json` and, written last,
`manifest.json` with their checksums. It is written beside and renamed, so an entry is there whole or not at
all; one that is damaged later is detected, reported and trained anew.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from trainables import sources
from trainables.numerics import Numerics, can_be_fused, group_of
from trainables.plan import Plan, StagePlan
from trainables.registry import SEAMS, entry, source_file
from trainables.storage import LocalStorage, open_storage

log = logging.getLogger(__name__)

_NOT_IN_RESULTS = {
    "footprint.py", "leases.py", "memory.py", "plan.py", "registry.py", "sources.py", "stage_store.py", "stand_ins.py",
    "storage.py", "train.py", "trial.py",
}  # fmt: skip
"""Modules that arrange work but do not decide what an entry holds: the plan they make is in the key."""

_OF_DATA = {"data/augment.py", "data/feeds.py", "data/images.py", "data/long_tail.py", "data/streamed.py"}
"""What of the data modules acts in training, where it may decode files; what is loaded before is in the key by its
fingerprint."""


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
        members = [
            digest({**own, "member": member, **_company(stage, member, context)}) for member in range(stage.members)
        ]
        key = members[0] if stage.members == 1 else digest({"members": members, "merged": _tricks(stage, _OF_MERGED)})
        keys.append([*members, key])
        before = key
    return keys


def features_key(before: str, stage: StagePlan) -> str:
    """The key of a frozen backbone's features: the start, the number of views, and what changes an image."""
    return digest({"features": before, "views": stage.views, "tricks": _tricks(stage, ("image", "augment"))})


def _company(stage: StagePlan, member: int, context: Mapping[str, Any]) -> dict[str, Any]:
    """With whom a member may be trained in one network, which shows in its last bits."""
    if not can_be_fused(stage) or context.get("numerics", {}).get("fused_members", "off") == "off":
        return {}
    return {"together": len(group_of(member, stage.members))}


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
    """Hash of the code that decides results: the core that all stages share, or a trick's.

    A trick of the user's is its module and what that imports of the user's.
    """
    if trick is None:
        return _core_version()
    file = source_file(entry(trick).cls)
    files = sources.closure({file.stem: file}).values() if sources.is_own(file) else (file,)
    return sources.hash_of(files)


@functools.cache
def _core_version() -> str:
    root = Path(__file__).parent
    modules = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py") if path.parent.name != "tricks"}
    aside = ("data/", "final/")  # what is loaded, and what is done with a trained network
    deciding = {name for name in modules if not name.startswith(aside) or name in _OF_DATA} - _NOT_IN_RESULTS
    return digest([[name, sources.code_hash(modules[name])] for name in sorted(deciding)])


def numerics(device: torch.device, asked: Numerics) -> dict[str, Any]:
    """What floating-point results depend on besides the code."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "device": device.type,
        "kind": kind,
        "threads": 1 if device.type == "cuda" else torch.get_num_threads(),
        **asked.to_dict(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # some tricks change images by it
    }


@dataclass(frozen=True)
class StoredStage:
    """A finished stage as read from the store."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """What is known of an entry without reading its tensors.

    Args:
        key: Its address.
        kind: "stage", "member" or "features".
        ancestors: Keys of the stages before it with the seconds each took, first stage first.
        bytes: On disk.
        seconds: That it took to train.
        epochs: Likewise; 0 for features.
        seed: Of the trial that trained it.
        first_stage: Id of the first stage of its chain of stages.
    """

    key: str
    kind: str
    ancestors: tuple[tuple[str, float], ...]
    bytes: int
    seconds: float
    epochs: int
    seed: int | None
    first_stage: str

    @property
    def parent(self) -> str:
        """Key of the stage that it started from; "" for a first stage."""
        return self.ancestors[-1][0] if self.ancestors else ""


class StageStore:
    """Finished stages in one place.

    Args:
        root: A folder, local or shared, or a URL that fsspec opens; made when the first stage is written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = root
        self._files = open_storage(root)

    @property
    def shared_folder(self) -> Path | None:
        """The folder, where it is one: leases lie there."""
        return self._files.root if isinstance(self._files, LocalStorage) else None

    def folder(self, key: str) -> Path:
        """Where an entry lies, in a store that is a folder."""
        return Path(self._files.place) / _folder(key)

    def has(self, key: str) -> bool:
        """Whether an entry is there; it may still turn out damaged."""
        return self._files.exists(f"{_folder(key)}/{MANIFEST}")

    def get(self, key: str) -> StoredStage | None:
        """An entry, or `None` if it is not there. A damaged one is reported, removed, and `None` too."""
        try:
            contents = self._checked(key)
            if contents is None:
                return None
            return StoredStage(load_tensors(contents[TENSORS]), json.loads(contents[STATE]))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("stage %s in %s is damaged (%s): it is trained anew", key, self.root, error)
            self.remove(key)
            return None

    def put(self, key: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Writes an entry; one that is there already stays.

        Raises:
            StoreFull: There is no room; the store stays as it was.
        """
        if self.has(key):
            return
        contents = {
            TENSORS: save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}),
            STATE: json.dumps(state).encode(),
        }
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        contents[MANIFEST] = json.dumps({"key": key, "sha256": sums}).encode()
        self._files.publish(_folder(key), contents, last=MANIFEST)

    def remove(self, key: str) -> None:
        """Removes an entry."""
        self._files.remove(_folder(key))

    # --- work in progress -----------------------------------------------------------------------------------

    def put_partial(self, key: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Keeps a stage that is still being trained, so that a crash costs seconds; replaces the last one."""
        body = save_tensors(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"state": json.dumps(state)}
        )
        self._files.write(f"partial/{key}", hashlib.sha256(body).digest() + body)

    def get_partial(self, key: str) -> StoredStage | None:
        """A stage that was being trained, or `None`; a damaged one is reported and forgotten."""
        try:
            content = self._files.read(f"partial/{key}")
        except FileNotFoundError:
            return None
        body = content[32:]
        if hashlib.sha256(body).digest() != content[:32]:
            log.warning("the unfinished stage %s in %s is damaged: it is trained from its start", key, self.root)
            self.drop_partial(key)
            return None
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        return StoredStage(load_tensors(body), json.loads(header["__metadata__"]["state"]))

    def drop_partial(self, key: str) -> None:
        """Forgets a stage that was being trained."""
        self._files.remove(f"partial/{key}")

    # --- keeping house --------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Every entry, by key; those that cannot be read are left out (`verify` names them)."""
        found = []
        for folder in self._files.folders():
            key = folder.rpartition("/")[2]
            try:
                state = json.loads(self._files.read(f"{folder}/{STATE}"))
                size = sum(self._files.files(folder).values())
                found.append(
                    Entry(
                        key,
                        state.get("kind", "stage"),
                        tuple((str(name), float(seconds)) for name, seconds in state.get("ancestors", ())),
                        size,
                        float(state.get("seconds", 0.0)),
                        int(state.get("epochs", 0)),
                        state.get("seed"),
                        state.get("first_stage", ""),
                    )
                )
            except (OSError, ValueError):
                continue
        return found

    def verify(self) -> list[str]:
        """Reads everything; the keys of damaged entries, with the reason."""
        damaged = []
        for folder in self._files.folders():
            key = folder.rpartition("/")[2]
            try:
                if self._checked(key) is None:
                    damaged.append(f"{key}: it has no manifest")
            except (OSError, ValueError, KeyError, TypeError) as error:
                damaged.append(f"{key}: {error}")
        return damaged

    def evict(self, limit: int, keep: Collection[str] = ()) -> list[Entry]:
        """Removes entries until the store holds at most `limit` bytes.

        What is cheapest to train again per byte goes first, children before what they started from. Training a stage
        again costs its own seconds and those of its ancestors that are not there.

        Args:
            limit: Bytes.
            keep: Keys that running trials need: never removed.

        Returns:
            What was removed.
        """
        there = {found.key: found for found in self.entries()}
        total = sum(found.bytes for found in there.values())
        removed = []
        while total > limit:
            free = [found for found in there.values() if found.key not in keep]
            if not free:
                break
            parents = {found.parent for found in there.values()}
            leaves = [found for found in free if found.key not in parents] or free
            cheapest = min(leaves, key=lambda found: (_again(found, there) / max(1, found.bytes), found.key))
            self.remove(cheapest.key)
            del there[cheapest.key]
            total -= cheapest.bytes
            removed.append(cheapest)
        return removed

    def _checked(self, key: str) -> dict[str, bytes] | None:
        """An entry's files, their checksums checked."""
        folder = _folder(key)
        try:
            manifest = json.loads(self._files.read(f"{folder}/{MANIFEST}"))
        except FileNotFoundError:
            if isinstance(self._files, LocalStorage) and self.folder(key).is_dir():
                raise ValueError("it has no manifest") from None
            return None
        if manifest["key"] != key:
            raise ValueError(f"its manifest is that of {manifest['key']}")
        contents = {name: self._files.read(f"{folder}/{name}") for name in manifest["sha256"]}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
                raise ValueError(f"the checksum of {name} does not fit")
        return contents


TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


def _folder(key: str) -> str:
    return f"{key[:2]}/{key}"


def _again(found: Entry, there: Mapping[str, Entry]) -> float:
    """Seconds to train an entry again, from its nearest ancestor that is there."""
    seconds = found.seconds
    for key, took in reversed(found.ancestors):
        if key in there:
            break
        seconds += took
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m trainables.stage_store`: lists, verifies, cleans; 1 where something is damaged."""
    parser = argparse.ArgumentParser(prog="python -m trainables.stage_store", description=__doc__.split("\n\n")[0])
    parser.add_argument("command", choices=("list", "verify", "clean"), nargs="?", default="list")
    parser.add_argument(
        "--store", default="results/stages", help="folder or URL of the store (default: results/stages)"
    )
    parser.add_argument("--store-limit", type=byte_count, help="clean: keep at most so much, e.g. 500MB")
    options = parser.parse_args(arguments)
    store = StageStore(options.store)
    there = store.entries()
    total = sum(found.bytes for found in there)
    if options.command == "list":
        for found in there:
            parent = f" from {found.parent[:8]}" if found.parent else ""
            print(
                f"{found.key[:8]}  {found.kind:<8} {found.epochs:>4} epochs {found.seconds:>8.1f} s "
                f"{found.bytes / 1e6:>9.2f} MB  seed {found.seed}{parent}"
            )
        seconds = sum(found.seconds for found in there)
        print(f"{len(there)} entries, {total / 1e6:.1f} MB, {seconds:.0f} s of training, in {options.store}")
        return 0
    damaged = store.verify()
    if options.command == "verify":
        print("\n".join([*damaged, f"{len(there)} entries read, {len(damaged)} damaged, in {options.store}"]))
        return 1 if damaged else 0
    for line in damaged:
        store.remove(line.partition(":")[0])
    removed = store.evict(options.store_limit) if options.store_limit is not None else []
    freed = sum(found.bytes for found in removed)
    print(f"removed {len(damaged)} damaged entries and {len(removed)} of {len(there)} others ({freed / 1e6:.1f} MB)")
    return 0


def byte_count(text: str) -> int:
    """Bytes from 1000, 500MB, 20GB, 1TB.

    >>> byte_count("1.5GB")
    1500000000
    """
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1}
    number, factor = text.strip().upper(), 1
    for unit, size in units.items():
        if number.endswith(unit):
            number, factor = number[: -len(unit)], size
            break
    try:
        value = float(number) * factor
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a size like 500MB or 20GB, got {text!r}")
    return int(value)


if __name__ == "__main__":
    sys.exit(main())

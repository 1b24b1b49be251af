"""Finished stages by content address: never train the same stage twice.

The key of a stage is the hash of everything its result depends on: the data and the split, the network, the
seed, the stage's own plan, the key before it, the numerics, and the code it uses (without comments and
docstrings). Names, tracking and place are not in it.

An entry is a folder `<root>/<2 digits>/<key>/` with `tensors.safetensors`, `state.json` and, written last,
`manifest.json` with their checksums. It is written beside and renamed, so an entry is there whole or not at
all; one that is damaged later is detected, reported, removed and trained again. Damaged is what was read whole, twice,
and does not fit its checksums: what cannot be read at the moment stays, and is trained again by whoever needs it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from analysis.text import echo, lenient_output, sentence
from trainables import code_identity
from trainables.pipeline.storage import LEFT_SECONDS, LocalStorage, StoreFull, open_storage
from trainables.plan.model import Plan, StagePlan
from trainables.registry import SEAMS, entry, source_file
from trainables.training.numerics import Numerics, can_be_fused, group_of

log = logging.getLogger(__name__)


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
    fields = stage.to_dict()
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
        return _core_version(Path(__file__).parents[1])
    return code_identity.hash_of(code_identity.trick_code(source_file(entry(trick).cls)).values())


@functools.cache
def _core_version(root: Path) -> str:
    return code_identity.hash_of(code_identity.training_code(root).values())


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
        try:
            return self._files.exists(f"{_folder(key)}/{MANIFEST}")
        except OSError:
            return False

    def get(self, key: str) -> StoredStage | None:
        """An entry, or `None` if it is not there or cannot be read. A damaged one is reported, removed, and `None`."""
        try:
            return self._read_twice(key)
        except Damaged as damaged:
            log.warning("stage %s in %s is damaged (%s): it is removed and trained again", key, self.root, damaged)
            self._discard(_folder(key))
        except OSError as error:
            log.warning("stage %s in %s cannot be read now (%s): it is trained again", key, self.root, _words(error))
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Writes an entry; one that is there already stays. One that cannot be written is reported.

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
        try:
            self._files.publish(_folder(key), contents, last=MANIFEST)
        except StoreFull:
            raise
        except OSError as error:
            log.warning(
                "stage %s cannot be kept in %s (%s): whoever needs it trains it again", key, self.root, _words(error)
            )

    def remove(self, key: str) -> None:
        """Removes an entry."""
        self._files.remove(_folder(key))

    # --- work in progress -----------------------------------------------------------------------------------

    def put_partial(self, key: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Keeps a stage that is still being trained, so that a crash costs seconds; replaces the last one.

        Training does not need it: where it cannot be written, that is reported and nothing else.
        """
        body = save_tensors(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            {"state": json.dumps(state), "key": key},
        )
        try:
            self._files.write(_partial(key), hashlib.sha256(body).digest() + body)
        except OSError as error:
            log.warning(
                "the unfinished stage %s cannot be kept in %s (%s): a crash would cost it",
                key,
                self.root,
                _words(error),
            )

    def get_partial(self, key: str) -> StoredStage | None:
        """A stage that was being trained, or `None`; a damaged one is reported and forgotten."""
        try:
            return self._partial_twice(key)
        except FileNotFoundError:
            return None
        except Damaged as damaged:
            log.warning(
                "the unfinished stage %s in %s is damaged (%s): it is trained from its start", key, self.root, damaged
            )
            self.drop_partial(key)
        except OSError as error:
            log.warning(
                "the unfinished stage %s in %s cannot be read now (%s): it is trained from its start",
                key, self.root, _words(error),
            )  # fmt: skip
        return None

    def drop_partial(self, key: str) -> None:
        """Forgets a stage that was being trained."""
        self._discard(_partial(key))

    # --- reading --------------------------------------------------------------------------------------------

    def _read_twice(self, key: str) -> StoredStage | None:
        """An entry; what does not fit its checksums is read once more.

        Raises:
            Damaged: It did not fit twice.
            OSError: It cannot be read.
        """
        try:
            return self._read(key)
        except (Damaged, FileNotFoundError):
            # a shared file system may show the half of what is being moved or removed
            time.sleep(AGAIN_SECONDS)
        try:
            return self._read(key)
        except FileNotFoundError as error:
            raise Damaged(f"{Path(str(error.filename or error)).name} is missing") from None

    def _read(self, key: str) -> StoredStage | None:
        folder = _folder(key)
        try:
            manifest = self._files.read(f"{folder}/{MANIFEST}")
        except FileNotFoundError:
            if isinstance(self._files, LocalStorage) and self.folder(key).is_dir():
                raise Damaged("it has no manifest") from None
            return None
        sums = _sums(manifest, key)
        contents = {name: self._files.read(f"{folder}/{name}") for name in sums}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != sums[name]:
                raise Damaged(f"the checksum of {name} does not fit")
        try:
            tensors, state = load_tensors(contents[TENSORS]), json.loads(contents[STATE])
        except UNREADABLE as error:
            raise Damaged(str(error)) from error
        if not isinstance(state, dict):
            raise Damaged(f"{STATE} holds no state")
        return StoredStage(tensors, state)

    def _partial_twice(self, key: str) -> StoredStage:
        try:
            return self._read_partial(key)
        except Damaged:
            time.sleep(AGAIN_SECONDS)
        return self._read_partial(key)

    def _read_partial(self, key: str) -> StoredStage:
        content = self._files.read(_partial(key))
        body = content[32:]
        if hashlib.sha256(body).digest() != content[:32]:
            raise Damaged("its checksum does not fit")
        try:
            about = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]
            tensors, state = load_tensors(body), json.loads(about["state"])
        except UNREADABLE as error:
            raise Damaged(str(error)) from error
        if about.get("key") != key or not isinstance(state, dict):
            raise Damaged(f"it is that of {about.get('key')}")
        return StoredStage(tensors, state)

    def _discard(self, path: str) -> None:
        """Removes what nobody needs; where that fails it lies there until `clean`."""
        try:
            self._files.remove(path)
        except OSError as error:
            log.warning("%s/%s cannot be removed (%s)", self.root, path, _words(error))

    # --- keeping house --------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Every entry, by key; those whose state cannot be read are left out (`problems` names them)."""
        return [found for found in map(self._entry, self._files.folders()) if found is not None]

    def _entry(self, folder: str) -> Entry | None:
        try:
            state = json.loads(self._files.read(f"{folder}/{STATE}"))
            return Entry(
                folder.rpartition("/")[2],
                str(state.get("kind", "stage")),
                tuple((str(name), float(seconds)) for name, seconds in state.get("ancestors", ())),
                sum(self._files.files(folder).values()),
                float(state.get("seconds", 0.0)),
                int(state.get("epochs", 0)),
                None if state.get("seed") is None else int(state["seed"]),
                str(state.get("first_stage", "")),
            )
        except (OSError, *UNREADABLE):
            return None

    def partials(self) -> dict[str, int]:
        """Keys of the stages that are kept in their middle, each with its bytes."""
        found = self._files.files(PARTIAL)
        return {name: size for name, size in sorted(found.items()) if not name.startswith(".")}

    def folders(self) -> list[str]:
        """Where every entry lies in the store, readable or not."""
        return self._files.folders()

    def left(self) -> dict[str, int]:
        """What writers that were killed have left half written: paths within the store, each with its bytes."""
        return self._files.left()

    def problems(self) -> Iterator[Problem]:
        """Reads everything; what is damaged, and what cannot be read."""
        for folder in self._files.folders():
            key = folder.rpartition("/")[2]
            if folder != _folder(key):
                yield Problem(key, folder, "it does not lie where its key says", True)
                continue
            try:
                if self._read_twice(key) is None:
                    # on an object store an entry is without a manifest while it is being written
                    age = self._files.age(folder)
                    yield Problem(key, folder, "it has no manifest", age is not None and age > LEFT_SECONDS)
                elif self._entry(folder) is None:
                    yield Problem(key, folder, f"{STATE} has another shape", True)
            except Damaged as error:
                yield Problem(key, folder, str(error), True)
            except OSError as error:
                yield Problem(key, folder, f"it cannot be read now: {_words(error)}", False)
        for key in self.partials():
            try:
                self._partial_twice(key)
            except FileNotFoundError:
                continue  # its stage is finished meanwhile
            except Damaged as error:
                yield Problem(key, _partial(key), f"in its middle: {error}", True)
            except OSError as error:
                yield Problem(key, _partial(key), f"in its middle: it cannot be read now: {_words(error)}", False)

    def verify(self) -> list[str]:
        """Reads everything; the keys of what is damaged or cannot be read, with the reason."""
        return [f"{problem.key}: {problem.reason}" for problem in self.problems()]

    def clean(self) -> Cleaned:
        """Removes what is damaged, what killed writers have left, and unfinished stages that nobody goes on with.

        These are stages that are finished meanwhile, and those untouched for `OLD_SECONDS`.
        """
        damaged = {problem.path for problem in self.problems() if problem.damaged}
        left = self.left()
        old = {}
        for key, size in self.partials().items():
            age = self._files.age(_partial(key))
            if _partial(key) not in damaged and (self.has(key) or (age is not None and age > OLD_SECONDS)):
                old[_partial(key)] = size
        for path in (*damaged, *left, *old):
            self._files.remove(path)
        return Cleaned(len(damaged), len(left), len(old), sum(left.values()) + sum(old.values()))

    def evict(self, limit: int, keep: Collection[str] = ()) -> list[Entry]:
        """Removes entries until the store holds at most `limit` bytes.

        Unfinished stages go first, as they cost least; then what is cheapest to train again per byte, children before
        what they started from. Training a stage again costs its own seconds and those of its ancestors that are not
        there.

        Args:
            limit: Bytes.
            keep: Keys that running trials need: never removed.

        Returns:
            The finished stages that were removed.
        """
        try:
            there = {found.key: found for found in self.entries()}
            partials = self.partials()
        except OSError as error:
            log.warning("%s cannot be bounded now (%s)", self.root, _words(error))
            return []
        total = sum(found.bytes for found in there.values()) + sum(partials.values())
        for key, size in partials.items():
            if total > limit and key not in keep:
                self.drop_partial(key)
                total -= size
        removed = []
        while total > limit:
            free = [found for found in there.values() if found.key not in keep]
            if not free:
                break
            parents = {found.parent for found in there.values()}
            leaves = [found for found in free if found.key not in parents] or free
            cheapest = min(leaves, key=lambda found: (_again(found, there) / max(1, found.bytes), found.key))
            self._discard(_folder(cheapest.key))
            del there[cheapest.key]
            total -= cheapest.bytes
            removed.append(cheapest)
        return removed


TENSORS, STATE, MANIFEST, PARTIAL = "tensors.safetensors", "state.json", "manifest.json", "partial"

AGAIN_SECONDS = 0.2
"""After how long an entry that does not fit its checksums is read once more."""

OLD_SECONDS = 14 * 24 * 3600.0
"""After how long `clean` takes an unfinished stage for one that nobody goes on with."""

UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, SafetensorError,
)  # fmt: skip
"""What is raised by content of another shape than the store writes."""


class Damaged(Exception):
    """An entry was read, and is not what was written."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with an entry.

    Args:
        key: Its address.
        path: Where it lies in the store.
        reason: In words.
        damaged: Whether that is proven; otherwise it may be readable later.
    """

    key: str
    path: str
    reason: str
    damaged: bool


@dataclass(frozen=True)
class Cleaned:
    """How much `StageStore.clean` has removed.

    Args:
        damaged: Entries and unfinished stages that were damaged.
        left: Files and folders that killed writers have left.
        old: Unfinished stages that nobody goes on with.
        bytes: Of the last two.
    """

    damaged: int
    left: int
    old: int
    bytes: int


def _folder(key: str) -> str:
    return f"{key[:2]}/{key}"


def _partial(key: str) -> str:
    return f"{PARTIAL}/{key}"


def _sums(manifest: bytes, key: str) -> dict[str, str]:
    """The checksums of an entry's files.

    Raises:
        Damaged: The manifest is not that of this entry.
    """
    try:
        found = json.loads(manifest)
        named, sums = found["key"], found["sha256"]
        whole = set(sums) == {TENSORS, STATE}
    except UNREADABLE as error:
        raise Damaged(f"{MANIFEST} has another shape ({error})") from error
    if named != key:
        raise Damaged(f"its manifest is that of {named}")
    if not whole or not isinstance(sums, dict):
        raise Damaged(f"{MANIFEST} has another shape")
    return sums


def _words(error: OSError) -> str:
    return error.strerror or str(error)


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
    lenient_output()
    parser = argparse.ArgumentParser(prog="python -m trainables.stage_store", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "command", choices=("list", "verify", "clean"), nargs="?", default="list", help="what to do (default: list)"
    )
    parser.add_argument(
        "--store", default="results/stages", help="folder or URL of the store (default: results/stages)"
    )
    parser.add_argument(
        "--store-limit", type=byte_count, help="with clean: maximum size to keep, e.g. 500MB (default: no limit)"
    )
    options = parser.parse_args(arguments)
    try:
        return {"list": _list, "verify": _verify, "clean": _clean}[options.command](StageStore(options.store), options)
    except OSError as error:
        parser.error(f"--store {options.store}: {_words(error)}")


def _verify(store: StageStore, options: argparse.Namespace) -> int:
    there, problems = store.entries(), list(store.problems())
    echo(*(f"{problem.key}: {problem.reason}" for problem in problems))
    damaged = sum(problem.damaged for problem in problems)
    unread = f", {len(problems) - damaged} not readable now" if len(problems) > damaged else ""
    echo(f"{len(there)} entries read, {damaged} damaged{unread}, in {options.store}")
    return 1 if problems else 0


def _clean(store: StageStore, options: argparse.Namespace) -> int:
    cleaned = store.clean()
    there = store.entries()
    removed = store.evict(options.store_limit) if options.store_limit is not None else []
    freed = cleaned.bytes + sum(found.bytes for found in removed)
    echo(
        f"removed {cleaned.damaged} damaged entries, {cleaned.left} left by processes that are gone, {cleaned.old} "
        f"unfinished stages, and {len(removed)} of {len(there)} others ({freed / 1e6:.1f} MB)"
    )
    return 0


def _list(store: StageStore, options: argparse.Namespace) -> int:
    there = store.entries()
    for found in there:
        parent = f" from {found.parent[:8]}" if found.parent else ""
        echo(
            f"{found.key[:8]}  {found.kind:<8} {found.epochs:>4} epochs {found.seconds:>8.1f} s "
            f"{found.bytes / 1e6:>9.2f} MB  seed {found.seed}{parent}"
        )
    total, seconds = sum(found.bytes for found in there), sum(found.seconds for found in there)
    size = f"{total / 1e6:.1f} MB, {seconds:.0f} s of training"
    echo(f"{len(there)} entries, {size}, in {sentence(options.store)}")
    partials, left = store.partials(), store.left()
    if partials:
        echo(f"{len(partials)} unfinished stages, {sum(partials.values()) / 1e6:.1f} MB")
    if left:
        echo(f"{len(left)} left by processes that are gone, {sum(left.values()) / 1e6:.1f} MB: `clean` removes them")
    unreadable = len(store.folders()) - len(there)
    if unreadable:
        echo(f"{unreadable} entries cannot be read: `verify` says why")
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

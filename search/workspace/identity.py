"""What the results of a search stand on (`identity.json`): settings, space, data, code and versions.

Trials are compared with each other over days, so all of them must stand on the same. What that is gets written down
when a search starts and compared each time it is resumed, settled or exported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis import files
from analysis.formatting import counted
from analysis.text import printable
from search.option import FIXED
from search.settings import OPTIONS, UNDO, Settings, SettingsError
from spaces.domain import OneOf, Space, from_dict, to_dict
from trainables import data as data_sets
from trainables.code_identity import closure, code_hash, is_own, relocated
from trainables.data import LongTailed
from trainables.data.catalogue import Name
from trainables.deployment import Deployment
from trainables.models import is_own as is_own_network
from trainables.models import own, pretrained, settled
from trainables.pipeline.keys import code_version
from trainables.plan import tricks_of
from trainables.registry import discover, entry, source_file

IDENTITY = "identity.json"

SEEDS_APART = 10_000
"""Between the seed blocks of two `--seed`s: more than there are blocks in a search."""

SHOWN = 6
"""Changes of one kind that a message names."""


@dataclass(frozen=True)
class Identity:
    """What the results of a search stand on.

    Args:
        settings: Those that may not change once a search has begun.
        space: What may vary.
        files: Name to hash of the kept copies of the space file and of what it read beside it.
        data: Of the first seed block: fingerprint, shape, and name, number and digest of each class's images.
        code: Name to hash of the user's own code that the space's tricks and the network stand on.
        versions: Name to version of what decides results besides.
        former: Earlier spaces of a search whose space was changed, in order: `space` as a dict, and `files`.
    """

    settings: dict[str, Any]
    space: Space
    files: dict[str, str]
    data: dict[str, Any]
    code: dict[str, str]
    versions: dict[str, str]
    former: tuple[dict[str, Any], ...] = ()

    def write(self, folder: Path) -> None:
        """Writes it into a search's folder."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        files.write(folder / IDENTITY, files.to_json(content | {"space": to_dict(self.space)}, indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> Identity | None:
        """The identity in a search's folder; `None` of a search that an earlier version has started.

        Raises:
            SettingsError: The file is damaged.
        """
        file = folder / IDENTITY
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            space = from_dict(content["space"])
            parts = {name: dict(content[name]) for name in ("settings", "files", "data", "code", "versions")}
            parts["data"]["classes"] = [
                (str(name), int(count), digest) for name, count, digest in parts["data"]["classes"]
            ]
            _ = parts["data"]["fingerprint"]
            former = tuple({"space": one["space"], "files": dict(one["files"])} for one in content.get("former", ()))
            for one in former:
                from_dict(one["space"])
            if not isinstance(space, Space):
                raise TypeError(f"space is a {type(space).__name__}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SettingsError(f"--resume {folder.name}: {file} is damaged ({error!r}); {UNDO}") from error
        return Identity(space=space, former=former, **parts)

    def grown(self, now: Identity, files: dict[str, str]) -> Identity:
        """The identity with another space; the code of tricks that it no longer has is still known.

        Args:
            now: The identity with the other space, as a search would have it that began now.
            files: Name to hash of the copies of that space.
        """
        former = {"space": to_dict(self.space), "files": self.files}
        return dataclasses.replace(
            self, space=now.space, files=files, code=now.code | self.code, versions=now.versions | self.versions,
            former=(*self.former, former),
        )  # fmt: skip

    def before_growth(self) -> Identity:
        """The identity before its space was changed last; what is known of code and versions stays."""
        *former, last = self.former
        return dataclasses.replace(self, space=from_dict(last["space"]), files=last["files"], former=tuple(former))


def identify(space: Space, settings: Settings, model: str, data: LongTailed, deployment: Deployment) -> Identity:
    """The identity of a search as it would run now; `files` are left to `create`."""
    return Identity(
        settings=_fixed(settings, model, deployment),
        space=space,
        files={},
        data=_data(data),
        code=_code(space, model),
        versions=_versions(space),
    )


def _fixed(settings: Settings, model: str, deployment: Deployment) -> dict[str, Any]:
    """The settings that decide what a search finds, without places: what lies there is compared itself."""
    compared = [name for name, option in OPTIONS.items() if option.compared and option.on_resume is FIXED]
    fields: dict[str, Any] = {name: getattr(settings, name) for name in compared}
    kind, _, file = (settings.design or "").partition(":")
    fields |= {"model": relocated(model, os.path.basename), "design": f"{kind}:" if file else settings.design}
    fields["deployment"] = deployment.to_dict() if deployment else None
    return dict(json.loads(json.dumps(fields)))


def _data(data: LongTailed) -> dict[str, Any]:
    """The images of each class as a set, so that a change can be named; the fingerprint also knows order and splits."""
    digests: list[list[bytes]] = [[] for _ in data.class_names]
    counts, resident = [0] * data.classes, True
    for split in ("train", "val", "test"):
        images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels").tolist()
        resident = resident and isinstance(images, Tensor)
        for number, label in enumerate(labels):
            counts[label] += 1
            if resident:
                digests[label].append(hashlib.blake2b(images[number].contiguous().numpy(), digest_size=8).digest())
    classes = [
        (name, count, hashlib.sha256(b"".join(sorted(found))).hexdigest()[:16] if resident else None)
        for name, count, found in zip(data.class_names, counts, digests, strict=True)
    ]
    return {
        "fingerprint": data.fingerprint,
        "split_seed": data.split_seed,
        "shape": list(data.train_images.shape[1:]),
        "classes": classes,
    }


def _code(space: Space, model: str) -> dict[str, str]:
    """The user's own code behind the tricks of a space and behind the network."""
    found: dict[str, str] = {}
    for trick in _tricks(space):
        file = source_file(entry(trick).cls)
        if not is_own(file):
            continue
        # what a trick reads beside itself in other ways than by an import
        aside = {other.stem: other for other in file.parent.glob("_*.py") if other.name != "__init__.py"}
        for path in closure({file.stem: file, **aside}).values():
            found[f"{path.name} of the trick {trick}"] = code_hash(path)
    parsed = Name.parse(model)
    if is_own_network(model):
        for path in own.files(parsed.kind).values():
            found[f"{path.name} of the network"] = code_hash(path)
    elif parsed.options.get("pretrained", "no") != "no":
        found["the file of pretrained weights"] = pretrained.mark(Path(parsed.options["pretrained"]))
    return found


def _versions(space: Space) -> dict[str, str]:
    files = {trick: source_file(entry(trick).cls) for trick in _tricks(space)}
    return {
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "the code of longtail-tune's training": code_version(),
        **{f"the code of the trick {trick}": code_version(trick) for trick, file in files.items() if not is_own(file)},
    }


def _tricks(space: Space) -> list[str]:
    """Names of all tricks of a space."""
    return sorted({trick.name for stage in space.written_stages for trick in tricks_of(stage)})


def changes(before: Identity, now: Identity) -> list[str]:
    """What is not as it was when the search started, each in words; empty where everything is."""
    return [
        *(f"{'deployment.json' if name == 'deployment' else f'{name} of search.json'} was {old!r}, "
          f"is {now.settings.get(name)!r}"
          for name, old in before.settings.items()
          if old != now.settings.get(name) and not (name == "lag" and old == 0)),
        *_space_changes(before, now),
        *_data_changes(before.data, now.data),
        *_code_changes(before.code, now.code),
        *_version_changes(before.versions, now.versions),
    ]  # fmt: skip


def _space_changes(before: Identity, now: Identity) -> list[str]:
    old, new = before.space, now.space
    if old == new:
        return []
    named = [name for name in {**before.files, **now.files} if before.files.get(name) != now.files.get(name)]
    stages = [
        {stage.name: (stage, position) for position, slot in enumerate(space.stages)
         for stage in (slot.options if isinstance(slot, OneOf) else (slot,)) if stage is not None}
        for space in (old, new)
    ]  # fmt: skip
    parts = [f"stage {name}" for name in {**stages[0], **stages[1]} if stages[0].get(name) != stages[1].get(name)]
    parts += [
        f"{name}="
        for name in ("screen", "forbid", "recipes", "data", "model")
        if getattr(old, name) != getattr(new, name)
    ]
    where = f" ({_listed(sorted(named))})" if named and before.files and now.files else ""
    return [f"the space has changed{where}: {_listed(parts or ['its choice of stages'])}"]


def _data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if before["fingerprint"] == now["fingerprint"] and before.get("split_seed") == now.get("split_seed"):
        return []
    old, new = ({name: (count, digest) for name, count, digest in data["classes"]} for data in (before, now))
    said = []
    for name, (count, digest) in old.items():
        if name not in new:
            said.append(f"class {printable(name)} with its {counted(count, 'image')} is gone")
        elif new[name][0] != count:
            more = new[name][0] - count
            said.append(f"{printable(name)} has {counted(new[name][0], 'image')} instead of {count} ({more:+})")
        elif new[name][1] != digest:
            said.append(f"{printable(name)} has other images or labels than before ({count}, as before)")
    said += [
        f"class {printable(name)} with its {counted(new[name][0], 'image')} is new" for name in new if name not in old
    ]
    if before.get("shape") != now.get("shape"):
        said.append(f"the images' shape was {before.get('shape')}, is {now['shape']}")
    if not said:
        said = ["the same number of images, but files were replaced, touched or renamed, or are divided otherwise"]
    return [f"the data have changed: {_listed(said)}"]


def _code_changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A file that only one of both has is imported by one that has changed, or belongs to another space or network."""
    return [f"{printable(name)} has changed" for name, old in before.items() if now.get(name, old) != old]


def _version_changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [
        f"{name} has changed" if name.startswith("the code of") else f"{name} was {old}, is {now[name]}"
        for name, old in before.items()
        if now.get(name, old) != old
    ]


def _listed(parts: Iterable[str]) -> str:
    some = list(parts)
    return ", ".join(some[:SHOWN]) + (f" and {len(some) - SHOWN} more" if len(some) > SHOWN else "")


def block_changes(trained: Mapping[int, set[str]], fingerprint: Callable[[int], str]) -> list[str]:
    """Seed blocks whose data are not what their trials were trained on.

    Where a longer tail is cut, a block draws its images from more than the first block has.

    Args:
        trained: Seed of the split to the fingerprints that its trials have recorded.
        fingerprint: Of the data of a split as they are now.
    """
    blocks = [str(seed) for seed, marks in sorted(trained.items()) if marks != {fingerprint(seed)}]
    return [f"the data have changed: other images or labels in seed blocks {_listed(blocks)}"] if blocks else []


def refusal(asked: str, changed: Iterable[str], again: str) -> str:
    """The sentence that refuses to resume a search whose data, space or code has changed.

    Args:
        asked: The option that continues the search.
        changed: The changes, each in words.
        again: What `--accept-changes` would do.
    """
    return (
        f"{asked}: {'; '.join(changed)}, and results from before and after must not be compared; undo that, or give "
        f"--accept-changes as well, which {again}"
    )


def changes_in(folder: Path) -> list[str]:
    """What of the data and of the user's code is not as it was when the search in a folder started.

    Versions of libraries are not compared: what was measured stays true, and whoever trains a recipe has others.

    Raises:
        ValueError: Data or code are not here, or cannot be read.
    """
    before = Identity.read(folder)
    if before is None:
        raise SettingsError(f"{folder} has no {IDENTITY}, because an earlier version started the search")
    settings = Settings.stored(folder.parent, folder.name)
    discover(*settings.tricks)
    model = settled(settings.model or data_sets.standard(settings.data, settings.data_root).model)
    first = data_sets.load(
        settings.data, root=settings.data_root, imbalance=settings.imbalance, split_seed=settings.seed * SEEDS_APART
    )
    now = identify(before.space, settings, model, first, Deployment())
    return [*_data_changes(before.data, now.data), *_code_changes(before.code, now.code)]

"""Computes the features of a data set with a pretrained network, block by block, and writes them to one file."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from analysis.files import to_json, write
from analysis.text import echo
from trainables.data import LongTailed, load, resolve_root, standard, with_size
from trainables.data.catalogue import Name
from trainables.data.images.progress import progress
from trainables.data.loaders import feed_of
from trainables.models import ModelError, Network, build, check, check_on, comes_trained, input_format, is_own, settled
from trainables.pipeline.pipeline import normalised_for
from trainables.training.seeding import generator

BLOCK = 2048
"""Images of a part that is kept by itself: what an interruption may cost."""

SUFFIXES = (".npz", ".safetensors")


class EmbedError(ValueError):
    """Features that cannot be computed as asked."""


def run(options: argparse.Namespace) -> int:
    """Runs the command; 130 where it was interrupted.

    Raises:
        EmbedError: An option is out of its range.
    """
    if options.out.suffix not in SUFFIXES:
        raise EmbedError(f"--out {options.out}: must end in {' or '.join(SUFFIXES)}")
    for name, value in (("views", options.views), ("batch-size", options.batch_size), ("threads", options.threads)):
        if value is not None and value < 1:
            raise EmbedError(f"--{name} must be at least 1, got {value}")
    try:
        embed(options)
    except KeyboardInterrupt:
        echo(f"interrupted; the same command continues from {_parts_of(options.out)}", file=sys.stderr)
        return 130
    return 0


def embed(options: argparse.Namespace) -> None:
    """Computes the features of all splits and writes them.

    Raises:
        ValueError: Data or network are not there or do not belong together.
        OSError: The file cannot be written.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    model, name = _model(options.model), _data_name(options)
    splits = _splits(name, options)
    first = splits["train"]
    if first.kind == "features":
        raise EmbedError(f"--data {options.data}: these are features already; embed the images that they come from")
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    )
    network = _network(model, first, options, device)
    provenance = _provenance(model, name, network, first, options)
    parts = _Parts(_parts_of(options.out))
    parts.begin(provenance)
    if is_own(model):
        echo(f"runs the network of {model}")
    arrays: dict[str, tuple[tuple[int, ...], Callable[[], Iterator[NDArray[Any]]]]] = {}
    for split, data in splits.items():
        views = options.views if split == "train" else 1
        seen = normalised_for(model, data)
        blocks = [
            (view, block, low, min(low + BLOCK, len(data.train_labels)))
            for view in range(views)
            for block, low in enumerate(range(0, len(data.train_labels), BLOCK))
        ]
        _compute(seen, split, blocks, network, options.batch_size, device, parts)
        shape = (len(data.train_labels), network.features)
        arrays[f"x_{split}"] = (
            shape if views == 1 else (views, *shape),
            lambda split=split, blocks=blocks: (parts.read(split, view, block) for view, block, *_ in blocks),  # type: ignore[misc]
        )
        labels = data.train_labels.numpy()
        arrays[f"y_{split}"] = (labels.shape, lambda labels=labels: iter([labels]))  # type: ignore[misc]
    write = _write_npz if options.out.suffix == ".npz" else _write_safetensors
    write(options.out, arrays, list(first.class_names), provenance)
    parts.remove()
    counts = ", ".join(f"{len(data.train_labels)} {split}" for split, data in splits.items())
    echo(
        f"written to {options.out}: {network.features} features of {counts} images; see them with\n"
        f"    python -m trainables.data describe features:{options.out}"
    )


def _model(name: str) -> str:
    """The network by absolute places.

    Raises:
        ModelError: There is no such network, or it has not been trained.
    """
    model = settled(name)
    check(model)
    if not is_own(model) and not comes_trained(model):
        raise ModelError(f"--model {name}: has random initial values, whose features say nothing; add ?pretrained=FILE")
    return model


def _data_name(options: argparse.Namespace) -> str:
    """The data at the size that the network expects."""
    expected = input_format(options.model)
    return options.data if expected is None else with_size(options.data, expected.size, expected.interpolation)


def _splits(name: str, options: argparse.Namespace) -> dict[str, LongTailed]:
    """Each split as the training images of data of its own; a val only where it was given."""
    cut = options.imbalance
    if cut is None and standard(name, options.data_root).imbalance is not None:
        cut = 1.0
    held = load(name, root=options.data_root, imbalance=cut, split_seed=0)
    data = held if held.val_given else load(name, root=options.data_root, imbalance=cut, fold_val=True)
    found = {"train": data}
    for split in ("val", "test"):
        labels = getattr(data, f"{split}_labels")
        if len(labels):
            found[split] = dataclasses.replace(data, train_images=getattr(data, f"{split}_images"), train_labels=labels)
    return found


def _network(model: str, data: LongTailed, options: argparse.Namespace, device: torch.device) -> Network:
    """The network in evaluation mode, seen to run on such images."""
    shape = tuple(map(int, data.train_images.shape[1:]))
    check_on(model, classes=data.classes, shape=shape)
    network = build(model, classes=data.classes, channels=shape[0], generator=torch.Generator().manual_seed(0))
    last = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    return network.to(device).eval().settle(options.precision, last)


def _provenance(
    model: str, name: str, network: Network, data: LongTailed, options: argparse.Namespace
) -> dict[str, Any]:
    """Where the features come from, JSON-serialisable and without places."""
    digest = hashlib.sha256()
    for key, value in network.backbone.state_dict().items():
        digest.update(f"{key} {tuple(value.shape)}".encode() + value.detach().cpu().contiguous().numpy().tobytes())
    expected = input_format(model)
    size = expected.size if expected is not None else int(data.train_images.shape[-1])
    return {
        "backbone": Path(Name.parse(model).kind).name,
        "weights": digest.hexdigest(),
        "views": options.views,
        "size": size,
        "mean": list(expected.mean) if expected else data.mean.tolist(),
        "std": list(expected.std) if expected else data.std.tolist(),
        "interpolation": expected.interpolation if expected else "",
        "data": resolve_root(name, options.data_root)[0],
        "data_fingerprint": data.fingerprint,
        "precision": options.precision,
        "torch": version("torch"),
    }


# --- computing ------------------------------------------------------------------------------------------------


def _compute(
    data: LongTailed, split: str, blocks: Sequence[tuple[int, int, int, int]], network: Network, batch_size: int,
    device: torch.device, parts: _Parts,
) -> None:  # fmt: skip
    """Computes the blocks (view, block, first image, end) of a split that are not there yet."""
    feed = feed_of(data)
    with progress(f"features of {split}", sum(high - low for *_, low, high in blocks)) as show, torch.no_grad():
        done = 0
        for view, block, low, high in blocks:
            if not parts.has(split, view, block):
                batches = torch.arange(low, high).split(batch_size)
                # drawn by block, so that a run that continues draws the same
                draws = generator(0, "embed", view, block)
                fed = feed.raw(batches) if view == 0 else feed.augmented(batches, draws)
                found = []
                for images in fed:
                    features = network(data.normalise(images.to(device))).features
                    assert features is not None
                    found.append(features.float().cpu())
                features = torch.cat(found)
                if not features.isfinite().all():
                    raise EmbedError(
                        f"the features of some {split} images {low} to {high - 1} are not finite; compute them with "
                        "--precision fp32, or look at the weights"
                    )
                parts.keep(split, view, block, features.numpy())
            done += high - low
            show(done)


def _parts_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


@dataclass(frozen=True)
class _Parts:
    """Finished blocks, each a file of its own until all are there."""

    folder: Path

    def begin(self, about: dict[str, Any]) -> None:
        """Makes the folder, or continues in it.

        Raises:
            EmbedError: It has blocks of something else.
        """
        note = self.folder / "about.json"
        if note.is_file():
            before = json.loads(note.read_text(encoding="utf-8"))
            if other := [key for key in about if before.get(key) != about[key]]:
                raise EmbedError(
                    f"{self.folder} has blocks that were computed with another {' and '.join(other)}; remove the "
                    "folder, or give the options of then"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write(note, to_json(about))

    def _file(self, split: str, view: int, block: int) -> Path:
        return self.folder / f"{split}-{view}-{block}.npy"

    def has(self, split: str, view: int, block: int) -> bool:
        """Whether a block is there."""
        return self._file(split, view, block).is_file()

    def keep(self, split: str, view: int, block: int, features: NDArray[np.float32]) -> None:
        """Writes a block, whole or not at all."""
        file = self._file(split, view, block)
        half = file.with_suffix(".half")
        with half.open("wb") as stream:
            np.save(stream, features)
        half.replace(file)

    def read(self, split: str, view: int, block: int) -> NDArray[np.float32]:
        """A block (n, D)."""
        found: NDArray[np.float32] = np.load(self._file(split, view, block), allow_pickle=False)
        return found

    def remove(self) -> None:
        """Removes all blocks."""
        shutil.rmtree(self.folder)


# --- writing: block by block, since the features may be larger than memory --------------------------------------

Arrays = dict[str, tuple[tuple[int, ...], Callable[[], Iterator[NDArray[Any]]]]]
"""By name the shape, and what gives the rows in order: float32 of features, int64 of labels."""


def _write_npz(out: Path, arrays: Arrays, class_names: list[str], provenance: dict[str, Any]) -> None:
    half = out.with_name(f"{out.name}.half")
    with zipfile.ZipFile(half, "w", zipfile.ZIP_STORED) as pack:
        for name, (shape, blocks) in arrays.items():
            with pack.open(f"{name}.npy", "w", force_zip64=True) as member:
                kind = "<f4" if name.startswith("x") else "<i8"
                npy.write_array_header_1_0(member, {"descr": kind, "fortran_order": False, "shape": shape})
                for block in blocks():
                    member.write(np.ascontiguousarray(block, dtype=kind).tobytes())
        for name, text in (("class_names", class_names), ("provenance", json.dumps(provenance))):
            with pack.open(f"{name}.npy", "w") as member:
                npy.write_array(member, np.array(text), allow_pickle=False)
    half.replace(out)


def _write_safetensors(out: Path, arrays: Arrays, class_names: list[str], provenance: dict[str, Any]) -> None:
    header: dict[str, Any] = {
        "__metadata__": {"class_names": json.dumps(class_names), "provenance": json.dumps(provenance)}
    }
    at = 0
    order = sorted(arrays, key=lambda name: name.startswith("x"))  # labels first, which keeps all aligned to 4 bytes
    for name in order:
        kind, size = ("F32", 4) if name.startswith("x") else ("I64", 8)
        end = at + size * math.prod(arrays[name][0])
        header[name] = {"dtype": kind, "shape": list(arrays[name][0]), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    half = out.with_name(f"{out.name}.half")
    with half.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            kind = "<f4" if name.startswith("x") else "<i8"
            for block in arrays[name][1]():
                stream.write(np.ascontiguousarray(block, dtype=kind).tobytes())
    half.replace(out)

"""`imagenet-lt`, `places-lt`, `inaturalist18`: from their public list files and a folder of images.

A list has one image a line, `relative/path label`, labels from 0, no header; the label stands after the last space,
so paths may have spaces. The lists (`ImageNet_LT_train.txt` …) lie in the root, in its folder `lists`, or where
`?lists=DIR` says, relative to the root; the images in the root under the paths that the lists name.

Taken as they are: the tail is the lists' own, and with `--imbalance` only a longer one can be cut. ImageNet-LT and
Places-LT give a balanced val (20 images per class), which stays out of the final training, and a test.
iNaturalist 2018 gives 3 val images per class, which the literature tests on, as here; the val of a search is cut from
train, at most 3 per class and none of classes with fewer than 5, see `trainables.data.splits`.

At 224 pixels (`?size=`) ImageNet-LT takes 28 GB, above the limit of 8 (`?resident_limit=`), so it is streamed from its
files; `?size=64` takes 2.3 GB and is held in memory. Training takes crops of random size and shape and mirrors them
(`?crop=resized`): of the whole image where it is streamed, of the centre that is held where it is resident. Other
images have their shorter side resized and the centre cut out. The other options are those of own data, see
`trainables.data.user_data.own`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.catalogue import DataError, Name, Standard
from trainables.data.long_tail import LongTailed
from trainables.data.splits import class_list
from trainables.data.user_data import source
from trainables.data.user_data.source import SPLITS, Options, Source, check_classes, long_tailed
from trainables.data.user_data.table_files import check_files

OPTIONS = (*source.OPTIONS, "lists")

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet, which the public codes use for all three."""


@dataclass(frozen=True)
class Lists:
    """Lists of one data set.

    Args:
        classes: C.
        files: The list of each given split.
        sizes: Their published numbers of lines.
        val: Images of each class in val, if val is cut.
        standard: Schedule of the data set.
    """

    classes: int
    files: dict[str, str]
    sizes: dict[str, int]
    val: int
    standard: Standard


_NINETY = Standard(
    epochs=90, lr=0.2, weight_decay=5e-4, batch_size=512, schedule="cosine",
    model="resnet10", imbalance=None, eval_every=5, margin=0.01, final_epochs=90,
)  # fmt: skip

LISTS = {
    "imagenet-lt": Lists(
        1000,
        {split: f"ImageNet_LT_{split}.txt" for split in SPLITS},
        {"train": 115_846, "val": 20_000, "test": 50_000},
        20,
        _NINETY,
    ),
    "places-lt": Lists(
        365,
        {split: f"Places_LT_{split}.txt" for split in SPLITS},
        {"train": 62_500, "val": 7_300, "test": 36_500},
        20,
        replace(_NINETY, epochs=30, lr=0.01, model="resnet152", eval_every=2, final_epochs=30),
    ),
    "inaturalist18": Lists(
        8142,
        {"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
        {"train": 437_513, "test": 24_426},
        3,
        replace(_NINETY, weight_decay=1e-4, model="resnet50"),
    ),
}


def standard(name: str, root: str | None = None) -> Standard:
    """The schedule that the lists were published with.

    Source: Kang et al. 2020, arXiv:1910.09217, section 4.1 and public code f162ade, `config/`. Places-LT: 30 epochs
        from an ImageNet backbone.
    Differs: one learning rate for backbone and classifier (Places-LT: 0.01, the code 0.01 and 0.1); ResNet-10 for
        ImageNet-LT as Liu et al. 2019, arXiv:1904.05160.
    """
    return LISTS[Name.parse(name).kind].standard


def load(
    name: str, *, root: str | None = None, imbalance: float | None = None, split_seed: int = 0, fold_val: bool = False
) -> LongTailed:
    """Loads and splits the listed images; see `trainables.data.load`.

    Raises:
        DataError: The root, a list or images are absent or damaged; labels are not as published; too much memory.

    Source: Liu et al. 2019, arXiv:1904.05160 (ImageNet-LT, Places-LT); Van Horn et al. 2018, arXiv:1707.06642.
    Differs: the shorter side of evaluated images is resized to the crop's side, not to 256; no colour jitter.
    """
    return long_tailed(
        name, index(name, root), options_of(name),
        imbalance=imbalance, split_seed=split_seed, fold_val=fold_val, mean=MEAN, std=STD,
    )  # fmt: skip


def options_of(name: str) -> Options:
    """The options of a name: images of 224 pixels unless it says otherwise."""
    parsed = Name.parse(name)
    return Options.of(parsed, size=224, val=LISTS[parsed.kind].val, crop="resized")


def index(name: str, root: str | None = None) -> Source:
    """Reads the lists; no pixel is read."""
    parsed = Name.parse(name)
    what = LISTS[parsed.kind]
    if root is None:
        raise DataError(f"{name}: needs --data-root, the folder of the images that {what.files['train']} names")
    place = Path(root).expanduser()
    if not place.is_dir():
        raise DataError(f"{name}: --data-root {place} is not a folder; give the folder of the images")
    searched = [place, place / "lists"]
    if "lists" in parsed.options:
        searched = [place / Path(parsed.options["lists"]).expanduser()]
    lists: dict[str, Path] = {}
    for split, title in what.files.items():
        found = [folder / title for folder in searched if (folder / title).is_file()]
        if not found:
            raise DataError(
                f"{name}: there is no {title} in {' or '.join(map(str, searched))}; put the public lists there, or say "
                "where they are with ?lists=DIR in the name"
            )
        lists[split] = found[0]
    labels: dict[str, NDArray[np.int64]] = {}
    files: dict[str, list[Path]] = {}
    odd: list[str] = []
    class_names = tuple(map(str, range(what.classes)))
    for split, file in lists.items():
        paths, labels[split] = parse_list(file, what.classes)
        files[split] = [place / path for path in paths]
        if len(paths) != what.sizes[split]:
            odd.append(f"{file.name} has {len(paths)} lines, the published one {what.sizes[split]}")
    absent = np.flatnonzero(np.bincount(labels["train"], minlength=what.classes) == 0).tolist()
    if absent:
        raise DataError(
            f"{name}: {lists['train']} has no image of {class_list(absent, class_names)}; the published list has "
            f"images of all {what.classes}: get it again"
        )
    check_classes(name, labels, class_names)
    for split, file in lists.items():
        check_files(str(file), place, files[split])
    return Source(str(place), class_names, labels, files, problems=tuple(odd))


def parse_list(file: Path, classes: int) -> tuple[list[str], NDArray[np.int64]]:
    """Reads the paths and labels of a list file, in its order.

    Args:
        file: Lines of `path label`, split at the last space.
        classes: C; labels lie in [0, C).

    Raises:
        DataError: A line is malformed, a label is out of range, or an image is listed twice.
    """
    found: dict[str, tuple[int, int]] = {}
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{file}: cannot be read as a list in UTF-8 ({error})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        path, label = line.strip().rsplit(maxsplit=1) if len(line.split()) > 1 else ("", "")
        if not re.fullmatch(r"-?[0-9]+", label):
            raise DataError(f"{file}, line {number}: must be a path, a space and a whole number, got {line!r}")
        if len(label) > 9 or not 0 <= int(label) < classes:
            shown = label if len(label) < 20 else f"one of {len(label)} digits"
            raise DataError(f"{file}, line {number}: labels must lie between 0 and {classes - 1}, got {shown}")
        if path in found:
            raise DataError(
                f"{file}, line {number}: {path} stands in line {found[path][1]} already; the published list has each "
                "image once: get it again, or take one of the lines out"
            )
        found[path] = (int(label), number)
    return list(found), np.array([label for label, _ in found.values()], dtype=np.int64)

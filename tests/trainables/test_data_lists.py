"""The public list files: parsing, what is absent, and loading a small data set that looks like one."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.data import DataError, load, standard
from trainables.data.list_files import LISTS, index, parse_list
from trainables.data.splits import divide

TRAIN = [12, 6, 5, 2]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four classes under the names of the real lists."""
    sizes = {"train": sum(TRAIN), "val": 8, "test": 12}
    monkeypatch.setitem(LISTS, "imagenet-lt", replace(LISTS["imagenet-lt"], classes=4, sizes=sizes))
    sizes = {"train": sum(TRAIN), "test": 12}
    monkeypatch.setitem(LISTS, "inaturalist18", replace(LISTS["inaturalist18"], classes=4, sizes=sizes))
    counts = {"train": TRAIN, "val": [2] * 4, "test": [3] * 4}
    (tmp_path / "lists").mkdir()
    draw = np.random.RandomState(0)
    for split, of_class in counts.items():
        lines = []
        for label, count in enumerate(of_class):
            for number in range(count):
                file = Path(split) / f"class {label}" / f"{number}.png"
                (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                shape = (20 + number, 24, 3)
                Image.fromarray(draw.randint(0, 256, shape, dtype=np.uint8)).save(tmp_path / file)
                lines.append(f"{file} {label}\n")
        (tmp_path / "lists" / f"ImageNet_LT_{split}.txt").write_text("".join(lines))
        other = {"train": "train", "test": "val"}.get(split)
        if other:
            (tmp_path / "lists" / f"iNaturalist18_{other}.txt").write_text("".join(lines))
    return tmp_path


def test_shared_lists() -> None:
    lists = Path(os.environ.get("LONGTAIL_SHARED", Path(__file__).parents[2].parent / "shared")) / "data" / "lists"
    if not lists.is_dir():
        pytest.skip(f"the shared lists are not in {lists}; set LONGTAIL_SHARED")
    for file, name, split, per_class in (
        ("ImageNet_LT_val.txt", "imagenet-lt", "val", 20),
        ("iNaturalist18_val.txt", "inaturalist18", "test", 3),
    ):
        what = LISTS[name]
        assert what.files[split] == file
        paths, labels = parse_list(lists / file, what.classes)
        assert len(paths) == len(labels) == what.sizes[split]
        assert np.bincount(labels, minlength=what.classes).tolist() == [per_class] * what.classes
        assert len(set(paths)) == len(paths)
        if name == "imagenet-lt":
            assert paths[0] == "train/n01440764/n01440764_762.JPEG" and labels[0] == 0
        with pytest.raises(DataError, match=rf"{file}, line \d+: labels must lie between 0 and 99, got \d+"):
            parse_list(lists / file, 100)
        # 20 images of a class give a val of 4, however many classes there are
        names = [str(label) for label in range(what.classes)]
        division = divide(name, {"train": labels, "test": labels}, names, imbalance=None, split_seed=3, fold_val=False,
                          val=2) if per_class == 20 else None  # fmt: skip
        if division is not None:
            assert np.bincount(labels[division.index["val"][1]]).tolist() == [2] * what.classes


def test_published_numbers() -> None:
    assert {name: (what.classes, what.sizes["train"], what.sizes["test"]) for name, what in LISTS.items()} == {
        "imagenet-lt": (1000, 115_846, 50_000),
        "places-lt": (365, 62_500, 36_500),
        "inaturalist18": (8142, 437_513, 24_426),
    }
    found = standard("imagenet-lt?size=64")
    assert (found.epochs, found.lr, found.batch_size, found.weight_decay, found.imbalance) == (90, 0.2, 512, 5e-4, None)


def test_given_splits_stay(small: Path) -> None:
    data = load("imagenet-lt?size=16", root=str(small))
    assert data.counts.tolist() == TRAIN and data.imbalance == 6
    assert data.val_labels.bincount().tolist() == [2] * 4 and data.test_labels.bincount().tolist() == [3] * 4
    assert data.train_images.shape == (25, 3, 16, 16)
    assert [note[:25] for note in data.notes] == ["fewer than 5 test images,", "fewer than 5 val images, "]
    assert data.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    folded = load("imagenet-lt?size=16", root=str(small), fold_val=True)
    assert torch.equal(folded.train_images, data.train_images) and len(folded.val_labels) == 0
    assert load("imagenet-lt?size=16", root=str(small), imbalance=12).counts.tolist() == [12, 5, 2, 1]


def test_val_of_inaturalist_is_cut_from_train(small: Path) -> None:
    data = load("inaturalist18?size=16", root=str(small))
    assert data.val_labels.bincount(minlength=4).tolist() == [2, 1, 1, 0]
    assert data.counts.tolist() == [10, 5, 4, 2] and data.test_labels.bincount().tolist() == [3] * 4
    assert any("too few images for a balanced val of 3 per class in 4 classes" in note for note in data.notes)


def test_lists_elsewhere_and_other_numbers(small: Path) -> None:
    away = small / "away from here"
    (small / "lists").rename(away)
    with pytest.raises(DataError, match=r"there is no ImageNet_LT_train.txt in .* or .*lists; put the public lists"):
        index("imagenet-lt", str(small))
    file = away / "ImageNet_LT_test.txt"
    file.write_text(file.read_text().rsplit("\n", 2)[0] + "\n\n")
    found = index("imagenet-lt?lists=away from here", str(small))
    assert found.problems == ("ImageNet_LT_test.txt has 11 lines, the published one 12",)
    assert found.files["train"][0] == small / "train" / "class 0" / "0.png"


def test_bad_roots() -> None:
    with pytest.raises(DataError, match="places-lt: needs --data-root, the folder of the images"):
        load("places-lt")
    with pytest.raises(DataError, match="places-lt: --data-root nowhere is not a folder"):
        load("places-lt", root="nowhere")


def test_absent_files(small: Path) -> None:
    for number in (3, 4, 5, 6):
        (small / "train" / "class 0" / f"{number}.png").unlink()
    message = (
        r"ImageNet_LT_train.txt: 4 of the 25 files that it names are absent under .*: train/class 0/3.png, "
        r"train/class 0/4.png, train/class 0/5.png, …"
    )
    with pytest.raises(DataError, match=message):
        load("imagenet-lt?size=16", root=str(small))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/a.png 4", "line 2: labels must lie between 0 and 3, got 4"),
        ("train/a.png -1", "line 2: labels must lie between 0 and 3, got -1"),
        ("train/a.png", "line 2: must be a path, a space and a whole number, got 'train/a.png'"),
        ("train/a.png 1.0", "line 2: must be a path, a space and a whole number"),
        ("7", "line 2: must be a path, a space and a whole number, got '7'"),
        (f"train/a.png {'9' * 5000}", "line 2: labels must lie between 0 and 3, got one of 5000 digits"),
        ("train/a.png ²", "line 2: must be a path, a space and a whole number"),
        ("train/b c.png\t1", "line 2: train/b c.png stands in line 1 already; the published list has each image once"),
    ],
)
def test_bad_lines(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"train/b c.png 0\n{line}\n")
    with pytest.raises(DataError, match=message):
        parse_list(tmp_path / "list.txt", 4)


def test_labels_not_from_0_and_empty_classes(small: Path) -> None:
    file = small / "lists" / "ImageNet_LT_train.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if not line.endswith((" 1", " 3"))))
    message = r"ImageNet_LT_train.txt has no image of 2 classes: 1, 3; the published list has images of all 4: get it"
    with pytest.raises(DataError, match=message):
        load("imagenet-lt?size=16", root=str(small))


def test_what_does_not_fit(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.data.images.files.os.cpu_count", lambda: 1)
    with pytest.raises(
        DataError, match=r"45 images of 9000×9000 pixels are 10.9 GB in memory, above the limit of 8 GB"
    ):
        load("imagenet-lt?size=9000&feed=resident", root=str(small))

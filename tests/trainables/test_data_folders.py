"""Folders as people have them: classes, splits, clutter, masks, links; nothing is merged or left out without a word."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import DataError, load
from trainables.data.describe import describe
from trainables.data.user_data.own import index


def picture(file: Path, seed: int = 0, mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed + 1000).randint(0, 256, (8, 8, 3), dtype=np.uint8)
    ending = file.suffix.lower().lstrip(".")
    format_ = {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}.get(ending, "JPEG")
    Image.fromarray(pixels).convert(mode).save(file, format_)


def photos(place: Path, sizes: dict[str, int], ending: str = "png", first: int = 0) -> Path:
    for number, (name, count) in enumerate(sizes.items()):
        for image in range(count):
            picture(place / name / f"{image}.{ending}", first + 100 * number + image)
    return place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos", {"ant": 12, "bee": 7})


def problems(place: Path, options: str = "") -> str:
    """What `describe` says should be known; the same sentences reach the search and the final training."""
    found = describe(f"folder:{place}{options}")
    notes = load(f"folder:{place}{options}").notes
    own = [one for one in found.problems if "image of" not in one and "images of" not in one and "in train" not in one]
    assert set(own) <= set(notes), (own, notes)
    return "\n".join(found.problems)


# --- classes and splits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "Train", "test", "val", "validation"])
def test_a_class_may_be_called_like_a_split(name: str, place: Path) -> None:
    photos(place, {name: 5}, first=500)
    assert set(index(f"folder:{place}").class_names) == {"ant", "bee", name}
    assert f"{name} holds images itself and is therefore a class, not a split" in problems(place)


def test_what_looks_like_a_split_and_is_none_is_refused(place: Path) -> None:
    photos(place / "train", {"old": 3})
    with pytest.raises(
        DataError, match=r"beside train there may be val and test only, got ant, bee; .* is a class, keep"
    ):
        index(f"folder:{place}")
    # as the message says: the class's images without further folders
    for file in (place / "train" / "old").iterdir():
        file.rename(place / "train" / file.name)
    (place / "train" / "old").rmdir()
    assert index(f"folder:{place}").class_names == ("ant", "bee", "train")


@pytest.mark.parametrize("names", [("training", "validation"), ("Train", "Test"), ("train", "valid"), ("dev", "test")])
def test_splits_under_other_names_are_no_classes(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        photos(tmp_path / name, {"ant": 6, "bee": 6})
    with pytest.raises(DataError, match=r"train, val and test|but no train"):
        index(f"folder:{tmp_path}")


def test_splits_that_hold_images_and_no_classes(tmp_path: Path) -> None:
    photos(tmp_path, {"train": 6, "test": 6})
    with pytest.raises(DataError, match="train: has no folders; it needs one for each class"):
        index(f"folder:{tmp_path}")


def test_splits_below_the_classes_are_used_as_given(tmp_path: Path) -> None:
    for number, (name, counts) in enumerate({"ant": (12, 4, 5), "bee": (6, 2, 3)}.items()):
        photos(tmp_path / name, dict(zip(("train", "val", "test"), counts, strict=True)), first=1000 * number)
    above = tmp_path.parent / "above"
    for file in tmp_path.rglob("*.png"):
        target = above / file.parent.name / file.parent.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    below, data = load(f"folder:{tmp_path}"), load(f"folder:{above}")
    assert below.counts.tolist() == [12, 6] and below.val_given and below.fingerprint == data.fingerprint
    assert "the folders train, val, test below the classes are used as the given splits" in problems(tmp_path)


def test_splits_below_some_classes_are_refused(place: Path) -> None:
    photos(place / "cat", {"train": 5, "test": 2})
    message = r"photos/cat: has the folders test and train; where they are splits, put them above the classes"
    with pytest.raises(DataError, match=message):
        index(f"folder:{place}")
    for name in ("train", "test"):  # no splits: renamed, as the message says
        (place / "cat" / name).rename(place / "cat" / f"{name}s")
    assert index(f"folder:{place}").labels["train"].tolist().count(2) == 7


def test_splits_twice_are_refused(tmp_path: Path) -> None:
    photos(tmp_path / "train" / "ant", {"train": 5, "test": 2})
    photos(tmp_path / "train", {"bee": 5})
    with pytest.raises(DataError, match="ant: has the folders test and train"):
        index(f"folder:{tmp_path}")


def test_one_nested_folder_may_be_called_train(place: Path) -> None:
    photos(place / "vehicle", {"bus": 3, "train": 2})
    assert index(f"folder:{place}").class_names == ("ant", "bee", "vehicle")
    assert "images in folders below the class folders count as the class, 5: vehicle/bus (3); vehicle/train (2)" in (
        problems(place)
    )


def test_a_class_that_train_lacks_has_a_nearest_name(tmp_path: Path) -> None:
    photos(tmp_path / "train", {"ant": 6, "beetle": 6})
    photos(tmp_path / "test", {"ant": 2, "betle": 2})
    with pytest.raises(DataError, match=r"test/betle: there is no class 'betle' in train; did you mean 'beetle'\?"):
        index(f"folder:{tmp_path}")


# --- files ------------------------------------------------------------------------------------------------


def test_images_with_rarer_endings_and_none_count_and_are_told(place: Path) -> None:
    for number, name in enumerate(("a.jfif", "b.JFIF", "c.jpe", "d", "e.jpg_large", "f.download")):
        picture(place / "bee" / name, 700 + number)
    assert index(f"folder:{place}").labels["train"].tolist().count(1) == 13
    said = problems(place)
    assert (
        "6 files end otherwise than images usually do, and count as images: .jfif (2), .download (1), .jpe (1), "
        in said
    )


def test_a_wrong_ending_is_no_matter(place: Path) -> None:
    picture(place / "bee" / "right.jpg", 800)
    (place / "bee" / "right.jpg").rename(place / "bee" / "wrong.png")
    assert load(f"folder:{place}", fold_val=True).train_images.shape[1:] == (3, 8, 8)


def test_files_that_are_no_images_are_told(place: Path) -> None:
    for name, content in {
        "list.txt": b"P1 is a word", "boxes.xml": b"<a/>", "a.db": b"BM" + bytes(9), "raw.NEF": b"II*\0" + bytes(60)
    }.items():  # fmt: skip
        (place / "ant" / name).write_bytes(content)
    said = problems(place)
    assert (
        "4 files are not images and are left out: " in said and "develop raw files (.NEF) to JPEG or PNG first" in said
    )
    for file in (place / "bee").iterdir():
        file.unlink()
    (place / "bee" / "0.cr2").write_bytes(b"II*\0")
    with pytest.raises(
        DataError, match=r"no training image in 1 class: bee.*5 files are not images and are left out.*cr2"
    ):
        load(f"folder:{place}")


def test_what_operating_systems_leave_is_left_out_and_told(place: Path) -> None:
    before = load(f"folder:{place}").fingerprint
    picture(place / "ant" / "@eaDir" / "0.png" / "SYNOPHOTO_THUMB_XL.jpg", 1)
    picture(place / "__MACOSX" / "ant" / "0.png", 2)
    for name in ("ant/Thumbs.db", "ant/.DS_Store", "ant/desktop.ini", "bee/._3.png", ".DS_Store"):
        (place / name).write_bytes(b"\0\5\x16\7")
    assert load(f"folder:{place}").fingerprint == before
    assert "hidden files and folders, and those of operating systems, are left out, 7: " in problems(place)


def test_masks_and_copies_beside_images_are_told(place: Path) -> None:
    for number in range(5):
        picture(place / "ant" / f"{number}.jpg", 600 + number, "L")
        picture(place / "bee" / f"{number}_mask.png", 650 + number, "L")
    picture(place / "bee" / "6_mask_1.png", 690, "L")
    picture(place / "bee" / "mask.png", 691)
    said = problems(place)
    assert "5 pairs of images differ in the ending of their names alone, and both of each count as images: " in said
    assert "6 pairs of images are named like another image's mask" in said
    # as the message says
    for file in [*place.glob("ant/*.jpg"), *place.glob("bee/*_mask*.png")]:
        file.rename(place.parent / f"{file.parent.name}{file.name}")
    assert "pairs" not in problems(place)


def test_one_image_under_two_classes(place: Path) -> None:
    (place / "bee" / "copy.png").write_bytes((place / "ant" / "3.png").read_bytes())
    found = describe(f"folder:{place}?val=1&test=1")
    assert any("ant/3.png" in one and "bee/copy.png" in one for one in found.problems)


def test_links(place: Path) -> None:
    (place / "ant" / "round").symlink_to(place)
    (place / "ant" / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"ant/loop: is a link to nothing"):
        load(f"folder:{place}")
    (place / "ant" / "loop").unlink()
    assert index(f"folder:{place}").labels["train"].tolist().count(0) == 19  # those of bee as well, through the link
    (place / "cat").symlink_to("/not/mounted/cat")
    with pytest.raises(
        DataError, match=r"photos/cat: is a link to /not/mounted/cat, which is not there; mend or remove"
    ):
        index(f"folder:{place}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody, whom permissions bind")
def test_a_folder_that_one_may_not_read_is_no_empty_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        photos(Path(folder), {"ant": 3, "bee": 3})
        (Path(folder) / "bee" / "more").mkdir(mode=0)
        os.setegid(65534)
        os.seteuid(65534)
        try:
            with pytest.raises(DataError, match=r"bee/more: cannot be read \(Permission denied\)"):
                index(f"folder:{folder}")
        finally:
            os.seteuid(0)
            os.setegid(0)


def test_names_that_act_on_their_reader(place: Path) -> None:
    (place / "bee" / "two\nlines \x1b[31m [v2].png").write_bytes(b"broken")
    with pytest.raises(DataError, match="cannot be read") as refused:
        load(f"folder:{place}")
    assert r"two\x0alines \x1b[31m [v2].png: is not an image" in str(refused.value)
    odd = "\x1b[31m [v2]"
    photos(place, {odd: 5}, first=900)
    assert odd in load(f"folder:{place}?broken=skip").class_names

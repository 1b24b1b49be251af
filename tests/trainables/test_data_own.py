"""Own data: folders, tables, arrays; what is wrong with them is said in one sentence."""

import logging
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.data import DataError, load, resolve_root, standard
from trainables.data.catalogue import Name
from trainables.data.images.decoding import Preprocessing
from trainables.data.long_tail import LongTailed
from trainables.data.user_data.source import Options, Source, long_tailed

SIZES = {"ant": 30, "bee": 10, "cat": 5}


def picture(file: Path, seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = size if mode == "L" else (*size, 3)
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)).save(file)


def folder(place: Path, sizes: dict[str, int] = SIZES, **options) -> Path:
    seed = sum(map(ord, str(place.name)))
    for name, count in sizes.items():
        for number in range(count):
            seed += 1
            picture(place / name / f"{number}.png", seed, **options)
    return place


def arrays(file: Path, **content) -> str:
    np.savez(file, **content)
    return f"npz:{file}"


def images(count: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(count).randint(0, 256, (count, *shape), dtype=np.uint8)


# --- names ------------------------------------------------------------------------------------------------


def test_names_and_options(tmp_path: Path) -> None:
    parsed = Name.parse("npz:C:\\x?y.npz?val=3&flip=no")
    assert (parsed.kind, parsed.path, dict(parsed.options)) == ("npz", "C:\\x?y.npz", {"val": "3", "flip": "no"})
    folder(tmp_path / "photos")
    assert load("folder:photos", root=str(tmp_path)).fingerprint == load(f"folder:{tmp_path}/photos").fingerprint
    short, root = resolve_root("folder:photos?val=2", str(tmp_path))
    assert (short, root) == ("folder:photos?val=2", str(tmp_path))
    assert resolve_root(f"folder:{tmp_path}/photos") == ("folder:photos", str(tmp_path))
    assert load(short, root=root).counts.tolist() == load(f"folder:{tmp_path}/photos?val=2").counts.tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "foldr:x",
            "unknown data set 'foldr:x': did you mean 'folder:x'\\? known are digits-lt.*; your own: folder:PATH",
        ),
        ("folder:", "unknown data set 'folder:'"),
        ("cifar10-lt:frist", "did you mean 'cifar10-lt:first'\\?"),
        ("digits-lt?val=3", "digits-lt\\?val=3: option val must be balanced or realistic, got '3'"),
        ("digits-lt?size=3", "digits-lt\\?size=3: unknown option 'size': allowed are val"),
        ("folder:x?brokn=skip", "unknown option 'brokn': did you mean 'broken'\\? allowed are size, broken"),
        ("folder:PLACE?broken=maybe", "option broken must be refuse or skip, got 'maybe'"),
        ("folder:PLACE?size=big", "option size must be a whole number of at least 4, got 'big'"),
        ("folder:PLACE?val=0", "option val must be a whole number of at least 1, got '0'"),
        ("folder:/no/where", "there is no /no/where$"),
        ("folder:nowhere", "there is no nowhere under .*; paths may be absolute, or relative to --data-root"),
        ("csv:PLACE", "is not a file; folder: reads folders"),
        ("folder:PLACE/ant/0.png", "is not a folder; csv: and npz: read files"),
    ],
)
def test_bad_names(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(name.replace("PLACE", str(folder(tmp_path / "photos", {"ant": 6, "bee": 6}))))


# --- folders ----------------------------------------------------------------------------------------------


def test_folder_with_everything_cut(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos")
    data = load(f"folder:{place}?val=4&test=3")
    assert data.class_names == ("ant", "bee", "cat") and data.classes == 3
    assert data.test_labels.bincount(minlength=3).tolist() == [3, 2, 1]
    assert data.val_labels.bincount(minlength=3).tolist() == [4, 1, 0]
    assert data.counts.tolist() == [23, 7, 4]
    assert not data.val_given
    assert data.imbalance == 27 / 4 and any("5.75 instead of 6.75" in note for note in data.notes)
    assert data.train_images.shape == (34, 3, 8, 8) and (data.pad, data.flip) == (1, True)
    by_pixels = {
        np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes(): file.parent.name for file in place.rglob("*.png")
    }
    seen = set()
    for split in ("train", "val", "test"):
        for image, label in zip(getattr(data, f"{split}_images"), getattr(data, f"{split}_labels"), strict=True):
            assert by_pixels[image.numpy().tobytes()] == data.class_names[label]
            seen.add(image.numpy().tobytes())
    assert len(seen) == 45
    final = load(f"folder:{place}?val=4&test=3", fold_val=True, split_seed=9)
    assert final.counts.tolist() == [27, 8, 4] and torch.equal(final.test_images, data.test_images)
    assert load(f"folder:{place}?val=4&test=3", split_seed=1).fingerprint != data.fingerprint


def test_folder_with_given_splits(tmp_path: Path) -> None:
    for split, size in (("train", 6), ("val", 2), ("test", 3)):
        folder(tmp_path / "photos" / split, dict.fromkeys(SIZES, size), mode="L")
    (tmp_path / "photos" / "train" / "ant" / "notes.txt").write_text("by hand")
    data = load(f"folder:{tmp_path / 'photos'}?flip=yes&pad=2")
    assert [len(data.train_labels), len(data.val_labels), len(data.test_labels)] == [18, 6, 9]
    assert data.val_given and torch.equal(load(data.name, split_seed=3).val_images, data.val_images)
    assert not load(data.name, fold_val=True).val_given
    assert data.train_images.shape[1:] == (1, 8, 8) and (data.pad, data.flip) == (2, True)
    assert (
        data.problems[0]
        == f"{tmp_path / 'photos'}: 1 file is not an image and is left out: .txt (1) (train/ant/notes.txt)"
    )
    assert data.notes[:-1] == tuple(
        f"fewer than 5 {split} images, so that their own recall says next to nothing, in 3 classes: ant ({count}), "
        f"bee ({count}), cat ({count})"
        for split, count in (("test", 3), ("val", 2))
    )
    x = data.train_images.double() / 255
    assert data.mean.item() == pytest.approx(x.mean().item()) and data.std.item() == pytest.approx(
        x.std(correction=0).item()
    )


def test_a_change_of_a_file_is_seen(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos")
    before = load(f"folder:{place}").fingerprint
    picture(place / "ant" / "0.png", 12345)
    assert load(f"folder:{place}").fingerprint != before


def test_bad_folders(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos")
    (place / "dog").mkdir()
    with pytest.raises(DataError, match=r"no training image in 1 class: dog \(0\)"):
        load(f"folder:{place}")
    (place / "dog").rename(place / "val")
    with pytest.raises(DataError, match="has val but no train"):
        load(f"folder:{place}")
    (place / "val").rename(place / "train")
    with pytest.raises(DataError, match="beside train there may be val and test only, got ant, bee, cat"):
        load(f"folder:{place}")
    with pytest.raises(DataError, match="has no folders; it needs one for each class"):
        load(f"folder:{place / 'ant'}")
    folder(tmp_path / "split" / "train")
    folder(tmp_path / "split" / "test", {"ant": 1, "dgo": 1})
    with pytest.raises(DataError, match=r"test/dgo: there is no class 'dgo' in .*train"):
        load(f"folder:{tmp_path / 'split'}")
    with pytest.raises(DataError, match="needs at least two classes, got only 'ant'"):
        load(f"folder:{folder(tmp_path / 'one', {'ant': 9})}")


def test_hidden_files_are_left_out_and_links_followed(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos")
    plain = load(f"folder:{place}")
    picture(place / "ant" / ".ipynb_checkpoints" / "0-checkpoint.png", 1)
    picture(place / "ant" / ".0.png", 2)
    picture(place / ".thumbnails" / "0.png", 3)
    assert load(f"folder:{place}").fingerprint == plain.fingerprint
    picture(place / "ant" / "DEEPER" / "UPPER.PNG", 4)
    picture(tmp_path / "away" / "1.png", 5)
    (place / "ant" / "more").symlink_to(tmp_path / "away")
    (place / "ant" / "more" / "round").symlink_to(place / "ant")
    (place / "dog").symlink_to(place / "bee")
    data = load(f"folder:{place}", fold_val=True)
    assert data.class_names == ("ant", "bee", "cat", "dog")
    assert (data.counts + data.test_labels.bincount(minlength=4)).tolist() == [32, 10, 5, 10]


def test_nothing_is_dropped_silently(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos")
    (place / "ant" / "gone.png").symlink_to("nowhere.png")
    (place / "ant" / "loop.png").symlink_to("loop.png")
    os.mkfifo(place / "bee" / "pipe.png")
    with pytest.raises(DataError, match=r"3 of 48 images cannot be read \(.*gone.png and 1 more: is a link to no"):
        load(f"folder:{place}")
    data = load(f"folder:{place}?broken=skip")
    assert len(data.train_labels) + len(data.val_labels) + len(data.test_labels) == 45
    assert any("3 broken images are left out" in note for note in data.notes)
    picture(place / "stray.png", 1)
    stray = f"{place}: images that are in no folder of a class are left out, 1: stray.png"
    assert stray in load(f"folder:{place}?broken=skip").notes


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos")
    odd = os.fsdecode(b"k\xe4fer.png")
    picture(place / "ant" / odd, 1)
    assert load(f"folder:{place}").classes == 3
    (place / "ant" / odd).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"ant/k\\xe4fer.png: is not an image"):
        load(f"folder:{place}")
    "".join(load(f"folder:{place}?broken=skip").notes).encode()  # a model card has them
    (place / os.fsdecode(b"k\xe4fer")).mkdir()
    with pytest.raises(DataError, match=r"the name of the class folder k\\xe4fer is no UTF-8; rename it"):
        load(f"folder:{place}")
    with pytest.raises(DataError, match=r"the name of a data set must be UTF-8"):
        load(f"folder:{place / os.fsdecode(bytes([255]))}")


def test_splits_in_other_letters_are_no_classes(tmp_path: Path) -> None:
    for split in ("Train", "Test"):
        folder(tmp_path / "photos" / split)
    with pytest.raises(DataError, match="photos: has Test, Train; folders of splits are written train, val and test"):
        load(f"folder:{tmp_path / 'photos'}")


def test_kinds_of_pixels_in_one_folder(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Grey beside colour becomes colour; a palette is looked up; transparency is laid on white."""
    place = folder(tmp_path / "photos", {"ant": 5, "bee": 5})
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(place / "ant" / "grey.png")
    palette = Image.fromarray(grey % 4, "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    palette.save(place / "ant" / "palette.png", transparency=bytes([0, 100, 200, 255]))
    Image.fromarray(np.full((8, 8, 4), 70, dtype=np.uint8)).save(place / "ant" / "clear.png")
    data = load(f"folder:{place}", fold_val=True)
    assert data.train_images.shape[1:] == (3, 8, 8)
    assert data.problems == (
        "grey among colour images, repeated in three channels: 1 of 13 images (ant/grey.png)",
        "transparent pixels are laid on white; ?background=COLOUR in the name chooses another one: 2 of 13 images "
        "(ant/clear.png; ant/palette.png)",
    )
    every = [images for split in ("train", "test") for images in getattr(data, f"{split}_images").tolist()]
    assert np.stack([grey] * 3).tolist() in every
    # 70 over 255 at an opacity of 70 in 255
    assert np.full((3, 8, 8), 204).tolist() in every
    red = load(f"folder:{place}?background=red", fold_val=True)
    assert [note for note in red.notes if note.startswith("transparent pixels are laid on red: 2 of 13 images")]
    assert not [warning for warning in recwarn if "Palette" in str(warning.message)]


def test_several_sizes(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos")
    picture(place / "bee" / "wide.png", 1, (10, 20))
    message = r"images of 2 sizes \(8×8: 45, 10×20: 1\); bring them to one with \?size=8 in the name"
    with pytest.raises(DataError, match=message):
        load(f"folder:{place}")
    assert load(f"folder:{place}?size=6").train_images.shape[1:] == (3, 6, 6)


def test_resize_and_centre_crop_by_hand(tmp_path: Path) -> None:
    """Columns 0 … 7 of a 4×8 image; the centre of side 4 are columns 2 … 5, of side 2 the means of pairs."""
    Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) * 20, (4, 1))).save(tmp_path / "wide.png")
    wide = tmp_path / "wide.png"
    assert Preprocessing(1, 4).decode(wide)[0].tolist() == [[40, 60, 80, 100]] * 4
    small = Preprocessing(1, 2).decode(wide)
    assert small.shape == (1, 2, 2) and np.abs(small[0] - np.array([[50, 90]] * 2)).max() <= 2
    assert Preprocessing(3).decode(wide).shape == (3, 4, 8)


def test_resident_limit(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos", {"ant": 6, "bee": 6})
    message = (
        r"12 images of 9999×9999 pixels are 3.6 GB in memory, above the limit of 1 GB.*--feed str.*resident_limit=4"
    )
    with pytest.raises(DataError, match=message):
        load(f"folder:{place}?size=9999&resident_limit=1&feed=resident")


def test_broken_images_are_refused_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = folder(tmp_path / "photos")
    (place / "ant" / "0.png").write_bytes(b"not an image")
    whole = (place / "ant" / "1.png").read_bytes()
    (place / "ant" / "1.png").write_bytes(whole[: len(whole) // 2])  # the header is whole, the pixels are not
    with pytest.raises(
        DataError, match=r"1 of 45 images cannot be read \(.*ant/0.png: is not an image\); mend or remove"
    ):
        load(f"folder:{place}")
    with caplog.at_level(logging.WARNING):
        data = load(f"folder:{place}?broken=skip")
    assert "ant/0.png: is not an image" in caplog.text and "ant/1.png" in caplog.text
    assert "2 broken images are left out" in data.problems[0] and "ant/1.png" in data.problems[0]
    assert len(data.train_labels) + len(data.val_labels) + len(data.test_labels) == 43
    (place / "ant" / "0.png").unlink()
    with pytest.raises(DataError, match=r"1 of 44 images cannot be read \(.*ant/1.png"):
        load(f"folder:{place}")
    for file in (place / "cat").iterdir():
        file.write_bytes(b"")
    message = (
        r"no training image can be read of 1 class: cat \(5\) \(.*cat/0.png and 4 more: is not an image: the file is em"
    )
    for name in (f"folder:{place}", f"folder:{place}?broken=skip"):  # to skip would not help, and is not proposed
        with pytest.raises(DataError, match=message) as refused:
            load(name)
        assert "skip in" not in str(refused.value)


# --- tables -----------------------------------------------------------------------------------------------


def table(place: Path, *lines: str, encoding: str = "utf-8") -> str:
    (place / "list.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return f"csv:{place / 'list.csv'}"


def test_csv_with_and_without_header(tmp_path: Path) -> None:
    place = folder(tmp_path / "my photos, all")
    files = sorted(place.rglob("*.png"))
    lines = [f'"{file.relative_to(tmp_path)}",{file.parent.name}' for file in files]
    plain = load(table(tmp_path, *lines))
    assert plain.class_names == ("ant", "bee", "cat")
    assert plain.fingerprint == load(table(tmp_path, "Path,label", *lines)).fingerprint
    numbered = [line.replace(",ant", ",0").replace(",bee", ",1").replace(",cat", ",2") for line in lines]
    assert load(table(tmp_path, *numbered)).class_names == ("0", "1", "2")
    splits = [f"{line},{'val' if n % 5 == 0 else 'test' if n % 5 == 1 else 'train'}" for n, line in enumerate(lines)]
    data = load(table(tmp_path, "path,label,split", *splits))
    assert [len(data.train_labels), len(data.val_labels), len(data.test_labels)] == [27, 9, 9]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no lines"),
        (["a.png"], "line 1: has 1 columns; path,label or path,label,split are needed"),
        (["ant/0.png,0", "ant/1.png"], r"line 2: needs 2 filled columns like the first line, got \['ant/1.png'\]"),
        (["ant/0.png,0,train", "ant/1.png,0,trian"], "line 2: split must be train, val or test, got 'trian'"),
        (["ant/0.png,0,val"], "no line is of the split train"),
        (["ant/0.png,0", "ant/98.png,1", "b.png,1"], "2 of the 3 files that it names are absent .*: ant/98.png, b"),
        (["ant/0.png,0", f"ant/1.png,{'9' * 5000}"], "labels .* of at most 18 digits, got one of 5000"),
        (["ant/0.png,-1", "ant/1.png,0"], "whole numbers from 0, got -1; take out the images that have no label"),
        (["ant/0.png,1", "ant/1.png,1.0"], "labels '1' and '1.0' are the same number; write it in one way"),
        (["ant/0.png,1", "ant/1.png,nan", "ant/2.png,2"], "labels must be .* or all of them names, got 'nan'"),
        (["ant/0.png,", "ant/1.png,1"], r"line 1: needs 2 filled columns like the first line, got \['ant/0.png', ''\]"),
        (["ant/0.png,0", "ant/1.png,1", "./ant/0.png,1"], "line 3: ./ant/0.png has the label '1', and '0' in line 1"),
        (["ant/0.png,0,train", "ant/0.png,0,dev"], "line 2: ant/0.png has the split 'val', and 'train' in line 1"),
        (["file,species", "ant/0.png,0"], "line 1: the header has no column label, got file, species; name one so"),
        (["file,image,label", "a,b,0"], "line 1: several columns may be the path, file, image; name one of them path"),
        (["path,label"], "has no lines below its header"),
        (["Bild,Klasse", "ant/0.png,a", "ant/1.png,b"], "absent .*: Bild; where line 1 is a header, name its columns"),
        (["ant,0", "ant/1.png,1"], r"1 of the 2 files .* are absent or cannot be read under .*: ant \(no file\)"),
        (["ant/0\x00.png,0"], "it holds zero bytes, so it is not text"),
        (["a" * 300 + ".png,0", "ant/1.png,1"], "File name too long"),
        (["ant/0.png,0", "ant/1.png,1", "ant/2.png,x"], "labels must be whole numbers .* all of them names, got 'x'"),
        (['ant/0.png,"0', "ant/1.png,1"], "cannot be read as CSV"),
    ],
)  # fmt: skip
def test_bad_csv(lines: list[str], message: str, tmp_path: Path) -> None:
    folder(tmp_path, {"ant": 3})
    name = table(tmp_path, *lines)
    if not lines:
        (tmp_path / "list.csv").write_text("")
    with pytest.raises(DataError, match=message):
        load(name)


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    message = r"list.csv: cannot be read as CSV in UTF-8 \({}; save it as CSV in UTF-8\)"
    with pytest.raises(DataError, match=message.format("it is not text in UTF-8, see line 2")):
        load(table(tmp_path, "path,label", "Käfer.png,0", encoding="latin-1"))
    with pytest.raises(DataError, match=message.format("it is text in UTF-16")):
        load(table(tmp_path, "Käfer.png,0", encoding="utf-16"))
    (tmp_path / "list.csv").write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(DataError, match=message.format("it is a spreadsheet or another packed file")):
        load(f"csv:{tmp_path / 'list.csv'}")


def test_tables_as_people_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path / "my photos; all")
    files = [(str(file.relative_to(tmp_path)), file.parent.name) for file in sorted(place.rglob("*.png"))]
    plain = load(f"folder:{place}").fingerprint

    def same(text: str, *problems: str) -> None:
        (tmp_path / "list.csv").write_bytes(text.encode())
        data = load(f"csv:{tmp_path / 'list.csv'}")
        assert data.fingerprint == plain and data.class_names == ("ant", "bee", "cat")
        told = [problem for problem in data.problems if "no val image" not in problem]
        assert [problem.removeprefix(f"{tmp_path / 'list.csv'}: ") for problem in told] == list(problems)

    same("\ufeffLABEL,Path\r\n" + "".join(f'{label} , "{path}"\r\n'.replace(', "', ',"') for path, label in files))
    same("filename\tclass\n" + "".join(f"{path}\t{label}\n" for path, label in files) + "\n\n\t\n")
    same("".join(f'"{path}";{label}\n' for path, label in files))
    same("".join(f"{path.replace('/', chr(92))},{label}\n" for path, label in files))  # from Windows
    same("".join(f"{tmp_path / path},{label}\n" for path, label in files))
    monkeypatch.setenv("HOME", str(tmp_path))
    same("".join(f"~/{path},{label}\n" for path, label in files))
    same(
        ",path,wide,label\n" + "".join(f"{n},{path},,{label}\n" for n, (path, label) in enumerate(files)),
        "columns that are not used: (no name), wide",
    )
    given = tmp_path / "list.csv"
    lines = [f"{path},{label},{'VALIDATION' if n % 5 == 0 else 'Train'}" for n, (path, label) in enumerate(files)]
    given.write_text("path,label,Split\n" + "\n".join(lines))
    assert len(load(f"csv:{given}").val_labels) == 9 and load(f"csv:{given}").val_given


def test_labels_that_are_numbers_name_their_classes(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos")
    files = [(file.relative_to(tmp_path), file.parent.name) for file in sorted(place.rglob("*.png"))]
    plain = load(f"folder:{place}")

    def numbered(ant: str, bee: str, cat: str) -> LongTailed:
        written = {"ant": ant, "bee": bee, "cat": cat}
        data = load(table(tmp_path, *(f"{file},{written[label]}" for file, label in files)))
        assert data.counts.tolist() == plain.counts.tolist()
        return data

    assert numbered("0.0", "1.0", "2.0").class_names == ("0", "1", "2")
    assert not any("labels" in problem for problem in numbered(" 0", "1", "2").problems)
    assert numbered("9", "10", "030").class_names == ("9", "10", "030")  # by number, not by letter
    message = "the labels are not 0 to 2, so the 3 classes are named by them: 10, 20, 30"
    assert any(message in problem for problem in numbered("10", "20", "30").problems)
    assert numbered("1", "2", "3").class_names == ("1", "2", "3")


def test_what_a_table_says_twice_or_nearly_so_is_told(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos")
    files = [(file.relative_to(tmp_path), file.parent.name) for file in sorted(place.rglob("*.png"))]
    lines = [f"{file},{label.upper() if n == 0 else label}" for n, (file, label) in enumerate(files)]
    data = load(table(tmp_path, *lines, "photos/ant/4.png,ant"), fold_val=True)
    assert data.class_names == ("ANT", "ant", "bee", "cat")
    repeat, case = (problem.removeprefix(f"{tmp_path / 'list.csv'}: ") for problem in data.problems[:2])
    assert repeat == ("1 lines repeat an image of a line above, which then counts twice: photos/ant/4.png (line 46)")
    assert case == "class names that differ in case or spaces alone are different classes: 'ANT' = 'ant'"
    assert set(data.problems) <= set(data.notes)


def test_a_class_that_is_taken_out_is_gone(tmp_path: Path) -> None:
    """What the message proposes helps, also for a class in the middle."""
    place = folder(tmp_path / "photos", {"ant": 10, "bee": 2, "cat": 10})
    files = [(file.relative_to(tmp_path), file.parent.name) for file in sorted(place.rglob("*.png"))]
    number = {"ant": 0, "bee": 1, "cat": 2}
    lines = [f"{file},{number[label]},{'test' if label == 'bee' else 'train'}" for file, label in files]
    lines += [f"{file},{number[label]},test" for file, label in files[:2]]
    lines = list({line.split(",")[0]: line for line in lines}.values())
    with pytest.raises(DataError, match=r"no training image in 1 class: 1 \(2\), .*; add some, or take the class out"):
        load(table(tmp_path, *lines))
    data = load(table(tmp_path, *(line for line in lines if ",1," not in line)), fold_val=True)
    assert data.class_names == ("0", "2")


# --- arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 8, 3), (3, 9, 8), (9, 8), (1, 9, 8), (9, 8, 1)])
def test_npz_layouts(shape: tuple[int, ...], tmp_path: Path) -> None:
    x, y = images(30, *shape), np.arange(30) % 3
    data = load(
        arrays(tmp_path / "own.npz", x_train=x, y_train=y, x_val=x[:6], y_val=y[:6], x_test=x[:3], y_test=y[:3])
    )
    channels = 3 if 3 in shape else 1
    assert data.train_images.shape == (30, channels, 9, 8) and data.flip == (channels == 3)
    first = x[0].transpose(2, 0, 1) if shape[-1] in (1, 3) else x[0].reshape(channels, 9, 8)
    assert np.array_equal(data.train_images[0].numpy(), first)
    assert data.train_labels.tolist() == y.tolist() and data.imbalance == 1


def test_npz_without_splits(tmp_path: Path) -> None:
    y = np.repeat([0, 1, 2], [60, 20, 10]).astype(np.uint8)
    name = arrays(tmp_path / "own.npz", x=images(90, 8, 8), y=y, classes=np.array(["a", "b", "c"]))
    data = load(f"{name}?val=5&test=4")
    assert data.class_names == ("a", "b", "c")
    assert data.test_labels.bincount().tolist() == [4, 4, 2] and data.val_labels.bincount().tolist() == [5, 3, 1]
    assert data.counts.tolist() == [51, 13, 7] and data.imbalance == 56 / 8
    steeper = load(f"{name}?val=5&test=4", imbalance=28)
    assert steeper.counts.tolist() == [51, 9, 1]
    with pytest.raises(DataError, match="the data's own imbalance is 7, and only a larger one can be cut"):
        load(f"{name}?val=5&test=4", imbalance=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x_train": images(4, 8, 8)}, "has no y_train; it needs x_train and y_train"),
        ({"pictures": images(4, 8, 8)}, "has no x_train, y_train; .*got pictures"),
        ({"x": images(4, 8, 8).astype(np.float32), "y": np.arange(4)}, "x must be uint8 in 0 … 255, got float32; save"),
        ({"x": images(4, 8, 8).astype(np.int64), "y": np.arange(4)}, "got int64; save x.astype.'uint8'. where all its"),
        ({"x": images(4, 8, 8) > 9, "y": np.arange(4)}, r"got bool; save x.astype\('uint8'\) \* 255"),
        ({"x": images(4, 8, 8, 4), "y": np.arange(4)}, r"got \(4, 8, 8, 4\); where the fourth .*save x\[..., :3\]"),
        ({"x": images(4, 4, 8, 8), "y": np.arange(4)}, r"got \(4, 4, 8, 8\); where the fourth .*save x\[:, :3\]"),
        ({"x": np.zeros((4, 0, 8), np.uint8), "y": np.arange(4)}, r"x has images without pixels, got \(4, 0, 8\)"),
        ({"x": images(4, 8, 8, 5), "y": np.arange(4)}, r"x must be \(N, H, W, c\).*got \(4, 8, 8, 5\)"),
        ({"x": images(4, 8, 8), "y": np.arange(3)}, r"y must hold 4 whole numbers or names.*got int64 \(3,\)"),
        ({"x": images(4, 8, 8), "y": np.arange(4) / 2}, "y must hold 4 whole numbers.*got float64 .4,. with 0.5"),
        ({"x": images(4, 8, 8), "y": np.array([0, 1, np.nan, 1])}, "got float64 .4,. with nan; save whole numbers"),
        ({"x": images(4, 8, 8), "y": np.arange(4) > 1}, r"got bool \(4,\); save y.astype\(int\)"),
        ({"x": images(4, 8, 8), "y": np.eye(4)}, r"got float64 \(4, 4\); where each row .*save y.argmax\(axis=1\)"),
        ({"x": images(4, 8, 8), "y": np.array(list("abcd"), dtype=object)}, "Python objects are not read; save y.as"),
        ({"x": images(4, 8, 8), "y": np.arange(4) - 1}, "whole numbers from 0, got -1 to 2; take out the images"),
        ({"x": images(4, 8, 8), "y": np.array([0, 1, 2, 2**64 - 1], np.uint64)}, "got 0 to 1.84467e.19"),
        (
            {"x": images(4, 8, 8), "y": np.array(["a", "", "b", "c"])},
            "y has no label for image 1; label it, or take it",
        ),
        ({"x": images(4, 8, 8), "y": np.arange(4), "x_val": images(2, 8, 8)}, "has no y_val; it needs x_train"),
        ({"x": images(4, 8, 8), "y": np.arange(4), "X_tset": images(2, 8, 8)}, "what X_tset is .did you mean x_test"),
        ({"x": images(4, 8, 8), "y": np.arange(4), "y_held_out": np.arange(2)}, "is not clear what y_held_out is"),
        ({"x": images(4, 8, 8), "y": np.arange(4), "x_train": images(4, 8, 8)}, "x and x_train are both the images tr"),
        (
            {"x": images(4, 8, 8), "y": np.arange(4), "x_val": images(0, 8, 8), "y_val": np.array([])},
            "x_val has no images; add some, or take x_val and y_val out",
        ),
        (
            {"x": images(9, 8, 8), "y": np.arange(9) % 3, "x_val": images(2, 8, 8), "y_val": np.array(["a", "b"])},
            "the labels of one split are names, those of another numbers; save them alike",
        ),
        (
            {"x": images(4, 8, 8), "y": np.arange(4), "classes": np.array(["a"])},
            "classes has 1 names, .*go up to 3; the first",
        ),
        ({"x": images(4, 8, 8), "y": np.arange(4), "classes": np.array("ant")}, "classes must be one text for each cl"),
        (
            {"x": images(4, 8, 8), "y": np.arange(4), "classes": np.arange(4)},
            r"one text for each class.*got int64 \(4,\)",
        ),
        (
            {"x": images(4, 8, 8), "y": np.arange(4), "classes": np.array(list("abca"))},
            "classes names 'a' more than once",
        ),
        (
            {"x": images(4, 8, 8), "y": np.arange(4), "classes": np.array(["a", "", "c", "d"])},
            "has no name for label 1",
        ),
        (
            {"x": images(4, 8, 8), "y": np.arange(4), "classes": np.array([b"a", b"\xff", b"c", b"d"])},
            "classes cannot be read as names in UTF-8",
        ),
        (
            {"x": images(4, 8, 8), "y": np.arange(4), "classes": np.array(list("abcd"), dtype=object)},
            r"classes holds Python objects, which are not read; save classes.astype\(str\)",
        ),
        (
            {"x": images(3, 8, 8), "y": np.array(["a", "b", "z"]), "classes": np.array(["a", "b"])},
            "classes has no name for the labels z; add them, or take it out",
        ),
        (
            {
                "x_train": images(4, 8, 8),
                "y_train": np.arange(4),
                "x_test": images(1, 9, 8),
                "y_test": np.zeros(1, int),
            },
            "the splits' images differ in shape .train 1×8×8, test 1×9×8.",
        ),
        (
            {
                "x_train": images(4, 8, 8),
                "y_train": np.arange(4),
                "x_test": images(2, 8, 8),
                "y_test": np.array([4, 0]),
            },
            r"no training image in 1 class: 4 \(1\)",
        ),
    ],
)
def test_bad_npz(content: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(arrays(tmp_path / "own.npz", **content))


def test_npz_in_other_words(tmp_path: Path) -> None:
    """Arrays as public packs name them, labels as (N, 1), floats or texts, names as bytes."""
    x, y, more = images(60, 8, 8), np.arange(60) % 3, images(12, 8, 8)
    plain = load(arrays(tmp_path / "a.npz", x_train=x, y_train=y, x_val=more, y_val=y[:12], x_test=more, y_test=y[:12]))
    names = np.array(["ant", "bee", "cat"])
    medical = load(
        arrays(
            tmp_path / "b.npz", train_images=x, train_labels=y[:, None], val_images=more, val_labels=y[:12, None],
            test_images=more, test_labels=y[:12, None], classes=names.astype("S"),
        )
    )  # fmt: skip
    assert medical.class_names == ("ant", "bee", "cat") and medical.fingerprint == plain.fingerprint
    other = load(
        arrays(
            tmp_path / "c.npz", X=x, Y=y.astype(float), xValid=more, yValid=y[:12],
            X_test=more, Y_test=y[:12].astype(np.uint8), ids=np.arange(60), label_names=names,
        )
    )  # fmt: skip
    assert other.class_names == ("ant", "bee", "cat") and other.fingerprint == plain.fingerprint
    assert other.problems == (f"{tmp_path / 'c.npz'}: arrays that are not used: ids",)
    text = load(
        arrays(
            tmp_path / "d.npz", x=x, y=names[y], x_dev=more, y_dev=names[y[:12]].astype("S"), x_test=more,
            y_test=names[y[:12]],
        )
    )  # fmt: skip
    assert text.class_names == ("ant", "bee", "cat") and text.fingerprint == plain.fingerprint
    gaps = load(arrays(tmp_path / "e.npz", x=x, y=10 * y + 10), fold_val=True)
    assert gaps.class_names == ("10", "20", "30") and "named by them: 10, 20, 30" in gaps.problems[0]
    lacking = load(arrays(tmp_path / "f.npz", x=x, y=y % 2 * 2, classes=names), fold_val=True)
    assert lacking.class_names == ("ant", "cat")
    assert "classes names classes without any image, which are left out: bee" in lacking.problems[0]


def test_what_a_message_proposes_is_taken(tmp_path: Path) -> None:
    """Each array is refused, and taken after what the refusal says."""
    x, y = images(60, 8, 8), np.arange(60) % 3
    proposals = [
        ({"x": x / 255, "y": y}, {"x": (255 * (x / 255)).round().astype("uint8")}),
        ({"x": x.astype(np.float32), "y": y}, {"x": x.astype(np.float32).round().astype("uint8")}),
        ({"x": x.astype(int), "y": y}, {"x": x.astype(int).astype("uint8")}),
        ({"x": x > 128, "y": y}, {"x": (x > 128).astype("uint8") * 255}),
        ({"x": images(60, 8, 8, 4), "y": y}, {"x": images(60, 8, 8, 4)[..., :3]}),
        ({"x": x, "y": y > 0}, {"y": (y > 0).astype(int)}),
        ({"x": x, "y": np.eye(3)[y]}, {"y": np.eye(3)[y].argmax(axis=1)}),
        ({"x": x, "y": y.astype(object)}, {"y": y.astype(object).astype(int)}),
        ({"x": x, "y": np.array(["a", "b", "c"], object)[y]}, {"y": np.array(["a", "b", "c"], object)[y].astype(str)}),
        ({"x": x, "y": y, "classes": np.arange(3)}, {"classes": np.array(["ant", "bee", "cat"])}),
        ({"x": x, "y": y, "classes": np.array(["a"])}, {"classes": None}),
        ({"x": x, "y": y, "x_val": x[:0], "y_val": y[:0]}, {"x_val": None, "y_val": None}),
        ({"x": x, "y": y, "x_held_out": x}, {"x_held_out": None}),
    ]
    for number, (content, mended) in enumerate(proposals):
        with pytest.raises(DataError):
            load(arrays(tmp_path / "own.npz", **content))
        kept = {name: array for name, array in (content | mended).items() if array is not None}
        assert load(arrays(tmp_path / "own.npz", **kept)).classes == (2 if "bool" in str(content["y"].dtype) else 3), (
            number
        )


def test_arrays_that_unpack_to_far_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by what the file says of itself, before anything is allocated."""
    x, y = np.zeros((4_000, 200, 200), np.uint8), np.arange(4_000) % 2
    np.savez_compressed(tmp_path / "packed.npz", x=x, y=y)
    monkeypatch.setattr(np, "load", None)  # nothing is read
    with pytest.raises(DataError, match=r"x unpacks to 0.2 GB from 0.\d MB, .* by numpy.savez"):
        load(f"npz:{tmp_path / 'packed.npz'}")
    monkeypatch.undo()
    name = arrays(tmp_path / "stored.npz", x=x[:, :20, :20], y=y)  # as it says
    assert load(name).classes == 2
    with zipfile.ZipFile(tmp_path / "lying.npz", "w") as pack:
        for array, said in (("x", "(1000000, 200, 200)"), ("y", "(1000000,)")):
            head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {said}, }}".ljust(117) + "\n"
            pack.writestr(
                f"{array}.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + b"abc"
            )
    message = r"x cannot be read \(it says that it has 40,000,000,000 bytes, and 3 follow\)"
    with pytest.raises(DataError, match=message):
        load(f"npz:{tmp_path / 'lying.npz'}")


def test_arrays_above_the_limit_are_not_read() -> None:
    def read() -> dict:
        raise AssertionError("read")

    large = Source(
        "own.npz", ("a", "b"), {"train": np.arange(2000) % 2}, arrays=read, array_shape=(1, 1000, 1000)
    )  # fmt: skip
    limit = Options.of(Name.parse("npz:own.npz?resident_limit=1"))
    message = r"the images are 2.0 GB in memory, above the limit of 1 GB; raise it with \?resident_limit=3"
    with pytest.raises(DataError, match=message):
        long_tailed("npz:own.npz", large, limit, imbalance=None, split_seed=0, fold_val=False)
    proposed = Options.of(Name.parse("npz:own.npz?resident_limit=3"))
    with pytest.raises(AssertionError, match="read"):
        long_tailed("npz:own.npz", large, proposed, imbalance=None, split_seed=0, fold_val=False)


def test_damaged_npz(tmp_path: Path) -> None:
    x, y = images(60, 8, 8), np.arange(60) % 3
    np.savez_compressed(tmp_path / "own.npz", x=x, y=y)
    whole = (tmp_path / "own.npz").read_bytes()
    (tmp_path / "own.npz").write_bytes(whole[:300] + bytes(200) + whole[500:])
    with pytest.raises(DataError, match=r"own.npz: x cannot be read \(.+\)"):
        load(f"npz:{tmp_path / 'own.npz'}")
    (tmp_path / "own.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"own.npz: cannot be read as npz \(File is not a zip file\)"):
        load(f"npz:{tmp_path / 'own.npz'}")
    arrays(tmp_path / "own.npz", x=x, y=y)
    with zipfile.ZipFile(tmp_path / "own.npz", "a") as pack:
        pack.writestr("x", b"raw")  # what NumPy would give instead of the array
    assert load(f"npz:{tmp_path / 'own.npz'}").problems == (f"{tmp_path / 'own.npz'}: arrays that are not used: x",)
    with zipfile.ZipFile(tmp_path / "own.npz", "a") as pack, pytest.warns(UserWarning, match="Duplicate name"):
        pack.writestr("x.npy", b"raw")
    with pytest.raises(DataError, match="holds x twice; save the arrays into a new file"):
        load(f"npz:{tmp_path / 'own.npz'}")


def test_npz_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"own\.npz: cannot be read as npz"):
        load(f"npz:{tmp_path / 'own.npz'}")
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as pack:
        pack.writestr("x", b"1")
        pack.writestr("y", b"1")
    with pytest.raises(DataError, match=r"own\.npz: has no x_train, y_train; .*got nothing"):
        load(f"npz:{tmp_path / 'own.npz'}")
    with pytest.raises(DataError, match="option size is for image files"):
        load(f"npz:{tmp_path / 'own.npz'}?size=8")


# --- schedules and training -------------------------------------------------------------------------------


def test_standard_follows_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = standard(arrays(tmp_path / "small.npz", x=images(90, 8, 8), y=np.arange(90) % 3))
    assert (small.epochs, small.batch_size, small.lr, small.model, small.imbalance) == (200, 64, 0.05, "resnet8", None)
    y = np.arange(60_000) % 60
    large = standard(arrays(tmp_path / "large.npz", x=np.zeros((60_000, 20, 20), np.uint8), y=y))
    assert (large.epochs, large.batch_size, large.lr, large.model, large.margin) == (170, 128, 0.1, "resnet32", 0.01)
    folder(tmp_path / "photos")
    assert standard("folder:photos", str(tmp_path)).model == "resnet8"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=re.escape("there is no photos under")):
        standard("folder:photos")


def test_a_broken_first_file_decides_nothing(tmp_path: Path) -> None:
    place = tmp_path / "photos"
    picture(place / "ant" / "0.png", 1, size=(32, 32))
    picture(place / "bee" / "0.png", 2, size=(32, 32))
    for number in range(1, 1100):
        for name in ("ant", "bee"):
            (place / name / f"{number}.png").write_bytes((place / name / "0.png").read_bytes())
    clean = standard(f"folder:{place}")
    assert clean.model == "resnet32"
    (place / "ant" / "0.png").write_bytes(b"")
    assert standard(f"folder:{place}?broken=skip") == clean
    for file in place.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 2200 training images can be read"):
        standard(f"folder:{place}")


def test_cifar10_lt_pack_trains(tmp_path: Path) -> None:
    shared = Path(os.environ.get("LONGTAIL_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"
    if not (shared / "unpack.py").is_file():
        pytest.skip(f"the shared data are not in {shared}; set LONGTAIL_SHARED")
    from spaces.domain import Space, Stage
    from trainables.pipeline.pipeline import Pipeline
    from trainables.plan import build, defaults
    from trainables.registry import discover

    module: dict = {"__file__": str(shared / "unpack.py"), "__name__": "unpack"}
    exec(compile((shared / "unpack.py").read_text(), "unpack.py", "exec"), module)
    pack = module["load"](shared / "cifar10_lt_if100.npz")
    assert len(pack["y_train"]) == 12_406
    tail = np.flatnonzero(pack["y_train"] > 5)  # 504 images of four classes
    test = np.flatnonzero(pack["y_test"] > 5)[:200]
    name = arrays(
        tmp_path / "tail.npz", x_train=pack["x_train"][tail], y_train=pack["y_train"][tail] - 6,
        x_test=pack["x_test"][test], y_test=pack["y_test"][test] - 6,
    )  # fmt: skip
    data = load(name)
    assert data.counts.tolist() == [186, 112, 67, 40]
    torch.set_num_threads(1)
    discover()
    plan = build(Space(stages=[Stage("only", epochs=1)]), defaults(), standard(name)).plan
    pipeline = Pipeline(plan, data, "resnet8", 0, torch.device("cpu"))
    pipeline.run()
    assert np.isfinite(pipeline.points[-1].metrics["loss"])
    assert len(pipeline.result()[1]) == 4 and 0 <= pipeline.test()[0]["test/accuracy"] <= 1

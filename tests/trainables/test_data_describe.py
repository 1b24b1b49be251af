"""`python -m trainables.data describe`: what it counts, what it finds, how it ends."""

import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from trainables.data import DataError, load
from trainables.data.__main__ import main
from trainables.data.catalogue import module_of
from trainables.data.describe import describe, draw, duplicates, figure, show


def picture(file: Path, seed: int, size: int = 8) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG" if file.suffix == ".jfif" else None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """150 + 25 + 6 training images and 3 test images per class."""
    seed = 0
    for split, sizes in (("train", {"ant": 150, "bee": 25, "cat": 6}), ("test", {"ant": 3, "bee": 3, "cat": 3})):
        for name, count in sizes.items():
            for number in range(count):
                seed += 1
                picture(tmp_path / "photos" / split / name / f"{number}.png", seed)
    return tmp_path / "photos"


def test_digits() -> None:
    found = describe("digits-lt")
    assert found.groups == {"medium": 4, "few": 6}  # an empty group is absent
    assert (sum(found.counts["val"]), sum(found.counts["test"]), found.size) == (440, 300, (1, 8, 8))
    assert found.fingerprint == load("digits-lt").fingerprint and found.problems == ()


def test_folder(photos: Path) -> None:
    found = describe(f"folder:{photos}?val=5")
    assert found.counts == {"train": [145, 20, 5], "val": [5, 5, 1], "test": [3, 3, 3]}
    assert found.groups == {"many": 1, "medium": 1, "few": 1} and found.imbalance == 25
    assert found.fingerprint == load(f"folder:{photos}?val=5").fingerprint
    assert any("too few images for a balanced val of 5 per class in 1 class: cat (1)" in note for note in found.notes)
    assert found.problems == ()


def test_problems_are_found_all_at_once(photos: Path) -> None:
    train, test = photos / "train", photos / "test"
    (test / "bee" / "twin.png").write_bytes((train / "ant" / "7.png").read_bytes())
    Image.open(train / "ant" / "8.png").save(train / "bee" / "torn.bmp")  # the same pixels in other bytes
    (train / "ant" / "9.png").write_bytes(b"broken")
    picture(train / "ant" / "large.png", 99, size=16)
    found = describe(f"folder:{photos}", fold_val=True)
    assert found.counts["train"] == [150, 26, 6]
    assert found.problems == (
        f"unreadable: {train / 'ant' / '9.png'}: is not an image",
        "1 of 193 images are unreadable and stop training; ?broken=skip in the name leaves them out",
        "images of 2 sizes (8×8: 191, 16×16: 1): training needs one; ?size=8 in the name brings them to it",
        f"1 image of test is in train as well: {test / 'bee' / 'twin.png'} = {train / 'ant' / '7.png'}",
        f"1 image is in train under two labels: {train / 'ant' / '8.png'} = {train / 'bee' / 'torn.bmp'}",
    )
    assert found.size is None and not found.fingerprint
    mended = describe(f"folder:{photos}?size=8&broken=skip", fold_val=True)
    assert mended.size == (1, 8, 8) and len(mended.problems) == 4
    assert mended.fingerprint == load(f"folder:{photos}?size=8&broken=skip", fold_val=True).fingerprint
    too_large = describe(f"folder:{photos}?size=9000&broken=skip&resident_limit=1&feed=resident")
    assert any("above the limit of 1 GB" in problem for problem in too_large.problems)


def test_bars_follow_the_counts(photos: Path) -> None:
    console = Console(width=80, file=io.StringIO())
    draw(describe(f"folder:{photos}", fold_val=True), console)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["ant", "150"], ["bee", "25"], ["cat", "6"]]
    lengths = [line.count("█") for line in lines]
    assert lengths[0] > 50 and lengths[1] == round(lengths[0] / 6) and lengths[2] == round(lengths[0] / 25)


def test_equal_images_are_counted_and_few_are_shown() -> None:
    hashes = {"train": ["a", "a", "a", "b", "b", "b", "c"], "val": ["b", "c"]}
    labels = {"train": [0, 1, 2, 0, 0, 0, 1], "val": [0, 1]}
    names = {"train": list("1234567"), "val": ["x", "y"]}
    assert duplicates(hashes, labels, names) == [
        "2 images of val are in train as well: x = 4; y = 7",
        "1 image is in train under two labels: 1 = 2 = …",
        "1 image is in train more than once: 4 = 5 = …",
    ]


def test_file_names_that_are_no_utf8(photos: Path) -> None:
    odd = os.fsdecode(b"k\xe4fer.png")
    (photos / "train" / "ant" / odd).write_bytes(b"broken")
    (photos / "test" / "ant" / os.fsdecode(b"\xff.png")).write_bytes((photos / "train" / "ant" / "7.png").read_bytes())
    found = describe(f"folder:{photos}?broken=skip")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # refuses what is no UTF-8, as a terminal does
    show(found, Console(file=stream, width=1000))
    stream.flush()
    said = stream.buffer.getvalue().decode()
    assert r"ant/k\xe4fer.png: is not an image" in said and r"ant/\xff.png = " in said


def test_figure(photos: Path) -> None:
    bars = figure(describe(f"folder:{photos}", fold_val=True)).data
    assert [(bar.name, list(bar.y)) for bar in bars] == [("many (1)", [150]), ("medium (1)", [25]), ("few (1)", [6])]


def test_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["describe", "folder:photos?val=5", "--data-root", str(tmp_path), "--html", str(tmp_path / "p.html")]) == 0
    )
    out = capsys.readouterr().out
    for expected in (
        "3 classes, images 1×8×8",
        "170 images, 5 to 145 of a class",
        "many 1, medium 1, few 1",
        "no problems",
    ):
        assert expected in out
    assert "<html>" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_what_cannot_be_trained_on_is_shown_and_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(photos / "train" / "ant" / "large.png", 99, size=16)
    assert main(["describe", f"folder:{photos}"]) == 2
    said = capsys.readouterr()
    assert "images of 2 sizes" in said.out
    assert len(said.err.splitlines()) == 1 and "cannot be trained on as it is" in said.err
    assert main(["describe", f"folder:{photos}?size=8"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["digit-lt"],
            "python -m trainables.data describe: error: unknown data set 'digit-lt': did you mean 'digits-lt'?",
        ),
        (["digits-lt", "--imbalance", "0"], "imbalance must lie between 1 and 100"),
        (["digits-lt", "--split-seed", "-1"], "--split-seed must be at least 0, got -1"),
        (["csv:nowhere.csv"], "there is no nowhere.csv under"),
    ],
)
def test_command_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", *arguments]) == 2
    assert message in capsys.readouterr().err


def followed(name: str, message: str, option: str) -> str:
    """The name after what a message proposes, as it is written there."""
    found = re.search(rf"\s(?:([?&]{option}=\w+)|({option}=\w+) instead of ({option}=\w+))", message)
    assert found, message
    return name + found[1] if found[1] else name.replace(found[3], found[2])


@pytest.mark.parametrize("given", ["", "?val=3", "?broken=refuse", "?feed=resident&broken=refuse&val=3"])
def test_what_messages_propose_works(photos: Path, given: str) -> None:
    """Each message is followed to the letter until nothing is left to complain of."""
    train, name = photos / "train", f"folder:{photos}{given}"
    Image.new("L", (1, 1)).save(train / "ant" / "tracker.png")
    picture(train / "ant" / "large.png", 99, size=300)
    (train / "cat" / "5.png").write_bytes(b"broken")
    for complaint, option in (("cannot be read", "broken"), ("images of 3 sizes", "size")):
        with pytest.raises(DataError, match=complaint) as refused:
            load(name)
        said = "\n".join(describe(name).problems)
        assert followed(name, said, option) == followed(name, str(refused.value), option)
        name = followed(name, said, option)
    found = describe(name)
    assert found.fingerprint and found.size == (1, 8, 8)
    assert "enlarged to 8 pixels: 1 of 192 images (train/ant/tracker.png)" in found.problems


def test_what_is_proposed_where_memory_is_short(photos: Path) -> None:
    for given in ("size=4000&resident_limit=1&feed=resident&workers=0", "resident_limit=1&size=4000&feed=resident"):
        name = f"folder:{photos}?{given}"
        with pytest.raises(DataError, match=r"are 3.0 GB in memory, above the limit of 1 GB") as refused:
            load(name)
        assert followed(name, str(refused.value), "resident_limit").count("resident_limit=4") == 1
        streamed = followed(name, str(refused.value), "feed")
        assert streamed.endswith("feed=streamed") or "feed=streamed&" in streamed
        module_of(streamed)


def test_another_background_is_proposed_and_told(photos: Path) -> None:
    Image.new("LA", (8, 8), (0, 9)).save(photos / "train" / "ant" / "clear.png")
    said = "\n".join(describe(f"folder:{photos}").problems)
    assert "transparent pixels are laid on white; ?background=COLOUR in the name chooses another one: 1 of 191" in said
    asked = describe(followed(f"folder:{photos}", said, "background").replace("COLOUR", "black"))
    assert not asked.problems and any("laid on black" in note for note in asked.notes)
    with pytest.raises(DataError, match=r"option background: a colour must be a name such as white or black"):
        describe(f"folder:{photos}?background=COLOUR")
    with pytest.raises(DataError, match=r"option orientation must be exif or ignore, got 'up'"):
        describe(f"folder:{photos}?orientation=up")


@pytest.mark.parametrize("which", ["ant", "bee", "cat"])
def test_a_class_that_cannot_be_read_is_named_with_the_reason(photos: Path, which: str) -> None:
    """And not, e.g., that labels start at 1."""
    for file in (photos / "train" / which).iterdir():
        file.write_text("version https://git-lfs.github.com/spec/v1\n")
    why = "is no image yet, only a pointer of Git"
    message = rf"no training image can be read of 1 class: {which} \(\d+\) \(.*and \d+ more: {why}"
    for options in ("", "?broken=skip"):
        with pytest.raises(DataError, match=message) as refused:
            describe(f"folder:{photos}{options}")
        assert "skip in the name" not in str(refused.value) and "labels" not in str(refused.value)
    shutil.rmtree(photos / "train" / which)  # as the message says: the class is taken out
    with pytest.raises(DataError, match=f"there is no class '{which}' in train"):
        describe(f"folder:{photos}")
    shutil.rmtree(photos / "test" / which)
    assert describe(f"folder:{photos}").fingerprint


def test_unreadable_test_images_are_named_as_such(photos: Path) -> None:
    for file in (photos / "test").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"none of the 9 images of test can be read .*the file is empty\); mend these files,"
    ):
        load(f"folder:{photos}?broken=skip")
    with pytest.raises(DataError, match=r"none of the 9 images of test can be read"):
        describe(f"folder:{photos}")
    shutil.rmtree(photos / "test")  # the split is taken out
    assert describe(f"folder:{photos}").fingerprint


def test_streamed_data_are_described_alike(photos: Path) -> None:
    picture(photos / "train" / "ant" / "saved.jfif", 5)
    (photos / "train" / "ant" / "0.png").write_bytes(b"broken")
    one, other = (describe(f"folder:{photos}?broken=skip&feed={feed}&workers=0") for feed in ("resident", "streamed"))
    assert (one.counts, one.notes, one.problems, one.size) == (other.counts, other.notes, other.problems, other.size)
    assert other.fingerprint == load(f"folder:{photos}?broken=skip&feed=streamed&workers=0").fingerprint


def test_tables_and_arrays_tell_what_they_do_not_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = np.random.RandomState(1).randint(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "own [v2].npz", x=x, y=10 * y, ids=np.arange(60))
    assert main(["describe", f"npz:{tmp_path / 'own [v2].npz'}"]) == 0
    said = capsys.readouterr().out
    joined = " ".join(said.split())
    # a long path is folded, and nothing of it is cut
    assert (
        "own [v2].npz: 3 classes, images 1×8×8" in joined
        and str(tmp_path) in "".join(said.split())
        and "no problems found" not in joined
    )
    assert "arrays that are not used: ids" in joined and "the 3 classes are named by them: 0, 10, 20" in joined
    for number, label in enumerate(y):
        picture(tmp_path / f"{number}.png", number)
        with (tmp_path / "list.csv").open("a") as file:
            file.write(f"{number}.png;{label};by hand\n" if number else "file;class;who\n0.png;0;by hand\n")
    assert main(["describe", f"csv:{tmp_path / 'list.csv'}"]) == 0
    assert "columns that are not used: who" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.zeros((9, 8, 8)), "y": np.arange(9)}, "x must be uint8 in 0 … 255, got float64"),
        ({"x": np.zeros((9, 8, 8), np.uint8), "y": np.array([None] * 9)}, "Python objects are not read"),
        ({"x": np.zeros((9, 8, 8), np.uint8), "y": np.arange(9), "x_val": np.zeros((2, 8, 8), np.uint8)}, "no y_val"),
    ],
)
def test_the_cause_is_told_and_nothing_else(
    content: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "own.npz", **content)
    assert main(["describe", f"npz:{tmp_path / 'own.npz'}"]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out

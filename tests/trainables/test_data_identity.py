"""Final training knows whether the data are those of the search; nothing is mixed and no image is dropped silently."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from search.commands.export import FORMAT
from spaces.domain import Stage
from trainables.data import load
from trainables.final.data_identity import change, identity
from trainables.pipeline.pipeline import Pipeline
from trainables.train import main

NAME = "folder:photos?pad=1"


def photos(folder: Path, counts: dict[str, int], first: int = 0) -> None:
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            drawn = np.random.RandomState(1000 * label + number)
            pixels = drawn.randint(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def place(tmp_path, monkeypatch, make_plan):
    """A working directory with `photos/` and a recipe that was found on them, as an export writes it."""
    photos(tmp_path / "photos", {"ant": 40, "bee": 20, "cat": 10})
    monkeypatch.chdir(tmp_path)
    content = {
        "format": FORMAT, "recipe": "0123456789", "title": "a", "model": "resnet8", "conflicts": [],
        "data": {"name": NAME, "imbalance": None, **identity(NAME, ".", None)},
        "plan": make_plan(Stage("a", epochs=1)).to_dict(), "measured": {"values": [0.2, 0.3], "seeds": [0, 1]},
        "provenance": {"search": "s1", "tricks": [], "data_root": "."},
    }  # fmt: skip
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def train(*more: str, out: str = "trained") -> int:
    return main(["best.yaml", "--tracking-uri", "none", "--no-program", "--out", out, *more])


def trained_on(out: str = "trained") -> dict[str, int]:
    with open(Path(out, "per_class.csv")) as file:
        return {row["class"]: int(row["train_images"]) for row in csv.DictReader(file)}


def rewrite(**data) -> dict:
    content = yaml.safe_load(Path("best.yaml").read_text())
    content["data"] |= data
    Path("best.yaml").write_text(yaml.safe_dump(content))
    return content


def test_the_same_data_need_no_word(place, capsys):
    assert train() == 0
    assert "data:" not in capsys.readouterr().out and trained_on() == {"ant": 32, "bee": 16, "cat": 8}
    assert "Since the search" not in Path("trained/README.md").read_text()


def test_images_that_were_added_are_trained_on_with_a_word(place, capsys):
    photos(place / "photos", {"cat": 10}, first=100)
    assert train() == 0
    sentence = (
        "cat 10 → 20 images, 10 more than in the search; all of them are trained on. Where test is cut from these"
    )
    assert f"data: {sentence}" in capsys.readouterr().out
    assert trained_on() == {"ant": 32, "bee": 16, "cat": 16}
    assert f"- Since the search: {sentence}" in Path("trained/README.md").read_text()
    # also where the largest class grows, whose imbalance no longer is the one of the search
    photos(place / "photos", {"ant": 60}, first=100)
    assert train(out="second") == 0
    assert trained_on("second") == {"ant": 80, "bee": 16, "cat": 16}
    # what it leaves is a recipe of the data as they are
    assert main(["second/recipe.yaml", "--tracking-uri", "none", "--no-program", "--out", "third"]) == 0
    assert "Since the search" not in Path("third/README.md").read_text()


def remove(place: Path) -> None:
    (place / "photos/ant/3.png").unlink()


def swap(place: Path) -> None:
    """One image of each of two classes has the other's label."""
    shutil.move(place / "photos/ant/3.png", place / "photos/bee/1003.png")
    shutil.move(place / "photos/bee/3.png", place / "photos/ant/1003.png")


def repaint(place: Path) -> None:
    Image.new("RGB", (12, 12)).save(place / "photos/ant/3.png")


def rename(place: Path) -> None:
    shutil.move(place / "photos/cat", place / "photos/dog")


def add_class(place: Path) -> None:
    photos(place / "photos", {"dog": 12})


def exchange(place: Path) -> None:
    """Some are gone, more are new."""
    remove(place)
    photos(place / "photos", {"cat": 10}, first=100)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (remove, "ant 40 → 39 images"),
        (swap, "each class has as many images as before, but pixels, labels, splits or the way images are read"),
        (repaint, "each class has as many images as before, but pixels"),
        (rename, "dog is new with 10, cat with 10 is gone images"),
        (add_class, "dog is new with 12 images"),
        (exchange, "ant 40 → 39, cat 10 → 20 images"),
    ],
)
def test_any_other_change_is_refused_by_name_and_accepted_where_it_is_meant(how, sentence, place, capsys):
    how(place)
    assert train() == 2
    printed = capsys.readouterr().err
    assert f"best.yaml: the data are not those of the search: {sentence}" in printed and len(printed.splitlines()) == 1
    assert "with --new-data" in printed and not Path("trained").exists()
    assert train("--as-searched", "--seeds", "1") == 2
    assert "--as-searched repeats a search on its data, and these are others" in capsys.readouterr().err
    assert train("--new-data") == 0
    assert "trained on as they are now, as --new-data asks" in capsys.readouterr().out
    assert sum(trained_on().values()) == len(load(NAME, fold_val=True).train_labels)


def test_growth_is_not_what_as_searched_repeats(place, capsys):
    photos(place / "photos", {"cat": 10}, first=100)
    assert train("--as-searched") == 2
    assert "these are others: cat 10 → 20 images" in capsys.readouterr().err
    assert train("--as-searched", "--new-data") == 2
    assert "leave --new-data out" in capsys.readouterr().err


def test_an_imbalance_that_was_asked_for_says_what_it_leaves_out(place, capsys):
    rewrite(imbalance=8.0)
    assert train() == 0
    printed = capsys.readouterr().out
    left = 32 + 16 + 8 - sum(trained_on().values())
    assert left > 0 and f"{left} training images are left out by the imbalance of 8 that the search asked" in printed
    assert f"{left} further images are left out" in Path("trained/README.md").read_text()
    photos(place / "photos", {"ant": 60}, first=100)  # an imbalance above 8 of their own: 8 can no longer be cut
    assert train(out="second") == 2
    assert "the data are not those of the search: ant 40 → 100 images; take the old" in capsys.readouterr().err
    assert train("--new-data", out="second") == 0
    assert trained_on("second") == {"ant": 80, "bee": 16, "cat": 8}


def test_a_recipe_of_an_earlier_version_is_compared_by_its_trials(place, capsys):
    content = rewrite()
    content["data"] = {"name": NAME, "imbalance": 4.0}
    content["provenance"]["fingerprints"] = [load(NAME, split_seed=seed).fingerprint for seed in (0, 1)]
    Path("best.yaml").write_text(yaml.safe_dump(content))
    assert train() == 0
    photos(place / "photos", {"ant": 60}, first=100)
    assert train(out="second") == 2
    assert (
        "not those of the search: folder:photos?pad=1: the data's own imbalance is 10, and" in capsys.readouterr().err
    )
    assert train("--new-data", out="second") == 0 and trained_on("second")["ant"] == 80
    del content["provenance"]["fingerprints"]
    content["data"]["imbalance"] = None
    Path("best.yaml").write_text(yaml.safe_dump(content))
    assert train(out="third") == 0
    assert "nothing was compared: the recipe does not say on which data it was found" in capsys.readouterr().out


def test_a_training_that_is_taken_up_again_stays_with_its_data(place, monkeypatch, capsys):
    advance = Pipeline.advance

    def interrupted(self):
        monkeypatch.setattr(Pipeline, "advance", advance)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "advance", interrupted)
    assert train() == 130
    photos(place / "photos", {"cat": 10}, first=100)
    for more in ((), ("--new-data",)):
        assert train("--resume", *more) == 2
        printed = capsys.readouterr().err
        assert "--resume: the data have changed since this training began: cat 10 → 20 images" in printed
    for file in (place / "photos/cat").glob("10?.png"):
        file.unlink()
    noted = json.loads(Path("trained/unfinished/settings.json").read_text())
    for damaged in ({**noted, "data": {**noted["data"], "images": "many"}}, {**noted, "data": 3}, [noted]):
        Path("trained/unfinished/settings.json").write_text(json.dumps(damaged))
        assert train("--resume") == 2
        printed = capsys.readouterr().err
        assert "settings.json is damaged" in printed and len(printed.splitlines()) == 1
    Path("trained/unfinished/settings.json").write_text(json.dumps(noted))
    assert train("--resume") == 0 and trained_on()["cat"] == 8


def test_data_that_change_between_two_seeds_end_the_training(place, monkeypatch, capsys):
    advance = Pipeline.advance

    def changing(self):
        photos(place / "photos", {"cat": 1}, first=100)
        return advance(self)

    monkeypatch.setattr(Pipeline, "advance", changing)
    assert train("--seeds", "2") == 2
    assert (
        "the data have changed while they were trained on; restore the old data, then continue"
        in capsys.readouterr().err
    )
    (place / "photos/cat/100.png").unlink()
    monkeypatch.setattr(Pipeline, "advance", advance)
    assert train("--seeds", "2", "--resume") == 0


def test_what_has_changed_is_named_up_to_ten_classes():
    before = {"fingerprint": "a", "classes": [f"c{number}" for number in range(12)], "counts": [1] * 12}
    found = change(before, {**before, "fingerprint": "b", "counts": [2] * 12})
    assert found.added == 12 and found.text.endswith("c9 1 → 2 and 2 further classes images")
    assert change(before, before) is None
    assert not change({"fingerprint": "a"}, {**before, "fingerprint": "b"}).added
    relabelled = {**before, "fingerprint": "b", "classes": before["classes"][::-1], "counts": [2] * 12}
    assert not change(before, relabelled).added

"""Which images go where: folds of val, a fixed test, the data's own tail and a longer one."""

import numpy as np
import pytest

from trainables.data import DataError
from trainables.data.splits import Division, divide

SIZES = [100, 40, 12, 5, 3]
NAMES = tuple("abcde")
LABELS = np.random.RandomState(3).permutation(np.repeat(np.arange(5), SIZES))


def cut(**changed) -> Division:
    names = changed.pop("names", NAMES)
    given = {"train": LABELS, "test": np.repeat(np.arange(len(names)), 5)} | changed.pop("labels", {})
    options = {"imbalance": None, "split_seed": 0, "fold_val": False, "val": 10} | changed
    return divide("mine", given, names, **options)


def counts(division: Division, split: str) -> list[int]:
    given, index = division.index[split]
    assert given == "train"
    return np.bincount(LABELS[index], minlength=5).tolist()


def test_val_takes_a_fifth_at_most() -> None:
    division = cut()
    assert counts(division, "val") == [10, 8, 2, 1, 0]
    assert counts(division, "train") == [90, 32, 10, 4, 3]
    assert division.imbalance == pytest.approx(100 / 3)  # of all that may be trained on
    assert division.notes == (
        "val is cut from the training images: 21, 0 to 10 of a class, drawn by the split seed",
        "too few images for a balanced val of 10 per class in 4 classes: b (8), c (2), d (1), e (0)",
        "fewer than 5 val images, so that their own recall says next to nothing, in 2 classes: c (2), d (1)",
        "imbalance of the training images: 30 instead of 33.3333",
    )
    assert division.problems == ("no val image in 1 class: e; accuracy on val is the mean recall of the other 4",)
    assert division.index["test"][0] == "test" and division.index["test"][1].tolist() == list(range(25))


def test_five_split_seeds_are_folds_and_the_sixth_shuffles_anew() -> None:
    folds = [set(cut(split_seed=seed).index["val"][1].tolist()) for seed in range(10)]
    for start in (0, 5):
        joined = [image for fold in folds[start : start + 5] for image in fold]
        assert len(joined) == len(set(joined)) == 5 * 21
    assert folds[0] not in folds[1:]
    for seed, fold in enumerate(folds):
        train = set(cut(split_seed=seed).index["train"][1].tolist())
        assert not train & fold and train | fold == set(range(len(LABELS)))
    # class d has 5 images and b 40: each is held out exactly once in five
    assert sorted(LABELS[image] for fold in folds[:5] for image in fold).count(3) == 5


def test_final_training_has_everything() -> None:
    division = cut(fold_val=True, split_seed=4)
    assert counts(division, "train") == SIZES and len(division.index["val"][1]) == 0
    assert division.notes == division.problems == ()


def test_a_val_that_is_given_stays_apart() -> None:
    labels = {"val": np.array([0, 1, 2, 3, 4, 4])}
    searched, folded = cut(labels=labels), cut(labels=labels, fold_val=True)
    assert searched.index["val"][0] == "val" and len(searched.index["val"][1]) == 6
    assert counts(searched, "train") == counts(folded, "train") == SIZES
    assert len(folded.index["val"][1]) == 0 and "val that was given is left out" in folded.notes[0]
    assert cut(labels=labels, split_seed=3).index["train"][1].tolist() == searched.index["train"][1].tolist()


def test_classes_that_starve_in_a_given_split_are_named() -> None:
    labels = {"val": np.repeat([0, 1, 3, 4], [5, 6, 4, 5]), "test": np.repeat(np.arange(4), 5)}
    assert cut(labels=labels).notes == (
        "fewer than 5 val images, so that their own recall says next to nothing, in 1 class: d (4)",
    )
    assert cut(labels=labels).problems == (
        "no test image in 1 class: e; accuracy on test is the mean recall of the other 4",
        "no val image in 1 class: c; accuracy on val is the mean recall of the other 4",
    )
    assert not any("val" in text for text in cut(labels=labels, fold_val=True).problems)


def test_one_class_judges_nothing() -> None:
    alone = (
        r"mine: val has images of {} alone{}, and by one class nothing can be judged; give a val with images of every"
    )
    with pytest.raises(DataError, match=alone.format("c", "")):
        cut(labels={"val": np.array([2] * 9)})
    few = {"train": np.repeat(np.arange(5), [30, 4, 4, 4, 4])}
    why = ", because no other class has the 5 images that giving one up takes"
    with pytest.raises(DataError, match=alone.format("a", why)):
        cut(labels=few)
    assert len(cut(labels=few, fold_val=True).index["train"][1]) == 46  # nothing is chosen by val there
    given = cut(labels=few | {"val": np.repeat(np.arange(5), 3)})  # as the message asks for
    assert len(given.index["train"][1]) == 46 and not given.problems


def test_test_is_cut_once_for_all_seeds() -> None:
    names = {"train": LABELS}
    options = {"imbalance": None, "val": 10, "test": 6}
    first = divide("mine", names, NAMES, split_seed=0, fold_val=False, **options)
    other = divide("mine", names, NAMES, split_seed=8, fold_val=True, **options)
    assert counts(first, "test") == [6, 6, 2, 1, 0]
    assert first.index["test"][1].tolist() == other.index["test"][1].tolist()
    assert counts(first, "val") == [10, 6, 2, 0, 0] and counts(first, "train") == [84, 28, 8, 4, 3]
    used = np.concatenate([index for _, index in first.index.values()])
    assert sorted(used.tolist()) == list(range(len(LABELS)))
    assert counts(other, "train") == [94, 34, 10, 4, 3] and first.imbalance == other.imbalance == pytest.approx(94 / 3)


def test_a_longer_tail() -> None:
    """100 · 50^(−rank/4) = 100, 37.6, 14.1, 5.3, 2; the data have 40, 12, 5, 3 from the second on."""
    division = cut(imbalance=50, fold_val=True)
    assert counts(division, "train") == [100, 37, 12, 5, 2]
    assert division.imbalance == 50 and division.notes == ()
    searched = cut(imbalance=50)
    assert counts(searched, "train") == [90, 32, 10, 4, 1]  # from 90, without val
    assert set(cut(imbalance=60).index["train"][1]) <= set(searched.index["train"][1])
    assert set(searched.index["train"][1]) <= set(cut(imbalance=50, fold_val=True).index["train"][1])


def test_the_profile_follows_size_not_label() -> None:
    turned = {"train": 4 - LABELS}
    division = divide("mine", turned | {"test": np.arange(5)}, NAMES, imbalance=50, split_seed=0, fold_val=True)
    assert np.bincount(turned["train"][division.index["train"][1]]).tolist() == [2, 5, 12, 37, 100]


def test_the_recorded_imbalance_gives_the_same_data() -> None:
    """An exported recipe has the factor that the search recorded; final training must not cut again."""
    recorded = float(f"{cut().imbalance:g}")
    assert counts(cut(imbalance=recorded, fold_val=True), "train") == SIZES


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"imbalance": 20},
            r"mine: the data's own imbalance is 33.3333, and only a larger one can be cut .*got 20; leave",
        ),
        ({"imbalance": float("nan")}, "only a larger one can be cut from them, got nan"),
        ({"imbalance": float("inf")}, "only a larger one can be cut from them, got inf"),
        (
            {"imbalance": 1000},
            "imbalance 1000 with 90 images in the largest class leaves the smallest class without any",
        ),
        (
            {"labels": {"train": np.array([0, 0, 0, 1, 1])}, "names": ("a", "b")},
            "no val is given, and no class has the 5 images that giving one up takes; give a val",
        ),
    ],
)
def test_what_cannot_be_divided(changed: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cut(**changed)


def test_the_division_never_moves() -> None:
    division = cut(labels={"test": np.arange(5)})
    assert division.index["val"][1].tolist()[:5] == [1, 10, 13, 17, 23]

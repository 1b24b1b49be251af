"""Which images of given data go to train, val and test: labels in, indices out. No image is looked at here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.data.catalogue import DataError
from trainables.data.long_tail import balanced_note, class_counts, equal_counts
from trainables.training.seeding import seed_of

FOLDS = 5
"""Val gets at most 1/5 of a class, so that the val sets of five consecutive split seeds never share an image."""

HELD_OUT = 50
"""Images of each class that val (and test) get where there are enough of them: below 50, a class's recall says too
little to select by the lowest one or by the harmonic mean."""

STARVING = 5
"""Held-out images of a class below which its own recall says next to nothing."""


@dataclass(frozen=True)
class Division:
    """Assignment of every image to a split.

    Args:
        index: For train, val and test, the given split that the images come from and their indices there.
        imbalance: The factor asked for; of data taken as they are, that of all the images that may be trained on.
        notes: Information for the user.
        problems: Warnings about classes that val or test cannot measure.
    """

    index: Mapping[str, tuple[str, NDArray[np.int64]]]
    imbalance: float
    notes: tuple[str, ...]
    problems: tuple[str, ...] = ()


def divide(
    name: str,
    labels: Mapping[str, NDArray[np.int64]],
    class_names: Sequence[str],
    *,
    imbalance: float | None,
    split_seed: int,
    fold_val: bool,
    val: int = HELD_OUT,
    test: int = HELD_OUT,
    balanced: bool = False,
) -> Division:
    """Cuts the splits that are not given, and a longer tail if one is requested.

    A test that is not given is cut once from every class of train, the same for all split seeds. A val that is
    not given is cut from the rest: repeated stratified folds, so that split seeds 5r … 5r + 4 hold disjoint images
    out and every five seeds the classes are shuffled again. Either takes min(declared, a fifth of the class), so the
    classes of a long tail are held out unequally; accuracy is a mean of recalls and does not mind, but the recalls
    of small classes are coarse, which the notes say.

    With an imbalance, class sizes in falling order are cut to min(size, exponential profile from the largest).

    Args:
        name: For messages and notes.
        labels: Of the given splits: "train", and "val" and "test" where given; each (N,) in [0, C).
        class_names: C names.
        imbalance: At least the data's own factor; `None` or that factor leaves every image in.
        split_seed: Which images val and a cut tail get.
        fold_val: No val. What would have been cut stays in train; a val that is given is left out.
        val: Images of each class that a cut val has at most, at least 1.
        test: Images of each class that a cut test has at most, at least 1.
        balanced: Whether train has as many images of every class, in all as many as it would have otherwise.

    Returns:
        Indices in rising order.

    Raises:
        DataError: The imbalance or a balanced train cannot be cut from the data, no class can spare an image for test,
            or val would have images of fewer than two classes, so that nothing could be judged by it.
    """
    classes, notes, problems = len(class_names), [], []
    pool = [np.flatnonzero(labels["train"] == label) for label in range(classes)]
    held_test: list[NDArray[np.int64]] = []
    if "test" not in labels:
        taken = [min(test, len(index) // FOLDS) for index in pool]
        drawn = [_shuffled(index, "test", label) for label, index in enumerate(pool)]
        held_test = [index[:count] for index, count in zip(drawn, taken, strict=True)]
        pool = [np.sort(index[count:]) for index, count in zip(drawn, taken, strict=True)]
        notes += _cut_notes(name, "test", taken, test, class_names, "the same for every split seed")
    else:
        taken = np.bincount(labels["test"], minlength=classes).tolist()
        notes += _starving("test", taken, class_names)
    problems += _not_judged("test", taken, class_names)
    sizes = [len(index) for index in pool]
    own = max(sizes) / min(sizes)
    as_they_are = imbalance is None or math.isclose(imbalance, own, rel_tol=1e-3)
    if imbalance is not None and not as_they_are and not own < imbalance < math.inf:
        raise DataError(
            f"{name}: the data's own imbalance is {own:.6g}, and only a larger one can be cut from them, got "
            f"{imbalance:g}; leave it out to take the data as they are"
        )

    repeat, fold = divmod(split_seed, FOLDS)
    drawn = [_shuffled(index, "val", label, repeat) for label, index in enumerate(pool)]
    held_val: list[NDArray[np.int64]] = []
    if "val" not in labels:
        taken = [min(val, size // FOLDS) for size in sizes]
        windows = [slice(fold * count, (fold + 1) * count) for count in taken]
        held_val = [index[window] for index, window in zip(drawn, windows, strict=True)]
        rest = [np.delete(index, window) for index, window in zip(drawn, windows, strict=True)]
        # an image of val stands last, so that folding val back only adds to what a search trained on
        drawn = [np.concatenate(parts) for parts in zip(rest, held_val, strict=True)]
        if not fold_val:
            drawn = rest
            notes += _cut_notes(name, "val", taken, val, class_names, "drawn by the split seed")
    elif fold_val:
        notes.append("the val that was given is left out: it never belonged to the training images")
    else:
        taken = np.bincount(labels["val"], minlength=classes).tolist()
        notes += _starving("val", taken, class_names)
    if not fold_val:
        judged = [class_name for class_name, count in zip(class_names, taken, strict=True) if count]
        if len(judged) < 2:
            why = "" if "val" in labels else f", because no other class has the {FOLDS} images that giving one up takes"
            raise DataError(
                f"{name}: val has images of {judged[0]} alone{why}, and by one class nothing can be judged; give a val "
                "with images of every class"
            )
        problems += _not_judged("val", taken, class_names)

    left = [len(index) for index in drawn]
    if as_they_are:
        train = drawn
    else:
        assert imbalance is not None
        try:
            profile = class_counts(max(left), classes, imbalance)
        except ValueError as error:
            raise DataError(
                f"{name}: imbalance {imbalance:g} with {max(left)} images in the largest class leaves the smallest "
                "class without any; lower it"
            ) from error
        falling = sorted(range(classes), key=lambda label: -sizes[label])
        allowed = dict(zip(falling, profile, strict=True))
        train = [index[: allowed[label]] for label, index in enumerate(drawn)]
    nominal = own if imbalance is None else float(imbalance)
    counts = [len(index) for index in train]
    if balanced:
        try:
            equal = equal_counts(counts, left)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
        train = [index[:count] for index, count in zip(drawn, equal, strict=True)]
        notes.append(balanced_note(equal, nominal))
        counts, nominal = equal, 1.0
    actual = max(counts) / min(counts)
    if not math.isclose(actual, nominal, rel_tol=1e-3):
        notes.append(f"imbalance of the training images: {actual:.6g} instead of {nominal:.6g}")

    def joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *parts]))

    def given(split: str, cut: list[NDArray[np.int64]]) -> tuple[str, NDArray[np.int64]]:
        return (split, np.arange(len(labels[split]))) if split in labels else ("train", joined(cut))

    index = {"train": ("train", joined(train)), "val": given("val", held_val), "test": given("test", held_test)}
    if fold_val:
        index["val"] = ("train", joined([]))
    return Division(index, float(nominal), tuple(notes), tuple(problems))


def _cut_notes(
    name: str, split: str, taken: Sequence[int], declared: int, class_names: Sequence[str], how: str
) -> list[str]:
    """Says what was cut, and which classes gave too few images."""
    if not sum(taken):
        raise DataError(
            f"{name}: no {split} is given, and no class has the {FOLDS} images that giving one up takes; give a {split}"
        )
    notes = [f"{split} is cut from the training images: {sum(taken)}, {min(taken)} to {max(taken)} of a class, {how}"]
    short = [label for label, count in enumerate(taken) if count < declared]
    if short:
        notes.append(
            f"too few images for a balanced {split} of {declared} per class in {class_list(short, class_names, taken)}"
        )
    return notes + _starving(split, taken, class_names)


def _starving(split: str, held: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """Warns of classes with very few images in a split, whether it was given or cut."""
    starving = [label for label, count in enumerate(held) if 0 < count < STARVING]
    if not starving:
        return []
    return [
        f"fewer than {STARVING} {split} images, so that their own recall says next to nothing, in "
        f"{class_list(starving, class_names, held)}"
    ]


def _not_judged(split: str, held: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """Warns of classes without images in a split, which a mean over classes leaves out."""
    absent = [label for label, count in enumerate(held) if not count]
    if not absent:
        return []
    return [
        f"no {split} image in {class_list(absent, class_names)}; accuracy on {split} is the mean recall of the other "
        f"{len(held) - len(absent)}"
    ]


def class_list(
    labels: Sequence[int], class_names: Sequence[str], counts: Sequence[int] | None = None, shown: int = 5
) -> str:
    """Lists classes in words, each with a count if counts are given.

    >>> class_list([0, 2], ["cat", "dog", "emu"], [7, 8, 9])
    '2 classes: cat (7), emu (9)'
    """
    numbers = ["" if counts is None else f" ({counts[label]})" for label in labels[:shown]]
    named = ", ".join(class_names[label] + number for label, number in zip(labels[:shown], numbers, strict=True))
    more = ", …" if len(labels) > shown else ""
    return f"{len(labels)} {'class' if len(labels) == 1 else 'classes'}: {named}{more}"


def _shuffled(index: NDArray[np.int64], *purpose: int | str) -> NDArray[np.int64]:
    # NumPy never changes the stream of RandomState, so the split stays the same in every version.
    shuffled: NDArray[np.int64] = np.random.RandomState(seed_of("own data", *purpose) % 2**32).permutation(index)
    return shuffled

"""Which data a recipe was found on, and whether those that are there now are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.text import printable
from trainables.data import load, standard
from trainables.data.catalogue import PREFIXES, DataError, Name
from trainables.final.errors import TrainError

SHOWN_CLASSES = 10
"""Classes whose counts a sentence names; the rest is counted."""


def has_own_tail(name: str) -> bool:
    """Whether the data are long-tailed as they are, so that without an imbalance no image is cut.

    >>> has_own_tail("folder:photos?size=64"), has_own_tail("digits-lt")
    (True, False)
    """
    return Name.parse(name).kind in PREFIXES or standard(name).imbalance is None


def identity(name: str, root: str | None, imbalance: float | None) -> dict[str, Any]:
    """Identity of data: a fingerprint of all images, labels and splits, and the images of each class.

    Data with a tail of their own are used whole, even if a search cut a longer tail.

    Args:
        name: Name of the data set.
        root: Its folder.
        imbalance: Imbalance of data that are cut to a long tail by definition.

    Returns:
        "fingerprint", "classes" (C names) and "images" ("train", "val" and "test", each (C,) images); of features that
        say it also "backbone", the network that they come from.

    Raises:
        DataError: The data cannot be read.
    """
    data = load(name, root=root, imbalance=None if has_own_tail(name) else imbalance, split_seed=0)
    splits = {"train": data.train_labels, "val": data.val_labels, "test": data.test_labels}
    images = {split: labels.cpu().bincount(minlength=data.classes).tolist() for split, labels in splits.items()}
    found = {"fingerprint": data.fingerprint, "classes": list(data.class_names), "images": images}
    return found | ({"backbone": data.backbone} if data.backbone else {})


def images_of(data: Mapping[str, Any]) -> list[int]:
    """Images of each class in all splits. Recipes of earlier versions have only these sums, as "counts".

    >>> images_of({"images": {"train": [5, 1], "val": [2, 2], "test": [3, 3]}}), images_of({"counts": [10, 6]})
    ([10, 6], [10, 6])
    """
    splits = data.get("images")
    return (
        list(data["counts"]) if splits is None else [sum(of_class) for of_class in zip(*splits.values(), strict=True)]
    )


@dataclass(frozen=True)
class Change:
    """Difference between two states of data.

    Args:
        text: The change in words, by class.
        added: Images that came on top, where no class lost one; 0 where that is not all.
    """

    text: str
    added: int = 0


def change(before: Mapping[str, Any], now: Mapping[str, Any]) -> Change | None:
    """Compares two states of data; `None` if they are equal.

    Args:
        before: What `identity` returned; without classes where only a fingerprint is known.
        now: What `identity` returns now.

    >>> print(change({"fingerprint": "a", "classes": ["ant", "cat"], "counts": [40, 10]},
    ...              {"fingerprint": "b", "classes": ["ant", "cat"], "images": {"train": [30, 18], "test": [10, 2]}}))
    Change(text='cat 10 → 20 images', added=10)
    """
    renamed = before.get("classes") and list(before["classes"]) != list(now["classes"])
    if before.get("fingerprint") == now["fingerprint"] and not renamed:
        return None
    if before.get("backbone") and before["backbone"] != now.get("backbone"):
        other = now.get("backbone") or "a network that the file does not name"
        return Change(f"the features come from {other}, and those of the search from {before['backbone']}")
    if not before.get("classes"):
        return Change("how many images each class had was not noted")
    was = dict(zip(before["classes"], images_of(before), strict=True))
    new = dict(zip(now["classes"], images_of(now), strict=True))
    found = [f"{_name(name)} {was[name]} → {new[name]}" for name in new if name in was and was[name] != new[name]]
    found += [f"{_name(name)} is new with {new[name]}" for name in new if name not in was]
    found += [f"{_name(name)} with {was[name]} is gone" for name in was if name not in new]
    if not found:
        return Change(
            "each class has as many images as before, but pixels, labels, splits or the way images are read are others"
        )
    more = f" and {len(found) - SHOWN_CLASSES} further classes" if len(found) > SHOWN_CLASSES else ""
    text = ", ".join(found[:SHOWN_CLASSES]) + more + " images"
    same_classes = list(before["classes"]) == list(now["classes"])
    grown = same_classes and all(new[name] >= was[name] for name in was)
    return Change(text, sum(new.values()) - sum(was.values()) if grown else 0)


def _name(name: str) -> str:
    return printable(name, keep="")


def check_data(
    where: object, recipe: Mapping[str, Any], root: str | None, *, new_data: bool, repeats: bool
) -> dict[str, Any]:
    """The recipe's data as they are to be trained on.

    Images that were only added are trained on, with a word; any other change needs `new_data`.

    Args:
        where: The recipe's file, for messages.
        recipe: The recipe.
        root: Folder of the data.
        new_data: Whether the data may be others than those of the search; all of them are then trained on.
        repeats: Whether the search is to be repeated, which takes the same data.

    Returns:
        The recipe's "data": name, imbalance (`None` takes all images), identity as it is now, and "since_search":
        what has changed since the search, in a sentence, where something has.

    Raises:
        DataError: The data cannot be read.
        TrainError: They have changed.
    """
    data = dict(recipe["data"])
    whole = has_own_tail(data["name"])
    now = identity(data["name"], root, data["imbalance"])
    data.pop("since_search", None)
    if data.get("fingerprint"):
        found = change(data, now)
    elif recipe["provenance"].get("fingerprints") and recipe["measured"].get("seeds"):
        found = _change_of_split(recipe, root)
    else:
        found = None
        data["since_search"] = "nothing was compared: the recipe does not say on which data it was found"
    data = {name: value for name, value in data.items() if name != "counts"} | now
    if new_data and whole:
        data["imbalance"] = None
    if found is None:
        return data
    if repeats:
        raise TrainError(
            f"{where}: --as-searched repeats a search on its data, and these are others: {found.text}; take the old "
            "data again"
        )
    if new_data:
        data["since_search"] = f"{found.text}; trained on as they are now, as --new-data asks"
    elif found.added and whole and data["imbalance"] is None:
        data["since_search"] = (
            f"{found.text}, {found.added} more than in the search; all of them are trained on. Where test is cut from "
            "these images it is cut anew, and may hold some that the search trained on or chose by"
        )
    else:
        raise TrainError(
            f"{where}: the data are not those of the search: {found.text}; take the old data again, or train on all "
            "that are there now with --new-data"
        )
    return data


def _change_of_split(recipe: Mapping[str, Any], root: str | None) -> Change | None:
    """Compares a recipe that has only the fingerprints of its trials, each of one split."""
    own = recipe["data"]
    try:
        data = load(own["name"], root=root, imbalance=own["imbalance"], split_seed=int(recipe["measured"]["seeds"][0]))
    except DataError as error:  # they can be read, as was seen before, and not be cut as they were
        return Change(str(error).partition(";")[0])
    same = data.fingerprint in recipe["provenance"]["fingerprints"]
    return None if same else Change("how many images each class had was not noted")


def left_out(recipe_data: Mapping[str, Any], root: str | None, trained: int) -> int:
    """Training images that an imbalance cut away from data with a tail of their own.

    Args:
        recipe_data: What `check_data` returned.
        root: Folder of the data.
        trained: Training images that are left.
    """
    if recipe_data["imbalance"] is None or not has_own_tail(recipe_data["name"]):
        return 0
    return len(load(recipe_data["name"], root=root, fold_val=True).train_labels) - trained

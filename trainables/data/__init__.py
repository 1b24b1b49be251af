"""Data sets by name: the one seam through which everything else finds them.

data = load("digits-lt", imbalance=50, split_seed=3)
data.train_images, data.train_labels, data.counts

Own data have a name as well: `folder:PATH`, `csv:FILE`, `npz:FILE`, each with options after a question mark
(`folder:photos?size=64&broken=skip`; see `trainables.data.user_data.own`), and so have features of images that a
network has computed, `features:FILE` (see `trainables.data.features`). `python -m trainables.data describe NAME`
shows what a name stands for before anything is trained.
"""

from __future__ import annotations

from pathlib import Path

from trainables.data.catalogue import MODULES, TRAINS, VALS, DataError, Name, Standard, module_of
from trainables.data.long_tail import LongTailed, class_counts

__all__ = [
    "DataError",
    "LongTailed",
    "Standard",
    "class_counts",
    "load",
    "names",
    "resolve_root",
    "standard",
    "with_balanced_train",
    "with_feed",
    "with_size",
    "with_val",
]


def names() -> list[str]:
    """Names of the built-in data sets, in alphabetical order; `folder:`, `csv:`, `npz:` and `features:` are not listed.

    >>> "digits-lt" in names()
    True
    """
    return sorted(MODULES)


def standard(name: str, root: str | None = None) -> Standard:
    """The standard schedule of a data set, without loading it.

    Args:
        name: One of `names()`, or own data.
        root: As in `load`; the schedule of own data depends on their size, so these are read.

    Raises:
        DataError: The name is unknown, which suggests the nearest one, or own data cannot be read.

    >>> standard("digits-lt").epochs, standard("digits-lt").model
    (90, 'resnet8')
    """
    return module_of(name).standard(name, root)


def resolve_root(name: str, root: str | None = None) -> tuple[str, str | None]:
    """Splits a name and its root into a short name and an absolute root, as records and other processes need them.

    For own data, the short name keeps the file's name and the options, and the root is the folder of the file.

    >>> resolve_root("csv:flowers/list.csv?val=5", "/data")
    ('csv:list.csv?val=5', '/data/flowers')
    >>> resolve_root("digits-lt")
    ('digits-lt', None)
    """
    parsed = Name.parse(name)
    if not parsed.path:
        return name, None if root is None else str(Path(root).expanduser().resolve())
    place = parsed.place(root).resolve()
    query = "&".join(f"{option}={value}" for option, value in parsed.options.items())
    return f"{parsed.kind}:{place.name}" + (f"?{query}" if query else ""), str(place.parent)


def with_feed(name: str, feed: str) -> str:
    """Sets `?feed=` in a name.

    Raises:
        DataError: These data cannot be streamed.

    >>> with_feed("folder:photos?size=64", "streamed"), with_feed("digits-lt", "resident")
    ('folder:photos?size=64&feed=streamed', 'digits-lt')
    """
    parsed = Name.parse(name)
    if "feed" not in getattr(module_of(name), "OPTIONS", ()):
        if feed in ("auto", "resident"):
            return name
        raise DataError(f"--feed {feed}: {parsed.kind} is held in memory; folder:, csv: and list files can be streamed")
    named = _with(parsed, "feed", feed)
    Name.parse(named).choice("feed", FEEDS)
    return named


def with_size(name: str, size: int, interpolation: str) -> str:
    """Sets `?size=` and `&interpolation=` in the name of image files, unless the name already does.

    >>> with_size("folder:photos?size=64", 224, "bicubic"), with_size("digits-lt", 224, "bicubic")
    ('folder:photos?size=64&interpolation=bicubic', 'digits-lt')
    """
    parsed = Name.parse(name)
    if "interpolation" not in getattr(module_of(name), "OPTIONS", ()) or parsed.kind == "npz":
        return name
    for option, value in (("size", str(size)), ("interpolation", interpolation)):
        if option not in parsed.options:
            parsed = Name.parse(_with(parsed, option, value))
    return parsed.text


def with_val(name: str, val: str) -> str:
    """Sets `?val=` in a name: "balanced", or "realistic" for the class proportions of training.

    Raises:
        DataError: The value is neither, or val of these data is not cut from a balanced pool.

    >>> with_val("cifar10-lt", "realistic")
    'cifar10-lt?val=realistic'
    """
    parsed = Name.parse(name)
    if not hasattr(module_of(name), "VALS"):
        known = ", ".join(one for one in names() if hasattr(module_of(one), "VALS"))
        raise DataError(f"--val {val}: the val of {parsed.kind} is not cut from a balanced pool; that of {known} is")
    named = _with(parsed, "val", val)
    Name.parse(named).choice("val", VALS)
    return named


def with_balanced_train(name: str) -> str:
    """Sets `?train=balanced` in a name: training images of equal classes, in all as many as the long tail has.

    >>> with_balanced_train("digits-lt?val=realistic")
    'digits-lt?val=realistic&train=balanced'
    """
    return _with(Name.parse(name), "train", TRAINS[1])


def _with(name: Name, option: str, value: str) -> str:
    given = "&".join(f"{key}={text}" for key, text in {**name.options, option: value}.items())
    return (f"{name.kind}:{name.path}" if name.path else name.kind) + f"?{given}"


FEEDS = ("auto", "resident", "streamed")
"""How training images reach the network; see `trainables.data.user_data.own`."""


def load(
    name: str,
    *,
    root: str | None = None,
    imbalance: float | None = None,
    split_seed: int | None = 0,
    fold_val: bool = False,
) -> LongTailed:
    """Loads a data set, cuts it to a long tail and splits it.

    Args:
        name: One of `names()`, or own data.
        root: Folder of the data, where it is not bundled.
        imbalance: Images of the largest class over those of the smallest, at least 1; the data set's
            standard one where absent, which leaves data that are long-tailed already as they are.
        split_seed: Which images go to `val` and `train`, where `val` is cut from a pool. `test` stays.
            `None` is the published split, which has no val: as `fold_val`.
        fold_val: No `val`, and `train` cut from the whole pool: what was published, for the final training. A
            val that was given apart never belonged to the pool, and stays out of it.

    Raises:
        DataError: The name is unknown, the data are absent or damaged, or the imbalance is out of its range.

    >>> data = load("digits-lt", imbalance=50)
    >>> data.counts.tolist(), len(data.val_labels), len(data.test_labels)
    ([100, 64, 41, 27, 17, 11, 7, 4, 3, 2], 440, 300)
    """
    module = module_of(name)
    if imbalance is None:
        imbalance = module.standard(name, root).imbalance
    fold_val = fold_val or split_seed is None
    return module.load(name, root=root, imbalance=imbalance, split_seed=split_seed or 0, fold_val=fold_val)

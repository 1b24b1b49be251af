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

from trainables.data.catalogue import MODULES, VALS, DataError, Name, Standard, module_of
from trainables.data.long_tail import LongTailed, class_counts

__all__ = [
    "DataError",
    "LongTailed",
    "Standard",
    "class_counts",
    "fed",
    "judged",
    "load",
    "names",
    "rooted",
    "sized",
    "standard",
]


def names() -> list[str]:
    """The known data sets, in alphabetical order; those of `folder:`, `csv:`, `npz:` and `features:` come on top.

    >>> "digits-lt" in names()
    True
    """
    return sorted(MODULES)


def standard(name: str, root: str | None = None) -> Standard:
    """The standard schedule of a data set, without loading it.

    Args:
        name: One of `names()`, or own data.
        root: As in `load`: own data are looked at, because their schedule follows from their size.

    Raises:
        DataError: The name is unknown; the nearest known one is offered. Or own data cannot be read.

    >>> standard("digits-lt").epochs, standard("digits-lt").model
    (90, 'resnet8')
    """
    return module_of(name).standard(name, root)


def rooted(name: str, root: str | None = None) -> tuple[str, str | None]:
    """The same data as a short name and an absolute root: what a record keeps and another process understands.

    Of own data the name keeps the file's own name and its options, the root is the folder that it lies in.

    >>> rooted("csv:flowers/list.csv?val=5", "/data")
    ('csv:list.csv?val=5', '/data/flowers')
    >>> rooted("digits-lt")
    ('digits-lt', None)
    """
    parsed = Name.parse(name)
    if not parsed.path:
        return name, None if root is None else str(Path(root).expanduser().resolve())
    place = parsed.place(root).resolve()
    query = "&".join(f"{option}={value}" for option, value in parsed.options.items())
    return f"{parsed.kind}:{place.name}" + (f"?{query}" if query else ""), str(place.parent)


def fed(name: str, feed: str) -> str:
    """The name with `?feed=` set.

    Raises:
        DataError: Data that are never streamed.

    >>> fed("folder:photos?size=64", "streamed"), fed("digits-lt", "resident")
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


def sized(name: str, size: int, interpolation: str) -> str:
    """The name with `?size=` and `&interpolation=` of image files set, where it does not say them itself.

    >>> sized("folder:photos?size=64", 224, "bicubic"), sized("digits-lt", 224, "bicubic")
    ('folder:photos?size=64&interpolation=bicubic', 'digits-lt')
    """
    parsed = Name.parse(name)
    if "interpolation" not in getattr(module_of(name), "OPTIONS", ()) or parsed.kind == "npz":
        return name
    for option, value in (("size", str(size)), ("interpolation", interpolation)):
        if option not in parsed.options:
            parsed = Name.parse(_with(parsed, option, value))
    return parsed.text


def judged(name: str, val: str) -> str:
    """The name with `?val=` set: "balanced", or "realistic" with the training images' proportions.

    Raises:
        DataError: Another value, or data whose val is not cut from a balanced pool.

    >>> judged("cifar10-lt", "realistic")
    'cifar10-lt?val=realistic'
    """
    parsed = Name.parse(name)
    if not hasattr(module_of(name), "VALS"):
        known = ", ".join(one for one in names() if hasattr(module_of(one), "VALS"))
        raise DataError(f"--val {val}: the val of {parsed.kind} is not cut from a balanced pool; that of {known} is")
    named = _with(parsed, "val", val)
    Name.parse(named).choice("val", VALS)
    return named


def _with(name: Name, option: str, value: str) -> str:
    given = "&".join(f"{key}={text}" for key, text in {**name.options, option: value}.items())
    return (f"{name.kind}:{name.path}" if name.path else name.kind) + f"?{given}"


FEEDS = ("auto", "resident", "streamed")
"""How images may be fed; see `trainables.data.user_data.own`."""


def load(
    name: str,
    *,
    root: str | None = None,
    imbalance: float | None = None,
    split_seed: int | None = 0,
    fold_val: bool = False,
) -> LongTailed:
    """A data set, cut to a long tail and split.

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

"""CIFAR-LT: the published subsets, val of a search, and files that are absent or damaged."""

import hashlib
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from trainables.data import DataError, load, standard
from trainables.data.cifar import published

PER_CLASS = 40
"""Training images of each class in the small stand-in of CIFAR-10."""


def shared() -> Path:
    default = Path(__file__).parents[2].parent / "shared"
    folder = Path(os.environ.get("LONGTAIL_SHARED", default)) / "data"
    if not (folder / "unpack.py").is_file():
        pytest.skip(f"the shared data are not in {folder}; set LONGTAIL_SHARED")
    return folder


def unpack() -> dict:
    code = (shared() / "unpack.py").read_text()
    module: dict = {"__file__": str(shared() / "unpack.py"), "__name__": "unpack"}
    exec(compile(code, "unpack.py", "exec"), module)
    return module


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cifar100")
    unpack()["cifar100"](folder)
    return str(folder)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like CIFAR-10's with few images, whose checksums torchvision takes for the right ones."""
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draw = np.random.RandomState(5)

    def write(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(images: int) -> dict:
        labels = draw.permutation(np.arange(images) % 10).tolist()
        return {"data": draw.randint(0, 256, (images, 3072), dtype=np.uint8), "labels": labels}

    train = [write(f"data_batch_{n}", batch(PER_CLASS * 5)) for n in (1, 2)]
    test = [write("test_batch", batch(30))]
    meta = write("batches.meta", {"label_names": [f"class {label}" for label in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "md5": meta[1], "key": "label_names"})
    archive = tmp_path / "root" / datasets.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, arcname=folder.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return tmp_path / "root"


def as_bytes(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


# --- the published subsets --------------------------------------------------------------------------------


def ldam(targets: list[int], counts: list[int]) -> list[int]:
    """Which images, with the statements of LDAM-DRW's `imbalance_cifar.py`."""
    np.random.seed(0)
    chosen: list[int] = []
    targets_np = np.array(targets, dtype=np.int64)
    for the_class, the_img_num in zip(np.unique(targets_np), counts, strict=True):
        idx = np.where(targets_np == the_class)[0]
        np.random.shuffle(idx)
        chosen += idx[:the_img_num].tolist()
    return chosen


def test_final_training_has_the_published_images(cifar100: str) -> None:
    whole = datasets.CIFAR100(cifar100, train=True)
    counts = [int(500 * 0.01 ** (c / 99)) for c in range(100)]
    assert sum(counts) == 10_847
    for name, index in (
        ("cifar100-lt", ldam(whole.targets, counts)),
        (
            "cifar100-lt:first",
            [i for c in range(100) for i in np.flatnonzero(np.array(whole.targets) == c)[: counts[c]]],
        ),
    ):
        data = load(name, root=cifar100, fold_val=True, split_seed=7)
        assert data.counts.tolist() == counts and len(data.val_labels) == 0
        assert torch.equal(data.train_images.permute(0, 2, 3, 1), torch.from_numpy(whole.data[index]))
        assert data.train_labels.tolist() == [whole.targets[i] for i in index]
        assert data.fingerprint == load(name, root=cifar100, split_seed=None).fingerprint
        assert len(data.test_labels) == 10_000 and data.class_names[:2] == ("apple", "aquarium_fish")


@pytest.mark.parametrize(("imbalance", "total"), [(10, 19_573), (50, 12_608), (100, 10_847), (200, 9_502)])
def test_published_totals(cifar100: str, imbalance: float, total: int) -> None:
    assert len(load("cifar100-lt", root=cifar100, imbalance=imbalance, fold_val=True).train_labels) == total


def test_cifar10_at_imbalance_100_against_the_shared_pack() -> None:
    """The pack seeds its permutation anew for each class: class 0 is the published one, the others are not."""
    pack = np.load(shared() / "cifar10_lt_if100.npz")
    index, labels = pack["train_index"], pack["y_train"]
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert np.bincount(labels).tolist() == counts and sum(counts) == 12_406
    ranks = [np.argsort(np.argsort(index[labels == label])) for label in range(10)]
    ours = published([np.arange(5000)] * 10, counts, shuffled=True)
    anew = [np.random.RandomState(0).permutation(5000)[:count] for count in counts]
    agree = [bool((np.argsort(np.argsort(mine)) == rank).all()) for mine, rank in zip(ours, ranks, strict=True)]
    assert agree == [True] + [False] * 9
    assert all((np.argsort(np.argsort(one)) == rank).all() for one, rank in zip(anew, ranks, strict=True))
    # class 0 is used whole, so the pack tells which image of the file is which of the class
    assert np.array_equal(np.sort(index[labels == 0])[ours[0]], index[labels == 0])


# --- while a search runs ----------------------------------------------------------------------------------


def test_search_on_cifar100(cifar100: str) -> None:
    whole = datasets.CIFAR100(cifar100, train=True)
    images = as_bytes(torch.from_numpy(whole.data).permute(0, 3, 1, 2).contiguous())
    pool = dict(zip(images, whole.targets, strict=True))
    repeated = len(images) - len(pool)  # CIFAR-100 has a few images twice
    assert repeated < 30
    data = load("cifar100-lt", root=cifar100)
    assert data.counts.tolist() == [int(450 * 0.01 ** (c / 99)) for c in range(100)]
    assert data.val_labels.bincount().tolist() == [50] * 100
    assert set(as_bytes(data.train_images)) | set(as_bytes(data.val_images)) <= set(pool)
    assert data.fingerprint == "a816aab69d5dbc19"  # results stay comparable only while this number does
    assert "profile starts at 450 and not at 500" in data.notes[0]
    assert data.notes[1] == "imbalance of the training images: 112.5 instead of 100"
    assert data.fingerprint != load("cifar100-lt", root=cifar100, split_seed=1).fingerprint


def test_search_on_a_small_cifar10(small: Path) -> None:
    pool: dict[bytes, int] = {}
    for batch in ("data_batch_1", "data_batch_2"):
        content = pickle.loads((small / "cifar-10-batches-py" / batch).read_bytes())
        pool |= dict(zip((row.tobytes() for row in content["data"]), content["labels"], strict=True))
    assert len(pool) == 10 * PER_CLASS
    held = PER_CLASS // 10
    with pytest.raises(DataError, match=r"cifar10-lt: imbalance must lie between 1 and 36 .*got 100"):
        load("cifar10-lt", root=str(small))
    counts = [int((PER_CLASS - held) * 0.1 ** (c / 9)) for c in range(10)]
    check = load("cifar10-lt", root=str(small), imbalance=10)
    assert check.counts.tolist() == counts
    assert (check.pad, check.flip, check.class_names[1]) == (4, True, "class 1")
    for seed in (0, 1):
        data = load("cifar10-lt", root=str(small), imbalance=10, split_seed=seed)
        train, val = as_bytes(data.train_images), as_bytes(data.val_images)
        assert len(set(train + val)) == len(train + val)
        assert [pool[image] for image in train + val] == data.train_labels.tolist() + data.val_labels.tolist()
    assert data.fingerprint != check.fingerprint
    # until val is folded back, the two names are the same data
    assert load("cifar10-lt:first", root=str(small), imbalance=10).fingerprint == check.fingerprint
    shuffled, first = (
        load(n, root=str(small), imbalance=10, fold_val=True) for n in ("cifar10-lt", "cifar10-lt:first")
    )
    assert shuffled.counts.tolist() == first.counts.tolist() and shuffled.fingerprint != first.fingerprint
    steep = load("cifar10-lt", root=str(small), imbalance=20)
    assert set(as_bytes(steep.train_images)) < set(as_bytes(check.train_images))
    # the mean of the tail's counts, of every class; the val is the same
    equal = load("cifar10-lt?train=balanced", root=str(small), imbalance=10)
    assert equal.counts.tolist() == [sum(counts) // 10] * 10 and equal.val_images.equal(check.val_images)
    folded = load("cifar10-lt?train=balanced", root=str(small), imbalance=10, fold_val=True)
    assert folded.counts.tolist() == [int(shuffled.counts.sum()) // 10] * 10


def test_standard_schedule() -> None:
    for name in ("cifar10-lt", "cifar10-lt:first", "cifar100-lt", "cifar100-lt:first"):
        found = standard(name)
        assert (found.epochs, found.lr, found.momentum, found.weight_decay, found.batch_size) == (
            200,
            0.1,
            0.9,
            2e-4,
            128,
        )
        assert (found.schedule, found.model, found.imbalance, found.margin) == ("multistep", "resnet32", 100, 0.01)


# --- files ------------------------------------------------------------------------------------------------


def no_network(*_: object, **__: object) -> None:
    raise URLError("no network")


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar10-lt: --data-root .*nowhere is not a folder"):
        load("cifar10-lt", root=str(tmp_path / "nowhere"))


def test_absent_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    message = r"CIFAR-100 is not in .* could not be downloaded \(.*no network.*\): put cifar-100-python.tar.gz .*there"
    with pytest.raises(DataError, match=message):
        load("cifar100-lt", root=str(tmp_path))
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        load("cifar100-lt")


def test_the_archive_is_unpacked_without_network(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load("cifar10-lt", root=str(small), imbalance=10).fingerprint
    (small / "cifar-10-batches-py").rename(small.parent / "away")
    other = small.parent / "other"
    other.mkdir()
    (small / datasets.CIFAR10.filename).rename(other / datasets.CIFAR10.filename)
    assert load("cifar10-lt", root=str(other), imbalance=10).fingerprint == expected


def test_wrong_checksums(small: Path) -> None:
    file = small / "cifar-10-batches-py" / "data_batch_2"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    with pytest.raises(DataError, match=r"data_batch_2 has the wrong checksum \(expected md5 \w{32}\): remove it"):
        load("cifar10-lt", root=str(small))
    file.unlink()
    archive = small / datasets.CIFAR10.filename
    archive.write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz has the wrong checksum"):
        load("cifar10-lt", root=str(small))
    assert archive.read_bytes() == b"not an archive"  # never overwritten by a download


def test_an_archive_that_cannot_be_unpacked_is_not_called_a_download(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    shutil.rmtree(small / "cifar-10-batches-py")
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", full)
    with pytest.raises(
        DataError, match=r"cifar-10-python.tar.gz cannot be unpacked into .* \(.*No space left on device\)"
    ):
        load("cifar10-lt", root=str(small), imbalance=2)


def test_realistic_val_is_a_part_of_the_balanced_one(small: Path) -> None:
    even, real = (
        load(f"cifar10-lt{kind}", root=str(small), imbalance=10, split_seed=2) for kind in ("", "?val=realistic")
    )
    held, counts = PER_CLASS // 10, even.counts.tolist()
    expected = [max(1, round(held * count / counts[0])) for count in counts]
    assert real.val_labels.bincount().tolist() == expected and expected[0] == held > expected[-1]
    assert torch.equal(real.train_images, even.train_images)
    assert set(as_bytes(real.val_images)) < set(as_bytes(even.val_images))
    assert f"val: {held} to {expected[-1]} of a class, drawn by the split seed" in real.notes[0]

"""The long tail's profile, the digits' splits, and the augmentation."""

import dataclasses
import subprocess
import sys
from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from trainables.data import DataError, LongTailed, Standard, load, names, standard
from trainables.data.augment import shift_and_flip
from trainables.data.long_tail import class_counts

# --- the profile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imbalance", "published"),
    [
        (10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
        (50, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]),
        (100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
    ],
)
def test_cifar10_counts(imbalance: float, published: list[int]) -> None:
    assert class_counts(largest=5000, classes=10, imbalance=imbalance) == published


@pytest.mark.parametrize(
    ("largest", "classes", "imbalance", "total", "smallest"),
    [
        (5000, 10, 10, 20_431, 500),
        (5000, 10, 50, 13_996, 100),
        (5000, 10, 100, 12_406, 50),
        (5000, 10, 200, 11_203, 25),
        (500, 100, 10, 19_573, 50),
        (500, 100, 50, 12_608, 10),
        (500, 100, 100, 10_847, 5),
        (500, 100, 200, 9_502, 2),
    ],
)
def test_published_totals(largest: int, classes: int, imbalance: float, total: int, smallest: int) -> None:
    counts = class_counts(largest, classes, imbalance)
    assert (len(counts), sum(counts), counts[0], counts[-1]) == (classes, total, largest, smallest)


def test_cifar100_groups() -> None:
    counts = class_counts(500, 100, 100)
    assert sum(n > 100 for n in counts) == 35
    assert sum(20 <= n <= 100 for n in counts) == 35
    assert sum(n < 20 for n in counts) == 30
    assert counts[35] == 98


def test_no_imbalance_is_equal_classes() -> None:
    assert class_counts(7, 4, 1) == [7, 7, 7, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 10), "largest must be a whole number of at least 1, got 0"),
        ((2.5, 10, 10), "largest must be a whole number of at least 1, got 2.5"),
        ((100, 1, 10), "classes must be a whole number of at least 2, got 1"),
        ((100, 10, 0.5), "imbalance must be a number of at least 1, got 0.5"),
        ((100, 10, float("nan")), "imbalance must be a number of at least 1, got nan"),
        ((100, 10, float("inf")), "imbalance must be a number of at least 1, got inf"),
        ((10, 3, 100), "leaves class 2 without any; lower the imbalance"),
    ],
)
def test_bad_profiles(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_counts(*arguments)


# --- the catalogue ----------------------------------------------------------------------------------------


def test_standard_schedule_of_digits() -> None:
    assert standard("digits-lt") == Standard(
        epochs=90, lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4, batch_size=64, schedule="one_cycle",
        model="resnet8", imbalance=100, eval_every=9, margin=0.02, final_epochs=90, sd=0.020,
    )  # fmt: skip


def test_names_import_nothing_heavy_and_a_schedule_no_data() -> None:
    code = (
        "import sys, trainables.data as d; names = d.names(); d.resolve_root('csv:a/b.csv'); "
        "print(sorted({'torch', 'sklearn', 'numpy'} & set(sys.modules))); "
        "[d.standard(name) for name in names]; assert 'sklearn' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_data_set() -> None:
    with pytest.raises(DataError, match="unknown data set 'digit-lt': did you mean 'digits-lt'\\? known are digits-lt"):
        load("digit-lt")
    with pytest.raises(ValueError, match="unknown data set 'zzz': known are digits-lt"):
        standard("zzz")
    assert names() == sorted(names())


# --- digits -----------------------------------------------------------------------------------------------


def as_bytes(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def splits(data: LongTailed) -> dict[str, tuple[Tensor, Tensor]]:
    return {
        "train": (data.train_images, data.train_labels),
        "val": (data.val_images, data.val_labels),
        "test": (data.test_images, data.test_labels),
    }


def test_counts_of_the_splits() -> None:
    data = load("digits-lt")
    assert data.imbalance == 100 and data.classes == 10 and data.class_names == tuple("0123456789")
    # 100 · 100^(−c / 9), truncated: 100, 59.9, 35.9, 21.5, 12.9, 7.7, 4.6, 2.8, 1.7, 1
    assert data.counts.tolist() == [100, 59, 35, 21, 12, 7, 4, 2, 1, 1]
    assert data.val_labels.bincount().tolist() == [44] * 10
    assert data.test_labels.bincount().tolist() == [30] * 10
    for images, labels in splits(data).values():
        assert images.dtype == torch.uint8 and images.shape == (len(labels), 1, 8, 8)
        assert labels.dtype == torch.int64
    assert (data.pad, data.flip, data.split_seed) == (1, False, 0)
    assert load("digits-lt", imbalance=1).counts.tolist() == [100] * 10
    # 100 · 50^(−c / 9): 100, 64.7, 41.9, 27.1, 17.6, 11.4, 7.4, 4.8, 3.1, 2
    assert load("digits-lt", imbalance=50).counts.tolist() == [100, 64, 41, 27, 17, 11, 7, 4, 3, 2]


@pytest.mark.parametrize(("split_seed", "fold_val"), [(0, False), (3, False), (3, True)])
def test_images_are_the_bundled_ones_and_in_one_split_only(split_seed: int, fold_val: bool) -> None:
    bundled = load_digits()
    pixels = [bytes(round(x * 255 / 16) for x in image.flatten()) for image in bundled.images]
    assert len(set(pixels)) == 1797  # so an image is known by its pixels
    label_of = dict(zip(pixels, bundled.target.tolist(), strict=True))
    data = load("digits-lt", imbalance=2, split_seed=split_seed, fold_val=fold_val)
    seen: list[bytes] = []
    for images, labels in splits(data).values():
        assert [label_of[image] for image in as_bytes(images)] == labels.tolist()
        seen += as_bytes(images)
    assert len(seen) == len(set(seen))


def test_test_is_fixed_and_the_rest_follows_the_split_seed() -> None:
    first, again, other = (load("digits-lt", split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test_images, other.test_images)
    assert torch.equal(first.train_images, again.train_images) and torch.equal(first.val_images, again.val_images)
    assert set(as_bytes(first.val_images)) != set(as_bytes(other.val_images))
    assert set(as_bytes(first.train_images)) != set(as_bytes(other.train_images))
    assert torch.equal(first.test_images, load("digits-lt", split_seed=7, fold_val=True, imbalance=5).test_images)


def test_folding_val_back_only_adds() -> None:
    searched, folded = load("digits-lt", split_seed=2), load("digits-lt", split_seed=2, fold_val=True)
    # 144 · 100^(−c / 9), truncated: 144, 86.3, 51.8, 31.02, 18.6, 11.1, 6.7, 4.01, 2.4, 1.4
    assert folded.counts.tolist() == [144, 86, 51, 31, 18, 11, 6, 4, 2, 1]
    assert folded.val_images.shape == (0, 1, 8, 8) and folded.val_labels.shape == (0,)
    assert set(as_bytes(searched.train_images)) <= set(as_bytes(folded.train_images))


def test_a_shorter_tail_only_adds() -> None:
    steep, gentle = load("digits-lt", imbalance=50), load("digits-lt", imbalance=10)
    assert set(as_bytes(steep.train_images)) < set(as_bytes(gentle.train_images))
    assert torch.equal(steep.val_images, gentle.val_images)


@pytest.mark.parametrize(("imbalance", "fold_val", "largest"), [(0.5, False, 100), (101, False, 100), (145, True, 144)])
def test_imbalance_out_of_range(imbalance: float, fold_val: bool, largest: int) -> None:
    with pytest.raises(DataError, match=f"digits-lt: imbalance must lie between 1 and {largest} .*got {imbalance}"):
        load("digits-lt", imbalance=imbalance, fold_val=fold_val)


def test_mean_and_std_are_those_of_all_images() -> None:
    x = (load_digits().images * 255 / 16).round() / 255
    data = load("digits-lt")
    assert data.mean.tolist() == pytest.approx([x.mean()], abs=5e-5)
    assert data.std.tolist() == pytest.approx([x.std()], abs=5e-5)


def test_normalise_by_hand() -> None:
    data = dataclasses.replace(load("digits-lt"), mean=torch.tensor([0.2, 0.4]), std=torch.tensor([0.5, 0.1]))
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    for shape in ((1, 2, 1, 1), (1, 1, 2, 1, 1)):
        normalised = data.normalise(images.view(shape))
        assert normalised.dtype == torch.float32 and normalised.shape == shape
        assert normalised.flatten().tolist() == pytest.approx([-0.4, 6.0], rel=1e-6)


def test_fingerprint_tells_data_apart() -> None:
    data = load("digits-lt")
    assert data.fingerprint == load("digits-lt").fingerprint == data.to("cpu").fingerprint
    assert len(data.fingerprint) == 16 and int(data.fingerprint, 16) >= 0
    others = [
        load("digits-lt", split_seed=1),
        load("digits-lt", imbalance=49.0),
        load("digits-lt", fold_val=True),
        dataclasses.replace(data, flip=True, fingerprint=""),
        dataclasses.replace(data, mean=data.mean + 0.1, fingerprint=""),
        dataclasses.replace(data, train_images=data.train_images.flip(0), fingerprint=""),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 7


def test_the_split_never_moves() -> None:
    """Results of one version are comparable with those of the next only while these numbers stay."""
    assert load("digits-lt").fingerprint == "6245137ba57e5c98"
    assert load("digits-lt", imbalance=50).fingerprint == "7b74dc332bf2305e"


def test_splits_are_checked() -> None:
    data = load("digits-lt")
    with pytest.raises(ValueError, match=r"digits-lt: val needs uint8 images .* and 439 labels"):
        dataclasses.replace(data, val_labels=data.val_labels[1:])
    with pytest.raises(ValueError, match="digits-lt: test needs uint8 images"):
        dataclasses.replace(data, test_images=data.test_images.float())


# --- augmentation -----------------------------------------------------------------------------------------


def noise(*shape: int) -> Tensor:
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(9))


def explanations(image: Tensor, got: Tensor, pad: int) -> list[tuple[int, int, bool]]:
    """The (down, right, mirrored) for which torchvision's pad, crop and flip of one image give `got`."""
    padded = tv.pad(image, [pad] * 4)
    height, width = image.shape[-2:]
    found = []
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = tv.crop(padded, top, left, height, width)
            found += [(top, left, False)] * torch.equal(got, crop)
            found += [(top, left, True)] * torch.equal(got, tv.horizontal_flip(crop))
    return found


@pytest.mark.parametrize(("pad", "flip", "shape"), [(1, False, (1, 8, 8)), (2, True, (3, 6, 9)), (0, True, (1, 4, 5))])
def test_every_pixel_equals_pad_crop_flip(pad: int, flip: bool, shape: tuple[int, int, int]) -> None:
    images = noise(2, 20, *shape)
    before = images.clone()
    out = shift_and_flip(images, pad, flip, torch.Generator().manual_seed(0))
    assert out.shape == images.shape and out.dtype == torch.uint8 and torch.equal(images, before)
    found = [explanations(x, y, pad) for x, y in zip(images.flatten(0, 1), out.flatten(0, 1), strict=True)]
    assert all(len(one) == 1 for one in found)
    drawn = [one[0] for one in found]
    assert any(mirrored for *_, mirrored in drawn) == flip
    assert drawn[:20] != drawn[20:]  # each view its own


def test_draws_are_uniform() -> None:
    image = noise(1, 6, 6)
    out = shift_and_flip(image.expand(1, 1800, 1, 6, 6), 1, True, torch.Generator().manual_seed(0))
    drawn = Counter(explanations(image, got, 1)[0] for got in out[0])
    assert len(drawn) == 18
    chi_squared = sum((drawn[key] - 100) ** 2 / 100 for key in drawn)
    assert chi_squared < 33.4  # 99 % quantile at 17 degrees of freedom


def test_same_generator_same_images() -> None:
    images = noise(1, 5, 1, 8, 8)
    first, again, other = (shift_and_flip(images, 1, True, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_nothing_to_do_draws_nothing() -> None:
    images, generator = noise(1, 5, 1, 8, 8), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert shift_and_flip(images, 0, False, generator) is images
    assert torch.equal(generator.get_state(), before)


@pytest.mark.gpu
def test_the_device_changes_nothing() -> None:
    images = noise(2, 50, 3, 32, 32)
    here = shift_and_flip(images, 4, True, torch.Generator().manual_seed(0))
    there = shift_and_flip(images.cuda(), 4, True, torch.Generator().manual_seed(0))
    assert there.is_cuda and torch.equal(there.cpu(), here)


def test_augmentation_errors() -> None:
    with pytest.raises(ValueError, match=r"images must be \(V, B, c, H, W\), got shape \(5, 1, 8, 8\)"):
        shift_and_flip(noise(5, 1, 8, 8), 1, False, torch.Generator())
    with pytest.raises(ValueError, match="pad must be at least 0, got -1"):
        shift_and_flip(noise(1, 5, 1, 8, 8), -1, False, torch.Generator())


# --- a val with the training images' proportions ----------------------------------------------------------


def test_realistic_val_of_digits_by_hand() -> None:
    even, real = (load(f"digits-lt{kind}", imbalance=50, split_seed=3) for kind in ("", "?val=realistic"))
    # 44 · (100, 64, 41, 27, 17, 11, 7, 4, 3, 2) / 100, rounded, at least 1
    assert real.val_labels.bincount().tolist() == [44, 28, 18, 12, 7, 5, 3, 2, 1, 1]
    # the same training and test images; val is a part of the balanced one
    assert torch.equal(real.train_images, even.train_images) and torch.equal(real.test_images, even.test_images)
    assert {image.numpy().tobytes() for image in real.val_images} < {i.numpy().tobytes() for i in even.val_images}
    assert real.fingerprint != even.fingerprint
    assert load("digits-lt?val=balanced", imbalance=50, split_seed=3).fingerprint == even.fingerprint
    assert load("digits-lt?val=realistic", imbalance=50, fold_val=True).counts[0] == 144


def test_bad_val() -> None:
    with pytest.raises(DataError, match=r"digits-lt\?val=real: option val must be balanced or realistic, got 'real'"):
        load("digits-lt?val=real", imbalance=50)

"""Feeds: the same images however they get to the training loop."""

import dataclasses
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional as by

from spaces.domain import Stage
from trainables.data import DataError, load, with_feed
from trainables.data import loaders as feeds_module
from trainables.data.augment import ResizedCrops, shift_and_flip
from trainables.data.images.streamed import StreamedImages
from trainables.data.loaders import ResidentFeed, StreamedFeed, feed_of
from trainables.pipeline.pipeline import Pipeline
from trainables.training.seeding import generator


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of JPEG files of one size, 20×28, and one PNG among them."""
    place = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for label, count in (("ant", 26), ("bee", 12)):
        (place / label).mkdir()
        for number in range(count):
            small = draw.integers(0, 256, (5, 7, 3), dtype=np.uint8)
            ending = "png" if number == 3 else "jpg"
            Image.fromarray(small).resize((28, 20)).save(place / label / f"{number}.{ending}", quality=95)
    return place


def both(photos: Path, options: str = "", workers: int = 0):
    name = f"folder:{photos}?val=3&test=3{options}"
    resident = load(f"{name}&feed=resident")
    streamed = load(f"{name}&feed=streamed&workers={workers}")
    assert isinstance(resident.train_images, torch.Tensor) and isinstance(streamed.train_images, StreamedImages)
    return resident, streamed


BATCHES = [torch.tensor([3, 0, 3, 7]), torch.tensor([1, 2]), torch.tensor([5])]


@pytest.mark.parametrize("options", ["", "&size=12", "&crop=resized", "&pad=0&flip=no"])
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_and_resident_feeds_give_the_same_pixels(photos, options, workers):
    """Resized crops of images that are held at their own size: nothing was lost before the crop."""
    resident, streamed = both(photos, options, workers)
    assert (resident.mean - streamed.mean).abs().max() < 1e-6 and (resident.std - streamed.std).abs().max() < 1e-6
    for split in ("train", "val", "test"):
        here, there = (getattr(data, f"{split}_images") for data in (resident, streamed))
        assert tuple(there.shape) == tuple(here.shape) and len(there) == len(here)
        assert torch.equal(torch.cat(list(there.split(4))), here)
        assert torch.equal(there[torch.tensor([1, 0])], here[[1, 0]]) and torch.equal(there[2], here[2])
    one, other = feed_of(resident), feed_of(streamed)
    assert isinstance(one, ResidentFeed) and isinstance(other, StreamedFeed)
    for epoch in range(2):  # the second one comes through the same workers
        draws = [generator("shift", epoch) for _ in range(2)]
        here, there = list(one.augmented(BATCHES, draws[0])), list(other.augmented(BATCHES, draws[1]))
        assert [len(batch) for batch in here] == [4, 2, 1]
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.raw(BATCHES), other.raw(BATCHES), strict=True))


def test_an_epoch_that_is_left_in_the_middle_does_not_disturb_the_next(photos):
    resident, streamed = both(photos, workers=2)
    feed = feed_of(streamed)
    state = torch.get_rng_state()
    begun = feed.raw([torch.tensor([number]) for number in range(12)])
    next(begun)
    # while the workers are busy, another reader is served beside them
    assert torch.equal(torch.cat(list(streamed.val_images.split(2))), resident.val_images)
    begun.close()
    assert all(
        torch.equal(a, b) for a, b in zip(feed.raw(BATCHES), (resident.train_images[i] for i in BATCHES), strict=True)
    )
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("choose", [[], ["image_transform"], ["cutout", "input_mixup"]])
def test_training_is_the_same(photos, make_plan, pipeline, choose):
    ends = []
    for data in both(photos, "&size=12"):
        run = pipeline(make_plan(Stage("a", epochs=2, choose=choose)), data=data)
        run.run()
        ends.append(run)
    one, other = (dict(end.network().state_dict()) for end in ends)
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one)
    assert ends[0].result()[1] == ends[1].result()[1]
    assert ends[0].keys != ends[1].keys  # streamed pixels are known before they are resized


def test_what_is_streamed_is_known_by_its_files_and_split(photos):
    _, streamed = both(photos)
    name = f"folder:{photos}?val=3&test=3&feed=streamed&workers=0"
    assert load(name).fingerprint == streamed.fingerprint
    assert load(name, split_seed=1).fingerprint != streamed.fingerprint
    assert load(f"{name}&crop=resized").fingerprint != streamed.fingerprint


def test_above_the_limit_images_are_streamed(photos, monkeypatch):
    assert isinstance(load(f"folder:{photos}?val=3&test=3").train_images, torch.Tensor)
    monkeypatch.setattr("trainables.data.user_data.source.RESIDENT_GB", 1)
    monkeypatch.setattr("trainables.data.user_data.source.MOMENTS_OF", 2)
    large = load(f"folder:{photos}?val=3&test=3&size=3600&workers=0")
    assert isinstance(large.train_images, StreamedImages) and large.train_images.shape[1:] == (3, 3600, 3600)


def messy(place: Path) -> Path:
    """A folder as people have them: 20 whole images of class ant and 9 of bee, and three that cannot be read."""
    draw = np.random.default_rng(1)

    def picture(mode: str = "RGB") -> Image.Image:
        return Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).convert(mode)

    for split, sizes in (("train", (12, 5)), ("val", (4, 2)), ("test", (4, 2))):
        for label, count in zip(("ant", "bee"), sizes, strict=True):
            folder = place / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                picture().save(folder / f"{number}.jpg", quality=95)
    turned = Image.Exif()
    turned[0x0112] = 6
    train = place / "train" / "ant"
    picture().save(train / "0.jpg", quality=95, exif=turned)
    picture("L").save(train / "grey.png")
    Image.fromarray(draw.integers(0, 256, (16, 16, 4), dtype=np.uint8)).save(place / "val" / "ant" / "clear.png")
    Image.fromarray(draw.integers(0, 2**16, (16, 16), dtype=np.uint16)).save(train / "deep.png")
    picture("CMYK").save(place / "test" / "bee" / "inks.jpg")
    picture("P").save(train / "moving.gif", save_all=True, append_images=[picture("P")])
    picture().save(train / "saved.jfif", "JPEG")
    (train / "Thumbs.db").write_bytes(b"x")
    for file in ("train/ant/1.jpg", "val/bee/0.jpg", "test/ant/2.jpg"):
        whole = (place / file).read_bytes()
        (place / file).write_bytes(whole[: len(whole) * 2 // 3])  # the header is whole, the pixels are not
    return place


@pytest.mark.parametrize("options", ["", "&size=12", "&background=black&orientation=ignore", "&crop=resized"])
def test_both_feeds_decide_alike_about_every_file(tmp_path, options):
    place = messy(tmp_path / "photos")
    resident, streamed = (
        load(f"folder:{place}?broken=skip{options}&feed={feed}&workers=0") for feed in ("resident", "streamed")
    )
    assert resident.notes == streamed.notes and resident.problems == streamed.problems
    assert resident.preprocessing == streamed.preprocessing
    told = "\n".join(resident.problems)
    assert "3 broken images are left out" in told and "CMYK" in told and "(I;16)" in told and "frames" in told
    assert ("laid on white; ?" in told or "laid on white; &" in told) == ("background" not in options)
    for split in ("train", "val", "test"):
        for what in ("images", "labels"):
            here, there = (getattr(data, f"{split}_{what}") for data in (resident, streamed))
            assert torch.equal(here, there[:])
    assert resident.counts.tolist() == [15, 5]


@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_a_damaged_test_image_stops_training_before_it_begins(tmp_path, feed):
    place = messy(tmp_path / "photos")
    name = f"folder:{place}?feed={feed}&workers=0"
    message = r"3 of 35 images cannot be read \(.*train/ant/1\.jpg.* or leave them out with &broken=skip in the name"
    with pytest.raises(DataError, match=message):
        load(name, fold_val=True)
    data = load(f"{name}&broken=skip", fold_val=True)
    assert [len(images) for images in data.test_images.split(4)] == [4, 2]
    # a split that would have nothing left
    for file in (place / "val").rglob("*.*"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 7 images of val can be read .* the file is empty"):
        load(f"{name}&broken=skip")


def test_a_file_that_goes_while_it_is_trained_on(photos, tmp_path):
    place = shutil.copytree(photos, tmp_path / "photos")
    data = load(f"folder:{place}?val=3&test=3&feed=streamed&workers=0")
    whole = (place / "bee" / "1.jpg").read_bytes()
    (place / "bee" / "1.jpg").unlink()
    with pytest.raises(
        DataError, match=r"bee/1\.jpg cannot be opened: No such.*, and was whole when all .* put it back"
    ):
        [list(images.split(8)) for images in (data.train_images, data.val_images, data.test_images)]
    (place / "bee" / "1.jpg").write_bytes(whole)  # as the message says
    [list(images.split(8)) for images in (data.train_images, data.val_images, data.test_images)]


def test_grey_images_beside_a_broken_one_of_colour_have_one_channel(tmp_path):
    """What is left out decides nothing."""
    for label in ("ant", "bee"):
        (tmp_path / label).mkdir()
        for number in range(6):
            pixels = np.random.default_rng(number + len(label)).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    clean = load(f"folder:{tmp_path}")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "ant/x.png")
    whole = (tmp_path / "ant/x.png").read_bytes()
    (tmp_path / "ant/x.png").write_bytes(whole[: len(whole) * 2 // 3])
    resident, streamed = (
        load(f"folder:{tmp_path}?broken=skip&feed={feed}&workers=0") for feed in ("resident", "streamed")
    )
    assert resident.fingerprint == clean.fingerprint
    assert torch.equal(streamed.train_images[:], clean.train_images)


@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_the_fingerprint_is_of_labels_and_pixels(tmp_path, feed):
    place = tmp_path / "photos"
    for seed, label in enumerate(("ant", "bee", "cat")):
        (place / label).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(10 * seed + number).integers(0, 256, (8, 8, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(place / label / f"{number}.bmp" if number else place / label / "0.png")
    options = f"val=1&test=1&feed={feed}&workers=0"

    def mark(more=""):
        return load(f"folder:{place}?{options}{more}").fingerprint

    before = mark()
    assert mark() == before
    # copied, with other times, under another path: the same data
    shutil.copytree(place, tmp_path / "copy" / "photos", copy_function=shutil.copyfile)
    assert load(f"folder:{tmp_path / 'copy' / 'photos'}?{options}").fingerprint == before
    assert len({before, mark("&background=black"), mark("&background=red"), mark("&orientation=ignore")}) == 4
    assert mark("&size=6") not in (before, mark("&size=7"))

    file = place / "ant" / "3.bmp"
    found, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-2] + bytes([content[-2] ^ 255, content[-1]]))
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert file.stat().st_size == found.st_size and file.stat().st_mtime_ns == found.st_mtime_ns
    assert mark() != before, "another picture of equal size and time"
    file.write_bytes(content)
    assert mark() == before
    file.unlink()
    assert mark() != before, "a picture less"
    file.write_bytes(content)
    for one, other in (("ant", "swap"), ("bee", "ant"), ("swap", "bee")):
        (place / one).rename(place / other)
    assert mark() != before, "labels exchanged"


def test_what_took_long_is_kept_and_forgotten_when_a_file_changes(photos, tmp_path, monkeypatch):
    place = shutil.copytree(photos, tmp_path / "photos")
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("trainables.data.images.progress.KEPT_AFTER", 0)
    name = f"folder:{place}?val=3&test=3&feed=streamed&workers=0"

    def mark():
        monkeypatch.setattr("trainables.data.user_data.source._LAST", {})  # as in another process
        return load(name).fingerprint

    before, kept = mark(), sorted((tmp_path / "cache" / "data").iterdir())
    assert len(kept) == 3  # the headers, what decoding has shown, and the moments
    calls = []
    monkeypatch.setattr("trainables.data.images.files.digest", lambda pixels: calls.append(1) or "0" * 32)
    assert mark() == before and not calls
    for file in kept:
        file.write_text(file.read_text()[:-9])  # damaged, and hence made again
    monkeypatch.undo()
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "cache"))
    assert mark() == before
    file = place / "bee" / "1.jpg"
    found = file.stat()
    file.write_bytes((place / "bee" / "2.jpg").read_bytes())
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert mark() != before
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "file"))  # a cache that cannot be written is no hindrance
    monkeypatch.setattr("trainables.data.images.progress.KEPT_AFTER", 0)
    assert mark() != before


def test_arrays_cannot_be_streamed(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 8, 8), np.uint8), y=np.arange(20) % 2)
    for name in (f"npz:{tmp_path}/a.npz?feed=streamed",):
        with pytest.raises(DataError, match="arrays are held in memory"):
            load(name)
    with pytest.raises(DataError, match="--feed streamed: digits-lt is held in memory"):
        with_feed("digits-lt", "streamed")
    with pytest.raises(DataError, match=re.escape("option feed must be auto or resident or streamed, got 'fast'")):
        with_feed("folder:x", "fast")


# --- crops ------------------------------------------------------------------------------------------------


def test_a_padded_table_gives_what_single_batches_give(digits, monkeypatch):
    data = dataclasses.replace(digits, pad=2, flip=True)
    quick = list(ResidentFeed(data).augmented(BATCHES, generator("a")))
    monkeypatch.setattr(feeds_module, "TABLE_BYTES", 0)
    slow = list(ResidentFeed(data).augmented(BATCHES, generator("a")))
    draws = generator("a")
    alone = [shift_and_flip(data.train_images[index][None], 2, True, draws)[0] for index in BATCHES]
    for one, other, third in zip(quick, slow, alone, strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)


def test_resized_crops_by_hand():
    """Area 0.08 + 0.92 · 0.9 = 0.908 of 10×20 = 182 pixels, square: 13.5 do not fit into 10 rows, so the next try:
    area 0.08 + 0.92 · 0.2 = 0.264, 52.8 pixels, √52.8 = 7.27, at 0.5 · (10 − 7 + 1) = 2 and 0.25 · (20 − 7 + 1) = 3."""
    numbers = torch.full((1, 23), 0.5)
    numbers[0, 0], numbers[0, 1], numbers[0, 21], numbers[0, 22] = 0.9, 0.2, 0.25, 0.4
    crops = ResizedCrops(numbers, flip=True)
    assert crops.box(0, 10, 20) == (2, 3, 7, 7)
    image = torch.arange(200, dtype=torch.uint8).view(1, 10, 20)
    assert torch.equal(crops.of(image, 0, (7, 7)), image[:, 2:9, 3:10].flip(-1))
    assert torch.equal(dataclasses.replace(crops, flip=False).of(image, 0, (7, 7)), image[:, 2:9, 3:10])
    smaller = by.resize(image[:, 2:9, 3:10], [4, 4], antialias=True)
    assert torch.equal(dataclasses.replace(crops, flip=False).of(image, 0, (4, 4)), smaller)
    # nothing fits into one column: the largest centred crop that is at most 4/3 as high as wide
    assert crops.box(0, 30, 1) == (14, 0, 1, 1)


def test_areas_of_resized_crops_are_uniform():
    """As torchvision's RandomResizedCrop: the mean area of a square image is 0.54 but for crops that do not fit."""
    from torchvision.transforms.v2 import RandomResizedCrop

    crops = ResizedCrops.draw(4000, False, generator("areas"))
    mine = torch.tensor([crops.box(row, 64, 64)[2] * crops.box(row, 64, 64)[3] / 64**2 for row in range(4000)])
    theirs = RandomResizedCrop(64)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    drawn = [theirs.make_params([torch.zeros(3, 64, 64)]) for _ in range(4000)]
    torch.set_rng_state(state)
    other = torch.tensor([one["height"] * one["width"] / 64**2 for one in drawn])
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs(float(mine.quantile(share) - other.quantile(share))) < 0.03


# --- nothing waits for the host ---------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts numbers that are read from tensors: each would stop a GPU's queue."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(func) or "nonzero" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("choose", [[], ["cost_sensitive", "label_smoothing", "balanced_softmax"]])
def test_no_step_reads_a_number(make_plan, pipeline, digits, choose):
    """As many reads in an epoch of many steps as in one of few."""
    counts = []
    for batch_size in (16, 64):
        plan = make_plan(Stage("a", epochs=2, batch_size=batch_size, choose=choose))
        run = pipeline(plan)
        run.advance()
        with Reads() as reads:
            run.executor.training.run.train_epoch()
        counts.append(reads.count)
    assert counts[0] == counts[1] <= 3


@pytest.mark.gpu
@pytest.mark.parametrize(
    "choose", [[], ["class_balanced", "input_mixup", "ema"], ["cutmix", "cutout", "cosine_head", "max_norm"]]
)
def test_no_step_waits_for_the_device(make_plan, digits, choose):
    """torch refuses whatever would make the host wait, copies from pageable memory included."""
    plan = make_plan(Stage("a", epochs=2, batch_size=16, choose=choose))
    pipeline = Pipeline(plan, dataclasses.replace(digits, pad=2), "resnet8", 0, torch.device("cuda"))
    pipeline.advance()  # kernels are loaded, tables made
    run = pipeline.executor.training.run
    epoch = run.begin_epoch()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch, features in epoch.stream:
            batch, outputs, _ = run._step(epoch, batch, features)
            run.behind_step(batch, outputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.steps > len(digits.train_labels) // 16

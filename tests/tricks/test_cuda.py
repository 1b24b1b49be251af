import types

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from spaces.domain import Stage, trick
from trainables.batch import Batch
from trainables.registry import make
from trainables.tricks._shared.curriculum import RANGES, at_levels, changed, value_of

IMAGES = torch.randint(256, (2, 3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pil(image, name, value):
    """PIL's own operation."""
    shape = image.size
    if name in ("EdgeEnhance", "Detail", "Smooth"):
        filters = {"EdgeEnhance": ImageFilter.EDGE_ENHANCE, "Detail": ImageFilter.DETAIL, "Smooth": ImageFilter.SMOOTH}
        return image.filter(filters[name])
    if name == "SolarizeAdd":
        brighter = np.clip(np.array(image).astype(int) + int(value), 0, 255).astype(np.uint8)
        return ImageOps.solarize(Image.fromarray(brighter), 128)
    if name in ("TranslateX", "TranslateY"):
        shift = (1, 0, value, 0, 1, 0) if name == "TranslateX" else (1, 0, 0, 0, 1, value)
        return image.transform(shape, Image.Transform.AFFINE, shift)
    of = {"Flip": ImageOps.flip, "Mirror": ImageOps.mirror, "Invert": ImageOps.invert, "Equalize": ImageOps.equalize}
    if name in of:
        return of[name](image)
    return {"Posterize": lambda: ImageOps.posterize(image, max(1, int(value))),
            "Solarize": lambda: ImageOps.solarize(image, value)}[name]()  # fmt: skip


@pytest.mark.parametrize("level", [1, 4, 10])
@pytest.mark.parametrize("name", ["Flip", "Mirror", "EdgeEnhance", "Detail", "Smooth", "Equalize", "Invert",
                                  "Posterize", "Solarize", "SolarizeAdd"])  # fmt: skip
def test_operations_are_pils(name, level):
    value = value_of(name, level)
    for image, ours in zip(IMAGES, changed(IMAGES, name, value), strict=True):
        theirs = np.array(pil(Image.fromarray(image.permute(1, 2, 0).numpy()), name, value))
        apart = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs)
        # PIL adds ninths and sixths in float32, where halves may fall to either side
        assert apart.max() <= (1 if name in ("Equalize", "Detail") else 0) and (apart > 0).mean() < 0.2


def test_values_and_the_others_by_hand():
    assert [value_of(name, 10) for name in ("GaussianBlur", "Rotate", "Solarize", "ShearX", "TranslateX")] == (
        pytest.approx([2 / 3, 10, 256 / 3, 0.1, 100 / 3])
    )
    assert value_of("ResizeCrop", 30) == 1.5 and value_of("Brightness", 1) == pytest.approx(0.16)
    assert len(RANGES) == 22
    # brightness 0.16 is a sixth of the grey; a shift by 3 pixels leaves black behind
    assert (changed(IMAGES, "Brightness", 0.16).int() - (0.16 * IMAGES).int()).abs().max() <= 1
    assert changed(IMAGES, "TranslateX", 3.3)[..., 3:].equal(IMAGES[..., :-3])
    for name in RANGES:
        for level in (1, 10):
            found = changed(IMAGES, name, value_of(name, level))
            assert found.shape == IMAGES.shape and found.dtype == torch.uint8


def test_level_zero_is_the_image(generator):
    levels = torch.tensor([0, 3])
    after = at_levels(IMAGES, levels, generator(0))
    assert after[0].equal(IMAGES[0]) and not after[1].equal(IMAGES[1])
    assert at_levels(IMAGES, torch.zeros(2, dtype=torch.int64), generator(0)).equal(IMAGES)


class Oracle(torch.nn.Module):
    """Answers by the first pixel, which is the class, of images that are still as they were; keeps what it saw."""

    def __init__(self, wrong=()):
        super().__init__()
        self.wrong, self.seen, self.extra, self.modes = wrong, [], torch.nn.ModuleDict(), set()

    def forward(self, images):
        self.modes.add(self.training)
        label = images[:, 0, 0, 0].round().long()
        self.seen.append(label)
        answer = torch.tensor([(int(c) + 1) % 3 if int(c) in self.wrong else int(c) for c in label])
        return types.SimpleNamespace(logits=torch.nn.functional.one_hot(answer, 3).float())


def curriculum(facts, monkeypatch, wrong=(), **numbers):
    """On images that are full of their class, whose augmentation is left out."""
    import trainables.tricks.cuda as module

    drawn = []

    def nothing(images, levels, generator):
        drawn.append(levels)
        return images

    monkeypatch.setattr(module, "at_levels", nothing)
    images = torch.repeat_interleave(torch.arange(3), torch.tensor([5, 3, 1])).to(torch.uint8)
    model = Oracle(wrong)
    known = facts(
        5, 3, 1, model=model, images=images.view(9, 1, 1, 1).expand(9, 1, 4, 4), normalise=lambda x: x.float()
    )
    return make("cuda", **numbers).build(known), model, drawn


def test_levels_rise_and_fall_by_hand(facts, generator, monkeypatch):
    augment, model, drawn = curriculum(facts, monkeypatch)
    model.train()
    for epoch in range(12):
        drawn.clear()
        model.seen.clear()
        augment.begin_epoch(0.0, generator(epoch))
        assert augment.level.tolist() == [min(epoch + 1, 10)] * 3
    assert model.training and model.modes == {False}
    # 10 (l + 1) images at every level l = 0 … 10 of each class: 660
    last = torch.cat(drawn)
    assert last.bincount().tolist() == [3 * 10 * (level + 1) for level in range(11)] and len(last) == 3 * 660
    assert torch.cat(model.seen).bincount().tolist() == [660] * 3
    model.wrong = (1,)
    augment.begin_epoch(0.0, generator(0))
    assert augment.level.tolist() == [10, 9, 10]
    for epoch in range(12):
        augment.begin_epoch(0.0, generator(epoch))
    assert augment.level.tolist() == [10, 0, 10]


def test_strictly_more_than_the_rate_must_be_right(facts, generator, monkeypatch):
    """All are right: a rate of 1 is not passed, one of 0.9 is."""
    for rate, level in ((1.0, 0), (0.9, 1)):
        augment, _, _ = curriculum(facts, monkeypatch, accept_rate=rate)
        augment.begin_epoch(0.0, generator(0))
        assert augment.level.tolist() == [level] * 3


def test_images_get_the_level_of_their_class(known, batch, generator, monkeypatch):
    import trainables.tricks.cuda as module

    seen = []
    monkeypatch.setattr(module, "at_levels", lambda images, levels, generator: seen.append(levels) or images)
    augment = make("cuda", probability=1.0).build(known)
    augment.level.copy_(torch.tensor([4, 0, 7]))
    augment(batch, generator(0))
    assert seen[0].tolist() == [4] * 5 + [0] * 3 + [7]
    many = Batch.plain(known.images[:1].expand(2000, 1, 8, 8), torch.arange(2000), torch.zeros(2000, dtype=torch.int64))
    make_half = make("cuda").build(known)
    make_half.level.fill_(3)
    make_half(many, generator(0))
    assert (seen[-1] == 3).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert set(seen[-1].tolist()) == {0, 3}


def test_probability_zero_changes_nothing(known, batch, generator):
    augment = make("cuda", probability=0.0).build(known)
    augment.level.fill_(10)
    assert augment(batch, generator(0)).images.equal(batch.images)


def test_in_training_the_levels_are_carried_on(make_plan, pipeline):
    run = pipeline(make_plan(Stage("a", epochs=2, batch_size=64, choose=[trick("cuda", accept_rate=0.0, num_test=2)]),
                             Stage("b", epochs=1, carry="all", keep=True)))  # fmt: skip
    run.run()
    level = run.executor.state.carry_over.model["extra.cuda.levels.level"]
    assert level.dtype == torch.int64 and level.max() > 0


def test_numbers_out_of_range():
    for numbers in ({"probability": 2}, {"accept_rate": -1}, {"num_test": 0}):
        with pytest.raises(ValueError, match=f"'cuda'.*{next(iter(numbers))} must be"):
            make("cuda", **numbers)

from dataclasses import replace

import pytest
import torch

from spaces.domain import Stage, trick
from trainables.batch import Batch
from trainables.registry import PlanError, make


def pair(views=1, number=6, height=16, width=24):
    """Images that are 0, partners that are 1."""
    labels = torch.arange(number) % 2
    images = torch.zeros(number, 1, height, width)
    batch = Batch.plain(images, torch.arange(number), labels)
    partner = Batch.plain(images + 1, torch.arange(number), labels + 2)
    if views > 1:
        batch = batch.with_images(batch.images.expand(views, *images.shape))
        partner = partner.with_images(partner.images.expand(views, *images.shape))
    return replace(batch, partner=partner)


def test_the_rectangle_and_its_share_by_hand(facts, generator):
    """λ is ½ to four digits: sides int(√½ · 16) = 11 and int(√½ · 24) = 16, so 5 and 8 pixels on each side of it."""
    mix = make("cmo", alpha=1e8, probability=1.0).build(facts(3, 3, 1, 1))
    heights, widths = [], []
    for seed in range(300):
        mixed = mix(pair(), generator(seed))
        pasted = mixed.images[0, 0, 0]
        rows, columns = int(pasted.any(dim=1).sum()), int(pasted.any(dim=0).sum())
        assert pasted.sum() == rows * columns and (mixed.images[0, :, 0] == pasted).all()
        assert mixed.share.tolist() == [pytest.approx([1 - rows * columns / 384, rows * columns / 384])] * 6
        assert mixed.y.tolist() == [[0, 2], [1, 3]] * 3
        heights.append(rows)
        widths.append(columns)
    assert set(heights) == set(range(5, 11)) and set(widths) == set(range(8, 17))


def test_a_share_of_the_batches_is_mixed(facts, generator):
    mix = make("cmo", probability=0.5).build(facts(3, 3, 1, 1))
    mixed = [mix(pair(), generator(seed)) for seed in range(400)]
    # a rectangle of no area, λ above (1 − 1/16)², is as good as none
    assert sum(bool(batch.images.any()) for batch in mixed) / 400 == pytest.approx(0.5 * (1 - 1 / 8), abs=0.08)
    for batch in mixed:
        assert batch.images.any() or batch.share[0].tolist() == [1, 0]


def epochs_that_mix(made, facts, epochs, generator):
    mix = made.build(replace(facts, epochs=epochs))
    found = []
    for epoch in range(epochs):
        mix.begin_epoch(epoch / max(1, epochs - 1), generator(0))
        if any(mix(pair(), generator(seed)).images.any() for seed in range(8)):
            found.append(epoch)
    return found


def test_the_first_and_last_epochs_are_left_out(facts, generator):
    known = facts(3, 3, 1, 1)
    made = make("cmo", probability=1.0)
    assert epochs_that_mix(made, known, 200, generator) == list(range(4, 197))  # 3 < e < T − 3
    assert epochs_that_mix(make("cmo", probability=1.0, margin=0.1), known, 20, generator) == list(range(3, 18))
    for short in (1, 10):
        assert epochs_that_mix(made, known, short, generator) == list(range(short))


def test_probability_zero_changes_nothing(facts, generator):
    batch = pair()
    mixed = make("cmo", probability=0.0).build(facts(3, 3, 1, 1))(batch, generator(0))
    assert mixed.images.equal(batch.images) and mixed.share[:, 0].eq(1).all()


def test_every_view_has_the_same_rectangle(facts, generator):
    mixed = make("cmo", probability=1.0).build(facts(3, 3, 1, 1))(pair(views=2), generator(3))
    assert mixed.images.any() and mixed.images[0].equal(mixed.images[1])


def test_it_trains_on_partners_of_the_second_stream(make_plan, pipeline):
    run = pipeline(make_plan(Stage("a", epochs=1, choose=["weighted_partner", trick("cmo", probability=1.0)])))
    run.run()
    assert run.points[-1].metrics["train_loss"] > 0
    with pytest.raises(PlanError, match="cmo needs 'partner', which nothing in the plan provides; weighted_partner"):
        make_plan(Stage("a", epochs=1, choose=["cmo"]))


def test_bad_input(facts, generator):
    mix = make("cmo").build(facts(3, 3, 1, 1))
    with pytest.raises(ValueError, match="trick 'cmo' mixes with partners that another trick draws; add 'weighted_p"):
        mix(replace(pair(), partner=None), generator(0))
    with pytest.raises(ValueError, match="a batch is mixed once: it has 2 labels per image already"):
        mix(replace(mix(pair(), generator(0))), generator(0))
    for numbers, message in (({"alpha": -1}, r"\[0, inf\), got -1"), ({"probability": 2}, r"\[0, 1\], got 2"),
                             ({"margin": 0.5}, r"\[0, 0.5\), got 0.5")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make("cmo", **numbers)

import pytest
import torch

from trainables.objective import Objective
from trainables.registry import make


def test_labels_and_images_share_one_lambda(known, batch, generator):
    mixed = make("input_mixup").build(known)(batch, generator(0))
    assert mixed.y.shape == mixed.share.shape == (9, 2)
    assert mixed.y[:, 0].equal(known.labels)
    assert mixed.y[:, 1].equal(known.labels[mixed.blend.order])
    assert len(mixed.share[:, 0].unique()) == 1
    assert mixed.blend.share.equal(mixed.share[:, 0])
    assert mixed.blend.layer == "input"
    assert mixed.blend.order.sort().values.tolist() == list(range(9))


def test_hand_worked_numbers(known, batch, generator):
    mixed = make("input_mixup").build(known)(batch, generator(0))
    images = batch.images[0].double()
    share = float(mixed.share[0, 0])
    expected = share * images + (1 - share) * images[mixed.blend.order]
    assert torch.allclose(mixed.blend(images), expected, atol=1e-4)
    # the loss is linear in the two labels
    z = torch.randn(9, 3, dtype=torch.float64, generator=generator(1))
    objective = Objective([], known)
    parts = share * objective(z, mixed.y[:, 0]) + (1 - share) * objective(z, mixed.y[:, 1])
    assert torch.allclose(objective(z, mixed.y, mixed.share), parts, atol=1e-6)


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (2.0, 1 / 20), (0.2, 0.25 / 1.4)])
def test_lambda_is_beta_distributed(known, batch, generator, alpha, variance):
    mix = make("input_mixup", alpha=alpha).build(known)
    drawn = torch.stack([mix(batch, generator(seed)).share[0, 0] for seed in range(1500)])
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.04)
    assert drawn.var().item() == pytest.approx(variance, rel=0.12)


def test_alpha_zero_changes_nothing(known, batch, generator):
    mixed = make("input_mixup", alpha=0.0).build(known)(batch, generator(0))
    assert mixed.share.tolist() == [[1.0, 0.0]] * 9
    images = batch.images[0].float()
    assert mixed.blend(images).equal(images)


def test_a_batch_is_mixed_once(known, batch, generator):
    mix = make("input_mixup").build(known)
    with pytest.raises(ValueError, match="a batch is mixed once: it has 2 labels per image already"):
        mix(mix(batch, generator(0)), generator(1))


def test_alpha_below_zero():
    with pytest.raises(ValueError, match=r"'input_mixup'.*alpha must be a number in \[0, inf\), got -1"):
        make("input_mixup", alpha=-1)

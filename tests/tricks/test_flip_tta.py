import pytest
import torch

from trainables.batch import Outputs
from trainables.registry import make


def test_hand_worked_numbers(facts):
    outputs = Outputs(torch.tensor([[1.0, 2.0]]), views=(Outputs(torch.tensor([[3.0, -2.0]])),))
    assert make("flip_tta").build(facts(3, 1))(outputs).tolist() == [[2.0, 0.0]]


def test_it_asks_for_the_image_and_its_mirror_image():
    images = torch.arange(8).view(1, 1, 2, 4)
    views = make("flip_tta").views(images)
    assert views.shape == (2, 1, 1, 2, 4)
    assert views[0].equal(images)
    assert views[1, 0, 0].tolist() == [[3, 2, 1, 0], [7, 6, 5, 4]]


def test_symmetric_images_change_nothing(known):
    images = torch.cat((known.images, known.images.flip(-1)), dim=-1)
    plain = known.model(known.normalise(images)).logits
    z = make("flip_tta").build(known)(known.model(known.normalise(make("flip_tta").views(images))))
    assert torch.allclose(z, plain, atol=1e-5)


def test_one_view_is_not_enough(facts):
    with pytest.raises(ValueError, match=r"'flip_tta': Outputs must have two views, got one; run .* views\(images\)"):
        make("flip_tta").build(facts(3, 1))(Outputs(torch.zeros(1, 2)))

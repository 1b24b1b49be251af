import pytest
import torch
from torchvision.transforms.v2 import functional as images_by

from trainables.batch import Batch
from trainables.registry import PlanError, make
from trainables.tricks._shared.warping import warp
from trainables.tricks.rotation import rotations


@pytest.mark.parametrize("degrees", [-15.0, 7.0, 90.0])
def test_it_turns_as_torchvision_does(degrees):
    image = torch.randint(256, (1, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    angle = torch.deg2rad(torch.tensor([degrees], dtype=torch.float64))
    found = warp(image.float(), rotations(angle, 9, 9), "nearest").to(torch.uint8)
    expected = images_by.rotate(image, degrees)
    assert (found != expected).any(dim=1).double().mean() < 0.02  # a pixel between two may take the other one


def test_angles_are_drawn_image_by_image(facts, generator):
    images = torch.full((1, 400, 1, 33, 33), 0, dtype=torch.uint8)
    images[..., 16, :] = 255  # a line through the centre
    batch = Batch(images, torch.arange(400), torch.zeros(400, 1, dtype=torch.int64), torch.ones(400, 1))
    seen = make("rotation", degrees=15.0).build(facts(1))(batch, generator()).images[0, :, 0]
    # the line's height at the right border is tan of the angle times 16
    heights = 16 - seen[:, :, 31].float().argmax(dim=1).float()
    angles = torch.rad2deg(torch.atan(heights / 15))
    assert angles.min() < -12 and angles.max() > 12 and angles.abs().max() <= 15 + 4
    assert abs(angles.mean()) < 2


def test_no_degrees_change_nothing(facts, batch, generator):
    assert make("rotation", degrees=0).build(facts(5, 3, 1))(batch, generator()) is batch


@pytest.mark.parametrize("numbers", [{"degrees": 181}, {"view": -1}, {"view": 0.5}])
def test_numbers_out_of_range(numbers):
    with pytest.raises(PlanError, match="rotation"):
        make("rotation", **numbers)

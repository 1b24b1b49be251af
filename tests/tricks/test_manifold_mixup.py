import pytest
import torch

from trainables.registry import make


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3", "pool", "logits"])
def test_it_mixes_at_its_layer_as_input_mixup_does_at_the_input(known, batch, generator, layer):
    mixed = make("manifold_mixup", layer=layer).build(known)(batch, generator(0))
    twin = make("input_mixup").build(known)(batch, generator(0))
    assert mixed.blend.layer == layer
    assert mixed.y.equal(twin.y)
    assert mixed.share.equal(twin.share)
    known.model(known.normalise(mixed.images), mixed.blend)


def test_pool_and_logits_are_the_same_behind_a_linear_head(known, batch, generator):
    images = known.normalise(batch.images)
    results = []
    for layer in ("pool", "logits"):
        mixed = make("manifold_mixup", layer=layer).build(known)(batch, generator(0))
        results.append(known.model(images, mixed.blend).logits)
    assert torch.allclose(*results, atol=1e-5)


def test_hand_worked_features(known, batch, generator):
    images = known.normalise(batch.images)
    mixed = make("manifold_mixup", layer="pool").build(known)(batch, generator(0))
    plain, blended = known.model(images).features, known.model(images, mixed.blend).features
    share = float(mixed.share[0, 0])
    assert torch.allclose(blended, share * plain + (1 - share) * plain[mixed.blend.order], atol=1e-5)


def test_alpha_zero_changes_nothing(known, batch, generator):
    mixed = make("manifold_mixup", alpha=0.0).build(known)(batch, generator(0))
    images = known.normalise(batch.images)
    assert mixed.share.tolist() == [[1.0, 0.0]] * 9
    assert known.model(images, mixed.blend).logits.equal(known.model(images).logits)


def test_a_layer_that_the_network_lacks(known):
    with pytest.raises(
        ValueError, match=r"layer must be one that the network has, got 'layer4'; it has layer1, layer2"
    ):
        make("manifold_mixup", layer="layer4").build(known)


def test_a_layer_that_no_network_has():
    with pytest.raises(ValueError, match=r"'manifold_mixup': layer must be one of 'layer1', .* got 'fc'"):
        make("manifold_mixup", layer="fc")

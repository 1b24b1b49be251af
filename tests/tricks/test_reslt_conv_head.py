import numpy as np
import pytest
import torch

from spaces.domain import Stage
from trainables.registry import make


def drawn(facts, network, gamma: float = 0.7):
    head = make("reslt_conv_head", gamma=gamma).build(facts(5, 3, 1))(network.double()).head
    random = torch.Generator().manual_seed(2)
    for values in (head.norm.weight, head.norm.bias, head.linear.bias):
        torch.nn.init.normal_(values, generator=random)
    head.norm.running_mean.copy_(torch.randn(192, generator=random))
    head.norm.running_var.copy_(torch.rand(192, generator=random) + 0.5)
    return head, torch.randn(4, 64, 2, 2, dtype=torch.float64, generator=random)


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def test_training_by_hand(facts, network):
    """Convolution, statistics of the batch, ReLU, pool, classifier: NumPy, float64."""
    head, maps = drawn(facts, network)
    outputs = head.train()(maps)
    x = np.einsum("oi,bihw->bohw", numbers(head.conv.weight)[:, :, 0, 0], maps.numpy())
    mean, var = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
    x = (x - mean) / np.sqrt(var + 1e-5) * numbers(head.norm.weight)[None, :, None, None]
    x = np.maximum(x + numbers(head.norm.bias)[None, :, None, None], 0).mean(axis=(2, 3))
    z = [x[:, 64 * b : 64 * (b + 1)] @ numbers(head.linear.weight).T + numbers(head.linear.bias) for b in range(3)]
    np.testing.assert_allclose(numbers(outputs.experts), np.stack(z), rtol=1e-10)
    np.testing.assert_allclose(numbers(outputs.logits), sum(z), rtol=1e-9, atol=1e-12)
    assert outputs.features.shape == (3, 4, 64)


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_evaluation_by_hand(facts, network, gamma):
    """The pool first, stored statistics, rows of length ‖w‖ ** (1 − γ), no bias."""
    head, maps = drawn(facts, network, gamma)
    outputs = head.eval()(maps)
    x = maps.numpy().mean(axis=(2, 3)) @ numbers(head.conv.weight)[:, :, 0, 0].T
    x = (x - numbers(head.norm.running_mean)) / np.sqrt(numbers(head.norm.running_var) + 1e-5)
    x = np.maximum(x * numbers(head.norm.weight) + numbers(head.norm.bias), 0)
    rows = numbers(head.linear.weight)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) ** gamma
    z = np.stack([x[:, 64 * b : 64 * (b + 1)] @ rows.T for b in range(3)])
    np.testing.assert_allclose(numbers(outputs.experts), z, rtol=1e-10)
    np.testing.assert_allclose(numbers(outputs.logits), z.sum(axis=0), rtol=1e-9, atol=1e-12)


def test_the_pool_makes_no_difference_where_all_places_are_equal(facts, network):
    head, maps = drawn(facts, network, 0.0)
    torch.nn.init.zeros_(head.linear.bias)
    flat = maps[:, :, :1, :1].expand(-1, -1, 2, 2)
    head.train()(flat)
    head.norm.momentum = 1.0  # the stored statistics are those of the batch, but for Bessel's correction
    head.train()(flat)
    count = flat.shape[0] * 4
    head.norm.running_var.mul_((count - 1) / count)
    torch.testing.assert_close(head.eval()(flat).logits, head.train()(flat).logits)


def test_it_keeps_the_classifier_and_trains(facts, network, make_plan, pipeline):
    linear = network.head.weight
    made = make("reslt_conv_head").build(facts(5, 3, 1))(network)
    assert made.head.linear.weight is linear
    assert make("reslt_conv_head").build(facts(5, 3, 1))(made) is made
    run = pipeline(make_plan(Stage("a", epochs=1, choose=["reslt_conv_head", "reslt"])))
    run.run()
    outputs = run.network()(run.data.normalise(run.data.val_images))
    torch.testing.assert_close(outputs.logits, outputs.experts.sum(dim=0))
    with pytest.raises(ValueError, match=r"'reslt_conv_head'.*gamma must be a number in \[0, inf\), got -1"):
        make("reslt_conv_head", gamma=-1)

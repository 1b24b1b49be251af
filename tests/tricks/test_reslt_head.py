import numpy as np
import torch

from spaces.domain import Stage
from trainables.registry import make


def test_hand_worked(facts, network):
    """Statistics over batch and places, then the affine part, the pool and the linear classifier: numpy, float64."""
    made = make("reslt_head").build(facts(5, 3, 1))(network.double()).train()
    head, random = made.head, torch.Generator().manual_seed(2)
    for norm in head.norms:
        torch.nn.init.normal_(norm.weight, generator=random)
        torch.nn.init.normal_(norm.bias, generator=random)
    maps = torch.randn(4, 64, 2, 2, dtype=torch.float64, generator=random)
    outputs = head(maps)
    x = maps.numpy()
    mean, var = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
    weight, bias = head.linear.weight.detach().numpy(), head.linear.bias.detach().numpy()
    fused = 0
    for branch, norm in enumerate(head.norms):
        scaled = (x - mean) / np.sqrt(var + 1e-5) * norm.weight.detach().numpy()[None, :, None, None]
        pooled = (scaled + norm.bias.detach().numpy()[None, :, None, None]).mean(axis=(2, 3))
        z = pooled @ weight.T + bias
        np.testing.assert_allclose(outputs.experts[branch].detach().numpy(), z, rtol=1e-10)
        fused = fused + z
    np.testing.assert_allclose(outputs.logits.detach().numpy(), fused, rtol=1e-10)
    assert outputs.features.shape == (3, 4, 64)


def test_it_adds_three_times_two_numbers_for_each_feature(facts, network):
    before = sum(p.numel() for p in network.parameters())
    linear = network.head.weight
    made = make("reslt_head").build(facts(5, 3, 1))(network)
    assert sum(p.numel() for p in made.parameters()) == before + 3 * 64 * 2
    assert made.head.linear.weight is linear
    assert make("reslt_head").build(facts(5, 3, 1))(made) is made


def test_it_trains_with_its_loss_and_with_another(make_plan, pipeline):
    for more in (["reslt"], ["balanced_softmax", "input_mixup"], []):
        run = pipeline(make_plan(Stage("a", epochs=1, choose=["reslt_head", *more])))
        run.run()
        outputs = run.network()(run.data.normalise(run.data.val_images))
        torch.testing.assert_close(outputs.logits, outputs.experts.sum(dim=0))

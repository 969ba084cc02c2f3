"""Convolutions by patches are convolutions."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import nn

from fire_rl.agents.networks import mlp
from fire_rl.agents.patches import PatchConv2d, with_patches

sizes = st.integers(1, 4)


@settings(max_examples=50, deadline=None)
@given(sizes, sizes, st.tuples(sizes, sizes), st.tuples(sizes, sizes), st.booleans(), st.integers(0, 3))
def test_outputs_and_gradients_are_those_of_a_convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int], bias: bool, larger: int
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(inputs, outputs, kernel, stride, bias=bias).double()
    patched = with_patches(plain)
    assert type(plain) is nn.Conv2d and type(patched) is PatchConv2d
    x = torch.randn(2, inputs, kernel[0] + larger, kernel[1] + 2 * larger, dtype=torch.float64)
    results = []
    for layer in (plain, patched):
        seen = x.clone().requires_grad_()
        y = layer(seen)
        results.append([y, *torch.autograd.grad(y.sin().sum(), [seen, *layer.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_other_layers_stay_what_they_are() -> None:
    network = mlp(3, 2, (4,))(torch.Generator())
    assert with_patches(network) is network
    padded = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 2, 3))
    assert [type(layer) for layer in with_patches(padded).children()] == [nn.Conv2d, nn.Conv2d, PatchConv2d]

"""Convolutions as matrix products, for networks of which several are evaluated at once."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn


class PatchConv2d(nn.Conv2d):
    """A convolution as one product of its weight with the patches of its input.

    Of several networks at once that is one batched product. A convolution, whose weight `vmap` cannot batch,
    would become a grouped one, for which libraries have no fast kernels.
    """

    def forward(self, x: Tensor) -> Tensor:
        (height, width), (down, right) = self.kernel_size, self.stride
        patches = x.unfold(2, height, down).unfold(3, width, right)  # (B, C, rows, columns, height, width)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)
        return F.linear(patches, self.weight.flatten(1), self.bias).movedim(-1, 1)


def with_patches(network: nn.Module) -> nn.Module:
    """`network`, or where it has convolutions a copy that computes them by patches."""
    if not any(map(_is_plain, network.modules())):
        return network
    network = copy.deepcopy(network)
    for module in network.modules():
        if _is_plain(module):
            module.__class__ = PatchConv2d
    return network


def _is_plain(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and set(module.padding) == {0}
        and set(module.dilation) == {1}
    )

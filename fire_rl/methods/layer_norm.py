"""Layer norm before every hidden activation.

Lyle et al., "Understanding Plasticity in Neural Networks", ICML 2023, arXiv:2303.01486, and "Disentangling
the Causes of Plasticity Loss", 2024, arXiv:2402.18762.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fire_rl.layers import EnsembleLayerNorm
from fire_rl.method import ContinuousMethod, register
from fire_rl.units import hidden_layers


def insert_norms(network: nn.Module, eps: float) -> None:
    """Put a norm before every activation: over the units, of a convolution over channels and space.

    Raises ValueError for a layer that has a norm there already.
    """
    for layer in hidden_layers(network):
        if layer.norms:
            raise ValueError(f"{layer.name} already has a norm before its activation ({layer.norms[0]})")
        norm: nn.Module
        if layer.is_stacked:
            norm = EnsembleLayerNorm(layer.members, layer.units, eps)
        elif isinstance(network.get_submodule(layer.name), nn.Conv2d):
            norm = nn.GroupNorm(1, layer.units, eps)  # the mean and variance of layer norm, for any size
        else:
            norm = nn.LayerNorm(layer.units, eps)
        parent, _, name = layer.activation.rpartition(".")
        activation = network.get_submodule(layer.activation)
        setattr(network.get_submodule(parent), name, nn.Sequential(norm, activation))


@register("layer-norm")
@dataclass
class LayerNorm(ContinuousMethod):
    """Normalise before every hidden activation (Lyle et al., 2023 and 2024).

    SimBa's own norms stay; its blocks get one more, before their ReLU.
    """

    inserts_norms: ClassVar[bool] = True

    eps: float = 1e-5
    """Added to the variance."""

    def build(self, network: nn.Module, generator: torch.Generator) -> None:
        insert_norms(network, self.eps)

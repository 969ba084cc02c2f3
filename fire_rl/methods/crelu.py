"""CReLU: concatenated ReLUs, so that no unit can be dead.

Abbas, Zhao, Modayil, White & Machado, "Loss of Plasticity in Continual Deep RL", CoLLAs 2023,
arXiv:2303.07507: h = [relu(x), relu(−x)].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fire_rl.layers import CReLU
from fire_rl.method import ContinuousMethod, register
from fire_rl.units import hidden_layers


@register("crelu")
@dataclass
class ConcatenatedReLU(ContinuousMethod):
    """Replace every hidden ReLU by a CReLU over half as many units (Abbas et al., CoLLAs 2023).

    Halving keeps the next layer's size, and the number of parameters at or below what it was. The units that
    stay are the first half of those that the network's own initialiser drew.
    """

    must_precede: ClassVar[frozenset[str]] = frozenset({"layer-norm", "normalize-and-project"})

    def build(self, network: nn.Module, generator: torch.Generator) -> None:
        for layer in hidden_layers(network):
            activation = network.get_submodule(layer.activation)
            if not isinstance(activation, nn.ReLU) or isinstance(activation, CReLU):
                raise ValueError(
                    f"crelu replaces ReLUs, but {layer.activation} is a {type(activation).__name__}"
                )
            if layer.units % 2:
                raise ValueError(f"crelu halves widths, but {layer.name} has {layer.units} units")
            parent, _, name = layer.activation.rpartition(".")
            setattr(network.get_submodule(parent), name, CReLU())
            _halve(network.get_submodule(layer.name), layer.is_stacked)


def _halve(source: nn.Module, is_stacked: bool) -> None:
    for name, parameter in list(source.named_parameters(recurse=False)):
        half = parameter.detach().chunk(2, 1 if is_stacked else 0)[0].clone()
        setattr(source, name, nn.Parameter(half))
    for size in ("out_features", "out_channels"):
        if hasattr(source, size):
            setattr(source, size, getattr(source, size) // 2)

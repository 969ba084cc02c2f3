"""The networks: Nature CNN and MLP. Every network is an encoder, a head, and injected heads (none at first)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fire_rl.methods.plasticity_injection import read_out

Build = Callable[[torch.Generator], nn.Module]


class Network(nn.Module):
    """`head(encoder(x))`, plus what plasticity injection adds to the head."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.injected = nn.ModuleList()

    def forward(self, *inputs: Tensor) -> Tensor:
        return read_out(self.head, self.injected, self.encoder(*inputs))


class Pixels(nn.Module):
    """uint8 pixels to floats in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mul_(1.0 / 255.0)


def nature_cnn(frames: int, actions: int) -> Build:
    """Nature DQN network, Xavier-uniform weights and zero biases as in the FIRE reference.

    Input (B, frames, 84, 84) uint8, output (B, actions). The encoder is the three convolutions; the head is
    both linear layers (Mnih et al., Nature 2015).
    """

    def build(generator: torch.Generator) -> nn.Module:
        encoder = nn.Sequential(
            Pixels(),
            _empty(nn.Conv2d, frames, 32, 8, stride=4),
            nn.ReLU(),
            _empty(nn.Conv2d, 32, 64, 4, stride=2),
            nn.ReLU(),
            _empty(nn.Conv2d, 64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        head = nn.Sequential(_empty(nn.Linear, 64 * 7 * 7, 512), nn.ReLU(), _empty(nn.Linear, 512, actions))
        return xavier_(Network(encoder, head), generator)

    return build


def mlp(inputs: int, outputs: int, hidden: tuple[int, ...]) -> Build:
    """ReLU MLP on (B, inputs) floats, Xavier-uniform weights, zero biases; the head is the last layer."""

    def build(generator: torch.Generator) -> nn.Module:
        layers: list[nn.Module] = []
        width = inputs
        for size in hidden:
            layers += [_empty(nn.Linear, width, size), nn.ReLU()]
            width = size
        head = nn.Sequential(_empty(nn.Linear, width, outputs))
        return xavier_(Network(nn.Sequential(*layers), head), generator)

    return build


@torch.no_grad()
def xavier_(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw every weight Xavier-uniform and set every bias to zero, in place."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)
    return module


def _empty(layer: type[nn.Module], *args: int, **options: int) -> nn.Module:
    """A layer with uninitialised parameters: torch's constructors would draw from the global generator."""
    return nn.utils.skip_init(layer, *args, **options)

"""Nature CNN and MLP. Every network is an encoder, a head, and injected heads (none at first)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fire_rl.methods.plasticity_injection import read_out

Build = Callable[[torch.Generator], nn.Module]

META = torch.device(
    "meta"
)  # layers are built without values: torch's own would come from the global generator


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
        with META:
            encoder = nn.Sequential(
                Pixels(),
                nn.Conv2d(frames, 32, 8, stride=4),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, stride=2),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3, stride=1),
                nn.ReLU(),
                nn.Flatten(),
            )
            head = nn.Sequential(nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, actions))
        return xavier_(Network(encoder, head), generator)

    return build


def mlp(inputs: int, outputs: int, hidden: tuple[int, ...]) -> Build:
    """ReLU MLP on (B, inputs) floats, Xavier-uniform weights, zero biases; the head is the last layer."""

    def build(generator: torch.Generator) -> nn.Module:
        widths = (inputs, *hidden)
        with META:
            layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
            head = nn.Sequential(nn.Linear(widths[-1], outputs))
        return xavier_(Network(nn.Sequential(*itertools.chain(*layers)), head), generator)

    return build


@torch.no_grad()
def xavier_(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give a network built on `META` its values: weights Xavier-uniform, biases zero."""
    module.to_empty(device="cpu")
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)
    return module

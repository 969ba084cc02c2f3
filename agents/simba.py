"""SAC's networks: SimBa and a plain MLP, as Gaussian actors and as ensembles of critics.

Lee et al., "SimBa: Simplicity Bias for Scaling Up Parameters in Deep RL", ICLR 2025, arXiv:2410.09754.
An ensemble is one stacked module: parameters and activations have the members as their first axis, and the
members' matrix products are one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fire_rl.agents.networks import Build, Network
from fire_rl.layers import EnsembleLayerNorm

_NORM_EPSILON = 1e-6  # flax's; torch's own default is 1e-5
_UNIT_TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut off at ±2
LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


class EnsembleLinear(nn.Module):
    """E linear layers side by side, not yet initialised: (B, in) or (E, B, in) -> (E, B, out)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(members, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(len(self.weight), *x.shape[-2:])
        return torch.baddbmm(self.bias[:, :, None], self.weight, x.mT).mT


def _linear(inputs: int, outputs: int, members: int | None) -> nn.Module:
    if members is None:
        # By way of the meta device: the plain constructor would draw from the global generator.
        return nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    return EnsembleLinear(members, inputs, outputs)


def _norm(width: int, members: int | None) -> nn.Module:
    return (
        nn.LayerNorm(width, eps=_NORM_EPSILON)
        if members is None
        else EnsembleLayerNorm(members, width, _NORM_EPSILON)
    )


class ResidualBlock(nn.Module):
    """SimBa's block: x + down(relu(up(norm(x)))), four times as wide inside."""

    wiring = "residual"

    def __init__(self, width: int, members: int | None) -> None:
        super().__init__()
        self.norm = _norm(width, members)
        self.up = _linear(width, 4 * width, members)
        self.relu = nn.ReLU()
        self.down = _linear(4 * width, width, members)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.relu(self.up(self.norm(x))))
        return x + y


class Encoder(nn.Module):
    """Layers in a row over the concatenation of all inputs: the observation, or observation and action."""

    wiring = "series"

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        x = torch.cat(inputs, -1) if len(inputs) > 1 else inputs[0]
        for layer in self.children():
            x = layer(x)
        return x


class GaussianHead(nn.Module):
    """(B, width) -> (B, 2 · actions): the mean before tanh, then the raw log-std; see `squashed_gaussian`."""

    wiring = "parallel"

    def __init__(self, width: int, actions: int) -> None:
        super().__init__()
        self.mean = _linear(width, actions, None)
        self.log_std = _linear(width, actions, None)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.mean(features), self.log_std(features)], -1)


class ValueHead(EnsembleLinear):
    """One value per member: (E, B, width) -> (E, B)."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__(members, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).squeeze(-1)


def squashed_gaussian(output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a = tanh(mean + std · noise) with its log-density.

    log-std = −10 + 6 (1 + tanh(raw)) lies between −10 and 2.

    Args:
        output: (B, 2 · actions) of `GaussianHead`.
        noise: (B, actions) standard normal.

    Returns:
        Actions (B, actions) in [−1, 1] and log-densities (B,).
    """
    mean, raw = output.chunk(2, -1)
    log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (1.0 + raw.tanh())
    x = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))  # log(1 − tanh²(x)) without cancellation
    return x.tanh(), (gaussian - log_slope).sum(-1)


Initializer = Callable[[Tensor, torch.Generator], object]


def he_normal_(weight: Tensor, generator: torch.Generator) -> None:
    """He et al.'s normal with std sqrt(2 / d_in), cut off at two σ and corrected for the cut as JAX does."""
    sigma = math.sqrt(2.0 / weight.shape[1]) / _UNIT_TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=sigma, a=-2.0 * sigma, b=2.0 * sigma, generator=generator)


def orthogonal_(weight: Tensor, generator: torch.Generator, gain: float = 1.0) -> None:
    """`gain` times a uniformly drawn isometry."""
    nn.init.orthogonal_(weight, gain, generator)


@dataclass(frozen=True)
class SimbaBody:
    """SimBa's encoder: linear, residual blocks, layer norm. Heads and input orthogonal, blocks He-normal."""

    width: int
    blocks: int

    def encoder(self, inputs: int, members: int | None) -> tuple[Encoder, int]:
        """The encoder and the width of its features."""
        blocks = {f"block{i}": ResidualBlock(self.width, members) for i in range(self.blocks)}
        first, last = _linear(inputs, self.width, members), _norm(self.width, members)
        return Encoder(input=first, **blocks, norm=last), self.width

    def initializer(self, name: str) -> Initializer:
        """How the linear layer of this name is drawn."""
        return he_normal_ if ".block" in name else orthogonal_


@dataclass(frozen=True)
class MlpBody:
    """ReLU layers without normalisation, orthogonal with gain sqrt(2); heads with gain 1."""

    hidden: tuple[int, ...]

    def encoder(self, inputs: int, members: int | None) -> tuple[Encoder, int]:
        """The encoder and the width of its features."""
        widths = (inputs, *self.hidden)
        layers: dict[str, nn.Module] = {}
        for i, width in enumerate(self.hidden):
            layers |= {f"linear{i}": _linear(widths[i], width, members), f"relu{i}": nn.ReLU()}
        return Encoder(**layers), widths[-1]

    def initializer(self, name: str) -> Initializer:
        """How the linear layer of this name is drawn."""
        return partial(orthogonal_, gain=math.sqrt(2.0)) if name.startswith("encoder.") else orthogonal_


Body = SimbaBody | MlpBody


def gaussian_actor(observations: int, actions: int, body: Body) -> Build:
    """Actor: (B, observations) -> (B, 2 · actions), see `squashed_gaussian`."""

    def build(generator: torch.Generator) -> nn.Module:
        encoder, width = body.encoder(observations, None)
        return _initialize(Network(encoder, GaussianHead(width, actions)), body, generator)

    return build


def critic_ensemble(observations: int, actions: int, body: Body, members: int = 2) -> Build:
    """Critics: (B, observations), (B, actions) -> (members, B).

    Plasticity injection wraps the linear value head only; the residual encoder stays shared and trainable.
    """

    def build(generator: torch.Generator) -> nn.Module:
        encoder, width = body.encoder(observations + actions, members)
        return _initialize(Network(encoder, ValueHead(members, width)), body, generator)

    return build


@torch.no_grad()
def _initialize(network: nn.Module, body: Body, generator: torch.Generator) -> nn.Module:
    """Draw all linear layers, one member after the other: each gets what a single network would draw."""
    linear = [(n, m) for n, m in network.named_modules() if isinstance(m, (nn.Linear, EnsembleLinear))]
    stacks = [(n, m.weight if m.weight.ndim == 3 else m.weight[None]) for n, m in linear]
    for member in range(len(stacks[0][1])):
        for name, stack in stacks:
            body.initializer(name)(stack[member], generator)
    for _, layer in linear:
        layer.bias.zero_()
    return network

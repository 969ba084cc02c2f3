"""Weight clipping: keep every weight within a multiple of its initial range.

Elsayed, Lan, Lyle & Mahmood, "Weight Clipping for Deep Continual and Reinforcement Learning", RLC 2024,
arXiv:2407.01704: after each step θ ← clamp(θ, −κ s_l, κ s_l), s_l the bound of the uniform initialiser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fire_rl.method import ContinuousMethod, Learner, register
from fire_rl.units import weight_layers, weight_of


@register("weight-clipping")
@dataclass
class WeightClipping(ContinuousMethod):
    """Clamp weights and biases after every update (Elsayed et al., RLC 2024).

    Our initialisers are not all uniform: s_l is the bound of the uniform distribution with the variance of
    the layer's initial weights, √3 times their root mean square. Norm layers are not clipped.
    """

    kappa: float = 3.0
    """κ. The default cuts next to nothing at the start under every initialiser here (our assumption)."""

    def __post_init__(self) -> None:
        if self.kappa <= 0:
            raise ValueError(f"kappa must be positive, not {self.kappa}")
        self._bounds: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def attach(self, learner: Learner) -> None:
        self._bounds[learner.name] = [
            (parameter, self.kappa * math.sqrt(3.0) * weight_of(layer).detach().square().mean().sqrt())
            for _, layer in weight_layers(learner.online)
            for parameter in layer.parameters(recurse=False)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"bounds": {name: [bound for _, bound in pairs] for name, pairs in self._bounds.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, bounds in state["bounds"].items():
            for (_, bound), saved in zip(self._bounds[name], bounds, strict=True):
                bound.copy_(saved)

    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        for parameter, bound in self._bounds[learner.name]:
            parameter.clamp_(-bound, bound)

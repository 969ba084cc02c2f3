"""Normalize-and-Project (NaP): norms before the activations, weights of constant norm.

Lyle, Zheng, Khetarpal, Martens, van Hasselt, Pascanu & Dabney, "Normalization and effective learning rates
in reinforcement learning", NeurIPS 2024, arXiv:2407.01800: after each step W_l ← ρ_l W_l / ‖W_l‖_F, with
ρ_l = ‖W_l‖_F at the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fire_rl.method import ContinuousMethod, Learner, register
from fire_rl.methods.layer_norm import insert_norms
from fire_rl.units import output_layers, weight_layers, weight_of


@register("normalize-and-project")
@dataclass
class NormalizeAndProject(ContinuousMethod):
    """Layer norms, and weights projected to their initial norm (Lyle et al., NeurIPS 2024).

    The effective learning rate then is the optimiser's, which the paper lets decay; ours stays constant. Norm
    affine parameters are trained; what the authors do with them could not be verified.
    """

    inserts_norms: ClassVar[bool] = True

    eps: float = 1e-5
    """Of the norms, added to the variance."""
    outputs: bool = False
    """Project output layers too, although no norm follows that would make their scale irrelevant."""

    def __post_init__(self) -> None:
        self._norms: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def build(self, network: nn.Module, generator: torch.Generator) -> None:
        insert_norms(network, self.eps)

    def attach(self, learner: Learner) -> None:
        skipped = set() if self.outputs else output_layers(learner.online)
        self._norms[learner.name] = [
            (weight_of(layer), _norm(weight_of(layer)).detach().clone())
            for name, layer in weight_layers(learner.online)
            if name not in skipped
        ]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, norms in state["norms"].items():
            for (_, norm), saved in zip(self._norms[name], norms, strict=True):
                norm.copy_(saved)

    def state_dict(self) -> dict[str, Any]:
        return {"norms": {name: [norm for _, norm in pairs] for name, pairs in self._norms.items()}}

    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        for weight, norm in self._norms[learner.name]:
            weight.mul_(norm / _norm(weight).clamp_min(torch.finfo(weight.dtype).tiny))


def _norm(weight: Tensor) -> Tensor:
    """‖W‖_F; of an ensemble, per member, to broadcast."""
    dims = (1, 2) if weight.ndim == 3 else None
    norm: Tensor = torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
    return norm

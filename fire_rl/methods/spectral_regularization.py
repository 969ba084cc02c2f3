"""Spectral regularisation: pull every layer's largest singular value towards 1.

Lewandowski et al., "Learning Continually by Spectral Regularization", ICLR 2025,
arXiv:2406.06811: loss + λ Σ_l [(σ_max(W_l)^k − 1)² + ‖b_l‖^k].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fire_rl.method import ContinuousMethod, Learner, register
from fire_rl.units import weight_layers, weight_of


@register("spectral-regularization")
@dataclass
class SpectralRegularization(ContinuousMethod):
    """Penalise the spectral norm of all layers (Lewandowski et al., ICLR 2025).

    σ_max comes from one step of power iteration per update with vectors that persist. The bias exponent and
    the strength were read second-hand, not in the authors' code. Convolutions are flattened to
    (out, in · kernel); the members of an ensemble count apart.
    """

    strength: float = 1e-4
    """λ."""
    exponent: int = 2
    """k, of the singular value and of the norm of the bias."""

    def __post_init__(self) -> None:
        if self.strength < 0 or self.exponent < 1:
            raise ValueError(
                f"strength {self.strength} must not be negative and exponent {self.exponent} at least 1"
            )
        self._vectors: dict[str, dict[str, Tensor]] = {}  # left singular vectors, (E, d_out)

    def attach(self, learner: Learner) -> None:
        self._vectors[learner.name] = {}
        for name, layer in weight_layers(learner.online):
            w = _matrices(weight_of(layer))
            u = torch.randn(w.shape[:2], generator=learner.generator).to(w.device)
            self._vectors[learner.name][name] = F.normalize(u, dim=-1)

    def penalty(self, learner: Learner) -> Tensor:
        terms = []
        for name, layer in weight_layers(learner.online):
            sigma = self.spectral_norm(learner.name, name, weight_of(layer))
            terms.append((sigma**self.exponent - 1.0).square().sum())
            bias = dict(layer.named_parameters(recurse=False)).get("bias")
            if bias is not None:
                # For k = 2 the square itself: the norm has no derivative at the zero bias of the start.
                square = bias.square().sum(-1)
                power = square if self.exponent == 2 else (square + 1e-12) ** (self.exponent / 2)
                terms.append(power.sum())
        return self.strength * torch.stack(terms).sum()

    def spectral_norm(self, learner: str, layer: str, weight: Tensor) -> Tensor:
        """The estimate uᵀ W v of σ_max, (E,), after one more step of power iteration."""
        w = _matrices(weight)
        u = self._vectors[learner][layer]
        with torch.no_grad():
            v = F.normalize(torch.einsum("eoi,eo->ei", w, u), dim=-1)
            u.copy_(F.normalize(torch.einsum("eoi,ei->eo", w, v), dim=-1))
        # A copy: the next step overwrites u while this graph may still be needed.
        return torch.einsum("eo,eoi,ei->e", u.clone(), w, v)

    def state_dict(self) -> dict[str, Any]:
        return {"vectors": {name: dict(of) for name, of in self._vectors.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, of in state["vectors"].items():
            for layer, vector in of.items():
                self._vectors[name][layer].copy_(vector)


def _matrices(weight: Tensor) -> Tensor:
    return weight if weight.ndim == 3 else weight.flatten(1)[None]

"""Parseval regularisation: keep hidden weights near orthogonality during training.

Chung, Cherif, Precup & Meger, "Parseval Regularization for Continual Reinforcement Learning", NeurIPS 2024:
loss + β Σ_l ‖W_l W_lᵀ − g² I‖²_F.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fire_rl.method import ContinuousMethod, Learner, register
from fire_rl.units import output_layers, weight_layers, weight_of


@register("parseval")
@dataclass
class Parseval(ContinuousMethod):
    """Penalise the deviation of hidden weights from g times an isometry (Chung et al., NeurIPS 2024).

    All layers but the outputs; convolutions flattened to (out, in · kernel), ensembles per member. The
    initial weights are the network's own, not orthogonal ones, and the authors' factor (64/width)² is left to
    `strength`; their diagonal layers are not added.
    """

    strength: float = 1e-4
    """β; 1e-3 and 1e-4 in the paper, 1e-5 to 1e-3 in the FIRE paper's image experiments."""
    gain: float = 1.0
    """g, the target of all singular values; the authors take √2, the FIRE paper's code 1."""
    side: Literal["small", "rows"] = "small"
    """Which Gram matrix: of the `small` side, which can reach g² I for every shape, or W Wᵀ of the `rows`
    as in the equation, which for a tall W has the floor g⁴ (d_out − d_in)."""

    def __post_init__(self) -> None:
        if self.strength < 0 or self.gain <= 0:
            raise ValueError(f"strength {self.strength} must not be negative and gain {self.gain} positive")

    def penalty(self, learner: Learner) -> Tensor:
        outputs = output_layers(learner.online)
        terms = [
            self.deviation(weight_of(layer))
            for name, layer in weight_layers(learner.online)
            if name not in outputs
        ]
        return self.strength * torch.stack(terms).sum()

    def deviation(self, weight: Tensor) -> Tensor:
        """‖W Wᵀ − g² I‖²_F, summed over the members of an ensemble."""
        w = weight if weight.ndim == 3 else weight.flatten(1)
        is_tall = w.shape[-2] > w.shape[-1]
        gram = w.mT @ w if is_tall and self.side == "small" else w @ w.mT
        eye = torch.eye(gram.shape[-1], device=w.device, dtype=w.dtype)
        return (gram - self.gain**2 * eye).square().sum()

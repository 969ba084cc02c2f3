"""DASH: shrink the weights that point against the descent direction.

Shin, Oh, Cho & Yun, "DASH: Warm-Starting Neural Network Training in Stationary Settings without Loss of
Plasticity", NeurIPS 2024, arXiv:2410.23495. With g the moving average of −∇L over batches at fixed weights,
w ← w · clip(cos(g, w), λ, 1) for every unit's incoming weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fire_rl.method import Learner, ResetMethod, register
from fire_rl.units import weight_layers


@register("dash")
@dataclass
class Dash(ResetMethod):
    """Direction-aware shrinking (Shin et al., NeurIPS 2024), on batches from the replay memory.

    A vector w is a row of a linear layer, one kernel slice (out, in) of a convolution, or a whole bias (per
    member of an ensemble), as in the official code. Norm layers are not touched.
    """

    keep: float = 0.3
    """λ, the least factor; also what vectors get whose gradient or weight is zero."""
    average: float = 0.3
    """Weight of the newest gradient in the moving average."""
    batches: int = 32
    """Batches over which gradients are averaged; the paper makes a pass over the data set."""
    rows: int = 256
    """Transitions per batch."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.keep <= 1.0 or not 0.0 < self.average <= 1.0:
            raise ValueError(f"keep {self.keep} and average {self.average} must lie between 0 and 1")
        if self.batches < 1 or self.rows < 1:
            raise ValueError(f"batches {self.batches} and rows {self.rows} must be at least 1")

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        online = dict(weight_layers(learner.online))
        names = [
            (layer, name) for layer in online for name, _ in online[layer].named_parameters(recurse=False)
        ]
        parameters = [online[layer].get_parameter(name) for layer, name in names]
        descent = [torch.zeros_like(p) for p in parameters]
        for _ in range(self.batches):
            gradients = torch.autograd.grad(learner.loss(self.rows, generator), parameters)
            torch._foreach_lerp_(descent, torch._foreach_neg(gradients), self.average)
        for (layer, name), direction in zip(names, descent, strict=True):
            parameter = module.get_submodule(layer).get_parameter(name)
            parameter.mul_(shrink_factor(parameter, direction, self.keep))


def shrink_factor(w: Tensor, direction: Tensor, least: float) -> Tensor:
    """clip(cos(direction, w), least, 1) of every vector in `w`, to broadcast over it."""
    dims = (-2, -1) if w.ndim == 4 else (-1,)
    dot = (w.double() * direction.double()).sum(dims, keepdim=True)
    norms = [torch.linalg.vector_norm(x.double(), dim=dims, keepdim=True) for x in (w, direction)]
    cosine = dot / (norms[0] * norms[1]).clamp_min(torch.finfo(torch.double).tiny)
    factor: Tensor = cosine.clamp(least, 1.0).to(w.dtype)
    return factor

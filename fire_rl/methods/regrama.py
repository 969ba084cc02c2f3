"""ReGraMa: recycle units that no longer learn.

Liu, Wu, Obando-Ceron, Castro, Courville & Pan, "Measure gradients, not activations!", NeurIPS 2025,
arXiv:2505.24061. Score of unit i: G_i = E|∂L/∂h_i| / mean_k E|∂L/∂h_k|; recycled if G_i ≤ τ. The released
code puts the mean |gradient| of the unit's incoming weights in place of E|∂L/∂h_i|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fire_rl.method import Learner, register
from fire_rl.methods.recycling import Recycler
from fire_rl.units import HiddenLayer, tap, weight_of


@register("regrama")
@dataclass
class ReGraMa(Recycler):
    """Recycle units with a vanishing gradient (Liu et al., NeurIPS 2025)."""

    tau: float = 0.01
    """Units whose score is at most this are recycled."""
    gradient: Literal["weights", "units"] = "weights"
    """Of what: the units' incoming `weights`, as the released code is said to do (second-hand), or the
    outputs h of the `units` as in the formula. A dead ReLU has score 0 with the weights only."""

    def scores(
        self, learner: Learner, layers: list[HiddenLayer], generator: torch.Generator
    ) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        with torch.enable_grad(), tap(learner.online, [layer.activation for layer in layers], seen):
            loss = learner.loss(self.rows, generator)
        if self.gradient == "units":
            gradients = torch.autograd.grad(loss, [seen[layer.activation] for layer in layers])
            sizes = [x.by_unit(g).abs().sum(2).mean(1) for x, g in zip(layers, gradients, strict=True)]
        else:
            weights = [weight_of(learner.online.get_submodule(layer.name)) for layer in layers]
            gradients = torch.autograd.grad(loss, weights)
            sizes = [
                g.reshape(x.members, x.units, -1).abs().mean(-1)
                for x, g in zip(layers, gradients, strict=True)
            ]
        return {
            layer.name: size.double()
            / (size.double().mean(-1, keepdim=True) + torch.finfo(torch.double).tiny)
            for layer, size in zip(layers, sizes, strict=True)
        }

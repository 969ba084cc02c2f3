"""L2-init: regularise towards the initial weights.

Kumar, Marklund & Van Roy, "Maintaining Plasticity via Regenerative Regularization", CoLLAs 2024,
arXiv:2308.11958: loss + λ ‖θ − θ₀‖².
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fire_rl.method import ContinuousMethod, Learner, register
from fire_rl.methods.scope import parameters_in


@register("l2-init")
@dataclass
class L2Init(ContinuousMethod):
    """Pull every parameter towards its initial value (Kumar et al., CoLLAs 2024).

    The gradient 2 λ (θ − θ₀) is added to that of the loss directly: the same numbers for two passes over the
    weights instead of an automatic derivative.
    """

    strength: float = 1e-4
    """λ; the FIRE paper's image experiments take λ = c/2 with c of 1e-5, 1e-4 or 1e-3."""

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(f"strength must not be negative, but is {self.strength}")

    def distance(self, learner: Learner) -> Tensor:
        """‖θ − θ₀‖², which the strength multiplies."""
        pairs = [(p, learner.initial[n]) for n, p in parameters_in(learner.online, "all") if p.requires_grad]
        return torch.stack([(p - initial).square().sum() for p, initial in pairs]).sum()

    def after_backward(self, learner: Learner) -> None:
        parameters, initial, gradients = [], [], []
        for name, parameter in parameters_in(learner.online, "all"):
            if parameter.grad is not None:
                parameters.append(parameter)
                initial.append(learner.initial[name])
                gradients.append(parameter.grad)
        torch._foreach_add_(gradients, parameters, alpha=2.0 * self.strength)
        torch._foreach_add_(gradients, initial, alpha=-2.0 * self.strength)

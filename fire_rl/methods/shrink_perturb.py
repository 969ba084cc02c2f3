"""Shrink & perturb, and its DQN preset SR-DQN.

Ash & Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020, arXiv:1910.08475, in the soft-reset
form of D'Oro et al., ICLR 2023: θ ← α θ + (1 − α) φ. `keep` is α. Beware of the name clash: the FIRE
reference's coefficient is the part that is moved, 1 − α.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fire_rl.method import Learner, ResetMethod, TargetPolicy, register
from fire_rl.methods.full_reset import Draw, initial_weights
from fire_rl.methods.scope import Scope, parameters_in


@register("shrink-perturb")
@dataclass
class ShrinkPerturb(ResetMethod):
    """Interpolate every parameter towards initial weights (Ash & Adams, NeurIPS 2020)."""

    keep: float = 0.2
    """Fraction of the trained value that stays, between 0 (a full reset) and 1 (no change)."""
    draw: Draw = "rewind"
    """What is mixed in: the run's initial weights (`rewind`, the FIRE reference) or a `fresh` draw."""
    scope: Scope = "all"
    """Which part is interpolated."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.keep <= 1.0:
            raise ValueError(f"keep must lie between 0 and 1, not {self.keep}")

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        new = initial_weights(learner, self.draw, generator)
        for name, parameter in parameters_in(module, self.scope):
            parameter.copy_(self.keep * parameter + (1.0 - self.keep) * new[name])


@register("sr-dqn")
@dataclass
class SrDqn(ShrinkPerturb):
    """Shrink & perturb the encoder, start the head over: "DQN + Shrink Perturb" in the paper's Figure 4a.

    The FIRE reference keeps 0.2 of the convolutions; the SR-SPR that it is named after keeps 0.8.
    """

    scope: Scope = "encoder"
    target: TargetPolicy = "same"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope != "encoder":
            raise ValueError(
                "sr-dqn shrinks the encoder and rewinds the head; for another scope use shrink-perturb"
            )

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        new = initial_weights(learner, self.draw, generator)
        for name, parameter in parameters_in(module, "all"):
            keep = self.keep if name.startswith("encoder.") else 0.0
            parameter.copy_(keep * parameter + (1.0 - keep) * new[name])

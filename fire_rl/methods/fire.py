"""FIRE: replace every weight matrix by the nearest isometry.

Han et al., "FIRE: Frobenius-Isometry Reinitialization", ICLR 2026, arXiv:2602.08040:
min ‖W − W̃‖²_F subject to ‖W̃ᵀW̃ − I‖²_F = 0, whose solution is the polar factor of W. The published method
is ten cubic Newton–Schulz steps, which flatten the spectrum without reaching the exact polar factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fire_rl.fire import fire_
from fire_rl.method import Learner, ResetMethod, register
from fire_rl.methods.scope import parameters_in
from fire_rl.orthogonal import SOLVERS

Action = Literal["project", "rewind", "keep"]


@register("fire")
@dataclass
class Fire(ResetMethod):
    """Project weight matrices onto the nearest isometry (Han et al., ICLR 2026)."""

    encoder: Action = "project"
    """Fate of the encoder: `project` its matrices, `rewind` all of it to initial values, or `keep` it."""
    head: Action = "project"
    """The same for the head. The reference rewinds it in DQN and projects it in SAC."""
    solver: SOLVERS = "newton-schulz"
    """How the isometry is computed: the paper's cubic `newton-schulz`, `polar-express` or `exact`."""
    steps: int | None = None
    """Iterations; default: 10 of newton-schulz as in the paper, 20 of polar-express, until it converges."""
    scale: Literal["muon", "one"] = "muon"
    """Factor on the isometry: `muon` is sqrt(d_out/d_in) over the kernel size, `one` is 1."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        projected = {n for n, _ in parameters_in(module, "all") if self._action(n) == "project"}
        fire_(
            module,
            solver=self.solver,
            steps=self.steps,
            scale=self.scale,
            select=lambda name, _: name in projected,
            frozen="project",  # a target network takes no gradients, and injected heads are not selected
        )
        for name, parameter in parameters_in(module, "all"):
            if self._action(name) == "rewind":
                parameter.copy_(learner.initial[name])

    def _action(self, name: str) -> Action:
        return self.head if name.startswith("head.") else self.encoder

"""Full reset: start the network over and keep the replay memory.

Nikishin et al., "The Primacy Bias in Deep Reinforcement Learning", ICML 2022, arXiv:2205.07802:
θ_scope ← φ. The FIRE reference rewinds to the run's own initial weights θ₀ rather than drawing φ afresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fire_rl.method import Learner, ResetMethod, register
from fire_rl.methods.scope import Scope, parameters_in

Draw = Literal["rewind", "fresh"]


def initial_weights(learner: Learner, draw: Draw, generator: torch.Generator) -> Mapping[str, Tensor]:
    """θ₀ of the run (`rewind`) or a new draw φ from the network's own initialiser (`fresh`), by name."""
    return learner.initial if draw == "rewind" else learner.fresh(generator).state_dict()


@register("full-reset")
@dataclass
class FullReset(ResetMethod):
    """Re-initialise the whole network, or only its head or encoder (Nikishin et al., ICML 2022)."""

    draw: Draw = "fresh"
    """Where the new weights come from: a `fresh` draw, or a `rewind` to the run's initial weights."""
    scope: Scope = "all"
    """Which part starts over: `all`, the `head` or the `encoder`."""

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        new = initial_weights(learner, self.draw, generator)
        for name, parameter in parameters_in(module, self.scope):
            parameter.copy_(new[name])

"""Hare & Tortoise: a slow copy of the weights that the fast one returns to.

Lee, Cho, Kim, Kim, Min, Choo & Lyle, "Slow and Steady Wins the Race", ICML 2024, arXiv:2406.02596.
After every update tortoise ← m · tortoise + (1 − m) · hare; every T updates hare ← tortoise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fire_rl.method import ContinuousMethod, Learner, OptimizerPolicy, register, reset_optimizer
from fire_rl.methods.scope import parameters_in


@register("hare-tortoise")
@dataclass
class HareTortoise(ContinuousMethod):
    """Return to an exponential average of the weights at intervals (Lee et al., ICML 2024).

    The agent acts with the hare. m and T were not found in a source that we could read: the defaults are our
    assumption.
    """

    momentum: float = 0.999
    """m, the fraction of the tortoise that stays in every update."""
    period: int = 10_000
    """T, updates between two returns of the hare; 0: at scheduled events only."""
    at_return: OptimizerPolicy = "recreate"
    """The optimiser's state when the hare returns: `recreate` it as a public port for DQN does, `clear` its
    moments, or `keep` it."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum <= 1.0 or self.period < 0:
            raise ValueError(
                f"momentum {self.momentum} must lie between 0 and 1 and period {self.period} not be negative"
            )
        self.updates: dict[str, int] = {}
        self._tortoise: dict[str, dict[str, Tensor]] = {}

    def attach(self, learner: Learner) -> None:
        self.updates[learner.name] = 0
        self._tortoise[learner.name] = {
            name: parameter.detach().clone() for name, parameter in parameters_in(learner.online, "all")
        }

    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        self.updates[learner.name] += 1
        hare = dict(parameters_in(learner.online, "all"))
        tortoise = self._tortoise[learner.name]
        torch._foreach_lerp_(list(tortoise.values()), [hare[name] for name in tortoise], 1.0 - self.momentum)
        if self.period and self.updates[learner.name] % self.period == 0:
            self.apply(learner.online, learner, learner.generator)
            reset_optimizer(learner.optimizer, self.at_return, learner.online.parameters())

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        for name, parameter in parameters_in(module, "all"):
            parameter.copy_(self._tortoise[learner.name][name])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": dict(self.updates), "tortoise": {n: dict(t) for n, t in self._tortoise.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates.update(state["updates"])
        for name, tortoise in state["tortoise"].items():
            for key, value in tortoise.items():
                self._tortoise[name][key].copy_(value)

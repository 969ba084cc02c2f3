"""UPGD: utility-based perturbed gradient descent.

Elsayed & Mahmood, "Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning", ICLR
2024, arXiv:2404.00781. With U ← β U + (1 − β)(−g θ), Û its bias-corrected value and s = sigmoid(Û / max U),
the maximum over all parameters:
θ ← (1 − α·wd) θ − k α (g + ξ)(1 − s), ξ ~ N(0, σ²).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fire_rl.method import ContinuousMethod, Learner, OptimizerFactory, register


@register("upgd")
@dataclass
class Upgd(ContinuousMethod):
    """Train with UPGD: useful weights change little, useless ones are perturbed (Elsayed & Mahmood, 2024)."""

    base: Literal["adam", "sgd"] = "adam"
    """The direction that replaces g: Adam's, as in the authors' reinforcement learning, or the gradient."""
    learning_rate: float | None = None
    """α; default: the agent's, which suits `adam` only."""
    weight_decay: float | None = None
    """Decoupled; default: the agent's (the authors': 0.001)."""
    utility_decay: float = 0.999
    """β."""
    noise: float = 0.001
    """σ, the standard deviation of the perturbation."""
    factor: float = 2.0
    """k; 2 makes up for 1 − s, which is about a half."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.utility_decay < 1.0 or self.noise < 0 or self.factor <= 0:
            raise ValueError(
                f"utility-decay {self.utility_decay} must lie between 0 and 1, noise {self.noise} not be "
                f"negative and factor {self.factor} be positive"
            )
        self._generators: dict[str, torch.Generator] = {}

    def make_optimizer(self, learner: Learner, default: OptimizerFactory) -> torch.optim.Optimizer:
        parameters = list(learner.online.parameters())
        agent = default(parameters).param_groups[0]
        # On the device of the parameters, where the noise is drawn: nothing to copy.
        generator = torch.Generator(parameters[0].device)
        generator.manual_seed(int(torch.randint(2**62, (), generator=learner.generator)))
        self._generators[learner.name] = generator
        return UpgdOptimizer(
            parameters,
            generator,
            lr=agent["lr"] if self.learning_rate is None else self.learning_rate,
            weight_decay=agent["weight_decay"] if self.weight_decay is None else self.weight_decay,
            betas=agent["betas"] if self.base == "adam" else None,
            eps=agent["eps"],
            utility_decay=self.utility_decay,
            noise=self.noise,
            factor=self.factor,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"generators": {name: g.get_state() for name, g in self._generators.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, saved in state["generators"].items():
            self._generators[name].set_state(saved.cpu())


class UpgdOptimizer(torch.optim.Optimizer):
    """UPGD with a utility per weight, scaled by the largest of all parameters.

    Args:
        generator: of the noise, on the parameters' device.
        betas: of Adam; None: the plain gradient.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        generator: torch.Generator,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] | None,
        eps: float,
        utility_decay: float,
        noise: float,
        factor: float,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self.generator, self.betas, self.eps = generator, betas, eps
        self.utility_decay, self.noise, self.factor = utility_decay, noise, factor

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        group = self.param_groups[0]
        parameters = [p for p in group["params"] if p.grad is not None]
        largest = torch.stack([self._follow(p).max() for p in parameters]).max()
        # Where no weight is useful, the sign of the quotient must not flip, and 0 / 0 is a half.
        largest = largest.clamp_min(torch.finfo(largest.dtype).tiny)
        for p in parameters:
            state = self.state[p]
            utility = state["utility"] / (1.0 - self.utility_decay ** state["step"])
            useless = 1.0 - torch.sigmoid(utility / largest)
            direction = self._direction(p)
            if self.noise:
                drawn = torch.randn(p.shape, generator=self.generator, device=p.device, dtype=p.dtype)
                direction = direction + self.noise * drawn
            p.mul_(1.0 - group["lr"] * group["weight_decay"])
            p.addcmul_(direction, useless, value=-self.factor * group["lr"])

    def _follow(self, p: Tensor) -> Tensor:
        """Update the moving averages of `p`; returns its utility, not yet corrected for its start at zero."""
        state, gradient = self.state[p], p.grad
        assert gradient is not None
        if not state:
            names = ["utility", *(["exp_avg", "exp_avg_sq"] if self.betas else [])]
            state.update({name: torch.zeros_like(p) for name in names})
            state["step"] = torch.zeros((), device=p.device)
        state["step"] += 1
        utility: Tensor = state["utility"].lerp_(-gradient * p, 1.0 - self.utility_decay)
        if self.betas:
            state["exp_avg"].lerp_(gradient, 1.0 - self.betas[0])
            state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - self.betas[1])
        return utility

    def _direction(self, p: Tensor) -> Tensor:
        assert p.grad is not None
        if not self.betas:
            return p.grad
        state = self.state[p]
        mean = state["exp_avg"] / (1.0 - self.betas[0] ** state["step"])
        square = state["exp_avg_sq"] / (1.0 - self.betas[1] ** state["step"])
        direction: Tensor = mean / (square.sqrt() + self.eps)
        return direction

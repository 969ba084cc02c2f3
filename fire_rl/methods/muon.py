"""Muon: momentum, orthogonalised by Newton–Schulz, as the step of every hidden weight matrix.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
kellerjordan.github.io/posts/muon.
The orthogonalised step is that of `torch.optim.Muon`: five quintic iterations in bfloat16, times
√max(1, rows / columns).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fire_rl.method import ContinuousMethod, Learner, OptimizerFactory, register
from fire_rl.units import output_layers, weight_layers, weight_of


@register("muon")
@dataclass
class Muon(ContinuousMethod):
    """Train hidden weights with Muon, all else with the agent's Adam (Jordan et al., 2024).

    Convolutions are flattened to (out, in · kernel), with the scale of that matrix; members of an ensemble
    are matrices of their own. Output layers, biases and norms are Adam's, as recommended.
    """

    learning_rate: float | None = None
    """Of Muon; default: ten times the agent's, as in the FIRE paper's image experiments."""
    momentum: float = 0.95
    """Of the gradient."""
    weight_decay: float | None = None
    """Decoupled; default: the agent's."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must lie between 0 and 1, not {self.momentum}")
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"muon needs torch 2.9 or newer, this is {torch.__version__}")

    def make_optimizer(self, learner: Learner, default: OptimizerFactory) -> torch.optim.Optimizer:
        outputs = output_layers(learner.online)
        hidden = [weight_of(layer) for name, layer in weight_layers(learner.online) if name not in outputs]
        chosen = {id(weight) for weight in hidden}
        adam = default([p for p in learner.online.parameters() if id(p) not in chosen])
        agent = adam.param_groups[0]
        rate = 10.0 * agent["lr"] if self.learning_rate is None else self.learning_rate
        decay = agent["weight_decay"] if self.weight_decay is None else self.weight_decay
        return MuonAndAdam(hidden, adam, lr=rate, momentum=self.momentum, weight_decay=decay)


class MuonAndAdam(torch.optim.Optimizer):
    """`torch.optim.Muon` on `hidden` (any shape of weight), and `adam` on its own parameters.

    The state of all is that of one optimiser: a tensor has the shape of its parameter and keeps its address.
    """

    def __init__(
        self,
        hidden: Iterable[Tensor],
        adam: torch.optim.Optimizer,
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        self.hidden = list(hidden)
        others = [p for group in adam.param_groups for p in group["params"]]
        super().__init__([{"params": self.hidden}, {"params": others}], {})
        self.adam = adam
        self.matrices = [[nn.Parameter(m) for m in _matrices(w.detach())] for w in self.hidden]
        flat = [matrix for of in self.matrices for matrix in of]
        self.muon = torch.optim.Muon(flat, lr=lr, momentum=momentum, weight_decay=weight_decay)
        for weight in self.hidden:
            self.state[weight] = {"momentum_buffer": torch.zeros_like(weight)}
        self._share()

    def _share(self) -> None:
        """Let both optimisers work on the tensors in `state`."""
        for weight, matrices in zip(self.hidden, self.matrices, strict=True):
            buffers = _matrices(self.state[weight]["momentum_buffer"])
            for matrix, buffer in zip(matrices, buffers, strict=True):
                self.muon.state[matrix] = {"momentum_buffer": buffer}
        for parameter in self.param_groups[1]["params"]:
            if parameter in self.state:
                self.adam.state[parameter] = self.state[parameter]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of both."""
        for weight, matrices in zip(self.hidden, self.matrices, strict=True):
            gradients = [None] * len(matrices) if weight.grad is None else _matrices(weight.grad)
            for matrix, gradient in zip(matrices, gradients, strict=True):
                matrix.grad = gradient
        self.muon.step()  # type: ignore[no-untyped-call]
        self.adam.step()
        for parameter in self.param_groups[1]["params"]:
            if parameter in self.adam.state:
                self.state[parameter] = self.adam.state[parameter]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore, and share the restored tensors."""
        super().load_state_dict(dict(state_dict))
        self._share()


def _matrices(weight: Tensor) -> list[Tensor]:
    """2-D views: the members of an ensemble, or the tensor as (out, the rest)."""
    return list(weight) if weight.ndim == 3 else [weight.view(weight.shape[0], -1)]

"""One trainable network with everything that a reset may touch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Learner:
    """A network with its target, optimiser and initial weights.

    Args:
        name: role of the network ("q", "actor", "critic").
        build: draws a new network from a CPU generator. The network has children `encoder` and `head`,
            and an `nn.ModuleList` `injected` (empty at first) if plasticity injection shall work on it.
        make_optimizer: builds the optimiser over the parameters that are handed to it.
        generator: CPU generator for the initial draw.
        device: where the network lives.
        with_target: whether to keep a target network (an exact copy at first).
    """

    def __init__(
        self,
        name: str,
        build: Callable[[torch.Generator], nn.Module],
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        generator: torch.Generator,
        device: torch.device,
        with_target: bool,
    ) -> None:
        self.name = name
        self.device = device
        self._build = build
        # Drawn on the CPU and then moved, so that a seed gives the same network on every device.
        self.online = build(generator).to(device)
        self.initial: Mapping[str, Tensor] = {k: v.clone() for k, v in self.online.state_dict().items()}
        self.target: nn.Module | None = None
        if with_target:
            self.target = build(torch.Generator()).to(device).requires_grad_(False)
            self.sync_target()
        self.optimizer = make_optimizer(list(self.online.parameters()))

    def fresh(self, generator: torch.Generator) -> nn.Module:
        """A newly initialised twin of the network as it was built, on the same device."""
        return self._build(generator).to(self.device)

    @torch.no_grad()
    def sync_target(self, tau: float = 1.0) -> None:
        """Move the target towards the online network: target ← (1 − tau) target + tau online."""
        assert self.target is not None, f"learner {self.name!r} has no target network"
        online: list[Tensor] = list(self.online.parameters())
        target: list[Tensor] = list(self.target.parameters())
        if tau == 1.0:
            torch._foreach_copy_(target, online)
        else:
            torch._foreach_lerp_(target, online, tau)

    def state_dict(self) -> dict[str, Any]:
        """Weights (online, target, initial) and optimiser state, as nested dicts of tensors."""
        return {
            "online": self.online.state_dict(),
            "target": {} if self.target is None else self.target.state_dict(),
            "initial": dict(self.initial),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore in place; a network saved after an injection gets its frozen heads back first."""
        from fire_rl.methods.plasticity_injection import rebuild_injections

        for module, part in ((self.online, "online"), (self.target, "target")):
            if module is not None:
                rebuild_injections(module, state[part])
                module.load_state_dict(state[part])
        for name, tensor in state["initial"].items():
            self.initial[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])

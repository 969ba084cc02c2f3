"""One trainable network with everything that a reset may touch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fire_rl.method import ResetMethod
from fire_rl.methods.none import NoReset
from fire_rl.units import hidden_layers, watch

NO_METHOD = NoReset()
Inputs = Callable[[int, np.random.Generator], tuple[Tensor, ...]]
Loss = Callable[[int, np.random.Generator], Tensor]


class LearnerLike(Protocol):
    """A `Learner`, or a stack of them; networks are modules, or the stacked weights that stand for them."""

    @property
    def online(self) -> Any: ...
    @property
    def target(self) -> Any: ...
    def fixed(self) -> AbstractContextManager[Any]: ...
    def descend(self, loss: Tensor) -> None: ...
    def sync_target(self, tau: float = 1.0) -> None: ...


class Learner:
    """A network with its target, optimiser and initial weights.

    Args:
        name: role of the network ("q", "actor", "critic").
        build_plain: draws a new network from a CPU generator. The network has children `encoder` and `head`,
            and an `nn.ModuleList` `injected` (empty at first) if plasticity injection shall work on it.
        make_optimizer: builds the optimiser over the parameters that are handed to it.
        generator: CPU generator for the initial draw.
        device: where the network lives.
        with_target: whether to keep a target network (an exact copy at first).
        method: what takes part in building and training the network; one that acts at events only need not
            be known here.
        method_seed: of the generator that `method` draws from between events.

    Raises:
        ValueError: when the method does not fit the network.
    """

    _inputs: Inputs
    _loss: Loss

    def __init__(
        self,
        name: str,
        build_plain: Callable[[torch.Generator], nn.Module],
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        generator: torch.Generator,
        device: torch.device,
        with_target: bool,
        method: ResetMethod = NO_METHOD,
        method_seed: int = 0,
    ) -> None:
        self.name = name
        self.device = device
        self.method = method
        self.generator = torch.Generator().manual_seed(method_seed)

        def build(generator: torch.Generator) -> nn.Module:
            network = build_plain(generator)
            method.build(network, generator)
            return network

        self._build = build
        # Drawn on the CPU and then moved, so that a seed gives the same network on every device.
        self.online = build(generator).to(device)
        self.initial: Mapping[str, Tensor] = {k: v.clone() for k, v in self.online.state_dict().items()}
        self.target: nn.Module | None = None
        if with_target:
            self.target = build(torch.Generator()).to(device).requires_grad_(False)
            self.sync_target()
        self.parameters = list(self.online.parameters())
        self.optimizer = method.make_optimizer(self, make_optimizer) or make_optimizer(self.parameters)
        self.activations: dict[str, Tensor] = {}
        if method.needs_activations:
            watch(self.online, [layer.activation for layer in hidden_layers(self.online)], self.activations)
        method.attach(self)

    def fresh(self, generator: torch.Generator) -> nn.Module:
        """A newly initialised twin of the network as it was built, on the same device."""
        return self._build(generator).to(self.device)

    def lend(self, inputs: Inputs, loss: Loss) -> None:
        """Let the method see data: see `inputs` and `loss`, here with a NumPy generator."""
        self._inputs, self._loss = inputs, loss

    def inputs(self, rows: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What `online` is called with on `rows` transitions from the replay memory, as in training."""
        return self._inputs(rows, _numpy(generator))

    def loss(self, rows: int, generator: torch.Generator) -> Tensor:
        """The agent's own loss of `online` on `rows` transitions, with a graph and without the method's."""
        with torch.enable_grad():
            return self._loss(rows, _numpy(generator))

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser on `loss`, and whatever the method adds to a step."""
        method = self.method
        penalty = method.penalty(self)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss if penalty is None else loss + penalty, inputs=self.parameters)
        with torch.no_grad():
            method.after_backward(self)
            self.optimizer.step()
            method.after_update(self, self.activations)
        self.activations.clear()

    @contextmanager
    def fixed(self) -> Iterator[nn.Module]:
        """The online network, for losses of which it shall get no gradient."""
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield self.online
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

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
            "method_rng": self.generator.get_state(),
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
        load_optimizer(self.optimizer, state["optimizer"])
        self.generator.set_state(state["method_rng"].cpu())


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore an optimiser, whatever kind of device it was saved on."""
    capturable = [group.get("capturable") for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, here in zip(optimizer.param_groups, capturable, strict=True):
        if here is not None:
            group["capturable"] = here  # by a CUDA graph: depends on the device


def _numpy(generator: torch.Generator) -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

"""Weights of several agents side by side, so that one batched operation does the work of all.

The agents stay what they are: their parameters become views into tensors with one leading axis more. So
whatever writes into them in place (a reset, an optimiser, a restored checkpoint) needs to know nothing of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fire_rl.agents.learner import Learner, LearnerLike
from fire_rl.agents.normalizer import ObservationNormalizer
from fire_rl.agents.patches import with_patches
from fire_rl.agents.program import is_adam
from fire_rl.agents.replay import Batch, ReplayMemory
from fire_rl.agents.sac_update import Temperature

Weights = dict[str, Tensor]


def across(function: Callable[..., Any], networks: Sequence[nn.Module]) -> Callable[..., Any]:
    """`function(*networks, *tensors)` of all members at once.

    It takes stacked weights where `function` takes networks, and tensors with the members as a first axis,
    and returns what `function` returns, with that axis. `networks` lend their forward passes.
    """

    # Measured: on a GPU products of patches; on a CPU even vmap's grouped convolutions are faster than these.
    networks = [with_patches(network) if _is_on_gpu(network) else network for network in networks]

    def of_one(*arguments: Any) -> Any:
        weights, rest = arguments[: len(networks)], arguments[len(networks) :]
        return function(*map(_with_weights, networks, weights), *rest)

    return vmap(of_one)


def _is_on_gpu(network: nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in network.parameters())


def _with_weights(network: nn.Module, weights: Weights) -> Callable[..., Any]:
    return lambda *inputs: functional_call(network, weights, inputs)


def forward(members: Sequence[Learner], learner: LearnerLike) -> Callable[..., Tensor]:
    """The online network of `learner`, which stands for `members`: of one, or of several at once."""
    if len(members) == 1:
        return lambda *inputs: learner.online(*inputs)
    of_all = across(lambda network, *inputs: network(*inputs), [members[0].online])
    return lambda *inputs: of_all(learner.online, *inputs)


def fetch(memories: Sequence[ReplayMemory], places: Tensor) -> Batch:
    """The transitions at `places`: of one memory, or (N, ...) of several."""
    if len(memories) == 1:
        return memories[0].fetch(places)
    batches = [memory.fetch(of_one) for memory, of_one in zip(memories, places, strict=True)]
    return Batch(*map(torch.stack, zip(*batches, strict=True)))


class StackedWeights:
    """Tensors by name, each the members' tensors of that name stacked; theirs become views of it."""

    def __init__(self, members: Sequence[Mapping[str, Tensor]]) -> None:
        self._members = members
        self.tensors: Weights = {name: _join([m[name] for m in members]) for name in members[0]}

    def differentiate(self, losses: Tensor) -> None:
        """Give every member's tensors the gradients of its entry of `losses` (N,)."""
        trained = {name: tensor for name, tensor in self.tensors.items() if tensor.requires_grad}
        # A loss depends on its member's weights only: the gradient of the sum is the gradients side by side.
        gradients = torch.autograd.grad(losses.sum(), list(trained.values()), allow_unused=True)
        for (name, tensor), gradient in zip(trained.items(), gradients, strict=True):
            if gradient is not None and gradient.stride()[1:] != tensor.stride()[1:]:
                gradient = torch.empty_like(tensor).copy_(gradient)
            of_members = [None] * len(tensor) if gradient is None else gradient.unbind()
            for member, own in zip(self._members, of_members, strict=True):
                member[name].grad = own

    def detached(self) -> Weights:
        """The tensors without a gradient."""
        return {name: tensor.detach() for name, tensor in self.tensors.items()}


class StackedLearner:
    """Learners of the same role in several agents, as one (`Learner` has the same names).

    Where a learner has networks, here are their stacked weights, for functions made by `across`.
    """

    def __init__(self, members: Sequence[Learner]) -> None:
        self.members = members
        self._online = StackedWeights([_tensors(learner.online) for learner in members])
        targets = [learner.target for learner in members if learner.target is not None]
        self._target = StackedWeights([_tensors(target) for target in targets]) if targets else None
        self._step = steps_of([learner.optimizer for learner in members])

    @property
    def online(self) -> Weights:
        """The weights that are trained."""
        return self._online.tensors

    @property
    def target(self) -> Weights:
        """The target networks' weights."""
        assert self._target is not None
        return self._target.tensors

    @contextmanager
    def fixed(self) -> Iterator[Weights]:
        """The online weights, for losses of which they shall get no gradient."""
        yield self._online.detached()

    def descend(self, losses: Tensor) -> None:
        """One step of every optimiser on its member's loss, `losses` (N,), and whatever methods add."""
        self._online.differentiate(losses)
        for learner in self.members:
            if (penalty := learner.method.penalty(learner)) is not None:
                torch.autograd.backward(penalty, inputs=learner.parameters)
        with torch.no_grad():
            for learner in self.members:
                learner.method.after_backward(learner)
            self._step()
            for learner in self.members:
                learner.method.after_update(learner, {})

    @torch.no_grad()
    def sync_target(self, tau: float = 1.0) -> None:
        """Move all targets towards the online networks."""
        names = dict(self.members[0].online.named_parameters())
        torch._foreach_lerp_([self.target[n] for n in names], [self.online[n] for n in names], tau)


class StackedTemperature:
    """The temperatures of several SAC agents as one."""

    def __init__(self, members: Sequence[Temperature]) -> None:
        self._weights = StackedWeights([{"log_alpha": member.log_alpha} for member in members])
        self._step = steps_of([member.optimizer for member in members])

    @property
    def log_alpha(self) -> Tensor:
        """(N,)"""
        return self._weights.tensors["log_alpha"]

    def descend(self, losses: Tensor) -> None:
        """One step of every optimiser on its member's loss."""
        self._weights.differentiate(losses)
        self._step()


def stacked_normalizer(members: Sequence[ObservationNormalizer]) -> ObservationNormalizer:
    """The statistics of several agents as one; theirs become views of it."""
    stacked = copy.copy(members[0])
    for name in stacked.state_dict():
        setattr(stacked, name, _join([getattr(member, name) for member in members]))
    return stacked


def steps_of(optimizers: Sequence[torch.optim.Optimizer]) -> Callable[[], object]:
    """What steps all `optimizers`: where they are fused Adams, one that shares their states."""
    first = optimizers[0]
    if all(type(o) is type(first) and is_adam(o) and len(o.param_groups) == 1 for o in optimizers):
        group = first.param_groups[0]
        constants = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay", "amsgrad")}
        parameters = [p for o in optimizers for p in o.param_groups[0]["params"]]
        constants |= {"fused": True, "capturable": group["capturable"]}
        together = type(first)(parameters, **constants)
        for optimizer in optimizers:
            for parameter in optimizer.param_groups[0]["params"]:
                together.state[parameter] = optimizer.state[parameter]
        step: Callable[[], object] = together.step
        return step
    return lambda: [optimizer.step() for optimizer in optimizers]


@torch.no_grad()
def _join(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    # At multiples of 16 bytes, as if each had been allocated alone: compiled code may count on that.
    apart = -(-first.numel() // 4) * 4
    shape, strides = (len(tensors), *first.shape), (apart, *first.stride())
    joined = torch.empty_strided(shape, strides, dtype=first.dtype, device=first.device)
    for place, tensor in zip(joined, tensors, strict=True):
        place.copy_(tensor)
        tensor.data = place
    return joined.requires_grad_(first.requires_grad)


def _tensors(network: nn.Module) -> Weights:
    """Parameters and buffers."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}

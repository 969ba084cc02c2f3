"""What a reset method is, and how methods are found by name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fire_rl.fire import ProjectionReport, compare_weights
from fire_rl.names import unknown_name

TargetPolicy = Literal["copy", "touched", "same", "keep"]
OptimizerPolicy = Literal["keep", "clear", "recreate"]
TemperaturePolicy = Literal["keep", "init"]


class Learner(Protocol):
    """One trainable network and all that a reset may touch (`fire_rl.agents.learner.Learner` is ours).

    The network has children `encoder` and `head`; `head` maps the encoder's features to the outputs.
    """

    name: str
    online: nn.Module
    target: nn.Module | None
    optimizer: torch.optim.Optimizer
    initial: Mapping[str, Tensor]  # state_dict of `online` at step 0, on its device

    def fresh(self, generator: torch.Generator) -> nn.Module:
        """A newly initialised twin of the network as it was built, on the same device."""
        ...


@dataclass
class ResetMethod:
    """Base class of all reset methods: subclass, override `apply`, `@register("name")`.

    The fields below say what happens to the rest of a learner's state; every method has them, agents give
    them defaults (their `paper` and `harmonised` presets), and a run's configuration records them.
    """

    name: ClassVar[str] = ""

    target: TargetPolicy = "copy"
    """Target network: `copy` all online values, copy the `touched` tensors only, do the `same` operation on
    the target's own values with the same random numbers, or `keep` it."""
    optimizer: OptimizerPolicy = "recreate"
    """Optimiser state: `keep` it, `clear` the moments but keep the step count, or `recreate` it as new."""
    temperature: TemperaturePolicy = "keep"
    """SAC's temperature and its optimiser: `keep` or back to their `init` values. No effect on DQN."""

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        """Change the weights of `module` in place (`copy_` under no_grad, never rebinding a parameter).

        Called with `learner.online`, and with `learner.target` too where `target` is `same`. Draw only from
        `generator` (a CPU generator). Gradients are off.
        """

    @torch.no_grad()
    def reset(self, learner: Learner, generator: torch.Generator) -> LearnerReport:
        """Fire once on `learner`: weights, then target, then optimiser. Returns what changed."""
        started = time.perf_counter()
        # Clones, and autograd's version counters: a tensor written with the value it had counts as touched.
        before = {name: (p, p.clone(), p._version) for name, p in learner.online.named_parameters()}
        seed = int(torch.randint(2**62, (), generator=generator))
        self.apply(learner.online, learner, torch.Generator().manual_seed(seed))
        touched = [
            name
            for name, (p, old, version) in before.items()
            if p._version != version or not torch.equal(p, old)
        ]
        if learner.target is not None:
            if self.target == "same":
                self.apply(learner.target, learner, torch.Generator().manual_seed(seed))
            elif self.target != "keep":
                _copy(learner.online, learner.target, only=touched if self.target == "touched" else None)
        reset_optimizer(learner.optimizer, self.optimizer)
        seconds = time.perf_counter() - started
        weights = compare_weights({name: old for name, (_, old, _) in before.items()}, learner.online)
        return LearnerReport(learner=learner.name, touched=touched, weights=weights, seconds=seconds)

    def state_dict(self) -> dict[str, Any]:
        """The method's own state for a checkpoint: nested dicts of tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""


@dataclass(frozen=True)
class LearnerReport:
    """What one reset did to one learner."""

    learner: str
    touched: list[str]  # parameters that the method wrote
    weights: ProjectionReport  # SFE, DfI and singular values of every weight matrix, before and after
    seconds: float


def reset_optimizer(optimizer: torch.optim.Optimizer, policy: OptimizerPolicy) -> None:
    """Apply `policy` to the state of `optimizer` in place, so that captured graphs keep their addresses.

    A state of zeros with step 0 is what Adam builds on its first step: `recreate` equals a new optimiser.
    """
    if policy == "keep":
        return
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor) and not (policy == "clear" and key == "step"):
                value.zero_()


def _copy(source: nn.Module, destination: nn.Module, only: list[str] | None) -> None:
    from_tensors = source.state_dict()
    for name, tensor in destination.state_dict().items():
        if only is None or name in only:
            tensor.copy_(from_tensors[name])


_REGISTRY: dict[str, type[ResetMethod]] = {}
M = TypeVar("M", bound=type[ResetMethod])


class register:
    """Class decorator: `@register("my-method")` makes a method known under that name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, cls: M) -> M:
        known = _REGISTRY.get(self.name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"two reset methods are called {self.name!r}: {known!r} and {cls!r}")
        cls.name = self.name
        _REGISTRY[self.name] = cls
        return cls


def method_names() -> list[str]:
    """The names of all registered methods, `none` first."""
    return sorted(_REGISTRY, key=lambda name: (name != "none", name))


def method_class(name: str) -> type[ResetMethod]:
    """The class registered under `name`. Raises ValueError naming the nearest known names."""
    if name not in _REGISTRY:
        raise unknown_name("reset method", name, method_names())
    return _REGISTRY[name]


def make_method(name: str, **options: Any) -> ResetMethod:
    """Build a method by name. Raises ValueError for an unknown name or option."""
    cls = method_class(name)
    known = [f.name for f in fields(cls) if f.init]
    for option in options:
        if option not in known:
            raise ValueError(f"method {name!r} has no option {option!r}; it has {', '.join(known)}")
    return cls(**options)

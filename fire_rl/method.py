"""What a reset method is, and how methods are found by name."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fire_rl.fire import ProjectionReport, compare_weights
from fire_rl.names import unknown_name

TargetPolicy = Literal["copy", "touched", "same", "keep"]
OptimizerPolicy = Literal["keep", "clear", "recreate", "touched"]
TemperaturePolicy = Literal["keep", "init"]
OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Learner(Protocol):
    """One trainable network and all that a reset may touch (`fire_rl.agents.learner.Learner` is ours).

    The network has children `encoder` and `head`; `head` maps the encoder's features to the outputs.
    """

    name: str
    online: nn.Module
    target: nn.Module | None
    optimizer: torch.optim.Optimizer
    initial: Mapping[str, Tensor]  # state_dict of `online` at step 0, on its device
    generator: torch.Generator  # on the CPU; of what methods draw between events, nothing else uses it

    def fresh(self, generator: torch.Generator) -> nn.Module:
        """A newly initialised twin of the network as it was built, on the same device."""
        ...

    def inputs(self, rows: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What `online` is called with on `rows` transitions from the replay memory, as in training."""
        ...

    def loss(self, rows: int, generator: torch.Generator) -> Tensor:
        """The agent's own loss of `online` on `rows` transitions, with a graph and without the methods'."""
        ...


@dataclass
class ResetMethod:
    """Base class of all reset methods: subclass, override the one thing it does, `@register("name")`.

    A method that acts at scheduled events overrides `apply`. One that acts in every update overrides hooks of
    training, which a learner calls in the order `penalty`, `after_backward`, `after_update`; one that changes
    what is built overrides `build` or `make_optimizer`. Every hook does nothing by default.

    The fields below say what happens to the rest of a learner's state at an event; every method has them,
    agents give them defaults (their `paper` and `harmonised` presets), and the record of a run holds them.
    """

    name: ClassVar[str] = ""
    acts_only_at_events: ClassVar[bool] = True
    """Whether training before the first event is that of a run without the method (so it can be shared)."""
    needs_activations: ClassVar[bool] = False
    """Whether `after_update` shall get the activations of the batch that was learnt from."""
    default_schedule: ClassVar[Mapping[str, Any]] = {"at": (0.5,)}
    """When the method fires unless the run says: arguments of `fire_rl.Schedule`; empty: at no event."""
    must_precede: ClassVar[frozenset[str]] = frozenset()
    """Names of methods that cannot come before this one when several are combined."""
    inserts_norms: ClassVar[bool] = False
    """Whether `build` puts norm layers before the activations: only one method of a run may."""

    target: TargetPolicy = "copy"
    """Target network: `copy` all online values, copy the `touched` tensors only, do the `same` operation on
    the target's own values with the same random numbers, or `keep` it."""
    optimizer: OptimizerPolicy = "recreate"
    """Optimiser state: `keep` it, `clear` the moments but keep the step count, `recreate` it as new, or
    recreate that of the `touched` tensors only."""
    temperature: TemperaturePolicy = "keep"
    """SAC's temperature and its optimiser: `keep` or back to their `init` values. No effect on DQN."""

    @property
    def acts_in_updates(self) -> bool:
        """Whether it does something in every update, rather than at events and in building only."""
        hooks = ("penalty", "after_backward", "after_update")
        return any(getattr(type(self), hook) is not getattr(ResetMethod, hook) for hook in hooks)

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        """Change the weights of `module` in place (`copy_` under no_grad, never rebinding a parameter).

        Called with `learner.online`, and with `learner.target` too where `target` is `same`. Draw only from
        `generator` (a CPU generator). Gradients are off.
        """

    def build(self, network: nn.Module, generator: torch.Generator) -> None:
        """Change the architecture of a network that was just drawn (on the CPU): replace its submodules.

        Called for the online network, its target and every fresh twin. Raises ValueError, naming the layer
        and the reason, for a network that the method does not fit.
        """

    def make_optimizer(self, learner: Learner, default: OptimizerFactory) -> torch.optim.Optimizer | None:
        """The optimiser of `learner.online`; None: the agent's own, which `default` builds of parameters."""
        return None

    def attach(self, learner: Learner) -> None:
        """Take up a new `learner`: snapshots, counters. Raises ValueError if the method does not fit it."""

    def penalty(self, learner: Learner) -> Tensor | None:
        """A term that is added to the loss of `learner` in every update, or None."""
        return None

    def after_backward(self, learner: Learner) -> None:
        """Gradients are there, the optimiser has not stepped."""

    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        """The optimiser has stepped. Gradients are off.

        Args:
            activations: outputs of the hidden units by the name of their activation module, on the batch that
                was learnt from; empty unless `needs_activations`.
        """

    @torch.no_grad()
    def reset(self, learner: Learner, generator: torch.Generator) -> LearnerReport:
        """Fire once on `learner`: weights, then target, then optimiser. Returns what changed."""
        started = time.perf_counter()
        before = {name: p.clone() for name, p in learner.online.named_parameters()}
        touched = self.at_event(learner, generator)
        seconds = time.perf_counter() - started
        weights = compare_weights(before, learner.online)
        return LearnerReport(learner=learner.name, touched=touched, weights=weights, seconds=seconds)

    def at_event(self, learner: Learner, generator: torch.Generator) -> list[str]:
        """The event itself, without its report; returns the names of the parameters that were written."""
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
        reset_optimizer(learner.optimizer, self.optimizer, [before[name][0] for name in touched])
        return touched

    def options(self) -> dict[str, Any]:
        """The options as plain values, as a run's configuration records them."""
        known = {f.name for f in fields(self) if f.init}
        return {name: value for name, value in asdict(self).items() if name in known}

    def state_dict(self) -> dict[str, Any]:
        """The method's own state for a checkpoint: nested dicts of tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, once the learners have been attached and have loaded their own."""


@dataclass
class ContinuousMethod(ResetMethod):
    """Base of methods that act in every update; an event, should one be scheduled, keeps all the rest."""

    acts_only_at_events: ClassVar[bool] = False
    default_schedule: ClassVar[Mapping[str, Any]] = {}

    target: TargetPolicy = "keep"
    optimizer: OptimizerPolicy = "keep"


@dataclass(frozen=True)
class LearnerReport:
    """What one reset did to one learner."""

    learner: str
    touched: list[str]  # parameters that the method wrote
    weights: ProjectionReport  # SFE, DfI and singular values of every weight matrix, before and after
    seconds: float


def reset_optimizer(
    optimizer: torch.optim.Optimizer, policy: OptimizerPolicy, touched: Iterable[Tensor] = ()
) -> None:
    """Apply `policy` to the state of `optimizer` in place, so that captured graphs keep their addresses.

    A state of zeros with step 0 is what Adam builds on its first step: `recreate` equals a new optimiser.
    """
    if policy == "keep":
        return
    chosen = {id(parameter) for parameter in touched}
    for parameter, state in optimizer.state.items():
        if policy == "touched" and id(parameter) not in chosen:
            continue
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
        if known is not None and _place(known) != _place(cls):
            places = f"{_place(known)} and {_place(cls)}"
            raise ValueError(f"two reset methods are called {self.name!r}: {places}: rename one")
        cls.name = self.name
        _REGISTRY[self.name] = cls
        return cls


def _place(cls: type[ResetMethod]) -> str:
    """Class and file; the same for a file that is imported again."""
    module = sys.modules.get(cls.__module__)
    return f"{cls.__qualname__} in {getattr(module, '__file__', None) or cls.__module__}"


def method_names() -> list[str]:
    """The names of all registered methods, `none` first."""
    return sorted(_REGISTRY, key=lambda name: (name != "none", name))


def method_class(name: str) -> type[ResetMethod]:
    """The class registered under `name`; of `a+b` the composition of a and b in this order.

    Raises ValueError naming the nearest known names, or saying why methods do not go together.
    """
    if "+" in name:
        from fire_rl.composition import composition_class

        return composition_class(name)
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

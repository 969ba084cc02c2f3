"""Several methods at once, in a given order: `fire+layer-norm`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fire_rl.method import (
    Learner,
    OptimizerFactory,
    OptimizerPolicy,
    ResetMethod,
    TargetPolicy,
    TemperaturePolicy,
    method_class,
)


@dataclass
class Composition(ResetMethod):
    """Methods that act one after the other, each with its own target and optimiser policy.

    A subclass has a field per method, named after it; `composition_class` makes them.
    """

    parts: ClassVar[tuple[str, ...]] = ()  # names of the methods, in order

    # What the methods say counts; these are no options here.
    target: TargetPolicy = field(init=False, default="keep")
    optimizer: OptimizerPolicy = field(init=False, default="keep")
    temperature: TemperaturePolicy = field(init=False, default="keep")

    def __post_init__(self) -> None:
        self.temperature = "init" if any(m.temperature == "init" for m in self.methods) else "keep"

    @property
    def methods(self) -> list[ResetMethod]:
        """The methods, in order."""
        return [getattr(self, field_name(part)) for part in self.parts]

    @property
    def acts_in_updates(self) -> bool:
        return any(method.acts_in_updates for method in self.methods)

    def build(self, network: nn.Module, generator: torch.Generator) -> None:
        for method in self.methods:
            method.build(network, generator)

    def make_optimizer(self, learner: Learner, default: OptimizerFactory) -> torch.optim.Optimizer | None:
        made = [method.make_optimizer(learner, default) for method in self.methods]
        return next((optimizer for optimizer in made if optimizer is not None), None)

    def attach(self, learner: Learner) -> None:
        for method in self.methods:
            method.attach(learner)

    def penalty(self, learner: Learner) -> Tensor | None:
        terms = [term for method in self.methods if (term := method.penalty(learner)) is not None]
        return torch.stack(terms).sum() if terms else None

    def after_backward(self, learner: Learner) -> None:
        for method in self.methods:
            method.after_backward(learner)

    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        for method in self.methods:
            method.after_update(learner, activations)

    def at_event(self, learner: Learner, generator: torch.Generator) -> list[str]:
        touched: dict[str, None] = {}
        for method in self.methods:
            touched.update(dict.fromkeys(method.at_event(learner, generator)))
        return list(touched)

    def state_dict(self) -> dict[str, Any]:
        return {method.name: method.state_dict() for method in self.methods}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for method in self.methods:
            method.load_state_dict(state[method.name])


@cache
def composition_class(name: str) -> type[Composition]:
    """The class of `a+b+…`, whose options are tables: one per method, under its name.

    Raises:
        ValueError: for an unknown name, or methods that do not go together in this order, saying why.
    """
    parts = tuple(name.split("+"))
    classes = [method_class(part) for part in parts]
    _check(parts, classes)
    schedules = [cls.default_schedule for cls in classes if cls.default_schedule]
    made = make_dataclass(
        "Composition",
        [(field_name(p), cls, field(default_factory=cls)) for p, cls in zip(parts, classes, strict=True)],
        bases=(Composition,),
        kw_only=True,
        namespace={
            "__doc__": f"{' and '.join(parts)}, in this order.",
            "__module__": __name__,
            "name": name,
            "parts": parts,
            "acts_only_at_events": all(cls.acts_only_at_events for cls in classes),
            "needs_activations": any(cls.needs_activations for cls in classes),
            "default_schedule": schedules[0] if schedules else {},
        },
    )
    assert issubclass(made, Composition)
    return made


def field_name(method: str) -> str:
    """The name of the field that holds a method's options."""
    return method.replace("-", "_")


def _check(parts: tuple[str, ...], classes: list[type[ResetMethod]]) -> None:
    for part, cls in zip(parts, classes, strict=True):
        if part == "none":
            raise ValueError("none cannot be combined with another method: leave it out")
        if parts.count(part) > 1:
            raise ValueError(f"method {part!r} is named twice")
        if hasattr(Composition, field_name(part)):
            raise ValueError(f"a method called {part!r} cannot be combined with others: rename it")
        late = [other for other in parts[: parts.index(part)] if other in cls.must_precede]
        if late:
            raise ValueError(f"{part} must come before {late[0]}: --method {part} --method {late[0]}")
    rivals = [c.name for c in classes if c.make_optimizer is not ResetMethod.make_optimizer]
    if len(rivals) > 1:
        raise ValueError(f"{' and '.join(rivals)} do not go together: each replaces the optimiser")
    norms = [c.name for c in classes if c.inserts_norms]
    if len(norms) > 1:
        raise ValueError(f"{' and '.join(norms)} do not go together: each puts norms before the activations")

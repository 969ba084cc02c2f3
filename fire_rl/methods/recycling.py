"""What methods share that recycle hidden units: when they look, how they start units over."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fire_rl.method import ContinuousMethod, Learner
from fire_rl.units import HiddenLayer, StepPolicy, hidden_layers, recycle


@dataclass
class Recycler(ContinuousMethod):
    """Every `period` updates, and at events if any are scheduled: recycle the units with a low score."""

    period: int = 1_000
    """Updates between two looks at the units; 0: at scheduled events only."""
    tau: float = 0.1
    """Units whose score is at most this are recycled."""
    rows: int = 256
    """Transitions, drawn from the replay memory, on which units are scored."""
    step: StepPolicy = "keep"
    """The optimiser's step count of the written tensors: `keep` it, or `zero` it as a public port does."""

    def __post_init__(self) -> None:
        if self.period < 0 or self.rows < 1 or self.tau < 0:
            raise ValueError(
                f"period {self.period} and tau {self.tau} must not be negative, and rows {self.rows} positive"
            )
        self.updates: dict[str, int] = {}
        self.recycled: dict[str, int] = {}  # units so far, by learner

    @abstractmethod
    def scores(
        self, learner: Learner, layers: list[HiddenLayer], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A score per unit, (E, units), of every layer by name; `generator` draws the batch."""

    def attach(self, learner: Learner) -> None:
        hidden_layers(learner.online)  # say now if there is nothing to recycle
        self.updates[learner.name] = 0
        self.recycled[learner.name] = 0

    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        self.updates[learner.name] += 1
        if self.period and self.updates[learner.name] % self.period == 0:
            self.apply(learner.online, learner, learner.generator)

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        layers = hidden_layers(learner.online)
        chosen = {name: s <= self.tau for name, s in self.scores(learner, layers, generator).items()}
        count = int(sum(units.sum() for units in chosen.values()))
        if not count:
            return
        twin = learner.fresh(generator)
        optimizer = learner.optimizer if module is learner.online else None
        for layer in reversed(layers):  # so that a redrawn row does not undo a column of zeros before it
            recycle(module, layer, chosen[layer.name], twin, optimizer, self.step)
        self.recycled[learner.name] = self.recycled.get(learner.name, 0) + count

    def state_dict(self) -> dict[str, Any]:
        return {"updates": dict(self.updates), "recycled": dict(self.recycled)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates.update(state["updates"])
        self.recycled.update(state["recycled"])

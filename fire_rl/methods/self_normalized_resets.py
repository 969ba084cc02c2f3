"""Self-normalised resets (SNR): recycle a unit that has been silent for longer than it ever is.

Farias & Jozefiak, "Self-Normalized Resets for Plasticity in Continual Learning", ICLR 2025, arXiv:2410.20098.
Unit i is reset once it has not fired for T_i samples, where T_i follows a percentile of the distribution of
its own inter-firing times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fire_rl.method import ContinuousMethod, Learner, register
from fire_rl.units import HiddenLayer, StepPolicy, hidden_layers, recycle


@dataclass
class _Layer:
    """What is known of the units of one layer; times are in updates."""

    silent: Tensor  # (E, units): updates since the unit last fired
    threshold: Tensor  # (E, units)
    histogram: Tensor  # (E, units, bins): how often the unit was silent for so many updates


@register("self-normalized-resets")
@dataclass
class SelfNormalizedResets(ContinuousMethod):
    """Recycle units that are silent beyond their own habit (Farias & Jozefiak, ICLR 2025).

    A unit fires in an update if it is positive anywhere in the batch, and in space. Silence is counted in
    samples as in the paper, so in steps of the batch size. The authors adapt the thresholds every 16 tasks;
    here a number of updates stands for that, our assumption.
    """

    needs_activations: ClassVar[bool] = True

    percentile: float = 0.99
    """Of the inter-firing times: the new threshold where it is shorter; elsewhere the threshold grows."""
    expansion: float = 2.0
    """Factor by which a threshold grows that is not reached."""
    period: int = 1_000
    """Updates between two adaptations of the thresholds."""
    start: int = 10_000
    """Threshold at the start, in samples."""
    longest: int = 20_000
    """Greatest threshold, in samples."""
    step: StepPolicy = "keep"
    """The optimiser's step count of the written tensors: `keep` it, or `zero` it."""

    def __post_init__(self) -> None:
        if not 0.0 < self.percentile <= 1.0 or self.expansion < 1.0 or self.period < 1:
            raise ValueError(
                f"percentile {self.percentile} must lie in (0, 1], expansion {self.expansion} and period "
                f"{self.period} be at least 1"
            )
        if not 1 <= self.start <= self.longest:
            raise ValueError(f"start {self.start} must lie between 1 and longest {self.longest}")
        self.updates: dict[str, int] = {}
        self.recycled: dict[str, int] = {}
        self._graph: dict[str, list[HiddenLayer]] = {}
        self._units: dict[str, dict[str, _Layer]] = {}
        self._device: dict[str, torch.device] = {}

    def attach(self, learner: Learner) -> None:
        self.updates[learner.name] = self.recycled[learner.name] = 0
        self._graph[learner.name] = hidden_layers(learner.online)
        self._device[learner.name] = next(learner.online.parameters()).device
        self._units[learner.name] = {}  # the batch size tells the number of bins, at the first update

    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        name = learner.name
        self.updates[name] += 1
        overdue: dict[str, Tensor] = {}
        for layer in self._graph[name]:
            activation = activations[layer.activation]
            batch = activation.shape[1] if layer.is_stacked else activation.shape[0]
            units = self._units[name].get(layer.name) or self._begin(name, layer, batch)
            fired = (layer.by_unit(activation) > 0).flatten(1, 2).any(1)
            # One update of silence is one bin; a unit that fires again, or is given up, closes its interval.
            units.silent += ~fired
            overdue[layer.name] = units.silent >= units.threshold
            closed = fired | overdue[layer.name]
            bin_of = units.silent.clamp(max=units.histogram.shape[-1] - 1)[..., None]
            units.histogram.scatter_add_(-1, bin_of, closed[..., None].to(units.histogram.dtype))
            units.silent.masked_fill_(closed, 0)
        count = int(torch.stack([mask.sum() for mask in overdue.values()]).sum())  # waits for the device
        if count:
            twin = learner.fresh(learner.generator)
            for layer in reversed(self._graph[name]):  # a redrawn row must not undo a column of zeros
                recycle(learner.online, layer, overdue[layer.name], twin, learner.optimizer, self.step)
            self.recycled[name] += count
        if self.updates[name] % self.period == 0:
            for units in self._units[name].values():
                self._adapt(units)

    def _begin(self, learner: str, layer: HiddenLayer, batch: int) -> _Layer:
        bins = -(-self.longest // batch) + 1
        shape, device = (layer.members, layer.units), self._device[learner]
        units = _Layer(
            silent=torch.zeros(shape, dtype=torch.int64, device=device),
            threshold=torch.full(shape, -(-self.start // batch), dtype=torch.int64, device=device),
            histogram=torch.zeros((*shape, bins), dtype=torch.int32, device=device),
        )
        self._units[learner][layer.name] = units
        return units

    def _adapt(self, units: _Layer) -> None:
        """T ← the percentile of silences (bins ≥ 1) if shorter, else expansion · T; the counts start over."""
        counts = units.histogram[..., 1:].cumsum(-1)
        total = counts[..., -1:]
        reached = counts >= self.percentile * total
        percentile = torch.where(total[..., 0] > 0, reached.int().argmax(-1) + 1, units.threshold)
        grown = (units.threshold * self.expansion).ceil().long()
        new = torch.where(percentile < units.threshold, percentile, grown)
        units.threshold.copy_(new.clamp(1, units.histogram.shape[-1] - 1))
        units.histogram.zero_()

    def state_dict(self) -> dict[str, Any]:
        layers = {n: {k: dict(vars(v)) for k, v in of.items()} for n, of in self._units.items()}
        return {"updates": dict(self.updates), "recycled": dict(self.recycled), "layers": layers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates.update(state["updates"])
        self.recycled.update(state["recycled"])
        for name, layers in state["layers"].items():
            device = self._device[name]  # a checkpoint is read to the CPU
            self._units[name] = {
                layer: _Layer(**{key: value.to(device, copy=True) for key, value in tensors.items()})
                for layer, tensors in layers.items()
            }

"""Continual backprop: in every update, replace a tiny fraction of the least useful mature units.

Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood & Sutton, "Loss of plasticity in deep continual learning",
Nature 632, 2024. Utility of unit i: u ← η u + (1 − η) mean|h_i| · mean_j|W_next[j, i]|, divided by
1 − η^age.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fire_rl.method import ContinuousMethod, Learner, register
from fire_rl.units import HiddenLayer, StepPolicy, hidden_layers, recycle


@dataclass
class _Layer:
    """What is known of the units of one layer; tensors are (E, units)."""

    utility: Tensor
    mean: Tensor  # running mean of the unit's outputs, (E, copies, units)
    born: Tensor  # update at which the unit was replaced last
    owed: float = 0.0  # units to replace, fractions included
    young: list[tuple[int, int]] = field(default_factory=list)  # (update, units per member replaced then)


@register("continual-backprop")
@dataclass
class ContinualBackprop(ContinuousMethod):
    """Replace the least useful mature units, a few per thousand updates (Dohare et al., Nature 2024).

    How many are due is counted on the host and which ones is decided on the device, so no update waits for
    the device. Every member of an ensemble replaces its own.
    """

    needs_activations: ClassVar[bool] = True

    rate: float = 1e-4
    """ρ: fraction of the mature units that is replaced per update."""
    maturity: int = 10_000
    """Updates during which a unit is safe after its replacement (and at the start)."""
    decay: float = 0.99
    """η of the running averages."""
    bias_transfer: bool = False
    """Add a replaced unit's mean contribution to the next layer's bias; the authors' RL code does not."""
    step: StepPolicy = "keep"
    """Adam's step count of the written tensors. The authors count per element and zero those entries; ours is
    one number per tensor."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0 or not 0.0 <= self.decay < 1.0 or self.maturity < 1:
            raise ValueError(
                f"rate {self.rate} and decay {self.decay} must lie between 0 and 1 (decay below it), and "
                f"maturity {self.maturity} be at least 1"
            )
        self.updates: dict[str, int] = {}
        self.replaced: dict[str, int] = {}
        self._graph: dict[str, list[HiddenLayer]] = {}
        self._units: dict[str, dict[str, _Layer]] = {}
        self._twin: dict[str, nn.Module] = {}
        self._twin_from: dict[str, tuple[int, Tensor]] = {}  # update and generator state of its draw

    def attach(self, learner: Learner) -> None:
        name, device = learner.name, next(learner.online.parameters()).device
        self.updates[name] = self.replaced[name] = 0
        # From output to input, so that a redrawn row does not undo a column of zeros.
        self._graph[name] = hidden_layers(learner.online)[::-1]
        self._twin.pop(name, None)
        self._twin_from.pop(name, None)
        self._units[name] = {
            layer.name: _Layer(
                utility=torch.zeros(layer.members, layer.units, device=device),
                mean=torch.zeros(layer.members, layer.copies, layer.units, device=device),
                born=torch.zeros(layer.members, layer.units, dtype=torch.int64, device=device),
            )
            for layer in self._graph[name]
        }

    def let_all_mature(self, learners: Iterable[Learner]) -> None:
        """Count all units as old enough to be replaced, as late in a run."""
        for learner in learners:
            self.updates[learner.name] += self.maturity
            self._fresh(learner)

    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        name = learner.name
        self.updates[name] += 1
        now = self.updates[name]
        for layer in self._graph[name]:
            units = self._units[name][layer.name]
            self._follow(units, layer, learner.online, activations[layer.activation])
            units.young = [(when, count) for when, count in units.young if now - when <= self.maturity]
            safe = sum(count for _, count in units.young)
            eligible = layer.units - safe if now > self.maturity else 0
            units.owed += self.rate * eligible
            count = min(int(units.owed), eligible)
            if count:
                units.owed -= count
                self._replace(learner, layer, units, count)

    def _follow(self, units: _Layer, layer: HiddenLayer, online: nn.Module, activations: Tensor) -> None:
        h = layer.by_unit(activations)
        outgoing = [layer.outgoing(online, reader).abs().mean((1, 4)) for reader in layer.readers]
        weight = outgoing[0] if len(outgoing) == 1 else torch.stack(outgoing).mean(0)
        contribution = (h.abs().mean(1) * weight).sum(1)
        units.utility.lerp_(contribution, 1.0 - self.decay)
        units.mean.lerp_(h.mean(1), 1.0 - self.decay)

    def _replace(self, learner: Learner, layer: HiddenLayer, units: _Layer, count: int) -> None:
        now = self.updates[learner.name]
        age = now - units.born
        correction = 1.0 - torch.pow(self.decay, age.double())
        score = torch.where(age > self.maturity, units.utility / correction, torch.inf)
        least = score.topk(count, dim=-1, largest=False).indices
        chosen = torch.zeros_like(units.born, dtype=torch.bool).scatter_(-1, least, True)
        if self.bias_transfer:
            self._transfer(learner.online, layer, units, chosen, correction)
        recycle(learner.online, layer, chosen, self._fresh(learner), learner.optimizer, self.step)
        units.utility.masked_fill_(chosen, 0.0)
        units.mean.masked_fill_(chosen[:, None], 0.0)
        units.born.masked_fill_(chosen, now)
        units.young.append((now, count))
        self.replaced[learner.name] += count * layer.members

    def _transfer(
        self, online: nn.Module, layer: HiddenLayer, units: _Layer, chosen: Tensor, correction: Tensor
    ) -> None:
        """b_next += Σ_i W_next[:, i] f_i: the next layer's mean input stays what it was."""
        mean = torch.where(chosen[:, None], units.mean / correction[:, None], 0.0).to(units.mean.dtype)
        for reader in layer.readers:
            bias = dict(online.get_submodule(reader).named_parameters(recurse=False)).get("bias")
            if bias is not None:
                gift = torch.einsum("eocup,ecu->eo", layer.outgoing(online, reader), mean)
                bias.add_(gift.view_as(bias))

    def _fresh(self, learner: Learner) -> nn.Module:
        """A twin whose rows are used at most once: no unit is replaced twice within `maturity` updates."""
        name, now = learner.name, self.updates[learner.name]
        if name not in self._twin_from or now - self._twin_from[name][0] > self.maturity:
            self._twin_from[name] = (now, learner.generator.get_state())
            self._twin[name] = learner.fresh(learner.generator)
        elif name not in self._twin:  # restored from a checkpoint
            generator = torch.Generator()
            generator.set_state(self._twin_from[name][1].cpu())
            self._twin[name] = learner.fresh(generator)
        return self._twin[name]

    def state_dict(self) -> dict[str, Any]:
        layers = {n: {k: copy.copy(vars(v)) for k, v in of.items()} for n, of in self._units.items()}
        return {
            "updates": dict(self.updates),
            "replaced": dict(self.replaced),
            "layers": layers,
            "twins": dict(self._twin_from),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates.update(state["updates"])
        self.replaced.update(state["replaced"])
        self._twin_from = {name: (when, rng) for name, (when, rng) in state["twins"].items()}
        self._twin.clear()
        for name, layers in state["layers"].items():
            for layer, saved in layers.items():
                units = self._units[name][layer]
                for key in ("utility", "mean", "born"):
                    getattr(units, key).copy_(saved[key])
                units.owed = float(saved["owed"])
                units.young = [(int(when), int(count)) for when, count in saved["young"]]

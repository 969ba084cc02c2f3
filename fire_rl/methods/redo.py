"""ReDo: recycle dormant units.

Sokar, Agarwal, Castro & Evci, "The Dormant Neuron Phenomenon in Deep RL", ICML 2023, arXiv:2302.12902.
Score of unit i: s_i = E|h_i| / mean_k E|h_k|, over the batch (and space); recycled if s_i ≤ τ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fire_rl.measures import dormant_scores
from fire_rl.method import Learner, register
from fire_rl.methods.recycling import Recycler
from fire_rl.units import HiddenLayer, tap


@register("redo")
@dataclass
class ReDo(Recycler):
    """Recycle units that hardly fire (Sokar et al., ICML 2023).

    The default tau is that for replay ratios of 1 and more; the paper takes 0.025 at 0.25.
    """

    def scores(
        self, learner: Learner, layers: list[HiddenLayer], generator: torch.Generator
    ) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        with torch.no_grad(), tap(learner.online, [layer.activation for layer in layers], seen):
            learner.online(*learner.inputs(self.rows, generator))
        # Both outputs of a CReLU count: the unit is silent when both are.
        sizes = {layer.name: layer.by_unit(seen[layer.activation]).abs().sum(2) for layer in layers}
        return {name: dormant_scores(size) for name, size in sizes.items()}

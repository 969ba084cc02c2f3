"""Running mean and variance of observations, by which a network's inputs are normalised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_EPSILON = 1e-8  # added to the variance, as in the SimBa reference
_INITIAL_COUNT = 1e-4  # weight of the initial guess: mean 0, variance 1


class ObservationNormalizer:
    """Mean and variance of every coordinate over all observations seen, in float64 on the device.

    As in the SimBa reference (Lee et al., ICLR 2025): updated when the agent chooses a training action,
    applied to observations on acting and to minibatches on sampling; the replay memory holds raw ones.
    Several agents' statistics, stacked, normalise observations that have the agents as their first axis.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.variance = torch.ones(size, dtype=torch.float64, device=device)
        self.count = torch.tensor(_INITIAL_COUNT, dtype=torch.float64, device=device)

    def update(self, observations: Tensor) -> None:
        """Count observations (..., n, size) in: Chan et al.'s merge of two samples' moments, in place."""
        x = observations.double()
        n = x.shape[-2]
        delta = x.mean(-2) - self.mean
        count = self.count[..., None]
        total = count + n
        squares = self.variance * count + x.var(-2, correction=0) * n
        squares += delta.square() * (count * n / total)
        self.mean += delta * (n / total)
        self.variance.copy_(squares / total)
        count.copy_(total)

    def normalize(self, observations: Tensor) -> Tensor:
        """(x − mean) / sqrt(variance + 1e-8), in float64: (..., n, size) of any dtype -> float32."""
        x = observations.double() - self.mean[..., None, :]
        return (x * (self.variance + _EPSILON).rsqrt()[..., None, :]).float()

    def state_dict(self) -> dict[str, Tensor]:
        """Mean, variance and count."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore in place."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])

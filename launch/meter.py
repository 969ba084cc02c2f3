"""Means of training's scalars between two rows of the log, without synchronising the device in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the message names the update."""


class Meter:
    """Collects the scalars of every update, which stay on `device`, and the returns of finished episodes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._scalars: dict[str, list[Tensor]] = {}
        self._returns: list[float] = []
        self._recent: deque[float] = deque(maxlen=100)

    def update(self, metrics: Mapping[str, Tensor]) -> None:
        """Keep the scalars of one update, tensors on the device."""
        for name, value in metrics.items():
            self._scalars.setdefault(name, []).append(value)

    def episode(self, episode_return: float) -> None:
        """Keep the return of a finished training episode."""
        self._returns.append(episode_return)
        self._recent.append(episode_return)

    @property
    def recent_return(self) -> float | None:
        """Mean return of the last 100 training episodes."""
        return float(np.mean(self._recent)) if self._recent else None

    def read(self, updates: int) -> dict[str, float | None]:
        """Means since the last read: every scalar, and `return` of training episodes (None if none ended).

        Raises NonFiniteLoss as `check` does.
        """
        self.check(updates)
        means: dict[str, float | None] = {
            name: float(torch.stack(values).double().mean())
            for name, values in self._scalars.items()
            if values
        }
        means["return"] = float(np.mean(self._returns)) if self._returns else None
        self._scalars = {name: [] for name in self._scalars}
        self._returns = []
        return means

    def check(self, updates: int) -> None:
        """Raise NonFiniteLoss naming the first update since the last read whose scalars are not all finite.

        Args:
            updates: number of the newest update.
        """
        for name, values in self._scalars.items():
            if values and not (finite := torch.isfinite(torch.stack(values))).all():
                first = updates - len(values) + 1 + int(finite.logical_not().int().argmax())
                raise NonFiniteLoss(f"{name} is not finite since update {first}")

    def state_dict(self) -> dict[str, Any]:
        """The open interval."""
        return {
            "scalars": {name: torch.stack(v) for name, v in self._scalars.items() if v},
            "returns": list(self._returns),
            "recent": list(self._recent),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the open interval of `state`."""
        self._scalars = {name: list(v.to(self._device)) for name, v in state["scalars"].items()}
        self._returns = list(state["returns"])
        self._recent = deque(state["recent"], maxlen=100)

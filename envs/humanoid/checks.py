"""Checks of what is handed over."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def checked_actions(actions: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """`actions` as an array of floats (float32 stays float32).

    Raises:
        ValueError: another shape than `shape`, or an entry that is not finite.
    """
    array = np.asarray(actions)
    if array.dtype != np.float32:
        array = array.astype(np.float64, copy=False)
    if array.shape != shape:
        raise ValueError(f"actions must have the shape {shape}, not {array.shape}")
    # The sum of squares costs half of the exact test; huge numbers overflow in it, so it cannot refuse.
    if not math.isfinite(np.vdot(array, array)) and not np.isfinite(array).all():
        raise ValueError("an action is NaN or infinite; actions must be finite numbers within [-1, 1]")
    return array


def check_counts(**counts: int) -> None:
    """ValueError for a count below 1, with its name."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


def check_saved_by(state: dict[str, Any], task: str, num_envs: int) -> None:
    """ValueError when `state` was saved by a vector environment of another task or size."""
    saved = f"{len(state['envs'])} x {state['task']}"
    if saved != (here := f"{num_envs} x {task}"):
        raise ValueError(f"the saved state is of {saved}, this environment is {here}: build it alike")

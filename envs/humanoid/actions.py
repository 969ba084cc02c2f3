"""The check of what an agent hands over."""

from __future__ import annotations

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
        raise ValueError(f"An action array of shape {array.shape} was given; the shape must be {shape}")
    if not np.isfinite(array).all():
        raise ValueError("An action is NaN or infinite; actions must be finite numbers, within [-1, 1]")
    return array

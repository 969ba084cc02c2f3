"""Soft "is x within the bounds": 1 inside, falling off over `margin` outside.

The three shapes of dm_control's `rewards.tolerance` that HumanoidBench uses.
"""

from __future__ import annotations

import math

INF = math.inf


def _distance(x: float, low: float, high: float, margin: float) -> float:
    """Of `x` to the nearer bound, in margins; 0 inside."""
    if x < low:
        return (low - x) / margin
    return (x - high) / margin if x > high else 0.0


def gaussian(x: float, low: float, high: float, margin: float) -> float:
    """0.1 at the margin."""
    d = _distance(x, low, high, margin)
    return math.pow(0.1, d * d)


def linear(x: float, low: float, high: float, margin: float) -> float:
    """0 from the margin on."""
    return max(0.0, 1.0 - _distance(x, low, high, margin))


def quadratic(x: float, low: float, high: float, margin: float) -> float:
    """0 from the margin on, flat at the bound."""
    d = _distance(x, low, high, margin)
    return max(0.0, 1.0 - d * d)

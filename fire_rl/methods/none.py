"""No reset: the control of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

from fire_rl.method import OptimizerPolicy, ResetMethod, TargetPolicy, register


@register("none")
@dataclass
class NoReset(ResetMethod):
    """Train on without touching anything; the event is recorded, so that curves share their marks."""

    target: TargetPolicy = "keep"
    optimizer: OptimizerPolicy = "keep"

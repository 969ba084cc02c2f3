"""No reset: the control of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fire_rl.method import OptimizerPolicy, ResetMethod, TargetPolicy, register


@register("none")
@dataclass
class NoReset(ResetMethod):
    """Train on without touching anything; the event is recorded, so that curves share their marks."""

    default_schedule: ClassVar[Mapping[str, Any]] = {}

    target: TargetPolicy = "keep"
    optimizer: OptimizerPolicy = "keep"

"""Resets of published agents that differ from a full reset or shrink & perturb in scope and schedule.

Primacy bias: Nikishin et al., ICML 2022, arXiv:2205.07802. SR-SPR: D'Oro et al., ICLR 2023. BBF: Schwarzer et
al., ICML 2023, arXiv:2305.19452. BRO: Nauman et al., NeurIPS 2024, arXiv:2405.16158.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fire_rl.method import OptimizerPolicy, TemperaturePolicy, register
from fire_rl.methods.full_reset import Draw, FullReset
from fire_rl.methods.scope import Scope
from fire_rl.methods.shrink_perturb import SrDqn


@register("primacy-reset")
@dataclass
class PrimacyReset(FullReset):
    """Draw the head afresh at intervals, 200,000 env steps by default (Nikishin et al., ICML 2022).

    The head's optimiser state starts over, the encoder's goes on, as in the authors' pixel agents; their
    vector SAC starts everything over (`--method.scope all --method.optimizer recreate --method.temperature
    init`).
    """

    default_schedule: ClassVar[Mapping[str, Any]] = {"every": 200_000, "unit": "env_steps"}

    scope: Scope = "head"
    """Which part starts over: `all`, the `head` or the `encoder`."""
    optimizer: OptimizerPolicy = "touched"


@register("sr-spr")
@dataclass
class SrSpr(SrDqn):
    """SR-SPR's reset: keep 0.8 of the encoder, draw the head afresh; every 40,000 updates (D'Oro et al.)."""

    default_schedule: ClassVar[Mapping[str, Any]] = {"every": 40_000, "unit": "updates"}

    keep: float = 0.8
    """Fraction of the encoder's trained value that stays."""
    draw: Draw = "fresh"
    """Where new weights come from: a `fresh` draw, or a `rewind` to the run's initial weights."""


@register("bbf")
@dataclass
class Bbf(SrSpr):
    """BBF's reset: keep half of the encoder, draw the head afresh; every 40,000 updates (Schwarzer et al.).

    The reset only: BBF also anneals n-step returns and discount after each, which are the agent's business.
    """

    keep: float = 0.5
    """Fraction of the encoder's trained value that stays."""


@register("bro")
@dataclass
class Bro(FullReset):
    """BRO's resets: everything back to the initial weights, ever less often (Nauman et al., NeurIPS 2024).

    The moments are the authors' for more than two updates per step; with two they reset at the first only.
    """

    default_schedule: ClassVar[Mapping[str, Any]] = {
        "at": (15_001, 50_001, 250_001, 500_001, 750_001, 1_000_001, 1_500_001, 2_000_001),
        "unit": "env_steps",
    }

    draw: Draw = "rewind"
    """Where new weights come from: the authors' same seeds give the same initial weights (`rewind`)."""
    temperature: TemperaturePolicy = "init"

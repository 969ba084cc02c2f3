"""Small agents that have learnt a little, for tests of what resets do to them."""

from __future__ import annotations

from typing import Any

import torch

from fire_rl.launch.config import default_config
from fire_rl.launch.small_agents import SMALL, SPACES, Environments, experience, make_agent
from fire_rl.method import ResetMethod, make_method

CPU = torch.device("cpu")

__all__ = ["CPU", "SMALL", "SPACES", "Environments", "experience", "make_agent", "quick_method"]

# Options that let a method act within the few updates of a test.
QUICK: dict[str, dict[str, Any]] = {
    "redo": {"period": 4, "tau": 0.3, "rows": 8},
    "regrama": {"period": 4, "tau": 0.3, "rows": 8},
    "dash": {"batches": 2, "rows": 8},
    "continual-backprop": {"rate": 0.02, "maturity": 3},
    "self-normalized-resets": {"period": 4, "start": 16, "longest": 96},
    "hare-tortoise": {"period": 4, "momentum": 0.9},
    "weight-clipping": {"kappa": 0.9},
}


def quick_method(kind: str, name: str, preset: str = "paper") -> ResetMethod:
    """A method with the agent's options of `preset`, made to act within a few updates."""
    base = default_config(kind.split("-")[0], "control/CartPole-v1", name, preset).method
    return make_method(name, **{**base.options(), **QUICK.get(name, {})})

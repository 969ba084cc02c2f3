"""Agents: DQN and SAC, their networks, replay memory and reset hook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fire_rl.agents.agent import Agent, ResetReport
from fire_rl.agents.dqn import DQN, DQNConfig
from fire_rl.agents.dqn import PAPER as DQN_PAPER
from fire_rl.agents.sac import PAPER as SAC_PAPER
from fire_rl.agents.sac import SAC, SACConfig

__all__ = ["AGENTS", "DQN", "SAC", "Agent", "AgentKind", "DQNConfig", "ResetReport", "SACConfig"]


@dataclass(frozen=True)
class AgentKind:
    """An agent by name: its class, the class of its constants, the paper's options of every method."""

    make: type[Any]
    config: type[Any]
    paper: dict[str, dict[str, object]]


AGENTS: dict[str, AgentKind] = {
    "dqn": AgentKind(DQN, DQNConfig, DQN_PAPER),
    "sac": AgentKind(SAC, SACConfig, SAC_PAPER),
}

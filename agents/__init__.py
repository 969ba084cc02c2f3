"""Agents: DQN and SAC, their networks, replay memory and reset hook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fire_rl.agents.agent import Agent, ResetReport
from fire_rl.agents.dqn import DQN, DQNConfig
from fire_rl.agents.dqn import PAPER as DQN_PAPER

__all__ = ["AGENTS", "DQN", "Agent", "AgentKind", "DQNConfig", "ResetReport"]


@dataclass(frozen=True)
class AgentKind:
    """An agent by name: its class, the class of its constants, the paper's options of every method."""

    make: type[Any]
    config: type[Any]
    paper: dict[str, dict[str, object]]


AGENTS: dict[str, AgentKind] = {"dqn": AgentKind(DQN, DQNConfig, DQN_PAPER)}

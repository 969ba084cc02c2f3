"""Agents: DQN and SAC, their networks, replay memory and reset hook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch

from fire_rl.agents.agent import Agent, ResetReport
from fire_rl.agents.dqn import DQN, DQNConfig
from fire_rl.agents.dqn import PAPER as DQN_PAPER
from fire_rl.agents.learner import NO_METHOD
from fire_rl.agents.program import Compile
from fire_rl.agents.sac import PAPER as SAC_PAPER
from fire_rl.agents.sac import SAC, SACConfig
from fire_rl.method import ResetMethod

__all__ = ["AGENTS", "DQN", "SAC", "Agent", "AgentKind", "DQNConfig", "ResetReport", "SACConfig"]


class Environments(Protocol):
    """What an agent is told about its environments."""

    @property
    def num_envs(self) -> int: ...
    @property
    def observation_space(self) -> gym.spaces.Box: ...
    @property
    def action_space(self) -> gym.Space[Any]: ...
    @property
    def max_episode_agent_steps(self) -> int | None: ...


@dataclass(frozen=True)
class AgentKind:
    """An agent by name: how to build it, the class of its constants, the paper's options of every method."""

    make: Callable[..., Agent]  # of environments, constants, seed, device; and the method, if any
    config: type[Any]
    paper: dict[str, dict[str, object]]


def _make_dqn(
    env: Environments,
    config: DQNConfig,
    seed: np.random.SeedSequence,
    device: torch.device,
    method: ResetMethod = NO_METHOD,
    compile: Compile = "auto",
) -> DQN:
    return DQN(env.observation_space, env.action_space, env.num_envs, config, seed, device, method, compile)


def _make_sac(
    env: Environments,
    config: SACConfig,
    seed: np.random.SeedSequence,
    device: torch.device,
    method: ResetMethod = NO_METHOD,
    compile: Compile = "auto",
) -> SAC:
    limit = env.max_episode_agent_steps
    return SAC(
        env.observation_space, env.action_space, env.num_envs, config, seed, device, limit, method, compile
    )


AGENTS: dict[str, AgentKind] = {
    "dqn": AgentKind(_make_dqn, DQNConfig, DQN_PAPER),
    "sac": AgentKind(_make_sac, SACConfig, SAC_PAPER),
}

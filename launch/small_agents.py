"""Small agents that learn a little in a random world, to see what methods do to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from fire_rl.agents import AGENTS
from fire_rl.launch.config import default_config
from fire_rl.method import ResetMethod

DEVICE = torch.device("cpu")  # of all agents made here
SPACES: dict[str, tuple[gym.Space[Any], gym.Space[Any]]] = {
    "dqn": (gym.spaces.Box(-np.inf, np.inf, (5,), np.float32), gym.spaces.Discrete(3)),
    "dqn-pixels": (gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), gym.spaces.Discrete(3)),
    "sac": (gym.spaces.Box(-np.inf, np.inf, (5,), np.float32), gym.spaces.Box(-1, 1, (2,), np.float32)),
}
SMALL: dict[str, dict[str, Any]] = {
    "dqn": {"learning_starts": 20, "replay_capacity": 2_000, "batch_size": 16, "target_period": 50},
    "sac": {
        **{"learning_starts": 20, "replay_capacity": 2_000, "batch_size": 16},
        **{"actor_width": 16, "critic_width": 32, "critic_blocks": 1},
    },
}


@dataclass(frozen=True)
class Environments:
    """What an agent is told about two environments of a kind."""

    observation_space: Any
    action_space: Any
    num_envs: int = 2
    max_episode_agent_steps: int | None = 500


def make_agent(kind: str, seed: int = 0, method: ResetMethod | None = None) -> Any:
    """An untrained agent of two environments: "dqn" (MLP), "dqn-pixels" (Nature CNN) or "sac"."""
    name = kind.split("-")[0]
    config = replace(default_config(name, "control/CartPole-v1", "none").agent, **SMALL[name])
    spaces, parent = Environments(*SPACES[kind]), np.random.SeedSequence(seed)
    return AGENTS[name].make(spaces, config, parent, DEVICE, *([] if method is None else [method]))


def experience(agent: Any, steps: int, rng: np.random.Generator, learn: bool = True) -> None:
    """Let `agent` act in a random world for `steps` and learn from it."""
    pixels = agent.memory.layout.stack > 1

    def look() -> Any:
        if pixels:
            return rng.integers(0, 256, (2, 4, 84, 84)).astype(np.uint8)
        return rng.normal(size=(2, 5)).astype(np.float32)

    observation = look()
    for _ in range(steps):
        after = look()
        reward = observation.reshape(2, -1).mean(1) / (255.0 if pixels else 1.0)
        ended = rng.random(2) < 0.05
        agent.begin(observation, agent.act(observation))
        agent.observe(reward, ended, np.zeros(2, bool), after)
        observation = look() if ended.any() else after
        for _ in range(agent.updates_due() if learn else 0):
            agent.update()

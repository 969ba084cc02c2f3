"""Small SAC agents in a random world, and what it means that two of them are the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from fire_rl.agents.replay import Batch, Chunk
from fire_rl.agents.sac import SAC, SACConfig

CPU = torch.device("cpu")
OBS, ACT = 5, 2
SMALL = SACConfig(
    actor_width=8, critic_width=12, critic_blocks=1, learning_starts=20, batch_size=16, replay_capacity=500
)
MLP = replace(SMALL, network="mlp", hidden=(16,))


def box(size: int, bound: float = 1.0) -> gym.spaces.Box:
    return gym.spaces.Box(-bound, bound, (size,))


def make(config: SACConfig = SMALL, seed: int = 0, num_envs: int = 2) -> SAC:
    return SAC(box(OBS, np.inf), box(ACT), num_envs, config, np.random.SeedSequence(seed), CPU, 500)


def live(agent: SAC, steps: int, seed: int = 0) -> None:
    """Act in a random world and learn when due."""
    rng = np.random.default_rng(seed)
    observation = rng.normal(size=(agent.num_envs, OBS)).astype(np.float32)
    for _ in range(steps):
        action = agent.act(observation)
        after = (0.5 * rng.normal(size=observation.shape) + action.sum(1, keepdims=True)).astype(np.float32)
        terminated, truncated = rng.random((2, agent.num_envs)) < 0.05
        agent.begin(observation, action)
        agent.observe(-(action**2).sum(1), terminated, truncated, after)
        observation = after
        for _ in range(agent.updates_due()):
            agent.update()


def trained(config: SACConfig = SMALL, seed: int = 0) -> SAC:
    agent = make(config, seed)
    live(agent, 40, seed)
    return agent


def weights(module: nn.Module | None) -> dict[str, Tensor]:
    assert module is not None
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def probe_batch(agent: SAC, size: int = 64) -> Batch:
    return agent.sample(size, np.random.default_rng(3))


def assert_same_state(one: Any, two: Any) -> None:
    """Nested states are equal bit for bit."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same_state(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_same_state(a, b)
    elif isinstance(one, Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, two)
    else:
        assert one == two


def plain(state: Any) -> Any:
    """A nested state with what its chunks of replay memory read, instead of how they read it."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, list):
        return [plain(value) for value in state]
    return (state.place, state.writes, state.read()) if isinstance(state, Chunk) else state


def assert_same_agent(one: SAC, two: SAC) -> None:
    """All states are equal, replay memory included."""
    assert_same_state(plain(one.state_dict()), plain(two.state_dict()))

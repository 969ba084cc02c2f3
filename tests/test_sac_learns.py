"""SAC with small SimBa networks solves Pendulum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fire_rl.agents.sac import SAC, SACConfig
from fire_rl.envs import make_env

# Six seeds were solved from 3,500 agent steps on (means between −150 and −168).
SMALL_SIMBA = SACConfig(
    actor_width=16,
    critic_width=32,
    critic_blocks=1,
    batch_size=128,
    learning_rate=1e-3,
    tau=0.01,
    learning_starts=500,
    replay_capacity=10_000,
)


def mean_return(agent: SAC, episodes: int) -> float:
    """Mean return of full episodes, played side by side; Pendulum's all take 200 steps."""
    env = make_env("control/Pendulum-v1", episodes)
    observation = env.reset(np.random.SeedSequence(123))
    returns: list[float] = []
    while len(returns) < episodes:
        step = env.step(agent.evaluate(observation, np.random.default_rng()))
        observation = step.observation
        returns += [episode.episode_return for episode in step.episodes]
    return float(np.mean(returns))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """These networks are too small to share among cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_pendulum_is_solved() -> None:
    env = make_env("control/Pendulum-v1", 1)
    spaces = env.observation_space, env.action_space
    agent = SAC(*spaces, 1, SMALL_SIMBA, np.random.SeedSequence(1), torch.device("cpu"), 200)
    before = mean_return(agent, 20)
    observation = env.reset(np.random.SeedSequence(2))
    for _ in range(4_000):
        action = agent.act(observation)
        agent.begin(observation, action)
        step = env.step(action)
        agent.observe(step.reward, step.terminated, step.truncated, step.final_observation)
        observation = step.observation
        for _ in range(agent.updates_due()):
            agent.update()
    assert before < -800 and mean_return(agent, 20) > -200

"""Evaluation, apart from training: environments and generators of its own, full episodes only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fire_rl.agents import Agent
from fire_rl.envs import VectorEnv

MAX_ENVS = 16


class Evaluator:
    """Plays full episodes with an agent that it leaves untouched.

    Episodes are assigned to environments in advance, so that short episodes are not favoured. Everything is
    drawn from a seed given per evaluation: an evaluation depends on the agent's weights and on nothing that
    happened before.

    Args:
        make_env: builds the environments, given their number.
        episodes: full episodes per evaluation.
        check: called before every step; what it raises ends the evaluation.
    """

    def __init__(
        self,
        make_env: Callable[[int], VectorEnv],
        episodes: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.episodes = episodes
        self.check = check
        self._make_env = make_env
        self._env: VectorEnv | None = None  # built on first use, kept for the next time

    def __call__(self, agent: Agent, seed: np.random.SeedSequence) -> list[float]:
        """Raw returns of `episodes` episodes, in the order in which they were assigned."""
        if self._env is None:
            self._env = self._make_env(min(self.episodes, MAX_ENVS))
        env = self._env
        env_seed, action_seed = seed.spawn(2)
        rng = np.random.default_rng(action_seed)
        share = [len(part) for part in np.array_split(np.arange(self.episodes), env.num_envs)]
        returns: list[list[float]] = [[] for _ in share]
        observation = env.reset(env_seed)
        while any(len(done) < due for done, due in zip(returns, share, strict=True)):
            self.check()
            step = env.step(agent.evaluate(observation, rng))
            observation = step.observation
            for episode in step.episodes:
                if len(returns[episode.env_index]) < share[episode.env_index]:
                    returns[episode.env_index].append(episode.episode_return)
        return [value for done in returns for value in done]

    def close(self) -> None:
        """Close the environments."""
        if self._env is not None:
            self._env.close()
            self._env = None

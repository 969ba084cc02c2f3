"""The interface that every world of FIRE-RL offers to the training loop.

One class of environments, always a batch of `num_envs` copies, always resetting a finished copy within the
same call ("same-step autoreset"), always able to save and restore itself bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Episode(NamedTuple):
    """A finished episode."""

    env_index: int
    episode_return: float  # undiscounted sum of raw (unclipped) rewards
    length_agent_steps: int


class Step(NamedTuple):
    """What one agent step of all environments returned. n = `num_envs`."""

    observation: Array  # (n, *shape): what to act on next; where finished, the next episode's first
    reward: NDArray[np.float64]  # (n,): raw, summed over the action repeat
    terminated: NDArray[np.bool_]  # (n,): the task ended; do not bootstrap
    truncated: NDArray[np.bool_]  # (n,): a time limit cut the episode; bootstrap from `final_observation`
    final_observation: Array  # (n, *shape): what the action led to; equals `observation` where not finished
    episodes: tuple[Episode, ...] = ()

    @property
    def finished(self) -> NDArray[np.bool_]:
        """(n,): the episode ended in this step, for either reason."""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """`num_envs` copies of one task, stepped together.

    Every random draw inside comes from generators derived from the seed given to `reset`: same seed and same
    actions, same observations, whatever else the process draws.
    """

    num_envs: int
    observation_space: gym.spaces.Box  # of one environment
    action_space: gym.Space[Any]  # of one environment: Discrete or Box
    action_repeat: int  # env steps (Atari: frames) in one agent step
    max_episode_agent_steps: int | None  # length of an episode that nothing but the time limit ends

    def reset(self, seed: np.random.SeedSequence) -> Array:
        """Start every environment afresh, each from its own child of `seed`; returns (n, *shape).

        A used object and a new one start alike; `seed` itself is left as it was (`child_seeds`).
        """
        ...

    def step(self, actions: Array) -> Step:
        """`send(actions)`, then `receive()`. `actions`: (n,) integers or (n, action_dim) floats."""
        ...

    def send(self, actions: Array) -> None:
        """Begin one agent step in every environment; ValueError for wrong actions.

        Where threads or processes can take it, it is under way until `receive`, while the caller does
        something else, such as an update; nothing else may be called in between.
        """
        ...

    def receive(self) -> Step:
        """The outcome of the step begun by `send`, when all environments have taken it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: nested dicts and lists of arrays and plain JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; the next `step` returns what it would have returned after `state_dict`."""
        ...

    def close(self) -> None:
        """Free worker processes, windows and shared memory; may be called twice."""
        ...


class AtOnce:
    """`send` and `receive` for environments that step in the calling thread: they do so in `receive`."""

    _sent: Array | None = None

    def step(self, actions: Array) -> Step:
        """See `VectorEnv.step`."""
        raise NotImplementedError

    def send(self, actions: Array) -> None:
        """Take note of `actions`; what is wrong with them is found by `receive`."""
        self._sent = actions

    def receive(self) -> Step:
        """Take the step of the actions last sent."""
        if self._sent is None:
            raise RuntimeError("receive() without a send() before it")
        actions, self._sent = self._sent, None
        return self.step(actions)


@runtime_checkable
class FilmableVectorEnv(VectorEnv, Protocol):
    """A `VectorEnv` that can be looked at. Looking changes nothing in it and draws no random number."""

    render_fps: float  # agent steps in a second of the world's own time

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """Environment `index` as it is now, (H, W, 3) RGB.

        Raises ValueError, saying what to install, where this machine cannot make pictures.
        """
        ...


def child_seeds(seed: np.random.SeedSequence, count: int) -> list[np.random.SeedSequence]:
    """The `count` seeds that `seed.spawn(count)` would give next, without counting them as given.

    So that two resets from one seed are alike: `spawn` itself would give other children the second time.
    """
    first = seed.n_children_spawned
    return [
        np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i), pool_size=seed.pool_size)
        for i in range(first, first + count)
    ]


def check_num_envs(num_envs: int) -> int:
    """`num_envs`, or ValueError where it is not a positive integer."""
    if not isinstance(num_envs, int) or num_envs < 1:
        raise ValueError(f"the number of environments must be a positive integer, not {num_envs!r}")
    return num_envs


def check_discrete_actions(actions: Array, num_envs: int, num_actions: int) -> NDArray[np.int64]:
    """`actions` as (num_envs,) integers below `num_actions`; ValueError for anything else."""
    actions = np.asarray(actions)
    if actions.shape != (num_envs,) or not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(
            f"actions must be {num_envs} integers, one per environment, "
            f"not {actions.dtype} of shape {actions.shape}"
        )
    if actions.min() < 0 or actions.max() >= num_actions:
        raise ValueError(f"actions must lie in 0..{num_actions - 1}, not {actions.tolist()}")
    return actions.astype(np.int64)

"""The official HumanoidBench, where its package `humanoid_bench` is installed.

It is not on PyPI and its set-up pins mujoco 3.1.6, gymnasium 0.29.1 and torch 2.3.1, so it is never required.
Tested here against its interface (the ids it registers, Gymnasium's five values per step, NumPy scalars for
reward and termination, draws from NumPy's global generator), not against the package itself.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.humanoid.checks import check_counts, check_saved_by, checked_actions
from fire_rl.envs.humanoid.errors import MissingRequirementError
from fire_rl.envs.vector import AtOnce, Episode, Step, check_num_envs, child_seeds
from fire_rl.names import unknown_name

PACKAGE = "humanoid_bench"


class OfficialVectorEnv(AtOnce):
    """`num_envs` copies of a task of `humanoid_bench`; implements `fire_rl.envs.vector.VectorEnv`.

    The package draws goals and poses from NumPy's global generator. Each copy has a state of that generator
    for itself, in place only while the copy runs; whatever else draws globally is not disturbed.

    Args:
        task: robot and task, "h1-walk" or "h1hand-push".
        num_envs: copies, stepped one after the other.
        action_repeat: env steps per agent step; the package's own time limit counts env steps.

    Raises:
        MissingRequirementError: the package is not installed.
        ValueError: it has no such robot or task; a count below 1.
    """

    def __init__(self, task: str, num_envs: int, *, action_repeat: int = 2) -> None:
        check_counts(action_repeat=action_repeat)
        env_id = _official_id(task)
        self.task = task
        self.num_envs = check_num_envs(num_envs)
        self.action_repeat = action_repeat
        self._copies = [
            _Copy(gym.make(env_id, disable_env_checker=True), action_repeat) for _ in range(num_envs)
        ]
        limit = gym.spec(env_id).max_episode_steps
        self.max_episode_agent_steps = None if limit is None else -(-limit // action_repeat)
        observation, action = self._copies[0].env.observation_space, self._copies[0].env.action_space
        assert isinstance(observation, gym.spaces.Box) and isinstance(action, gym.spaces.Box)
        self.observation_space: gym.spaces.Box = gym.spaces.Box(
            -np.inf, np.inf, observation.shape, np.float32
        )
        self.action_space: gym.Space[Any] = action
        self._action_shape = action.shape

    def reset(self, seed: np.random.SeedSequence) -> NDArray[np.float32]:
        """Start every copy afresh, each from its own child of `seed`; returns (num_envs, observation_dim)."""
        for copy, child in zip(self._copies, child_seeds(seed, self.num_envs), strict=True):
            copy.seed(child)
        return np.array([copy.begin_episode() for copy in self._copies], np.float32)

    def step(self, actions: NDArray[Any]) -> Step:
        """One agent step of every copy, with finite actions (num_envs, action_dim)."""
        actions = checked_actions(actions, (self.num_envs, *self._action_shape))
        observation, final = [], []
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        episodes = []
        for i, (copy, action) in enumerate(zip(self._copies, actions, strict=True)):
            last, reward[i], terminated[i], truncated[i] = copy.step(action)
            final.append(last)
            if terminated[i] or truncated[i]:
                episodes.append(Episode(i, copy.episode_return, len(copy.actions)))
                last = copy.begin_episode()
            observation.append(last)
        return Step(
            observation=np.array(observation, np.float32),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_observation=np.array(final, np.float32),
            episodes=tuple(episodes),
        )

    def state_dict(self) -> dict[str, Any]:
        """How each running episode began, and its actions: the package's tasks cannot be saved otherwise."""
        return {"task": self.task, "envs": [copy.state_dict() for copy in self._copies]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play the running episodes again up to where they were.

        Raises:
            ValueError: `state` is of another task or of another number of copies.
        """
        check_saved_by(state, self.task, self.num_envs)
        for copy, part in zip(self._copies, state["envs"], strict=True):
            copy.load_state_dict(part)

    def close(self) -> None:
        """Close the package's environments."""
        for copy in self._copies:
            copy.env.close()


class _Copy:
    """One environment with its generators and, for saving, the start and the actions of its episode."""

    def __init__(self, env: gym.Env[Any, Any], action_repeat: int) -> None:
        self.env = env
        self.action_repeat = action_repeat
        self.global_rng = np.random.RandomState(0)  # the package draws from this kind
        self.start: dict[str, Any] = {}
        self.actions: list[NDArray[Any]] = []
        self.episode_return = 0.0

    def seed(self, seed: np.random.SeedSequence) -> None:
        own, of_numpy = child_seeds(seed, 2)
        self.env.unwrapped.np_random = np.random.default_rng(own)
        self.global_rng.seed(of_numpy.generate_state(8))

    def begin_episode(self) -> NDArray[np.float64]:
        self.start = self._generators()
        self.actions = []
        self.episode_return = 0.0
        with self._global_generator():
            observation, _ = self.env.reset()
        return np.asarray(observation, np.float64)

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], float, bool, bool]:
        total = 0.0
        terminated = truncated = False
        with self._global_generator():
            for _ in range(self.action_repeat):
                observation, reward, terminated, truncated, _ = self.env.step(action)
                total += float(reward)
                if terminated or truncated:
                    break
        self.actions.append(np.array(action))
        self.episode_return += total
        return (
            np.asarray(observation, np.float64),
            total,
            bool(terminated),
            bool(truncated and not terminated),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "actions": np.array(self.actions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._set_generators(state["start"])
        self.begin_episode()
        for action in state["actions"]:
            self.step(action)

    def _generators(self) -> dict[str, Any]:
        return {
            "env": self.env.unwrapped.np_random.bit_generator.state,
            "numpy": self.global_rng.get_state(legacy=False),
        }

    def _set_generators(self, state: dict[str, Any]) -> None:
        rng = np.random.default_rng()
        rng.bit_generator.state = state["env"]
        self.env.unwrapped.np_random = rng
        self.global_rng.set_state(state["numpy"])

    @contextmanager
    def _global_generator(self) -> Iterator[None]:
        """Lend this copy's generator to NumPy's global functions."""
        outside = np.random.get_state(legacy=False)  # noqa: NPY002
        np.random.set_state(self.global_rng.get_state(legacy=False))  # noqa: NPY002
        try:
            yield
        finally:
            self.global_rng.set_state(np.random.get_state(legacy=False))  # noqa: NPY002
            np.random.set_state(outside)  # noqa: NPY002


def _official_id(task: str) -> str:
    """The Gymnasium id under which the package registers `task`."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingRequirementError(
            'backend="official" needs the package humanoid_bench, which is not on PyPI: '
            "pip install dm_control, then "
            "pip install --no-deps git+https://github.com/carlosferrazza/humanoid-bench"
        )
    try:
        importlib.import_module(PACKAGE)
    except ImportError as error:
        raise MissingRequirementError(
            f"humanoid_bench is installed but does not import ({error}): see docs/humanoid.md"
        ) from error
    env_id = f"{task}-v0"
    of_package = [key for key, spec in gym.registry.items() if str(spec.entry_point).startswith(PACKAGE)]
    if env_id not in of_package:
        raise unknown_name("official humanoid task", task, [key.removesuffix("-v0") for key in of_package])
    return env_id

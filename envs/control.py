"""Any Gymnasium environment with a Box observation and a Discrete or Box action: for quick work.

    envs = ControlEnvs("CartPole-v1", num_envs=8)

Exact state is offered for Gymnasium's own classic-control and MuJoCo environments.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from fire_rl.envs.vector import (
    Array,
    AtOnce,
    Episode,
    Step,
    check_discrete_actions,
    check_num_envs,
    child_seeds,
)
from fire_rl.names import unknown_name

# All that changes in a classic-control environment between resets; each has some of these.
_CLASSIC_STATE = ("state", "steps_beyond_terminated", "last_u")

# What Gymnasium's MuJoCo environments read of `MjData` beside the integration state. These are results of the
# last forward pass, which was made before the last integration: recomputing them from the state would change
# the next reward.
_MUJOCO_DERIVED = (
    "xpos",
    "xipos",
    "site_xpos",
    "cinert",
    "cvel",
    "cfrc_ext",
    "qfrc_actuator",
    "qfrc_constraint",
    "ten_length",
    "ten_velocity",
)


class ControlEnvs(AtOnce):
    """Copies of a Gymnasium environment in this process.

    Observations are float32. Box actions are given in [-1, 1] and stretched to the bounds of the environment
    (`action_space` says so); Discrete ones start at 0. An agent step is a step of the environment.
    """

    action_repeat = 1
    observation_space: Box
    action_space: gym.Space[Any]

    def __init__(self, env_id: str, num_envs: int) -> None:
        """Make the environments; `module:id` imports the module first.

        Raises ValueError for an unknown id, other spaces than those above, or a package not installed.
        """
        self.num_envs = check_num_envs(num_envs)
        self.env_id = env_id
        self._envs = [_make(env_id) for _ in range(num_envs)]
        self.max_episode_agent_steps = gym.spec(env_id.rpartition(":")[2]).max_episode_steps
        self.observation_space = _observation_space(env_id, self._envs[0])
        self._inner_actions = self._envs[0].action_space
        self.action_space = _action_space(env_id, self._inner_actions)
        self._observation = np.zeros((num_envs, *self.observation_space.shape), np.float32)
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self.render_fps = float(self._envs[0].metadata.get("render_fps", 30))
        self._stage: gym.Env[Any, Any] | None = None  # built at the first picture

    def reset(self, seed: np.random.SeedSequence) -> Array:
        """Start every environment afresh; returns (n, *shape) float32. See `VectorEnv.reset`."""
        for i, (env, child) in enumerate(zip(self._envs, child_seeds(seed, self.num_envs), strict=True)):
            self._observation[i], _ = env.reset(seed=int(child.generate_state(1, np.uint64)[0]))
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return self._observation.copy()

    def step(self, actions: Array) -> Step:
        """Take one step in every environment. See `VectorEnv.step`."""
        inner_actions = self._to_inner(actions)
        reward = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        for i, env in enumerate(self._envs):
            self._observation[i], reward[i], terminated[i], truncated[i], _ = env.step(inner_actions[i])
        self._returns += reward
        self._lengths += 1
        if self.max_episode_agent_steps is not None:
            truncated |= self._lengths >= self.max_episode_agent_steps
        truncated &= ~terminated
        final_observation = self._observation.copy()
        episodes = tuple(self._next_episode(i) for i in np.flatnonzero(terminated | truncated).tolist())
        observation = self._observation.copy() if episodes else final_observation
        return Step(observation, reward, terminated, truncated, final_observation, episodes)

    def state_dict(self) -> dict[str, Any]:
        """The state of every environment, in `envs`, and what it is a state of.

        Raises ValueError for an environment of unknown make, whose state nobody here knows how to read.
        """
        return {
            **self._identity(),
            "envs": [
                {
                    **_get_state(self.env_id, env),
                    "observation": self._observation[i].copy(),
                    "episode_return": float(self._returns[i]),
                    "length_agent_steps": int(self._lengths[i]),
                }
                for i, env in enumerate(self._envs)
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`. ValueError where it is of another environment, number or version."""
        ours = {**self._identity(), "number of environments": self.num_envs}
        theirs = {**state, "number of environments": len(state["envs"])}
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise ValueError(
                    f"the saved state has {key} {theirs.get(key)}, these environments have {value}"
                )
        for i, (env, saved) in enumerate(zip(self._envs, state["envs"], strict=True)):
            _set_state(self.env_id, env, saved)
            self._observation[i] = saved["observation"]
            self._returns[i] = saved["episode_return"]
            self._lengths[i] = saved["length_agent_steps"]

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """Environment `index` as Gymnasium draws it, (H, W, 3) RGB.

        A further environment, put into the same state, is drawn: those that are played need no render mode.

        Raises ValueError, saying what to install, without pygame (classic control) or OpenGL (MuJoCo).
        """
        if self._stage is None:
            self._stage = _make(self.env_id, render_mode="rgb_array")
        _set_state(self.env_id, self._stage, _get_state(self.env_id, self._envs[index]))
        if _kind(self.env_id, self._stage) == "mujoco":
            _prepare_picture(self._stage)
        try:
            picture: Any = self._stage.render()
        except gym.error.DependencyNotInstalled as error:
            raise ValueError(f"pictures of {self.env_id} need a package: {error}") from error
        return np.asarray(picture, np.uint8)

    def close(self) -> None:
        """Close the environments; may be called twice."""
        for env in self._envs:
            env.close()
        if self._stage is not None:
            self._stage.close()
            self._stage = None

    def _identity(self) -> dict[str, str]:
        identity = {"env_id": self.env_id, "gymnasium": gym.__version__}
        if _kind(self.env_id, self._envs[0]) == "mujoco":
            identity["mujoco"] = importlib.metadata.version("mujoco")
        return identity

    def _next_episode(self, i: int) -> Episode:
        """Reset environment i and return the episode that ended."""
        episode = Episode(i, float(self._returns[i]), int(self._lengths[i]))
        self._observation[i], _ = self._envs[i].reset()
        self._returns[i] = 0.0
        self._lengths[i] = 0
        return episode

    def _to_inner(self, actions: Array) -> NDArray[Any]:
        """`actions` as the environments want them; ValueError for a wrong shape or range."""
        inner = self._inner_actions
        if isinstance(inner, Discrete):
            return check_discrete_actions(actions, self.num_envs, int(inner.n)) + int(inner.start)
        assert isinstance(inner, Box)
        actions = np.asarray(actions, np.float64)
        if actions.shape != (self.num_envs, *inner.shape):
            raise ValueError(f"actions must have shape {(self.num_envs, *inner.shape)}, not {actions.shape}")
        if not (np.abs(actions) <= 1.0).all():  # so written, NaN is refused as well
            raise ValueError(
                "actions must lie in [-1, 1]; they are stretched to the environment's own bounds"
            )
        low, high = inner.low.astype(np.float64), inner.high.astype(np.float64)
        return (low + (actions + 1.0) * 0.5 * (high - low)).astype(inner.dtype)


def _make(env_id: str, **options: Any) -> gym.Env[Any, Any]:
    """One environment without its time limit: the counter of the episode's length does that job."""
    module, _, registered_id = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        if registered_id not in gym.registry:
            raise unknown_name("Gymnasium environment", registered_id, list(gym.registry))
        return gym.make(registered_id, max_episode_steps=-1, disable_env_checker=True, **options)
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise ValueError(f"{env_id} needs a package that is missing or does not fit: {error}") from error


def _observation_space(env_id: str, env: gym.Env[Any, Any]) -> Box:
    space = env.observation_space
    if not isinstance(space, Box):
        raise ValueError(f"{env_id} has observations in {space}; only Box observations are supported")
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def _action_space(env_id: str, space: gym.Space[Any]) -> gym.Space[Any]:
    if isinstance(space, Discrete):
        return Discrete(int(space.n))
    if isinstance(space, Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        return Box(-1.0, 1.0, space.shape, np.float32)
    raise ValueError(f"{env_id} has actions in {space}; only Discrete and bounded Box actions are supported")


def _kind(env_id: str, env: gym.Env[Any, Any]) -> str:
    """`classic` or `mujoco`, by where the class comes from; ValueError for others: they may hold more."""
    for kind, package in (
        ("classic", "gymnasium.envs.classic_control."),
        ("mujoco", "gymnasium.envs.mujoco."),
    ):
        if type(env.unwrapped).__module__.startswith(package):
            return kind
    raise ValueError(
        f"the state of {env_id} cannot be saved, so a run on it cannot be resumed exactly: "
        "that is possible only for Gymnasium's classic-control and MuJoCo environments"
    )


def _prepare_picture(env: gym.Env[Any, Any]) -> None:
    """Place what MuJoCo draws, and have Gymnasium draw without a screen unless MUJOCO_GL says otherwise."""
    import mujoco

    from fire_rl.envs.humanoid.rendering import gl_backend

    if backend := gl_backend():
        os.environ["MUJOCO_GL"] = backend
    inner: Any = env.unwrapped
    mujoco.mj_forward(inner.model, inner.data)


def _get_state(env_id: str, env: gym.Env[Any, Any]) -> dict[str, Any]:
    inner: Any = env.unwrapped
    state: dict[str, Any] = {"rng": inner.np_random.bit_generator.state}
    if _kind(env_id, env) == "classic":
        for name in _CLASSIC_STATE:
            value = getattr(inner, name, None)
            state[name] = value if value is None or isinstance(value, int) else np.array(value)
        return state
    import mujoco

    physics = np.zeros(mujoco.mj_stateSize(inner.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(inner.model, inner.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
    return {
        **state,
        "physics": physics,
        **{name: getattr(inner.data, name).copy() for name in _MUJOCO_DERIVED},
    }


def _set_state(env_id: str, env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    env.reset(seed=0)  # Gymnasium refuses to step what was never reset; all that it sets is overwritten
    inner: Any = env.unwrapped
    inner.np_random.bit_generator.state = state["rng"]
    if _kind(env_id, env) == "classic":
        for name in _CLASSIC_STATE:
            if hasattr(inner, name):
                setattr(inner, name, state[name])
        return
    import mujoco

    mujoco.mj_setState(inner.model, inner.data, state["physics"], mujoco.mjtState.mjSTATE_INTEGRATION)
    for name in _MUJOCO_DERIVED:
        getattr(inner.data, name)[:] = state[name]

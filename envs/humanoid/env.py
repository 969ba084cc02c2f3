"""The tasks as Gymnasium environments, `fire_rl/h1-walk-v0` and so on."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.humanoid.catalogue import TASKS, find_task
from fire_rl.envs.humanoid.checks import checked_actions
from fire_rl.envs.humanoid.rendering import Camera
from fire_rl.envs.humanoid.robot import NUM_JOINTS
from fire_rl.envs.humanoid.scenes import Contacts
from fire_rl.envs.humanoid.simulation import Simulation

MAX_EPISODE_ENV_STEPS = 1000  # 20 s

Observation = NDArray[np.float64]


class HumanoidEnv(gym.Env[Any, Any]):
    """One raw task: 50 env steps per second, no action repeat; the time limit comes with `gymnasium.make`.

    Observation: float64 (observation_dim,), all positions, then all velocities, then (reach) hand and goal.
    Action: (19,) in [-1, 1], targets of the joints over their ranges; values outside act like the bounds.
    `info` of a step holds every term of the reward. `reset(seed=...)` fixes all draws, goals included.

    Args:
        task: a name of `TASKS`.
        contacts: "published" (as on mujoco 3.1.6, comparable with the literature) or "current".
        render_mode: None or "rgb_array".

    Raises:
        ValueError: unknown task, contacts or render mode; an action of another shape or not finite.
        MissingRequirementError: no meshes; in `render`, no OpenGL for pictures without a screen.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, task: str, contacts: Contacts = "published", render_mode: str | None = None) -> None:
        spec = find_task(task)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode must be "rgb_array" or None, not {render_mode!r}')
        self.render_mode = render_mode
        self.simulation = Simulation(spec, contacts)
        self.observation_space = observation_space(spec.observation_dim, np.float64)
        self.action_space = action_space()
        self._camera: Camera | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        return self.simulation.reset(self.np_random), {}

    def step(
        self, action: NDArray[np.floating[Any]]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        action = checked_actions(action, (NUM_JOINTS,))
        reward, terminated, terms = self.simulation.step(action)
        return self.simulation.observation(), reward, terminated, False, terms

    def render(self) -> NDArray[np.uint8] | None:
        """A picture (480, 640, 3) from beside the robot; None without render mode."""
        if self.render_mode is None:
            return None
        if self._camera is None:
            self._camera = Camera(self.simulation.model)
        return self._camera.picture(self.simulation.data)

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None


def observation_space(dim: int, dtype: type[np.floating[Any]]) -> gym.spaces.Box:
    """Unbounded: x and y grow along the track."""
    return gym.spaces.Box(-np.inf, np.inf, (dim,), dtype)


def action_space() -> gym.spaces.Box:
    """One target per joint."""
    return gym.spaces.Box(-1.0, 1.0, (NUM_JOINTS,), np.float32)


def register_all() -> None:
    """Make every task known to `gymnasium.make` as `fire_rl/<name>-v0`."""
    for name in TASKS:
        gym.register(
            id=f"fire_rl/{name}-v0",
            entry_point="fire_rl.envs.humanoid.env:HumanoidEnv",
            kwargs={"task": name},
            max_episode_steps=MAX_EPISODE_ENV_STEPS,
        )

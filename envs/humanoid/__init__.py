"""HumanoidBench's fourteen Unitree H1 tasks without hands, from PyPI packages alone.

Importing this package makes them known to `gymnasium.make` as `fire_rl/h1-walk-v0` and so on; `make` builds
the vector environment of the training loop. How they relate to the official ones: docs/humanoid.md.
"""

from __future__ import annotations

from typing import Any, Literal

from fire_rl.envs.humanoid.catalogue import TASK_SETS, TASKS, TaskSpec
from fire_rl.envs.humanoid.env import HumanoidEnv, register_all
from fire_rl.envs.humanoid.errors import MissingRequirementError
from fire_rl.envs.humanoid.vector import HumanoidVectorEnv
from fire_rl.envs.vector import VectorEnv

__all__ = [
    "TASKS",
    "TASK_SETS",
    "HumanoidEnv",
    "HumanoidVectorEnv",
    "MissingRequirementError",
    "TaskSpec",
    "make",
]

register_all()


def make(
    task: str, num_envs: int, *, backend: Literal["built-in", "official"] = "built-in", **options: Any
) -> VectorEnv:
    """`num_envs` copies of a humanoid task.

    Args:
        task: "h1-walk"; with the official backend any robot and task of `humanoid_bench`, "h1hand-walk".
        num_envs: copies.
        backend: "built-in", or "official" for the package `humanoid_bench`.
        options: `action_repeat`; built-in also `contacts`, `threads`, `max_episode_env_steps`.

    Raises:
        ValueError: unknown task or backend, or a bad option.
        MissingRequirementError: a package is not installed.
    """
    if backend == "built-in":
        return HumanoidVectorEnv(task, num_envs, **options)
    if backend == "official":
        from fire_rl.envs.humanoid.official import OfficialVectorEnv

        return OfficialVectorEnv(task, num_envs, **options)
    raise ValueError(f'backend={backend!r} is not known; choose "built-in" or "official"')

"""HumanoidBench's fourteen Unitree H1 tasks without hands, from PyPI packages alone.

Importing this package makes them known to `gymnasium.make` as `fire_rl/h1-walk-v0` and so on; `make` builds
the vector environment of the training loop. How they relate to the official ones: docs/humanoid.md.
"""

from __future__ import annotations

import functools
from typing import Literal

from fire_rl.envs.humanoid.catalogue import TASK_SETS, TASKS, TaskSpec
from fire_rl.envs.humanoid.env import MAX_EPISODE_ENV_STEPS, HumanoidEnv, register_all
from fire_rl.envs.humanoid.errors import MissingRequirementError
from fire_rl.envs.humanoid.official import OfficialVectorEnv
from fire_rl.envs.humanoid.scenes import Contacts
from fire_rl.envs.humanoid.vector import HumanoidVectorEnv
from fire_rl.envs.vector import VectorEnv
from fire_rl.envs.workers import ProcessEnvs

__all__ = [
    "TASKS",
    "TASK_SETS",
    "HumanoidEnv",
    "HumanoidVectorEnv",
    "MissingRequirementError",
    "OfficialVectorEnv",
    "TaskSpec",
    "make",
]

register_all()


def make(
    task: str,
    num_envs: int,
    *,
    contacts: Contacts = "published",
    action_repeat: int = 2,
    threads: int = 1,
    workers: int | None = None,
    max_episode_env_steps: int = MAX_EPISODE_ENV_STEPS,
    backend: Literal["built-in", "official"] = "built-in",
) -> VectorEnv:
    """`num_envs` copies of a humanoid task.

    Args:
        task: "h1-walk"; with the official backend any robot and task of `humanoid_bench`, "h1hand-push".
        num_envs: copies.
        contacts, action_repeat, threads, max_episode_env_steps: see `HumanoidVectorEnv`.
        workers: processes that step the copies, in one thread each; 0 or None: this one does, in `threads`.
            The results do not depend on it.
        backend: "built-in", or "official" for the package `humanoid_bench`, whose contacts and time limit are
            its own and which runs in one thread of this process.

    Raises:
        ValueError: unknown task or backend, or a bad option.
        MissingRequirementError: a package is not installed.
    """
    if backend == "official":
        if (contacts, threads, max_episode_env_steps) != ("published", 1, MAX_EPISODE_ENV_STEPS) or workers:
            raise ValueError(
                "contacts, threads, workers and max_episode_env_steps are options of the built-in backend"
            )
        return OfficialVectorEnv(task, num_envs, action_repeat=action_repeat)
    if backend != "built-in":
        raise ValueError(f'backend must be "built-in" or "official", not {backend!r}')
    if workers and threads != 1:
        raise ValueError(f"with workers, each of which has one thread, threads must be 1, not {threads}")
    make_copies = functools.partial(
        HumanoidVectorEnv,
        task,
        contacts=contacts,
        action_repeat=action_repeat,
        threads=threads,
        max_episode_env_steps=max_episode_env_steps,
    )
    return ProcessEnvs(make_copies, num_envs, workers) if workers else make_copies(num_envs)

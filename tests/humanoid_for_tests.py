"""Golden values of the humanoid tasks and a few ways to drive a simulation (see data/humanoid/README.md)."""

from pathlib import Path
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.humanoid import TASKS
from fire_rl.envs.humanoid.simulation import Simulation
from fire_rl.envs.humanoid.tasks import Maze, Reach
from fire_rl.envs.vector import Step

Contacts = Literal["published", "current"]
CONTACTS: tuple[Contacts, ...] = ("published", "current")
GOLDEN_MUJOCO = "4.0.0"

_DATA = Path(__file__).parent / "data" / "humanoid"


def golden(name: str) -> dict[str, NDArray[Any]]:
    """The arrays of one file: a task's name without "h1-", or another file's."""
    with np.load(_DATA / f"{name.removeprefix('h1-')}.npz") as file:
        return dict(file)


def put(
    simulation: Simulation, qpos: NDArray[Any], qvel: NDArray[Any], ctrl: NDArray[Any] | None = None
) -> None:
    """Set a state as the golden ones were set: fresh data, so that the solver starts cold, then forward."""
    mujoco.mj_resetData(simulation.model, simulation.data)
    simulation.data.qpos[:] = qpos
    simulation.data.qvel[:] = qvel
    if ctrl is not None:
        simulation.data.ctrl[:] = ctrl
    mujoco.mj_forward(simulation.model, simulation.data)


def put_hidden(simulation: Simulation, goal: NDArray[Any] | None, stage: float | None) -> None:
    """Set the hidden state of reach and maze."""
    if isinstance(simulation.task, Reach):
        assert goal is not None
        simulation.task.goal = np.array(goal)
    if isinstance(simulation.task, Maze):
        simulation.task.stage = 0 if stage is None else int(stage)


def put_golden(simulation: Simulation, values: dict[str, NDArray[Any]], i: int, ctrl: bool) -> None:
    """Set golden state `i`; with `ctrl` also its controls."""
    put(simulation, values["qpos"][i], values["qvel"][i], values["ctrl"][i] if ctrl else None)
    goal = values["goal"][i] if "goal" in values else None
    stage = float(values["maze_stage"][i]) if "maze_stage" in values else None
    put_hidden(simulation, goal, stage)


def random_actions(seed: int, steps: int, num_envs: int) -> NDArray[np.float32]:
    """(steps, num_envs, 19), uniform in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (steps, num_envs, 19)).astype(np.float32)


def same(one: Step, other: Step) -> bool:
    """Equal to the last bit."""
    arrays = ("observation", "reward", "terminated", "truncated", "final_observation")
    return one.episodes == other.episodes and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


def names() -> list[str]:
    """All tasks."""
    return list(TASKS)

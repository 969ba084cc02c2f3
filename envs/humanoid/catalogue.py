"""The table of tasks: what `fire-rl envs` lists and names resolve to."""

from __future__ import annotations

from dataclasses import dataclass

from fire_rl.envs.humanoid import scenes, tasks
from fire_rl.envs.humanoid.task import Task
from fire_rl.names import unknown_name


@dataclass(frozen=True)
class TaskSpec:
    """One entry of the table of tasks."""

    name: str
    summary: str
    observation_dim: int
    success_bar: float  # return that counts as solved in HumanoidBench's plots
    task: type[Task]
    scene: scenes.Scene


_TABLE = (
    TaskSpec("h1-stand", "stand still", 51, 800, tasks.Stand, scenes.empty),
    TaskSpec("h1-walk", "walk forwards at 1 m/s", 51, 700, tasks.Walk, scenes.empty),
    TaskSpec("h1-run", "run forwards at 5 m/s", 51, 700, tasks.Run, scenes.empty),
    TaskSpec("h1-reach", "bring the left hand to a random goal", 57, 12000, tasks.Reach, scenes.empty),
    TaskSpec("h1-hurdle", "run over hurdles at 5 m/s", 51, 700, tasks.Hurdle, scenes.hurdles),
    TaskSpec("h1-crawl", "crawl through a tunnel at 1 m/s", 51, 700, tasks.Crawl, scenes.tunnel),
    TaskSpec("h1-maze", "walk through a maze at 2 m/s", 51, 1200, tasks.Maze, scenes.maze),
    TaskSpec("h1-sit_simple", "sit down on a fixed chair", 51, 750, tasks.Sit, scenes.fixed_chair),
    TaskSpec("h1-sit_hard", "the same on a loose chair", 64, 750, tasks.SitHard, scenes.loose_chair),
    TaskSpec("h1-balance_simple", "balance on a fixed ball", 64, 800, tasks.Balance, scenes.fixed_ball),
    TaskSpec("h1-balance_hard", "balance on a rolling ball", 77, 800, tasks.Balance, scenes.rolling_ball),
    TaskSpec("h1-stair", "climb stairs up and down at 1 m/s", 51, 700, tasks.Climb, scenes.stairs),
    TaskSpec("h1-slide", "walk over ramps at 1 m/s", 51, 700, tasks.Climb, scenes.slides),
    TaskSpec("h1-pole", "walk through a forest of poles at 0.5 m/s", 51, 700, tasks.Pole, scenes.poles),
)
TASKS = {spec.name: spec for spec in _TABLE}

TASK_SETS: dict[str, list[str]] = {
    "fire": ["h1-walk", "h1-balance_simple", "h1-run"],  # FIRE, Figure 4b
    "locomotion": list(TASKS),
}


def find_task(name: str) -> TaskSpec:
    """The entry `name`.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    if name in TASKS:
        return TASKS[name]
    if not name.startswith("h1-"):
        raise ValueError(
            f"humanoid task {name!r} is not built in: only robot h1 is, as in {', '.join(list(TASKS)[:3])}; "
            'others come with backend="official"'
        )
    raise unknown_name("humanoid task", name, list(TASKS))

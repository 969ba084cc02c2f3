"""Episodes of the humanoid tasks are distributed as the official code's.

Against the official code on mujoco 3.1.6 (`mj316`, as published) and on mujoco 4.0.0 without the two new
convex colliders (`mj400_legacy_ccd`), whose contact physics ours has. Random episodes have the official ones'
seeds, hence the same start and the same actions: what separates them is the foot, the engine and chaos.
"""

from collections.abc import Callable
from functools import cache

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from fire_rl.envs.humanoid import TASKS
from fire_rl.envs.humanoid.simulation import Simulation
from tests.humanoid_for_tests import golden, names

ENGINES = ("mj316", "mj400_legacy_ccd")
LONG_EPISODES = ("h1-reach", "h1-crawl")  # never end early

Policy = Callable[[Simulation], NDArray[np.float64]]


def play(simulation: Simulation, policy: Policy, seed: int) -> tuple[float, int]:
    """Return and length of one episode of at most 1000 env steps."""
    simulation.reset(np.random.default_rng(seed))
    total, length, terminated = 0.0, 0, False
    while length < 1000 and not terminated:
        reward, terminated, _ = simulation.step(policy(simulation))
        total, length = total + reward, length + 1
    return total, length


def assert_alike(task: str, policy: str, episodes: list[tuple[float, int]]) -> None:
    official = golden("episode_stats")
    for engine in ENGINES:
        for name, ours in zip(("return", "length"), np.transpose(episodes), strict=True):
            theirs = official[f"{engine}/{task.removeprefix('h1-')}/{policy}_{name}"]
            p = ks_2samp(ours, theirs).pvalue
            assert p > 0.01, f"{name}: {ours.mean():.2f}, {engine} {theirs.mean():.2f}, p {p:.4f}"


def uniform(seed: int) -> Policy:
    """Actions without regard to the state."""
    rng = np.random.default_rng(seed)
    return lambda _: rng.uniform(-1, 1, 19)


@pytest.mark.parametrize("task", names())
def test_random_policy(task: str) -> None:
    simulation = Simulation(TASKS[task])
    episodes = []
    for seed in range(6 if task in LONG_EPISODES else 50):
        episodes.append(play(simulation, uniform(seed), seed))
    assert_alike(task, "random", episodes)


@cache
def law() -> dict[str, NDArray[np.float64]]:
    return golden("lqr_stand")


def balance(simulation: Simulation) -> NDArray[np.float64]:
    """The action of the linear feedback law around a standing pose, which never falls."""
    values, data = law(), simulation.data
    conjugate, difference, rotation = np.zeros(4), np.zeros(4), np.zeros(3)
    mujoco.mju_negQuat(conjugate, values["q"][3:7])
    mujoco.mju_mulQuat(difference, conjugate, data.qpos[3:7])
    mujoco.mju_quat2Vel(rotation, difference, 1.0)
    offset = (data.qpos[:3] - values["q"][:3], rotation, data.qpos[7:26] - values["q"][7:26], data.qvel[:25])
    low, high = values["lo"], values["hi"]
    target = np.clip(values["ctrl"] - values["K"] @ np.concatenate(offset), low, high)
    return np.asarray(2 * (target - low) / (high - low) - 1)


@pytest.mark.parametrize("task", ["h1-stand", "h1-walk", "h1-stair", "h1-slide"])
def test_standing_law(task: str) -> None:
    """It stands for the whole episode: reward and feedback over a thousand steps of lasting contact."""
    simulation = Simulation(TASKS[task])
    episodes = [play(simulation, balance, 2027 + i) for i in range(4 if task == "h1-stand" else 2)]
    assert all(length == 1000 for _, length in episodes)
    assert_alike(task, "lqr", episodes)


@pytest.mark.parametrize("task", ["h1-stand", "h1-walk", "h1-stair", "h1-slide"])
def test_standing_law_with_noise(task: str) -> None:
    """Falls begun from a stand."""
    simulation, rng = Simulation(TASKS[task]), np.random.default_rng(2028)

    def shaky(simulation: Simulation) -> NDArray[np.float64]:
        return np.clip(balance(simulation) + rng.normal(0, 0.2, 19), -1, 1)

    assert_alike(task, "lqr_noise0.2", [play(simulation, shaky, 2028 + i) for i in range(20)])

"""The adapter to the official package, against a stand-in with the package's interface."""

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import fire_rl.envs.humanoid as humanoid
from fire_rl.envs.humanoid import MissingRequirementError, OfficialVectorEnv

SEED = np.random.SeedSequence(5)


class HumanoidEnv(gym.Env[Any, Any]):
    """A walk on a line in the package's manner: hidden state, NumPy scalars, NumPy's global generator."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, robot: str, render_mode: str = "rgb_array") -> None:
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.goal = np.random.uniform(-1, 1)  # noqa: NPY002
        self.x, self.visits = self.np_random.uniform(-0.1, 0.1), 0
        return self._observe(), {}

    def _observe(self) -> Any:
        return np.array([self.x, self.goal, float(self.visits > 3)])

    def step(self, action: Any) -> tuple[Any, Any, Any, bool, dict[str, Any]]:
        self.x += 0.1 * action[0] + 0.01 * np.random.normal()  # noqa: NPY002
        self.visits += 1
        return self._observe(), np.float64(-abs(self.x - self.goal)), np.bool_(self.x > 0.8), False, {}


@pytest.fixture
def package() -> Iterator[None]:
    """A module `humanoid_bench` that has registered two robots, as the package does on import."""
    module = types.ModuleType("humanoid_bench")
    module.__spec__ = importlib.machinery.ModuleSpec("humanoid_bench", None)
    module.HumanoidEnv = HumanoidEnv  # type: ignore[attr-defined]
    sys.modules["humanoid_bench"] = module
    ids = ["h1hand-walk-v0", "g1-walk-v0"]
    for env_id in ids:
        robot = env_id.split("-")[0]
        gym.register(env_id, "humanoid_bench:HumanoidEnv", max_episode_steps=25, kwargs={"robot": robot})
    yield
    del sys.modules["humanoid_bench"]
    for env_id in ids:
        del gym.registry[env_id]


def actions(steps: int, num_envs: int) -> Any:
    return np.random.default_rng(0).uniform(-1, 1, (steps, num_envs, 2)).astype(np.float32)


def test_not_installed() -> None:
    if importlib.util.find_spec("humanoid_bench") is not None:
        pytest.skip("humanoid_bench is installed here")
    with pytest.raises(MissingRequirementError, match=r"github\.com/carlosferrazza/humanoid-bench"):
        humanoid.make("h1hand-walk", 1, backend="official")


def test_does_not_import(package: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("No module named 'dm_control'")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(MissingRequirementError, match=r"does not import \(No module named 'dm_control'\)"):
        humanoid.make("h1hand-walk", 1, backend="official")


def test_unknown_robot_and_options(package: None) -> None:
    with pytest.raises(ValueError, match="did you mean h1hand-walk"):
        humanoid.make("h1hnd-walk", 1, backend="official")
    with pytest.raises(ValueError, match="did you mean"):
        humanoid.make("Pendulum", 1, backend="official")  # known to Gymnasium, not of the package
    with pytest.raises(ValueError, match="options of the built-in backend"):
        humanoid.make("h1hand-walk", 1, backend="official", threads=2)


def test_steps_and_episodes(package: None) -> None:
    """Repeat, sums, same-step reset and the package's time limit in env steps."""
    envs = humanoid.make("g1-walk", 3, backend="official")
    observation = envs.reset(SEED)
    assert isinstance(envs, OfficialVectorEnv) and envs.action_repeat == 2
    assert observation.shape == (3, 3) and observation.dtype == np.float32
    length, returns, seen = np.zeros(3, int), np.zeros(3), {"terminated": 0, "truncated": 0}
    for a in actions(100, 3):
        step = envs.step(a)
        assert step.reward.dtype == np.float64 and step.terminated.dtype == step.truncated.dtype == np.bool_
        length, returns = length + 1, returns + step.reward
        for i in np.flatnonzero(step.finished):
            episode = next(e for e in step.episodes if e.env_index == i)
            assert episode.length_agent_steps == length[i]
            assert episode.episode_return == pytest.approx(returns[i])
            assert not np.array_equal(step.observation[i], step.final_observation[i])
            if step.truncated[i]:
                assert length[i] == 13 and not step.terminated[i]  # 25 env steps, two by two
            else:
                assert step.final_observation[i, 0] > 0.8
            seen["truncated" if step.truncated[i] else "terminated"] += 1
            length[i], returns[i] = 0, 0.0
        assert len(step.episodes) == step.finished.sum()
        running = ~step.finished
        np.testing.assert_array_equal(step.observation[running], step.final_observation[running])
    assert seen["truncated"] and seen["terminated"]


def test_seed_and_global_generator(package: None) -> None:
    """The seed determines the global draws too, and the process' own generator does not notice."""
    one, other = (humanoid.make("g1-walk", 2, backend="official") for _ in range(2))
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(one.reset(SEED), other.reset(SEED))
    for a in actions(60, 2):
        np.testing.assert_array_equal(one.step(a).observation, other.step(a).observation)
    after = np.random.uniform()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert after == np.random.uniform()  # noqa: NPY002


def test_resume_replays_the_running_episode(package: None) -> None:
    envs = humanoid.make("g1-walk", 2, backend="official")
    envs.reset(SEED)
    plan = actions(90, 2)
    for a in plan[:18]:
        envs.step(a)
    state = envs.state_dict()
    other = humanoid.make("g1-walk", 2, backend="official")
    other.load_state_dict(state)
    episodes = 0
    for a in plan[18:]:
        one, two = envs.step(a), other.step(a)
        for name in ("observation", "reward", "terminated", "truncated", "final_observation"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert one.episodes == two.episodes
        episodes += len(one.episodes)
    assert episodes
    with pytest.raises(ValueError, match="3 x g1-walk"):
        humanoid.make("g1-walk", 3, backend="official").load_state_dict(state)


def test_bad_actions(package: None) -> None:
    envs = humanoid.make("g1-walk", 2, backend="official")
    envs.reset(SEED)
    with pytest.raises(ValueError, match=r"shape \(2, 2\), not \(2,\)"):
        envs.step(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="NaN"):
        envs.step(np.full((2, 2), np.nan))

"""Gymnasium environments as a `VectorEnv`: same numbers, exact continuation, clear refusals."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from fire_rl.envs.control import ControlEnvs
from fire_rl.envs.vector import Array, Step
from fire_rl.envs.workers import ProcessEnvs


def random_actions(envs: ControlEnvs, steps: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if isinstance(envs.action_space, gym.spaces.Discrete):
        return rng.integers(int(envs.action_space.n), size=(steps, envs.num_envs))
    assert isinstance(envs.action_space, gym.spaces.Box)
    return rng.uniform(-1, 1, (steps, envs.num_envs, *envs.action_space.shape)).astype(np.float32)


def assert_same(a: Step, b: Step) -> None:
    np.testing.assert_array_equal(a.observation, b.observation)
    np.testing.assert_array_equal(a.final_observation, b.final_observation)
    np.testing.assert_array_equal(a.reward, b.reward)
    np.testing.assert_array_equal(a.terminated, b.terminated)
    np.testing.assert_array_equal(a.truncated, b.truncated)
    assert a.episodes == b.episodes


# Agent steps before the save: so many that an episode ends in the 300 that follow.
RESTORED = {
    "CartPole-v1": 35,
    "Pendulum-v1": 77,
    "Acrobot-v1": 450,
    "MountainCar-v0": 77,
    "MountainCarContinuous-v0": 900,
    "HalfCheetah-v5": 900,
    "Ant-v5": 45,
    "Humanoid-v5": 45,
    "InvertedDoublePendulum-v5": 45,
    "Reacher-v5": 45,
    "HumanoidStandup-v5": 800,
}


@pytest.mark.parametrize("env_id", RESTORED)
def test_continues_bit_for_bit_in_a_fresh_object(env_id: str) -> None:
    before = RESTORED[env_id]
    envs = ControlEnvs(env_id, 2)
    envs.reset(np.random.SeedSequence(1))
    actions = random_actions(envs, before + 300)
    for row in actions[:before]:
        envs.step(row)
    state = pickle.loads(pickle.dumps(envs.state_dict()))
    fresh = ControlEnvs(env_id, 2)
    fresh.load_state_dict(state)
    ends = 0
    for row in actions[before:]:
        step = envs.step(row)
        ends += len(step.episodes)
        assert_same(fresh.step(row), step)
    assert ends > 0


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Hopper-v5"])
def test_equals_gymnasium(env_id: str) -> None:
    """Observations, rewards, ends and returns of `gym.make` with its own time limit."""
    envs = ControlEnvs(env_id, 2)
    seed = np.random.SeedSequence(3)
    first = envs.reset(seed)
    references = [gym.make(env_id) for _ in range(2)]
    for i, (reference, child) in enumerate(zip(references, seed.spawn(2), strict=True)):
        observation, _ = reference.reset(seed=int(child.generate_state(1, np.uint64)[0]))
        np.testing.assert_array_equal(first[i], observation.astype(np.float32))
    returns, ends = [0.0, 0.0], 0
    for row in random_actions(envs, 450):
        step = envs.step(row)
        for i, reference in enumerate(references):
            inner = row[i] * 2 if env_id == "Pendulum-v1" else row[i]
            observation, reward, terminated, truncated, _ = reference.step(inner)
            np.testing.assert_array_equal(step.final_observation[i], observation.astype(np.float32))
            assert (step.reward[i], step.terminated[i], step.truncated[i]) == (reward, terminated, truncated)
            returns[i] += float(reward)
            if terminated or truncated:
                ends += 1
                assert returns[i] in [e.episode_return for e in step.episodes if e.env_index == i]
                returns[i] = 0.0
                observation, _ = reference.reset()
            np.testing.assert_array_equal(step.observation[i], observation.astype(np.float32))
    assert ends >= 4


def test_pendulum_ends_by_truncation_after_its_limit() -> None:
    envs = ControlEnvs("Pendulum-v1", 1)
    envs.reset(np.random.SeedSequence(0))
    steps = [envs.step(row) for row in random_actions(envs, 200)]
    assert not any(step.finished.any() for step in steps[:-1])
    assert steps[-1].truncated.all() and not steps[-1].terminated.any()
    assert steps[-1].episodes[0].length_agent_steps == 200


def test_seeds() -> None:
    def run(envs: ControlEnvs, seed: int) -> Array:
        first = envs.reset(np.random.SeedSequence(seed))
        return np.stack([first, *(envs.step(np.array([k % 2] * 2)).observation for k in range(40))])

    envs = ControlEnvs("CartPole-v1", 2)
    observations = run(envs, 1)
    np.testing.assert_array_equal(run(envs, 1), observations)
    np.testing.assert_array_equal(run(ControlEnvs("CartPole-v1", 2), 1), observations)
    assert (observations[:, 0] != observations[:, 1]).any()
    assert (run(envs, 2) != observations).any()


def test_works_in_worker_processes() -> None:
    """The workers know nothing of Atari."""
    split = ProcessEnvs(functools.partial(ControlEnvs, "CartPole-v1"), 3, workers=2)
    here = ControlEnvs("CartPole-v1", 3)
    seed = np.random.SeedSequence(2)
    np.testing.assert_array_equal(split.reset(seed), here.reset(seed))
    for row in random_actions(here, 60):
        assert_same(split.step(row), here.step(row))
    split.close()


def test_spaces() -> None:
    cheetah = ControlEnvs("HalfCheetah-v5", 1)
    assert cheetah.action_space == gym.spaces.Box(-1, 1, (6,), np.float32)
    assert cheetah.observation_space.dtype == np.float32
    assert cheetah.reset(np.random.SeedSequence(0)).dtype == np.float32


class Numbered(gym.Env[Array, Any]):
    """An environment of unknown make, with actions 3 and 4."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)
    action_space = gym.spaces.Discrete(2, start=3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        return np.zeros(1), float(action), False, False, {}


class Unbounded(Numbered):
    action_space: Any = gym.spaces.Box(-np.inf, np.inf, (1,))


class Worded(Numbered):
    observation_space: Any = gym.spaces.Text(5)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Numbered, Unbounded, Worded):
        spec = gym.envs.registration.EnvSpec(f"{cls.__name__}-v0", entry_point=f"{__name__}:{cls.__name__}")
        monkeypatch.setitem(gym.registry, spec.id, spec)


def test_unknown_make_runs_but_is_not_saved() -> None:
    envs = ControlEnvs("Numbered-v0", 2)
    envs.reset(np.random.SeedSequence(0))
    np.testing.assert_array_equal(envs.step(np.array([0, 1])).reward, [3.0, 4.0])
    with pytest.raises(
        ValueError, match=r"state of Numbered-v0 cannot be saved, .* cannot be resumed exactly"
    ):
        envs.state_dict()


def test_refusals() -> None:
    with pytest.raises(
        ValueError, match=r"unknown Gymnasium environment 'cartpole-v1': did you mean CartPole-v1"
    ):
        ControlEnvs("cartpole-v1", 1)
    with pytest.raises(ValueError, match=r"Unbounded-v0 has actions in Box\(-inf, inf"):
        ControlEnvs("Unbounded-v0", 1)
    with pytest.raises(ValueError, match=r"Worded-v0 has observations in Text"):
        ControlEnvs("Worded-v0", 1)
    with pytest.raises(
        ValueError, match="needs a package that is missing or does not fit: No module named 'no_such_module'"
    ):
        ControlEnvs("no_such_module:Env-v0", 1)
    with pytest.raises(ValueError, match="LunarLander-v3 needs a package that is missing or does not fit"):
        ControlEnvs("LunarLander-v3", 1)
    state = ControlEnvs("CartPole-v1", 1)
    state.reset(np.random.SeedSequence(0))
    with pytest.raises(ValueError, match="has env_id CartPole-v1, these environments have Acrobot-v1"):
        ControlEnvs("Acrobot-v1", 1).load_state_dict(state.state_dict())


@pytest.mark.parametrize("wrong", [[[0.5]], [[0.5], [1.5]], [[0.5], [np.nan]], [0.5, 0.5]])
def test_wrong_actions_are_refused(wrong: Any) -> None:
    envs = ControlEnvs("Pendulum-v1", 2)
    envs.reset(np.random.SeedSequence(0))
    with pytest.raises(ValueError, match="actions must"):
        envs.step(np.array(wrong))

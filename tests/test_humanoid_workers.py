"""Humanoid environments in worker processes: the results of one process, options, and answers to mistakes."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from fire_rl.envs import VectorEnv, humanoid
from fire_rl.envs.humanoid import HumanoidVectorEnv
from fire_rl.envs.workers import ProcessEnvs, WorkerError
from fire_rl.launch.commands.train import parse
from fire_rl.launch.run import make_envs
from tests.humanoid_for_tests import random_actions, same

SEED = np.random.SeedSequence(11)


def test_results_and_states_are_those_of_one_process() -> None:
    """Through falls and time limits; half-way each goes on from the state of another number of workers."""
    every: list[VectorEnv] = [
        humanoid.make("h1-maze", 4, workers=workers, max_episode_env_steps=45) for workers in (0, 1, 2, 3)
    ]
    here, *split = every
    assert isinstance(here, HumanoidVectorEnv)
    assert [len(envs.worker_pids) for envs in split if isinstance(envs, ProcessEnvs)] == [1, 2, 3]
    first = [envs.reset(SEED) for envs in every]
    assert all(np.array_equal(observation, first[0]) for observation in first[1:])
    terminated = truncated = 0
    for number, actions in enumerate(random_actions(1, 80, 4)):
        if number == 40:
            states = [envs.state_dict() for envs in every]
            for envs in every:
                envs.reset(np.random.SeedSequence(99))
            for envs, state in zip(every, states[1:] + states[:1], strict=True):
                envs.load_state_dict(state)
        step = here.step(actions)
        for envs in split:
            envs.send(actions)
            assert same(envs.receive(), step)
        terminated, truncated = terminated + step.terminated.sum(), truncated + step.truncated.sum()
    assert terminated and truncated
    for envs in every:
        envs.close()


def test_killed_worker_is_named() -> None:
    envs = humanoid.make("h1-walk", 3, workers=2)
    assert isinstance(envs, ProcessEnvs)
    envs.reset(SEED)
    os.kill(envs.worker_pids[1], signal.SIGKILL)
    with pytest.raises(
        WorkerError, match=r"worker process 1 \(environments 1 to 2\) died with signal SIGKILL"
    ):
        envs.step(np.zeros((3, 19), np.float32))


def test_what_cannot_be_combined() -> None:
    with pytest.raises(ValueError, match=r"with workers, .* threads must be 1, not 2"):
        humanoid.make("h1-walk", 2, workers=1, threads=2)
    with pytest.raises(ValueError, match="workers and max_episode_env_steps are options of the built-in"):
        humanoid.make("h1-walk", 2, workers=1, backend="official")
    with pytest.raises(ValueError, match="2 environments need 1 to 2 worker processes, not 3"):
        humanoid.make("h1-walk", 2, workers=3)
    with pytest.raises(ValueError, match=r"did you mean h1-walk"):
        humanoid.make("h1-wlak", 2, workers=1)


def test_the_flag_reaches_the_environments() -> None:
    config = parse(["--agent", "sac", "--env", "humanoid/h1-walk", "--env.workers", "2"])
    training, evaluation = make_envs(config, 1), make_envs(config, 5)
    for envs, workers in ((training, 1), (evaluation, 2)):
        assert isinstance(envs, ProcessEnvs) and len(envs.worker_pids) == workers
        envs.close()

"""Worker processes: the results of one process, and clear ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from fire_rl.envs import atari
from fire_rl.envs.atari import PROTOCOLS, AtariEnvs
from fire_rl.envs.vector import Array, Step
from fire_rl.envs.workers import ProcessEnvs, WorkerError
from fire_rl.launch.config import RunConfig, make_config
from fire_rl.launch.run import make_envs

SHORT = replace(PROTOCOLS["fire-paper"], max_frames=130)  # episodes of 33 agent steps


def make(num_envs: int, workers: int) -> ProcessEnvs:
    envs = atari.make("Breakout", num_envs, protocol=SHORT, workers=workers)
    assert isinstance(envs, ProcessEnvs)
    return envs


@pytest.fixture(scope="module")
def two() -> Iterator[ProcessEnvs]:
    """Two environments, a worker each; for tests that leave them in working order."""
    envs = make(2, 2)
    envs.reset(np.random.SeedSequence(0))
    yield envs
    envs.close()


def actions(num_envs: int, steps: int) -> Array:
    return np.random.default_rng(0).integers(4, size=(steps, num_envs))


def assert_same(a: Step, b: Step) -> None:
    np.testing.assert_array_equal(a.observation, b.observation)
    np.testing.assert_array_equal(a.final_observation, b.final_observation)
    np.testing.assert_array_equal(a.reward, b.reward)
    np.testing.assert_array_equal(a.terminated, b.terminated)
    np.testing.assert_array_equal(a.truncated, b.truncated)
    assert a.episodes == b.episodes


def exited(pid: int, seconds: float = 60.0) -> bool:
    """Wait for the end of a process that need not be our child."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def test_results_and_states_are_those_of_one_process() -> None:
    """Uneven parts (1 and 2 of 3); the saved state goes over from workers to one process and back."""
    rows = actions(3, 120)
    here = AtariEnvs("Breakout", 3, protocol=SHORT)
    split = make(3, 2)
    seed = np.random.SeedSequence(4)
    np.testing.assert_array_equal(split.reset(seed), here.reset(seed))
    ends = 0
    for row in rows[:60]:
        step = here.step(row)
        ends += len(step.episodes)
        split.send(row)
        assert_same(split.receive(), step)
    assert ends >= 3
    state = split.state_dict()
    fresh = AtariEnvs("Breakout", 3, protocol=SHORT)
    fresh.load_state_dict(state)
    split.load_state_dict(here.state_dict())
    for row in rows[60:]:
        step = here.step(row)
        assert_same(fresh.step(row), step)
        assert_same(split.step(row), step)
    split.close()


def test_steps_returned_earlier_stay_as_they_were(two: ProcessEnvs) -> None:
    first = two.step(np.array([1, 1]))
    copy = first.observation.copy()
    two.step(np.array([2, 3]))
    np.testing.assert_array_equal(first.observation, copy)


def test_killed_worker_is_named() -> None:
    envs = make(2, 2)
    envs.reset(np.random.SeedSequence(0))
    os.kill(envs.worker_pids[1], signal.SIGKILL)
    with pytest.raises(
        WorkerError, match=r"worker process 1 \(environments 1 to 1\) died with signal SIGKILL"
    ):
        envs.step(np.array([0, 0]))
    with pytest.raises(RuntimeError, match="closed"):
        envs.step(np.array([0, 0]))


def test_mistakes_in_a_worker_are_raised_here() -> None:
    envs = make(2, 1)
    envs.reset(np.random.SeedSequence(0))
    pids = envs.worker_pids
    with pytest.raises(ValueError, match=r"actions must lie in 0\.\.3") as caught:
        envs.step(np.array([0, 17]))
    assert "in a worker process" in caught.value.__notes__[0]
    assert all(exited(pid, seconds=0) for pid in pids)
    envs.close()


def test_order_of_calls_is_checked(two: ProcessEnvs) -> None:
    with pytest.raises(RuntimeError, match="without a send"):
        two.receive()
    with pytest.raises(ValueError, match="2 environments but 3 actions"):
        two.send(np.array([0, 0, 0]))
    two.send(np.array([0, 0]))
    with pytest.raises(RuntimeError, match="call receive"):
        two.state_dict()
    two.receive()


def test_workers_outlive_the_signals_that_stop_a_run(two: ProcessEnvs) -> None:
    """Ctrl-C reaches the whole process group; the parent still wants the state."""
    two.step(np.array([0, 0]))  # the workers have started and set up their signals
    for pid in two.worker_pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert len(two.state_dict()["envs"]) == 2


DIES = """
import os, signal, sys
import numpy as np
from fire_rl.envs import atari

if __name__ == "__main__":
    envs = atari.make("Breakout", 1, workers=1)
    envs.reset(np.random.SeedSequence(0))
    print(*envs.worker_pids, flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)"])
def test_no_orphans(end: str) -> None:
    """However the parent ends: killed, or without close()."""
    process = subprocess.run(
        [sys.executable, "-c", DIES.format(end=end)],
        capture_output=True,
        text=True,
    )
    pids = [int(word) for word in process.stdout.split()]
    assert len(pids) == 1, process.stderr
    assert all(exited(pid) for pid in pids)


def test_how_many_there_are_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """None on a CPU; beside a GPU one for games, and for humanoids where copies and cores allow it."""

    def workers(num_envs: int, device: str = "cuda", env: str = "humanoid/h1-walk", **options: object) -> int:
        config = make_config({"agent": "sac", "env": {"name": env, **options}})
        monkeypatch.setattr(RunConfig, "torch_device", lambda self: torch.device(device))
        count: int = make_envs(config, num_envs)  # type: ignore[assignment]
        return count

    monkeypatch.setattr("fire_rl.launch.run.make_env", lambda name, num_envs, **options: options["workers"])
    monkeypatch.setattr("fire_rl.envs._cores", lambda: 16)
    assert [workers(n) for n in (1, 3, 4, 10, 16, 32)] == [0, 0, 2, 5, 8, 8]
    assert workers(10, device="cpu") == 0
    assert workers(10, threads=2) == workers(10, backend="official") == 0
    assert [workers(n, workers=3) for n in (1, 10)] == [1, 3]
    assert [workers(n, env="atari/Asterix") for n in (1, 4)] == [1, 1]
    assert workers(4, device="cpu", env="atari/Asterix") == 0
    monkeypatch.setattr("fire_rl.envs._cores", lambda: 1)
    assert workers(10) == 0

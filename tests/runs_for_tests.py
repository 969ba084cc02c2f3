"""Tiny runs of DQN on ALE and of SAC on h1-walk, what they leave, and a process that dies in the middle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from fire_rl.launch.checkpoint import checkpoints, load_checkpoint
from fire_rl.launch.config import located, make_config
from fire_rl.launch.train import Loop, train

STREAMS = ("train", "episodes", "eval", "events")
COMMON: dict[str, Any] = {"probe_size": 16, "wandb": "disabled", "threads": 1, "reset_at": [0.5]}
RUNS: dict[str, dict[str, Any]] = {
    "dqn-ale": {
        **COMMON,
        "agent": {"name": "dqn", "learning_starts": 48, "replay_capacity": 60, "batch_size": 2},
        "env": "atari/Asterix",
        "num_envs": 2,
        "agent_steps": 72,
        "log_every": 10,
        "eval_every": 0,
    },
    "sac-h1": {
        **COMMON,
        "agent": {
            "name": "sac",
            "actor_width": 8,
            "critic_width": 8,
            "critic_blocks": 1,
            "learning_starts": 30,
            "replay_capacity": 60,
            "batch_size": 8,
        },
        "env": "humanoid/h1-walk",
        "num_envs": 1,
        "agent_steps": 80,
        "log_every": 10,
        "eval_every": 30,
        "eval_episodes": 1,
    },
}


def run(out: Path, settings: dict[str, Any], code: int = 0, **changes: Any) -> Path:
    """Run, or continue, a run below `out` in this process."""
    config = located(make_config({**settings, "out": out, **changes}))
    assert train(config) == code
    return config.path


def rows(path: Path) -> dict[str, bytes]:
    """All that is recorded, but for wall-clock times."""
    return {stream: (path / f"{stream}.jsonl").read_bytes() for stream in STREAMS}


def state(path: Path) -> dict[str, Any]:
    """The agent in the newest checkpoint."""
    components = load_checkpoint(checkpoints(path / "checkpoints")[-1], torch.device("cpu"))
    agent: dict[str, Any] = components["agent"]
    return agent


def assert_same_run(one: Path, other: Path) -> None:
    """Equal rows and an equal agent, bit for bit."""
    assert rows(one) == rows(other)
    assert rows(one)["train"]
    assert_same(state(one), state(other))


def assert_same(one: Any, other: Any) -> None:
    """Nested states are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def run_until_killed(out: Path, settings: dict[str, Any], calls: int | None) -> int:
    """Train in a process that is killed at the `calls`-th function call of its loop; returns the exit code.

    With None it is not killed, and says in `out`/calls how many calls there were.
    """
    context = multiprocessing.get_context("forkserver")
    # What would be imported on first use is slow under a profile function.
    context.set_forkserver_preload(["tests.runs_for_tests", "torch._dynamo", "wandb"])
    process = context.Process(target=_attempt, args=(out, settings, calls))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _attempt(out: Path, settings: dict[str, Any], calls: int | None) -> None:
    torch.set_num_threads(1)
    # What a killed process wrote is with the system; to wait for the disk would only take time.
    os.fsync = lambda fd: None
    made = 0
    genuine = Loop.__call__

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made == calls:
            os.kill(os.getpid(), signal.SIGKILL)

    def loop(self: Loop) -> None:
        sys.setprofile(count)
        try:
            genuine(self)
        finally:
            sys.setprofile(None)

    Loop.__call__ = loop  # type: ignore[method-assign]
    code = train(located(make_config({**settings, "out": out})))
    if calls is None:
        (out / "calls").write_text(str(made))
    sys.exit(code)

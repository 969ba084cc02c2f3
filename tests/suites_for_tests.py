"""A tiny suite, the ways to run it, and what two records must have in common."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fire_rl.launch.checkpoint import checkpoints, load_checkpoint
from fire_rl.launch.suite import Suite, parse_suite
from fire_rl.launch.train import train
from fire_rl.results.store import find_runs

STREAMS = ("train", "episodes", "eval", "events")
TINY = """
summary = "for tests"
agent = { name = "dqn", learning_starts = 50, hidden = [8], replay_capacity = 500, batch_size = 8 }
envs = ["control/CartPole-v1", "control/Acrobot-v1"]
methods = ["none", "fire", { name = "shrink-perturb", keep = 0.5, label = "half" }]
seeds = [1, 2]
agent_steps = 600
reset_at = [0.5]
eval_every = 300
eval_episodes = 1
log_every = 100
probe_size = 32
wandb = "disabled"
"""


def tiny_suite(**changes: str) -> Suite:
    """The suite TINY with the lines of some keys replaced."""
    lines = TINY.splitlines()
    for key, value in changes.items():
        lines = [line for line in lines if not line.startswith(f"{key} ")] + [f"{key} = {value}"]
    return parse_suite("tiny", "\n".join(lines))


def write_suite(folder: Path, suite: Suite) -> Path:
    """The suite as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.toml"
    path.write_text(suite.text)
    return path


def run_here(suite: Suite, out: Path) -> Path:
    """Every run of `suite`, whole, one after the other in this process: what all engines must reproduce."""
    for config in suite.configs(out):
        assert train(replace(config, run=replace(config.run, out=out))) == 0
    return out


def bench(file: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    """`fire-rl bench FILE`, started."""
    command = [sys.executable, "-m", "fire_rl.launch.cli", "bench", str(file), "--out", str(out), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], code: int = 0, timeout: float = 300) -> str:
    """Wait for `process` to end with `code`; returns what it said."""
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == code, out + errors
    return out + errors


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Return as soon as `condition` holds; fail when `process` ends before it does."""
    while not condition():
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        assert condition(), process.communicate()


def assert_same_records(folder: Path, reference: Path) -> list[Path]:
    """The runs of `folder`, after comparing each with `reference`: the same rows to the byte, and weights."""
    runs = [run.path.relative_to(folder) for run in find_runs(folder)]
    for run in runs:
        for stream in STREAMS:
            name = f"{stream}.jsonl"
            assert (folder / run / name).read_bytes() == (reference / run / name).read_bytes(), (run, stream)
        ours, theirs = _weights(folder / run), _weights(reference / run)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), run
    return runs


def _weights(run: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(checkpoints(run / "checkpoints")[-1], torch.device("cpu"))
    online: dict[str, torch.Tensor] = state["agent"]["q"]["online"]
    return online

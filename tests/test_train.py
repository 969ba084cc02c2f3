"""One run: reproducible, resumable, honest when it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fire_rl.agents.dqn import DQN
from fire_rl.launch.checkpoint import checkpoints, load_checkpoint
from fire_rl.launch.config import located, make_config
from fire_rl.launch.train import train
from fire_rl.method import Learner, ResetMethod, register
from fire_rl.results.store import load_run

STREAMS = ("train", "episodes", "eval", "events")
CARTPOLE: dict[str, Any] = {
    "agent": {
        "name": "dqn",
        "learning_starts": 100,
        "hidden": [32],
        "replay_capacity": 1_000,
        "batch_size": 16,
    },
    "env": "control/CartPole-v1",
    "agent_steps": 600,
    "eval_every": 200,
    "eval_episodes": 2,
    "log_every": 50,
    "probe_size": 64,
    "wandb": "disabled",
    "threads": 1,
}
ASTERIX: dict[str, Any] = {
    **CARTPOLE,
    "agent": {"name": "dqn", "learning_starts": 40, "replay_capacity": 400, "batch_size": 4},
    "env": "atari/Asterix",
    "num_envs": 2,
    "agent_steps": 120,
    "eval_every": 0,
    "log_every": 20,
}


def run(out: Path, settings: dict[str, Any] | None = None, **changes: Any) -> Path:
    config = located(make_config({**(settings or CARTPOLE), "out": out, **changes}))
    assert train(config) == 0
    return config.path


def rows(path: Path) -> dict[str, bytes]:
    return {stream: (path / f"{stream}.jsonl").read_bytes() for stream in STREAMS}


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(checkpoints(path / "checkpoints")[-1], torch.device("cpu"))
    online: dict[str, torch.Tensor] = state["agent"]["q"]["online"]
    return online


@pytest.mark.parametrize("settings", [CARTPOLE, ASTERIX], ids=["CartPole", "Asterix"])
def test_same_seed_same_rows_other_seed_other_rows(tmp_path: Path, settings: dict[str, Any]) -> None:
    first, second, other = (
        run(tmp_path / out, settings, method="fire", seed=seed)
        for out, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert rows(first) == rows(second)
    assert all(torch.equal(v, weights(second)[k]) for k, v in weights(first).items())
    assert rows(first)["train"] != rows(other)["train"]
    assert rows(first)["train"] and rows(first)["events"]


@pytest.fixture
def no_op() -> Any:
    @register("no-op")
    @dataclass
    class NoOp(ResetMethod):
        """Does nothing, but draws random numbers while doing so."""

        def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
            torch.rand(10, generator=generator)

    yield NoOp
    from fire_rl import method

    del method._REGISTRY["no-op"]


def test_none_equals_a_method_that_does_nothing(tmp_path: Path, no_op: type[ResetMethod]) -> None:
    """Same rows (but for the event itself) and same weights, wherever the resets fall."""
    without = run(tmp_path / "a", method="none")
    keeping = {"name": "no-op", "target": "keep", "optimizer": "keep"}
    with_it = run(tmp_path / "b", method=keeping, reset_at=[0.3, 0.7], eval_at_reset=False)
    for stream in ("train", "episodes", "eval"):
        assert rows(without)[stream] == rows(with_it)[stream]
    assert all(torch.equal(v, weights(with_it)[k]) for k, v in weights(without).items())


def test_evaluation_cannot_change_training(tmp_path: Path) -> None:
    often = run(tmp_path / "a", method="fire", eval_every=50)
    never = run(tmp_path / "b", method="fire", eval_every=0)
    assert rows(often)["train"] == rows(never)["train"]
    assert rows(often)["episodes"] == rows(never)["episodes"]


def test_the_event_is_recorded_where_it_was_asked_for(tmp_path: Path) -> None:
    path = run(tmp_path, method="fire", reset_at=[150, 0.5])
    events = load_run(path).rows("events")
    assert [e["agent_steps"] for e in events] == [150, 300]
    moments = [(e["agent_steps"], e["moment"]) for e in load_run(path).rows("eval")]
    assert (300, "before_reset") in moments and (300, "after_reset") in moments
    assert moments[0] == (0, "start")


def command(out: Path, settings: dict[str, Any], **changes: Any) -> list[str]:
    from fire_rl.launch.command_line import train_command

    config = located(make_config({**settings, "out": out, **changes}))
    return [sys.executable, "-m", "fire_rl.launch.cli", *train_command(config)]


def start_and(
    signal_number: int, words: list[str], path: Path, when: Callable[[], bool]
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not when():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
    process.send_signal(signal_number)
    return process


def logged(path: Path, bytes_at_least: int) -> Callable[[], bool]:
    file = path / "train.jsonl"
    return lambda: file.exists() and file.stat().st_size > bytes_at_least


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_an_interrupted_run_saves_its_state_and_goes_on_bit_for_bit(
    tmp_path: Path, number: int, code: int
) -> None:
    long = {**CARTPOLE, "agent_steps": 3_000, "method": "fire"}
    whole = run(tmp_path / "whole", long)
    words = command(tmp_path / "cut", long)
    path = located(make_config({**long, "out": tmp_path / "cut"})).path
    process = start_and(number, words, path, logged(path, 400))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "the same command continues" in errors
    assert load_run(path).status.state == "interrupted"
    assert load_run(path).status.agent_steps < 3_000
    subprocess.run(words, check=True, capture_output=True)
    assert rows(path) == rows(whole)
    assert all(torch.equal(v, weights(path)[k]) for k, v in weights(whole).items())


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    genuine = DQN.loss

    def breaks(self: DQN, *args: Any) -> Any:
        loss, metrics = genuine(self, *args)
        bad = loss * float("nan") if self.updates == 207 else loss
        return bad, {**metrics, "loss": bad.detach()}

    monkeypatch.setattr(DQN, "loss", breaks)
    config = located(make_config({**CARTPOLE, "out": tmp_path, "checkpoint_minutes": 0.0004}))
    assert train(config) == 1
    message = capsys.readouterr().err
    assert "loss is not finite since update 208" in message and "agent step" in message
    kept = checkpoints(config.path / "checkpoints")[-1]
    assert str(kept) in message
    state = load_checkpoint(kept, torch.device("cpu"))
    assert state["agent"]["updates"] <= 207
    assert all(torch.isfinite(v).all() for v in state["agent"]["q"]["online"].values())
    assert load_run(config.path).status.state == "failed"


def test_a_finished_run_is_not_repeated_and_fresh_repeats_it(tmp_path: Path) -> None:
    path = run(tmp_path)
    before = (path / "config.json").stat().st_mtime_ns
    run(tmp_path)
    assert (path / "config.json").stat().st_mtime_ns == before
    content = rows(path)
    run(tmp_path, fresh=True)
    assert (path / "config.json").stat().st_mtime_ns > before
    assert rows(path) == content


def test_another_configuration_is_refused_by_its_keys(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match=r"agent\.gamma \(0\.99 there, 0\.9 now\)"):
        run(tmp_path, agent={**CARTPOLE["agent"], "gamma": 0.9})
    path = located(make_config({**CARTPOLE, "out": tmp_path})).path
    with pytest.raises(
        ValueError, match=r"env\.name \('control/CartPole-v1' there, 'control/Acrobot-v1' now\)"
    ):
        run(tmp_path, env="control/Acrobot-v1", run_dir=path)
    run(tmp_path, checkpoint_minutes=3.0)  # what has no part in the results may differ


def test_the_record_names_configuration_versions_and_hardware(tmp_path: Path) -> None:
    record = json.loads((run(tmp_path, method="fire") / "config.json").read_text())
    assert record["config"]["method"]["solver"] == "newton-schulz"
    assert record["config"]["agent"]["hidden"] == [32]
    assert record["versions"]["torch"] == torch.__version__ and record["hardware"]["cpu_count"]


def test_returns_are_raw_and_of_full_episodes(tmp_path: Path) -> None:
    path = run(tmp_path)
    episodes = load_run(path).rows("episodes")
    assert episodes and all(
        e["return"] == e["length_agent_steps"] for e in episodes
    )  # CartPole pays 1 a step
    for row in load_run(path).rows("eval"):
        assert len(row["returns"]) == 2 and row["return"] == np.mean(row["returns"])


def test_more_workers_than_evaluation_environments(tmp_path: Path) -> None:
    """Workers change neither the results nor, being fewer there, the evaluation."""
    atari = {**ASTERIX, "agent_steps": 60, "eval_every": 60, "eval_episodes": 1, "eval_at_reset": False}
    here = run(tmp_path / "a", atari)
    there = run(tmp_path / "b", atari, env={"name": "atari/Asterix", "workers": 2})
    assert rows(here) == rows(there) and rows(here)["eval"]


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_products_on_a_gpu_have_the_precision_that_was_asked_for(precision: str, tmp_path: Path) -> None:
    """A setting of the process, which can be read without a GPU; FIRE, in the middle, puts it back."""
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolutions.allow_tf32
    try:
        run(tmp_path, method="fire", reset_at=[0.5], agent_steps=120, eval_every=0, precision=precision)
        assert matmul.allow_tf32 is convolutions.allow_tf32 is (precision == "tf32")
    finally:
        matmul.allow_tf32, convolutions.allow_tf32 = before

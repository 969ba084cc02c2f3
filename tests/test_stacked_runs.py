"""`fire-rl train --stack`: each run of a stack is recorded as if it had run alone."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fire_rl.agents import program
from fire_rl.launch import cli
from fire_rl.launch.config import located, make_config, members
from fire_rl.launch.run import Run
from fire_rl.launch.train import train
from fire_rl.results.store import load_run
from tests.runs_for_tests import COMMON, assert_same_run, rows, run, run_until_killed, state

CARTPOLE: dict[str, Any] = {
    **COMMON,
    "agent": {"name": "dqn", "learning_starts": 40, "hidden": [16], "replay_capacity": 300, "batch_size": 8},
    "env": "control/CartPole-v1",
    "method": "fire",
    "agent_steps": 120,
    "eval_every": 40,
    "eval_episodes": 2,
    "log_every": 20,
    "compile": "off",  # in turn, bit for bit
}
SEEDS = [1, 2, 3]


def stacked(out: Path, code: int = 0, **changes: Any) -> list[Path]:
    config = located(make_config({**CARTPOLE, "out": out, "stack": len(SEEDS), **changes}))
    assert train(config) == code
    return [member.path for member in members(config)]


def alone(out: Path, **changes: Any) -> list[Path]:
    return [run(out, CARTPOLE, seed=seed, **changes) for seed in SEEDS]


@pytest.fixture(scope="module")
def singles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return alone(tmp_path_factory.mktemp("alone"))


def test_each_member_is_the_run_it_is_alone(tmp_path: Path, singles: list[Path]) -> None:
    for one, other in zip(stacked(tmp_path), singles, strict=True):
        assert_same_run(one, other)
        assert load_run(one).status.state == "finished"


def test_members_go_on_alone_and_runs_alone_go_on_in_a_stack(tmp_path: Path, singles: list[Path]) -> None:
    """Pre-empted together, one continued alone, then all together: the one ahead waits for the others."""
    with pytest.MonkeyPatch.context() as patch:
        preempt(patch, seed=2, agent_steps=70)
        paths = stacked(tmp_path, code=128 + signal.SIGUSR1)
    assert {load_run(path).status.state for path in paths} == {"interrupted"}
    run(tmp_path, CARTPOLE, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        preempt(patch, seed=1, agent_steps=90)
        run(tmp_path, CARTPOLE, seed=1, code=128 + signal.SIGUSR1)
    for one, other in zip(stacked(tmp_path), singles, strict=True):
        assert_same_run(one, other)


def preempt(patch: pytest.MonkeyPatch, seed: int, agent_steps: int) -> None:
    genuine = Run.finish_step

    def finish_step(self: Run) -> None:
        genuine(self)
        if (self.config.run.seed, self.agent.agent_steps) == (seed, agent_steps):
            os.kill(os.getpid(), signal.SIGUSR1)

    patch.setattr(Run, "finish_step", finish_step)


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_killed_anywhere_the_same_command_ends_the_same(
    tmp_path: Path, singles: list[Path], share: float
) -> None:
    settings = {**CARTPOLE, "stack": len(SEEDS), "checkpoint_minutes": 1e-9}
    assert run_until_killed(tmp_path / "whole", settings, calls=None) == 0
    calls = int((tmp_path / "whole" / "calls").read_text())
    assert run_until_killed(tmp_path / "killed", settings, int(share * calls)) == -signal.SIGKILL
    for one, other in zip(stacked(tmp_path / "killed"), singles, strict=True):
        assert_same_run(one, other)


def test_branches_of_a_stack_of_trunks(tmp_path: Path, singles: list[Path]) -> None:
    trunk = str(tmp_path / "trunks" / "s{seed}")
    stacked(tmp_path, method="none", run_dir=trunk, stop_at=60)
    for one, other in zip(stacked(tmp_path, fork_from=trunk), singles, strict=True):
        assert_same_run(one, other)


def test_a_loss_that_is_not_finite_ends_its_own_run_only(tmp_path: Path, singles: list[Path]) -> None:
    genuine = Run.finish_step

    def poisoned(self: Run) -> None:
        genuine(self)
        if (self.config.run.seed, self.agent.agent_steps) == (2, 65):
            with torch.no_grad():
                next(self.agent.policy.online.parameters()).fill_(torch.nan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish_step", poisoned)
        paths = stacked(tmp_path, code=1)
    assert [load_run(path).status.state for path in paths] == ["finished", "failed", "finished"]
    assert "not finite since update" in load_run(paths[1]).status.message
    for i in (0, 2):
        assert_same_run(paths[i], singles[i])
    for one, other in zip(stacked(tmp_path), singles, strict=True):  # the failed one alone, from its start
        assert_same_run(one, other)


def test_batched_members_are_the_runs_they_are_alone_up_to_rounding(
    tmp_path: Path, singles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "Compiled", lambda function: function)
    for one, other in zip(stacked(tmp_path, compile="on"), singles, strict=True):
        assert rows(one)["episodes"] == rows(other)["episodes"]
        for (name, found), expected in zip(
            state(one)["q"]["online"].items(), state(other)["q"]["online"].values(), strict=True
        ):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg=name)


def test_one_folder_for_several_runs_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--agent", "dqn", "--env", "control/CartPole-v1", "--stack", "2", "--run-dir", "x"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "--run-dir names one folder for 2 runs: write {seed} in it" in capsys.readouterr().err

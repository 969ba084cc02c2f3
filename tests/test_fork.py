"""Forks: a branch of a trunk is the run that it would have been without one."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fire_rl.launch.checkpoint import checkpoints
from fire_rl.launch.config import located, make_config
from fire_rl.launch.run import Run
from fire_rl.launch.train import Loop, train
from fire_rl.results.store import load_run
from tests.runs_for_tests import RUNS, assert_same_run, rows, run

CARTPOLE: dict[str, Any] = {
    "agent": {"name": "dqn", "learning_starts": 40, "hidden": [8], "replay_capacity": 50, "batch_size": 4},
    "env": "control/CartPole-v1",
    "agent_steps": 120,
    "eval_every": 20,
    "eval_episodes": 1,
    "log_every": 20,
    "probe_size": 16,
    "wandb": "disabled",
    "threads": 1,
    "reset_at": [0.5],
}


def chunk_files(path: Path) -> set[Path]:
    return set((path / "checkpoints" / "chunks").iterdir())


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    return run(tmp_path / "trunk", CARTPOLE, method="none", stop_at=60)


@pytest.mark.parametrize("kind", RUNS)
def test_branches_equal_uninterrupted_runs_bit_for_bit(tmp_path: Path, kind: str) -> None:
    settings = RUNS[kind]
    trunk = run(tmp_path / "trunk", settings, method="none", stop_at=settings["agent_steps"] // 2)
    for method in ("none", "fire"):
        whole = run(tmp_path / "whole", settings, method=method)
        branch = run(tmp_path / "branches", settings, method=method, fork_from=trunk)
        assert_same_run(branch, whole)
        assert load_run(branch).rows("events"), "the reset is to be part of what is compared"


def test_a_trunk_may_stop_well_before_the_reset(tmp_path: Path) -> None:
    trunk = run(tmp_path / "trunk", CARTPOLE, method="none", stop_at=33)
    branch = run(tmp_path / "branch", CARTPOLE, method="full-reset", fork_from=trunk)
    assert_same_run(branch, run(tmp_path / "whole", CARTPOLE, method="full-reset"))


def test_other_units_of_the_reset_fork_exactly_too(tmp_path: Path) -> None:
    settings = {**CARTPOLE, "reset_at": [20], "reset_unit": "updates"}  # replay ratio 0.5: agent step 80
    trunk = run(tmp_path / "trunk", settings, method="none", stop_at=80)
    branch = run(tmp_path / "branch", settings, method="fire", fork_from=trunk)
    assert load_run(branch).rows("events")[0]["agent_steps"] == 80
    assert_same_run(branch, run(tmp_path / "whole", settings, method="fire"))


def test_a_trunk_stops_before_what_is_due_and_keeps_its_memory(trunk: Path) -> None:
    status = load_run(trunk).status
    assert (status.state, status.agent_steps, status.total_agent_steps) == ("finished", 60, 60)
    assert not load_run(trunk).rows("events")
    assert max(row["agent_steps"] for row in load_run(trunk).rows("eval")) < 60
    assert chunk_files(trunk)


def test_a_branch_names_its_trunk_and_is_a_run_of_its_own(tmp_path: Path, trunk: Path) -> None:
    branch = load_run(run(tmp_path / "branch", CARTPOLE, method="fire", fork_from=trunk))
    assert branch.record["fork"] == {"trunk": str(trunk), "id": load_run(trunk).id, "agent_steps": 60}
    assert branch.config["fork_from"] == str(trunk)
    assert branch.id != load_run(trunk).id


def test_branches_share_the_memory_by_hard_links(tmp_path: Path, trunk: Path) -> None:
    config = located(make_config({**CARTPOLE, "out": tmp_path, "method": "fire", "fork_from": trunk}))
    shared = {}

    def look(self: Loop) -> None:
        shared.update({file.name: file.stat().st_nlink for file in chunk_files(config.path)})
        self.codes[self.runs[0]] = 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "__call__", look)
        train(config)
    assert shared == {file.name: 2 for file in chunk_files(trunk) if file.name in shared}
    assert shared


def test_where_links_are_impossible_the_memory_is_copied(
    tmp_path: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)
    branch = run(tmp_path / "branch", CARTPOLE, method="fire", fork_from=trunk)
    assert_same_run(branch, run(tmp_path / "whole", CARTPOLE, method="fire"))


def test_a_branch_outlives_its_trunk(tmp_path: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", CARTPOLE, method="fire")
    genuine = Run.finish_step

    def interrupted(self: Run) -> None:
        genuine(self)
        if self.agent.agent_steps == 90:
            os.kill(os.getpid(), 10)  # SIGUSR1

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish_step", interrupted)
        run(tmp_path / "branch", CARTPOLE, code=138, method="fire", fork_from=trunk)
    shutil.rmtree(trunk)
    assert_same_run(run(tmp_path / "branch", CARTPOLE, method="fire", fork_from=trunk), whole)


def test_a_fork_that_was_cut_short_is_made_again(
    tmp_path: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", CARTPOLE, method="fire")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "checkpoint", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "branch", CARTPOLE, method="fire", fork_from=trunk)
    branch = located(make_config({**CARTPOLE, "out": tmp_path / "branch", "method": "fire"})).path
    assert rows(branch)["train"] and not checkpoints(branch / "checkpoints")
    assert_same_run(run(tmp_path / "branch", CARTPOLE, method="fire", fork_from=trunk), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, r"not the beginning of this run: seed \(1 there, 2 now\)"),
        ({"reset_at": [0.4]}, "has passed the first reset of this run"),
        ({"reset_at": [60, 20]}, "has passed the first reset of this run"),
    ],
)
def test_a_trunk_of_another_run_is_refused(
    tmp_path: Path, trunk: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "branch", CARTPOLE, method="fire", fork_from=trunk, **changes)
    assert not (tmp_path / "branch").exists()


def test_only_a_finished_trunk_is_forked_from(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", CARTPOLE, method="none")
    with pytest.raises(ValueError, match="--stop-at"):
        run(tmp_path / "branch", CARTPOLE, method="fire", fork_from=whole)
    with pytest.raises(ValueError, match="from 1 to 120, not 121"):
        run(tmp_path / "trunk", CARTPOLE, method="none", stop_at=121)


def test_a_method_that_acts_from_the_start_cannot_share_one(tmp_path: Path, trunk: Path) -> None:
    with pytest.raises(ValueError, match="l2-init acts from the first update on"):
        run(tmp_path / "branch", CARTPOLE, method="l2-init", fork_from=trunk)

"""The engines for clusters, on a Ray and a SLURM that are really started: the same records as on a laptop."""

import importlib.util
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fire_rl.launch import cli
from fire_rl.results.store import load_run
from tests.slurm_for_tests import missing_requirement, running_slurm
from tests.suites_for_tests import (
    assert_same_records,
    bench,
    finish,
    run_here,
    tiny_suite,
    wait_until,
    write_suite,
)

SUITE = tiny_suite(envs='["control/CartPole-v1"]', seeds="[1, 2]", methods='["none", "fire"]')
STACK = ("--stack", "2")
LONG = tiny_suite(envs='["control/CartPole-v1"]', seeds="[1]", methods='["fire"]', agent_steps="6_000")
SLURM = ("--engine", "slurm", "--slurm.gpus", "0", "--slurm.cpus", "1", "--slurm.memory", "0")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(SUITE, tmp_path_factory.mktemp("reference"))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")
def test_ray_gives_the_same_records_even_if_a_run_is_killed(tmp_path: Path, reference: Path) -> None:
    launcher = bench(write_suite(tmp_path, SUITE), tmp_path, "--engine", "ray", *STACK)
    folder = tmp_path / "tiny"
    wait_until(lambda: bool(list(folder.rglob("status.json"))), launcher)
    status = json.loads(next(folder.rglob("status.json")).read_text())
    os.kill(status["pid"], signal.SIGKILL)
    finish(launcher)
    assert len(assert_same_records(folder, reference)) == 4
    events = [json.loads(line) for line in (folder / "launcher.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events].count("retried") == 2, "both runs of the process"
    assert any("killed by SIGKILL" in e.get("reason", "") for e in events)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SLURM of one node, which SLURM's commands find."""
    if reason := missing_requirement():
        pytest.skip(reason)
    with running_slurm(tmp_path_factory.mktemp("slurm")) as config, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(config))
        yield


def ask(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def states() -> list[str]:
    """Of every task that SLURM knows of."""
    return ask("squeue", "--noheader", "--array", "--states=all", "--format=%T").split()


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        assert "FAILED" not in states(), ask("squeue", "--states=all", "--format=%i %T %r")


def test_slurm_gives_the_same_records_and_is_not_asked_twice(
    tmp_path: Path, reference: Path, slurm: None
) -> None:
    file = write_suite(tmp_path, SUITE)
    assert "3 jobs submitted" in finish(bench(file, tmp_path, *SLURM, *STACK))
    assert "0 jobs submitted" in finish(bench(file, tmp_path, *SLURM)), "stacked or not"
    until(lambda: set(states()) == {"COMPLETED"})
    assert len(assert_same_records(tmp_path / "tiny", reference)) == 4
    assert cli.main(["status", str(tmp_path / "tiny"), "--json"]) == 0
    assert "0 jobs submitted" in finish(bench(file, tmp_path, *SLURM))


def test_a_task_that_slurm_wants_back_saves_its_state_and_is_requeued(tmp_path: Path, slurm: None) -> None:
    whole = run_here(LONG, tmp_path / "whole")
    finish(bench(write_suite(tmp_path, LONG), tmp_path, *SLURM))
    folder = tmp_path / "tiny"
    rows = folder / "dqn/control/CartPole-v1/fire/s1/train.jsonl"
    until(lambda: rows.exists() and rows.stat().st_size > 0)
    task = json.loads((folder / "slurm/submitted.jsonl").read_text())["task"]
    ask("scancel", "--batch", "--signal=USR1", task)  # as SLURM does before a time limit
    until(lambda: "PENDING" in states())
    assert load_run(rows.parent).status.state == "interrupted"
    # A requeued task would wait two minutes; but within the second its credential is still revoked.
    ask("scontrol", "update", f"jobid={task}", "StartTime=now+3seconds")
    until(lambda: set(states()) == {"COMPLETED"})
    assert load_run(rows.parent).status.attempt == 2
    assert len(assert_same_records(folder, whole)) == 1


def test_the_dry_run_prints_the_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--engine", "slurm", "--slurm.partition", "gpu", "--slurm.extra=--qos=long", "--dry-run"]
    assert cli.main(["bench", str(write_suite(tmp_path, SUITE)), "--out", str(tmp_path), *words]) == 0
    script = capsys.readouterr().out
    for line in (
        "#SBATCH --array=0-0%32",
        "#SBATCH --array=0-1%32",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --partition=gpu",
        "#SBATCH --qos=long",
        "fire_rl.launch.engines.slurm",
        "# 0: fire-rl train --agent dqn --env control/CartPole-v1 --method none",
        "--seed 1 --stack 2",
    ):
        assert line in script
    assert not (tmp_path / "tiny").exists()
    bash = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert bash.returncode == 0, bash.stderr


def test_without_slurm_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["bench", str(write_suite(tmp_path, SUITE)), "--out", str(tmp_path), *SLURM]
    assert cli.main(words) == 2
    assert "--engine local" in capsys.readouterr().err

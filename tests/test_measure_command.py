"""`fire-rl measure`: the newest checkpoint of a run, with and without its replay memory."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fire_rl.agents.measuring import measure
from fire_rl.launch.cli import main
from fire_rl.launch.recorded import load_agent
from tests.test_measuring import run

QUICK = ("--batch-size", "64", "--curvature-steps", "2", "--refit-steps", "2", "--device", "cpu")


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def measured(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main(["measure", str(path), *QUICK, "--json", *more]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_finished_run_plays_its_batch_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path, method="fire", agent_steps=200)
    before = contents(path)
    first = measured(path, capsys)
    assert first == measured(path, capsys) != measured(path, capsys, "--seed", "1")
    assert first["data"] == "played" and first["agent_steps"] == 200
    assert {"q/refit_error", "q/hessian_eigenvalue", "q/dot_product"} <= first["measures"].keys()
    assert all(math.isfinite(value) for value in first["measures"].values())
    assert contents(path) == before
    assert main(["measure", str(path), *QUICK]) == 0
    table = capsys.readouterr().out
    assert "played just now" in table and f"{first['measures']['q/srank']:.5g}" in table


def test_a_run_that_others_go_on_from_is_measured_on_its_own_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path, stop_at=200, num_envs=2)
    result = measured(path, capsys)
    assert result["data"] == "replay memory"
    agent = load_agent(path, "cpu", with_memory=True).agent
    assert len(agent.memory) > 200  # the last frames of episodes take slots, too
    rng = np.random.default_rng(np.random.SeedSequence(0).spawn(2)[0])
    assert result["measures"] == measure(agent, rng, 64, 2, 2)


def test_what_cannot_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err

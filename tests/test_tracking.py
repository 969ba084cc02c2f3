"""Tracking: the real W&B client offline, read back by its own reader; and the run without it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb

from fire_rl.launch.tracking import Tracker
from fire_rl.results.store import RunDirectory, load_run

CONFIG: dict[str, Any] = {
    "agent": {"name": "dqn", "hidden": 512},
    "env": "control/CartPole-v1",
    "method": {"name": "fire", "steps": 10},
    "seed": 3,
}
PROJECTION = [
    {"learner": "q", "tensor": "encoder.0.weight", "shape": [32, 4, 8, 8], "sfe": 1.5, "dfi_after": 0.25},
    {"learner": "q", "tensor": "head.2.weight", "shape": [2, 512], "sfe": 0.5, "dfi_before": float("nan")},
]


@pytest.fixture(autouse=True)
def own_wandb_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client keeps caches and settings outside the run directory; here, in a folder of the test."""
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def make(path: Path) -> RunDirectory:
    run = RunDirectory(path)
    run.create(CONFIG)
    return run


def log_some(tracker: Tracker, steps: range) -> None:
    """Every 10 steps an episode and a row of metrics; every 20 an evaluation and a timing."""
    for step in steps:
        clock = {"agent_steps": 10 * step, "env_steps": 40 * step}
        tracker.episode({**clock, "return": float(step), "length_agent_steps": 10})
        tracker.train({**clock, "updates": step, "loss": 1 / (step + 1), "q": float("nan")})
        if step % 2 == 0:
            tracker.evaluation({**clock, "return": 2.0 * step, "returns": [step, 3.0 * step]})
            tracker.timing({**clock, "agent_steps_per_second": 123.0})


def inspect(folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output = done.stdout
    return [json.loads(line) for line in output.splitlines()]


def history(folder: Path) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in inspect(folder) if record["type"] == "history"]


def test_an_offline_run_is_read_back_by_the_client(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        tracker = Tracker(run, tags=["quick"])
        log_some(tracker, range(4))
        event = {"agent_steps": 35, "env_steps": 140, "method": "fire", "before": {"q/dormant_ratio": 0.5}}
        tracker.event(event, {"projection": PROJECTION})
        log_some(tracker, range(4, 6))
        tracker.finish("finished")
        (folder,) = (tmp_path / "run" / "wandb").glob(f"offline-run-*-{run.id}")
    records = inspect(folder)
    (described,) = [record["run"] for record in records if record["type"] == "run"]
    assert described["run_group"] == "dqn/control/CartPole-v1/fire"
    assert described["job_type"] == "train"
    assert set(described["tags"]) == {"dqn", "control/CartPole-v1", "fire", "quick"}
    config = described["config"]["update"]
    assert config["method"] == {"name": "fire", "steps": 10}
    assert config["record"]["versions"]["wandb"] == wandb.__version__
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    assert any(metric.get("step_metric") == "agent_steps" for metric in metrics)

    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row["_step"] for row in rows] == [0, 10, 20, 30, 35, 40, 50]
    assert all(row["agent_steps"] == row["_step"] for row in rows)
    assert [row["eval/return"] for row in rows if "eval/return" in row] == [0.0, 4.0, 8.0]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [1 / n for n in range(1, 7)]
    assert [row["episode/return"] for row in rows if "episode/return" in row] == [0, 1, 2, 3, 4, 5]
    assert not any("train/q" in row for row in rows)
    assert rows[2]["timing/agent_steps_per_second"] == 123.0
    assert rows[4]["reset/method"] == "fire"
    assert rows[4]["reset/before/q/dormant_ratio"] == 0.5
    (table,) = (folder / "files" / "media" / "table" / "reset").glob("projection*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["learner", "tensor", "shape", "sfe", "dfi_after", "dfi_before"]
    assert content["data"][0] == ["q", "encoder.0.weight", "[32, 4, 8, 8]", 1.5, 0.25, None]

    record = load_run(tmp_path / "run")
    assert (record.status.state, record.status.wandb) == ("finished", "offline")
    assert record.status.agent_steps == 50
    assert record.rows("events") == [
        {**event, "projection": [PROJECTION[0], {**PROJECTION[1], "dfi_before": None}]}
    ]
    np.testing.assert_array_equal(record.columns("eval", ["return"])["return"], [0, 4, 8])
    np.testing.assert_array_equal(record.columns("episodes", ["return"])["return"], range(6))


def test_a_resumed_run_keeps_its_id_and_sends_no_row_twice(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        tracker = Tracker(run)
        log_some(tracker, range(3))
        offsets = run.offsets()
        log_some(tracker, range(3, 5))
        tracker.finish("interrupted")
        first = run.id
    # The client names its folders by the second, and this test is done within one.
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    folder.rename(folder.with_name(f"offline-run-20200101_000000-{first}"))
    with RunDirectory(tmp_path / "run") as run:
        run.truncate_to(offsets)
        tracker = Tracker(run)
        log_some(tracker, range(3, 7))
        tracker.finish("finished")
        assert run.id == first
    folders = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{first}"))
    assert [[row["_step"] for row in history(folder)] for folder in folders] == [
        [0, 10, 20, 30, 40],
        [50, 60],
    ]
    record = load_run(tmp_path / "run")
    np.testing.assert_array_equal(record.columns("train", ["updates"])["updates"], range(7))


def test_a_client_that_raises_loses_wandb_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with make(tmp_path / "run") as run:
        tracker = Tracker(run)
        log_some(tracker, range(2))

        def broken(*_: Any, **__: Any) -> None:
            raise ConnectionResetError("the service went away\nand here is why")

        monkeypatch.setattr(wandb.Run, "log", broken)
        log_some(tracker, range(2, 5))
        tracker.finish("finished")
    error = capsys.readouterr().err
    assert error.count("W&B is lost (the service went away)") == 1
    assert error.count("\n") == 1
    record = load_run(tmp_path / "run")
    assert record.status.state == "finished"
    assert record.status.wandb == "lost: the service went away"
    assert len(record.rows("train")) == 5


def test_a_killed_wandb_service_loses_wandb_and_not_the_run(tmp_path: Path) -> None:
    """The client's own process is killed, as by a machine short of memory; the trainer must end well."""
    script = f"""
import os
from pathlib import Path
from fire_rl.launch.tracking import Tracker
from fire_rl.results.store import RunDirectory
run = RunDirectory({str(tmp_path / "run")!r})
run.create({CONFIG!r})
tracker = Tracker(run)
killed = 0
for status in Path("/proc").glob("[0-9]*/status"):
    if f"PPid:\\t{{os.getpid()}}\\n" in status.read_text():
        os.kill(int(status.parent.name), {int(signal.SIGKILL)})
        killed += 1
assert killed
for step in range(300):
    tracker.train({{"agent_steps": step, "loss": 1.0}})
tracker.finish("finished")
"""
    # Without our own client's service, which a child would share.
    env = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("W&B is lost") == 1
    record = load_run(tmp_path / "run")
    assert record.status.wandb.startswith("lost: ")
    assert len(record.rows("train")) == 300


def test_online_without_a_key_goes_offline_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with make(tmp_path / "run") as run:
        tracker = Tracker(run, wandb="online")
        log_some(tracker, range(2))
        tracker.finish("finished")
        assert run.status.wandb == "offline"
    assert "no API key" in capsys.readouterr().err
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert len(history(folder)) == 2


def test_disabled_never_imports_the_client(tmp_path: Path) -> None:
    script = f"""
import sys
from fire_rl.launch.tracking import Tracker
from fire_rl.results.store import RunDirectory
run = RunDirectory({str(tmp_path / "run")!r})
run.create({CONFIG!r})
tracker = Tracker(run, wandb="disabled")
tracker.train({{"agent_steps": 1, "loss": 1.0}})
tracker.event({{"agent_steps": 1, "method": "fire"}}, {{"projection": {PROJECTION[:1]!r}}})
tracker.finish("finished")
print("wandb" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert not (tmp_path / "run" / "wandb").exists()
    assert load_run(tmp_path / "run").status.wandb == "disabled"

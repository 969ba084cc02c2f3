"""`fire-rl status`: told from the records alone."""

import io
import json
import os
import socket
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fire_rl.launch import cli
from fire_rl.launch.engines.pool import log_event
from fire_rl.launch.overview import disk_bytes, duration, read_overview, render
from fire_rl.launch.plan import make_plan, write_plan
from fire_rl.results.store import RunDirectory, load_run
from tests.suites_for_tests import run_here, tiny_suite

RUNS = Path("dqn/control/CartPole-v1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A planned suite of a trunk and three branches, none of which has begun."""
    plan = make_plan(tiny_suite(envs='["control/CartPole-v1"]', seeds="[1]").configs(tmp_path), tmp_path)
    write_plan(plan.jobs, tmp_path)
    return tmp_path


def record(path: Path, **status: Any) -> None:
    """A run with four logging intervals of 100 steps in 2 s each, and episodes of return 1, 2, 3."""
    config = {"agent": "dqn", "env": "control/CartPole-v1", "method": path.parts[-2], "seed": 1}
    with RunDirectory(path) as run:
        run.create(config)
        for n in range(1, 5):
            run.append("timing", {"agent_steps": 100 * n, "seconds": 2.0 * n, "interval_seconds": 2.0})
        run.append("timing", {"agent_steps": 400, "reset_seconds": 0.1})
        for value in (1.0, 2.0, 3.0):
            run.append("episodes", {"agent_steps": 400, "return": value, "length_agent_steps": 1})
        run.write_status(agent_steps=400, total_agent_steps=600, attempt=1, **status)


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_is_planned_and_not_begun_is_queued(folder: Path) -> None:
    overview = read_overview(folder)
    assert overview.counts == {**dict.fromkeys(overview.counts, 0), "queued": 4}
    assert sorted(row.total_agent_steps for row in overview.rows) == [300, 300, 300, 300]
    assert overview.seconds_left is None


def test_progress_return_speed_and_time_left_are_those_of_the_rows(folder: Path) -> None:
    record(folder / RUNS / "none/s1", state="running")
    row = next(row for row in read_overview(folder).rows if row.state == "running")
    assert (row.agent_steps, row.total_agent_steps, row.attempt) == (400, 600, 1)
    assert row.mean_return == 2.0
    assert row.steps_per_second == 50.0 and row.seconds_left == 4.0
    assert read_overview(folder).seconds_left == (200 + 3 * 300) / 50.0


def test_every_state_is_told_from_what_is_recorded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(folder / RUNS / "none/s1", state="running", pid=dead_pid())
    record(folder / RUNS / "fire/s1", state="interrupted")
    failed = folder / RUNS / "half/s1"  # before it had a record, as when its memory does not fit
    failed.mkdir(parents=True)
    (failed / "stdout.log").write_text("one\ntwo\nthree\nfour\nfive\nsix\n")
    log_event(folder, failed, "failed", "six (exit code 2)")
    states = {row.path.split("/")[-2]: row.state for row in read_overview(folder).rows}
    assert states == {"CartPole-v1": "queued", "none": "lost", "fire": "interrupted", "half": "failed"}
    assert cli.main(["status", str(folder)]) == 1
    text = capsys.readouterr().out
    assert "1 failed" in text and "1 lost" in text and "1 queued" in text
    assert "six (exit code 2)" in text and "    two" in text and "    one" not in text, "the last five lines"
    log_event(folder, failed, "started")
    assert cli.main(["status", str(folder)]) == 0, "it is being tried again"


def test_a_run_of_another_host_counts_as_running(folder: Path) -> None:
    record(folder / RUNS / "none/s1", state="running", pid=dead_pid(), host=f"not-{socket.gethostname()}")
    assert read_overview(folder).counts["running"] == 1


def test_json_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(folder / RUNS / "none/s1", state="running")
    assert cli.main(["status", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    overview = read_overview(folder)
    assert told["counts"] == overview.counts and told["seconds_left"] == overview.seconds_left
    assert told["runs"] == json.loads(json.dumps([asdict(row) for row in overview.rows]))


def test_runs_without_a_plan_are_shown_too(tmp_path: Path) -> None:
    suite = tiny_suite(envs='["control/CartPole-v1"]', seeds="[1]", methods='["fire"]')
    run_here(suite, tmp_path)
    (row,) = read_overview(tmp_path).rows
    assert (row.state, row.agent_steps, row.total_agent_steps) == ("finished", 600, 600)
    episodes = load_run(tmp_path / row.path).rows("episodes")[-100:]
    assert row.mean_return == pytest.approx(sum(e["return"] for e in episodes) / len(episodes))


def test_an_empty_folder_gets_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "no run is recorded" in capsys.readouterr().err


def test_disk_counts_shared_files_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "chunk"
    file.write_bytes(os.urandom(200_000))
    alone = disk_bytes(tmp_path)
    assert 200_000 <= alone < 220_000
    (tmp_path / "b").mkdir()
    os.link(file, tmp_path / "b" / "chunk")
    assert disk_bytes(tmp_path) == alone


def test_a_table_higher_than_the_terminal_shows_what_runs_first(folder: Path) -> None:
    record(folder / RUNS / "half/s1", state="running")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(read_overview(folder), height=7))
    text = console.export_text()
    assert "half" in text and "none" not in text and "and 3 more" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59, "0 min 59 s"), (3_600 * 2 + 300, "2 h 05 min"), (86_400 * 3 + 3_600 * 4, "3 d 4 h")],
)
def test_durations_read_well(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_status_of_a_new_version_is_read(tmp_path: Path) -> None:
    """A newer launcher may note more in status.json."""
    record(tmp_path / RUNS / "none/s1", state="finished")
    status = tmp_path / RUNS / "none/s1" / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "mood": "good"}))
    assert read_overview(tmp_path).counts["finished"] == 1

"""The run directory: what is written is read back, whatever happens in between."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fire_rl.results.store import SCHEMA, STREAMS, RunDirectory, Stream, find_runs, load_run, run_path

CONFIG: dict[str, Any] = {
    "agent": {"name": "dqn", "hidden": 512},
    "env": "atari/Asterix",
    "method": {"name": "fire", "steps": 10},
    "seed": 3,
}


def make(path: Path, **changes: Any) -> RunDirectory:
    run = RunDirectory(path)
    run.create({**CONFIG, **changes})
    return run


def test_layout() -> None:
    assert run_path("out", "dqn", "atari/Asterix", "fire", 3) == Path("out/dqn/atari/Asterix/fire/s3")


def test_configuration_and_provenance_are_read_back(tmp_path: Path) -> None:
    with make(tmp_path / "run", learning_rate=math.nan, sizes=(np.int64(3), np.float32(0.5))):
        pass
    run = load_run(tmp_path / "run")
    assert (run.agent, run.env, run.method, run.seed) == ("dqn", "atari/Asterix", "fire", 3)
    assert run.config["learning_rate"] is None
    assert run.config["sizes"] == [3, 0.5]
    assert run.record["schema"] == SCHEMA
    assert run.record["versions"]["numpy"] == np.__version__
    assert run.record["hardware"]["cpu_count"] == os.cpu_count()
    assert run.status.state == "queued"


def test_attempts_share_an_id_and_runs_do_not(tmp_path: Path) -> None:
    with make(tmp_path / "a") as a, make(tmp_path / "b") as b:
        assert a.id != b.id
    with RunDirectory(tmp_path / "a") as again:
        assert again.id == a.id == load_run(tmp_path / "a").id


def test_a_label_is_what_figures_call_the_method(tmp_path: Path) -> None:
    make(tmp_path / "run", label="fire, 5 steps").close()
    assert load_run(tmp_path / "run").method == "fire, 5 steps"


def test_rows_are_read_back(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"agent_steps": 4, "loss": 0.1, "note": "é \n {"},
        {"agent_steps": np.int64(8), "loss": np.float32("nan"), "q": math.inf, "list": [1.5, -math.inf]},
        {"agent_steps": 12, "vector": np.array([1.0, math.nan])},
    ]
    with make(tmp_path / "run") as run:
        for row in rows:
            run.append("train", row)
    assert load_run(tmp_path / "run").rows("train") == [
        {"agent_steps": 4, "loss": 0.1, "note": "é \n {"},
        {"agent_steps": 8, "loss": None, "q": None, "list": [1.5, None]},
        {"agent_steps": 12, "vector": [1.0, None]},
    ]


numbers = st.one_of(st.floats(), st.integers(-(2**53), 2**53))


@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["a", "b", "eval/a"]), numbers), max_size=8),
    complete=st.booleans(),
)
def test_columns_equal_rows(tmp_path_factory: pytest.TempPathFactory, rows: Any, complete: bool) -> None:
    """The fast path of `columns` (rows that all have all keys) and the general one agree with `rows`."""
    path = tmp_path_factory.mktemp("columns") / "run"
    keys = ["a", "b"]
    with make(path) as run:
        for row in rows:
            run.append("train", {**({"a": 0, "b": 1} if complete else {}), **row})
    columns = load_run(path).columns("train", keys)
    for key in keys:
        expected = [row.get(key) for row in load_run(path).rows("train")]
        np.testing.assert_array_equal(columns[key], np.array(expected, dtype=np.float64))


def test_columns_of_a_stream_that_is_not_there_are_empty(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    (tmp_path / "run" / "eval.jsonl").unlink()
    assert load_run(tmp_path / "run").columns("eval", ["return"])["return"].shape == (0,)


@pytest.mark.parametrize("keys", [["agent_steps"], ["agent_steps", "missing"]])
def test_unreadable_rows_are_counted_and_left_out(tmp_path: Path, keys: list[str]) -> None:
    with make(tmp_path / "run") as run:
        for step in range(4):
            run.append("train", {"agent_steps": step})
    path = tmp_path / "run" / "train.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = b'{"agent_steps":\x00\xff garbage'
    path.write_bytes(b"\n".join(lines) + b'{"agent_steps":9,"lo')  # the last line is torn
    run_ = load_run(tmp_path / "run")
    np.testing.assert_array_equal(run_.columns("train", keys)["agent_steps"], [0, 2, 3])
    assert run_.unreadable["train"] == 1
    assert [row["agent_steps"] for row in run_.rows("train")] == [0, 2, 3]


@pytest.mark.parametrize("tail", [b'{"agent_steps":2', b"x" * 200_000])
def test_a_torn_tail_is_cut_off_when_the_run_goes_on(tmp_path: Path, tail: bytes) -> None:
    with make(tmp_path / "run") as run:
        run.append("eval", {"agent_steps": 1})
    with (tmp_path / "run" / "eval.jsonl").open("ab") as file:
        file.write(tail)
    with RunDirectory(tmp_path / "run") as run:
        run.append("eval", {"agent_steps": 2})
    assert [row["agent_steps"] for row in load_run(tmp_path / "run").rows("eval")] == [1, 2]


def test_a_file_without_any_newline_is_all_torn(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    (tmp_path / "run" / "eval.jsonl").write_bytes(b'{"agent_steps":2')
    RunDirectory(tmp_path / "run").close()
    assert (tmp_path / "run" / "eval.jsonl").read_bytes() == b""


def test_resuming_at_the_offsets_of_a_checkpoint_gives_the_bytes_of_the_uninterrupted_run(
    tmp_path: Path,
) -> None:
    def write(run: RunDirectory, steps: range) -> None:
        for step in steps:
            for stream in STREAMS:
                run.append(stream, {"agent_steps": step, "value": step / 3})

    with make(tmp_path / "whole") as run:
        write(run, range(20))
    with make(tmp_path / "killed") as run:
        write(run, range(8))
        offsets = json.loads(json.dumps(run.offsets()))
        write(run, range(8, 13))
    with RunDirectory(tmp_path / "killed") as run:
        run.truncate_to(offsets)
        write(run, range(8, 20))
    for stream in STREAMS:
        name = f"{stream}.jsonl"
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rows_missing_before_a_checkpoint_are_refused(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        run.append("train", {"agent_steps": 1})
        run.append("eval", {"agent_steps": 1})
        with pytest.raises(ValueError, match="rows are missing"):
            run.truncate_to({**run.offsets(), "train": 1000, "eval": 0})
    assert len(load_run(tmp_path / "run").rows("eval")) == 1  # nothing was cut


def test_a_killed_writer_leaves_whole_rows(tmp_path: Path) -> None:
    """kill -9 in the middle of writing: every row that `append` returned from is there."""
    script = f"""
from fire_rl.results.store import RunDirectory
run = RunDirectory({str(tmp_path / "run")!r})
run.create({CONFIG!r})
run.write_status(state="running")
step = 0
while True:
    run.append("train", {{"agent_steps": step, "text": "x" * 5000}})
    step += 1
    if step == 50:
        print("go", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(ValueError, match="another process is writing"):
        RunDirectory(tmp_path / "run")
    assert load_run(tmp_path / "run").status.is_alive()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not load_run(tmp_path / "run").status.is_alive()
    with RunDirectory(tmp_path / "run") as run:  # the lock went with the process
        run.append("train", {"agent_steps": -1})
    steps = [row["agent_steps"] for row in load_run(tmp_path / "run").rows("train")]
    assert steps == [*range(len(steps) - 1), -1]
    assert len(steps) > 50


def test_status_is_replaced_field_by_field(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        run.write_status(state="running", agent_steps=10, total_agent_steps=100, attempt=1)
        first = load_run(tmp_path / "run").status
        run.write_status(agent_steps=20, message="NaN in the loss")
    status = load_run(tmp_path / "run").status
    assert (status.state, status.agent_steps, status.total_agent_steps, status.attempt) == (
        "running",
        20,
        100,
        1,
    )
    assert status.message == "NaN in the loss"
    assert status.pid == os.getpid()
    assert status.started == first.started <= first.updated <= status.updated
    assert [path.name for path in (tmp_path / "run").glob(".*.tmp")] == []
    with RunDirectory(tmp_path / "run") as run:
        run.write_status(attempt=run.status.attempt + 1)
    assert load_run(tmp_path / "run").status.attempt == 2


def test_find_runs_orders_and_skips_what_it_cannot_read(tmp_path: Path) -> None:
    for seed in (2, 10, 1):
        make(run_path(tmp_path, "dqn", "atari/Asterix", "fire", seed), seed=seed).close()
    make(tmp_path / "newer").close()
    record = json.loads((tmp_path / "newer" / "config.json").read_text())
    (tmp_path / "newer" / "config.json").write_text(json.dumps({**record, "schema": SCHEMA + 1}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"some": "tool"}')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{"sche')
    problems: list[str] = []
    assert [run.seed for run in find_runs(tmp_path, problems.append)] == [1, 2, 10]
    assert len(problems) == 3
    assert f"records of schema {SCHEMA + 1}" in problems[0]
    assert "not the configuration of a run" in problems[1]
    assert "cannot be read" in problems[2]
    with pytest.raises(ValueError, match="update fire-rl"):
        RunDirectory(tmp_path / "newer")


def test_bad_places_are_refused_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "empty").mkdir()
    make(tmp_path / "run").close()
    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: RunDirectory(file), "is a file"),
        (lambda: RunDirectory(file / "run").create(CONFIG), "cannot write the run directory"),
        (lambda: RunDirectory("/proc/fire-rl/run").create(CONFIG), "cannot write the run directory"),
        (lambda: RunDirectory(tmp_path / "run").create(CONFIG), "already holds a run"),
        (lambda: RunDirectory(tmp_path / "new").create({"agent": "dqn"}), "must name its env, method, seed"),
        (lambda: load_run(tmp_path / "empty"), "holds no run"),
        (lambda: load_run(file), "holds no run"),
        (lambda: find_runs(file), "is a file"),
        (lambda: find_runs(tmp_path / "nowhere"), "does not exist"),
        (lambda: find_runs(tmp_path / "empty"), "no run is recorded below"),
    ]
    for act, sentence in attempts:
        with pytest.raises(ValueError, match=sentence) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_row_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    stream: Stream = "train"
    with make(tmp_path / "run") as run, pytest.raises(TypeError, match="plain values, not object"):
        run.append(stream, {"agent_steps": object()})
    assert load_run(tmp_path / "run").rows("train") == []

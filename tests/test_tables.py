"""Export and comparison of records."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from fire_rl.results.compare import compare
from fire_rl.results.export import export
from fire_rl.results.store import RunDirectory, run_path


def record(
    out: Path, seed: int, final: float, method: str = "fire", env: str = "control/CartPole-v1"
) -> None:
    with RunDirectory(run_path(out, "dqn", env, method, seed)) as run:
        run.create({"agent": {"name": "dqn", "width": 8}, "env": env, "method": method, "seed": seed})
        for step in range(0, 101, 10):
            clock = {"agent_steps": step, "env_steps": step, "updates": step}
            run.append("eval", {**clock, "return": final, "returns": [final - 1, final + 1]})
            run.append("train", {**clock, "loss": None if step == 0 else 1 / step})
        projection = [{"learner": "q", "name": "w", "sfe": 2.0}, {"learner": "q", "name": "v", "sfe": 3.0}]
        clock = {"agent_steps": 50, "env_steps": 50, "updates": 50}
        before = {"q/dormant_ratio": 0.5}
        run.append("events", {**clock, "method": "fire", "before": before, "projection": projection})
        run.write_status(state="finished", agent_steps=100)


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_export_to_csv_holds_every_row(tmp_path: Path) -> None:
    record(tmp_path / "runs", 1, 10.0)
    record(tmp_path / "runs", 2, 20.0, method="none")
    files = {path.stem: path for path in export(tmp_path / "runs", tmp_path / "out")}
    assert sorted(files) == ["eval", "events", "projection", "runs", "train"]
    evaluations = read(files["eval"])
    assert [(row["method"], row["seed"], row["return"]) for row in evaluations] == (
        [("fire", "1", "10")] * 11 + [("none", "2", "20")] * 11
    )
    assert [row["loss"] for row in read(files["train"])][:3] == ["", "0.1", "0.05"]
    assert read(files["events"])[1]["method"] == "none"
    assert read(files["events"])[1]["event.method"] == "fire"
    assert read(files["events"])[0]["before.q/dormant_ratio"] == "0.5"
    assert [(row["name"], row["sfe"]) for row in read(files["projection"])] == [("w", "2"), ("v", "3")] * 2
    assert read(files["runs"])[0]["config.agent.width"] == "8"
    assert read(files["runs"])[0]["status.state"] == "finished"


def test_export_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "runs", 1, 10.0)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as where it is not installed
    with pytest.raises(ValueError, match="pip install pyarrow"):
        export(tmp_path / "runs", tmp_path / "out", to="parquet")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write tables"):
        export(tmp_path / "runs", tmp_path / "file" / "out")


def test_export_to_parquet_keeps_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    record(tmp_path / "runs", 1, 10.0)
    export(tmp_path / "runs", tmp_path / "out", to="parquet")
    table = parquet.read_table(tmp_path / "out" / "train.parquet").to_pydict()
    assert table["loss"][:3] == [None, 0.1, 0.05]
    assert table["seed"] == [1] * 11


def test_compare_finds_the_difference_and_its_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(10, 1, 6), rng.normal(14, 1, 6)
    for seed in range(6):
        record(tmp_path / "a", seed, float(ours[seed]))
        record(tmp_path / "b", seed, float(theirs[seed]))
    record(tmp_path / "a", 0, 1.0, method="none")
    record(tmp_path / "b", 0, 1.0, env="control/Pendulum-v1")
    remarks: list[str] = []
    (difference,) = compare(tmp_path / "a", tmp_path / "b", on_remark=remarks.append)
    assert difference.method == "fire"
    assert difference.difference.value == pytest.approx(theirs.mean() - ours.mean())
    error = np.sqrt(ours.var() / 6 + theirs.var() / 6)
    assert difference.difference.lower == pytest.approx(difference.difference.value - 1.96 * error, abs=0.15)
    assert difference.difference.upper == pytest.approx(difference.difference.value + 1.96 * error, abs=0.15)
    assert difference.better.value == (theirs[:, None] > ours).mean()
    assert remarks == [
        f"only in {tmp_path / 'a'}: dqn control/CartPole-v1 none",
        f"only in {tmp_path / 'b'}: dqn control/Pendulum-v1 fire",
    ]
    assert "P(B > A)" in str(difference)
    record(tmp_path / "c", 0, 1.0, env="control/Pendulum-v1")
    with pytest.raises(ValueError, match="no agent, environment and method in common"):
        compare(tmp_path / "a", tmp_path / "c", on_remark=remarks.append)

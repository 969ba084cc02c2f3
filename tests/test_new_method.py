"""The file that `fire-rl new-method` writes runs as it is: in the check, in its test, in a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fire_rl import method as registry
from fire_rl.launch.cli import main
from fire_rl.results.store import load_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Path]:
    assert main(["new-method", "half-fresh", "--folder", str(tmp_path)]) == 0
    yield tmp_path / "half_fresh.py"
    registry._REGISTRY.pop("half-fresh", None)


def test_it_keeps_the_contract_and_trains(
    written: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["check-method", "half-fresh", "--plugin", str(written), "--agents", "dqn"]) == 0
    words = ["--env", "control/CartPole-v1", "--method", "half-fresh", "--plugin", str(written)]
    words += ["--method.keep", "0.25", "--agent-steps", "300", "--agent.learning-starts", "100"]
    words += ["--eval-every", "0", "--threads", "1", "--wandb", "disabled", "--probe-size", "32"]
    assert main(["train", *words, "--run-dir", str(tmp_path / "run")]) == 0
    (event,) = load_run(tmp_path / "run").rows("events")
    assert event["method"] == "half-fresh" and event["options"]["keep"] == 0.25
    assert event["sfe"] > 0


def test_its_own_test_passes_and_its_style_is_ours(written: Path) -> None:
    test = written.with_name("test_half_fresh.py")
    only = ["-k", "not contract", "-p", "no:cacheprovider"]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *only, str(test)], cwd=written.parent)
    assert done.returncode == 0
    for words in (["check"], ["format", "--check"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *words,
            "--no-cache",
            "--config",
            str(ROOT / "pyproject.toml"),
        ]
        assert subprocess.run([*command, str(written), str(test)]).returncode == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("fire", "already"), ("My_Method", "lower-case"), ("half-fresh", "is there already")],
)
def test_names_that_cannot_be(
    written: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written.read_bytes()
    assert main(["new-method", name, "--folder", str(written.parent)]) == 2
    assert message in capsys.readouterr().err
    assert written.read_bytes() == before

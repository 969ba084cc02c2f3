"""The table of all benchmarks, in sizes in which it says nothing about speed."""

import math
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import atari, dqn, humanoid, sac, stack, suite
from benchmarks.all import Effort, Row, parts
from benchmarks.baselines import atari as baselines
from benchmarks.timing import in_turns, median_ratio
from fire_rl.agents.sac import SACConfig
from fire_rl.launch.suite import load_suite

TINY = Effort(
    rounds=1,
    burst_seconds=0.1,  # CPU time is counted in steps of 10 ms
    bursts=1,
    projections=("Nature CNN, 3 convolutions",),
    projection_rounds=1,
    dqn_fill=40,
    dqn_block=8,
    sac=SACConfig(actor_width=8, critic_width=8, replay_capacity=400, learning_starts=20, batch_size=8),
    frames=2_000,
    played=20,
)


@pytest.mark.parametrize("part", list(parts(TINY)), ids=lambda part: part.func.__name__)
def test_all_rows_can_be_measured(part: partial[list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The baselines' games run in this process: what a process each costs is no matter here."""
    monkeypatch.setattr(baselines, "in_processes", baselines.in_this_process)
    rows = list(part())
    assert rows
    for row in rows:
        for figures in (row.ours, row.baseline, row.floor):
            assert figures is None or (figures and all(0 < x < math.inf for x in figures)), row
        assert str(row).count(" | ") == 5  # six columns


def test_a_row_compares_within_rounds() -> None:
    """A machine half as fast in the second round changes neither ratio nor share."""
    row = Row("name", "/s", [8.0, 4.0, 8.0], [4.0, 2.0, 4.0], [16.0, 8.0, 16.0])
    assert str(row) == "| name | 8 /s | 4 | 2.00 | 16 | 0.50 |"
    assert str(Row("name", "/s", [1234.5])) == "| name | 1,234 /s | – | – | – | – |"
    assert median_ratio([1.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2.0


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    contestants = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = in_turns(contestants, rounds=3, device=torch.device("cpu"), warm_up=1)
    assert calls == ["a", "b"] * 4
    assert {name: len(of) for name, of in times.items()} == {"a": 3, "b": 3}


def test_the_time_of_a_suite_is_projected(capsys: pytest.CaptureFixture[str]) -> None:
    suite.main(["dev", "--stack=2", "--agent-steps=160", "--device=cpu", "--threads=1"])
    output = capsys.readouterr().out
    ms = {part: float(of) for part, of in re.findall(r"^\| (\w+) \| ([\d.]+) \|$", output, re.MULTILINE)}
    assert tuple(ms) == suite.PARTS and ms["updates"] > 0
    assert "control/CartPole-v1 x 2\n" in output
    assert re.search(r"^dev: 88,000 agent steps in [\d.]+ h as projected", output, re.MULTILINE)


@pytest.mark.parametrize("name", ["fire-humanoid", "fire-atari"])
def test_the_short_run_has_the_constants_of_the_suite(name: str) -> None:
    of_suite = load_suite(name).configs(Path("runs"))[0]
    short = suite.shortened(of_suite, 400, 5, "cpu", 1)
    assert (short.run.stack, short.agent.learning_starts, short.run.env) == (5, 100, of_suite.run.env)
    before, after = vars(of_suite.agent), vars(short.agent)
    assert {key for key in before if before[key] != after[key]} <= {"learning_starts", "epsilon_decay"}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["nonsense"], "unknown suite 'nonsense'"),
        (["dev", "--stack=0"], "--stack must be at least 1"),
        (["dev", "--agent-steps=8"], "--agent-steps must be at least 160"),
    ],
)
def test_a_wrong_projection_is_a_sentence(
    wrong: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        suite.main(wrong)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("benchmark", "words", "said"),
    [
        (atari, ["--games", "Astrix"], "unknown Atari game 'Astrix': did you mean Asterix"),
        (atari, ["--seconds", "0"], "--seconds must be more than 0"),
        (dqn, ["--replay-ratio", "0.3"], "--replay-ratio must be a multiple of 1/4, not 0.3"),
        (humanoid, ["--rounds", "0"], "--rounds: give a whole number from 1 on, not 0"),
        (stack, ["--device", "gpu"], "--device gpu: give auto, cpu, cuda or cuda:N"),
        (sac, ["--env", "humanoid/h1-wlak"], "unknown humanoid task 'h1-wlak': did you mean h1-walk"),
    ],
)
def test_a_mistake_in_an_option_is_named_before_anything_is_timed(
    benchmark: Any,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err

"""The table of all benchmarks, in sizes in which it says nothing about speed."""

import math
from functools import partial

import pytest
import torch

from benchmarks.all import Effort, Row, parts
from benchmarks.baselines import atari as baselines
from benchmarks.timing import in_turns, median_ratio
from fire_rl.agents.sac import SACConfig

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

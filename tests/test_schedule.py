"""When a reset fires."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fire_rl.schedule import Schedule


def fired_at(schedule: Schedule, stride: int, unit: str = "agent_steps") -> list[int]:
    return [t for t in range(stride, schedule.total + stride, stride) if schedule.due({unit: t})]


def test_fractions_and_steps_name_the_same_moments() -> None:
    assert Schedule(1000, at=(0.5, 0.25)).events == (250, 500)
    assert Schedule(1000, at=(250, 500)).events == (250, 500)


def test_every_from_until() -> None:
    assert Schedule(100, every=20).events == (20, 40, 60, 80)
    assert Schedule(100, every=20, start=10, until=60).events == (10, 30, 50)


def test_reads_the_clock_of_its_unit() -> None:
    schedule = Schedule(100, at=(10,), unit="updates")
    assert not schedule.due({"agent_steps": 50, "env_steps": 100, "updates": 9})
    assert schedule.due({"agent_steps": 50, "env_steps": 100, "updates": 10})


@given(
    total=st.integers(1, 500),
    every=st.integers(1, 60),
    stride=st.integers(1, 70),
    restart=st.integers(0, 500),
)
def test_every_event_fires_once_at_the_first_clock_that_reached_it(
    total: int, every: int, stride: int, restart: int
) -> None:
    if every >= total:
        return
    schedule = Schedule(total, every=every)
    fired = []
    for t in range(stride, total + stride, stride):
        if t >= restart > t - stride:  # a checkpoint in the middle changes nothing
            copy = Schedule(total, every=every)
            copy.load_state_dict(schedule.state_dict())
            schedule = copy
        if schedule.due({"agent_steps": t}):
            fired.append(t)
    assert fired == sorted({-(-event // stride) * stride for event in schedule.events})
    assert schedule.next_event() is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at": (1.5,)}, "between 0 and 1"),
        ({"at": (0.0,)}, "between 0 and 1"),
        ({"at": (-3,)}, "between 0 and 1"),
        ({"at": (2000,)}, "the run ends after 1000"),
        ({"every": 0}, "positive"),
        ({"every": 10, "start": 1000}, "no reset fits"),
        ({"every": 10, "at": (0.5,)}, "not both"),
        ({"start": 10}, "reset-every"),
        ({"at": (0.5,), "unit": "epochs"}, "agent_steps, env_steps, updates"),
    ],
)
def test_impossible_schedules_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Schedule(1000, **options)  # type: ignore[arg-type]

"""When a reset fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Unit = Literal["agent_steps", "env_steps", "updates"]


@dataclass
class Schedule:
    """The moments at which a reset fires, and which of them are already behind us.

    Give either `at` or `every`. Values of `at` below 1 are fractions of the run; from 1 on they are absolute
    steps and must be whole numbers. `every` fires at `start`, `start + every`, … before `until`. An event is
    due as soon as the clock has reached it, so a clock that advances by several steps at a time misses none;
    events passed in one stride fire as one reset.

    Args:
        total: length of the run in `unit`.
        at: fractions of the run or absolute steps.
        every: interval in `unit`.
        start: first event of `every`, in `unit`; default: one interval.
        until: first step at which `every` no longer fires; default: the end of the run.
        unit: the clock that is read: decisions, simulator steps or gradient updates.

    Raises:
        ValueError: naming the option that is wrong and what it may be.
    """

    total: int
    at: Sequence[float] = ()
    every: int | None = None
    start: int | None = None
    until: int | None = None
    unit: Unit = "agent_steps"
    events: tuple[int, ...] = field(init=False)  # all moments of the run, ascending, in `unit`
    fired: int = field(init=False, default=0)  # how many of `events` are behind us

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"reset unit {self.unit!r} is none of {', '.join(get_args(Unit))}")
        if self.total < 1:
            raise ValueError(f"the run must last at least one step, not {self.total}")
        if self.every is None and (self.start is not None or self.until is not None):
            raise ValueError("reset-from and reset-until belong to reset-every, which is not given")
        if self.every is not None and self.at:
            raise ValueError("give reset-at or reset-every, not both")
        self.events = self._periodic(self.every) if self.every is not None else self._listed()

    def _listed(self) -> tuple[int, ...]:
        steps = set()
        for value in self.at:
            if 0 < value < 1:
                steps.add(max(1, round(value * self.total)))
            elif value >= 1 and value == int(value):
                steps.add(int(value))
            else:
                raise ValueError(
                    f"reset-at {value:g}: give a fraction of the run between 0 and 1 (0.5), "
                    f"or a whole number of {self.unit} (from 1 to {self.total})"
                )
        for step in steps:
            if step > self.total:
                raise ValueError(f"reset-at {step}: the run ends after {self.total} {self.unit}")
        return tuple(sorted(steps))

    def _periodic(self, every: int) -> tuple[int, ...]:
        first = every if self.start is None else self.start
        end = self.total if self.until is None else self.until
        if every < 1:
            raise ValueError(f"reset-every must be a positive number of {self.unit}, not {every}")
        if first < 1 or first >= end:
            raise ValueError(f"no reset fits: reset-from {first} must be at least 1 and before {end}")
        return tuple(range(first, min(end, self.total), every))

    def due(self, clock: Mapping[str, int]) -> bool:
        """Whether an event is due at `clock` (counts by unit name); a yes is given once per event."""
        passed = sum(1 for event in self.events if event <= clock[self.unit])
        is_due = passed > self.fired
        self.fired = max(self.fired, passed)
        return is_due

    def next_event(self) -> int | None:
        """The next moment in `unit`, or None when no reset is left."""
        return self.events[self.fired] if self.fired < len(self.events) else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: how many events have fired."""
        return {"fired": self.fired}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the events that had fired when `state` was taken."""
        self.fired = int(state["fired"])

"""The progress bar of one run: silent when stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Agent steps, agent steps per second, mean return of the last 100 episodes, time left."""

    def __init__(self, total_agent_steps: int, start: int) -> None:
        self._bar = RichProgress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} agent steps"),
            BarColumn(),
            TextColumn("{task.fields[speed]} steps/s  return {task.fields[score]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=total_agent_steps, completed=start, speed="–", score="–")
        self._shown = self._started = time.monotonic()
        self._start = start

    def advance(self, agent_steps: int, recent_returns: Sequence[float]) -> None:
        """Move the bar, and show the mean of the returns, if any; drawn at most five times a second."""
        now = time.monotonic()
        if self._bar.disable or now - self._shown < 0.2:
            return
        self._shown = now
        speed = (agent_steps - self._start) / (now - self._started)
        score = f"{np.mean(recent_returns):,.1f}" if recent_returns else "–"
        self._bar.update(self._task, completed=agent_steps, speed=f"{speed:,.0f}", score=score)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

"""Signals that ask a run to stop: the loop ends in order, its state is saved, the same command continues."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # SIGUSR1: what SLURM sends before pre-emption


class Interrupted(Exception):
    """Raised by `Interrupt.check` where a run can leave off what it is doing."""


class Interrupt:
    """Within this context the first of SIGNALS is noted in `signal`.

    After it a second SIGINT acts at once, for the impatient; the others stay noted, because schedulers repeat
    themselves while the state is being saved.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}

    def __enter__(self) -> Interrupt:
        for number in SIGNALS:
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signal is not None:
            raise Interrupted

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

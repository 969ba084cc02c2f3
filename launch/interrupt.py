"""Signals that ask a run to stop: the loop ends in order, its state is saved, the same command continues."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Within this context the first SIGINT or SIGTERM is noted in `signal`; a second one acts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}

    def __enter__(self) -> Interrupt:
        for number in SIGNALS:
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

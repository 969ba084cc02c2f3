"""Who runs what, when several launchers work on one folder, perhaps from several hosts.

A claim is a file that its owner touches now and then. It is created with O_EXCL, which is atomic on network
file systems too, and it carries a generation: a claim whose owner has died is taken over by creating the
next generation, which only one of any number of launchers succeeds in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0  # without a heartbeat, as seen by our own clock: clocks of hosts differ


class Claims:
    """The claims of one launcher below `folder`.

    Args:
        folder: where the claim files go, shared by all launchers.
        clock: monotonic seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._held: dict[str, Path] = {}
        self._seen: dict[Path, tuple[int, float]] = {}  # heartbeat last seen of others, and when
        self._beaten = clock()

    def take(self, names: Sequence[str]) -> bool:
        """Claim all runs of a job, or none: False when somebody alive has one of them.

        They are taken in the order of their names, so that of several launchers whose jobs overlap one always
        gets all of its own.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if any((claim := self._newest(name)) and not self._is_stale(claim) for name in names):
            return False  # before anything is written
        for name in sorted(names):
            if not self._take(name):
                self.release(names)
                return False
        return True

    def _take(self, name: str) -> bool:
        newest = self._newest(name)
        if newest is not None and not self._is_stale(newest):
            return False
        generation = 0 if newest is None else int(newest.suffix[1:]) + 1
        mine = self.folder / f"{name}.{generation:06d}"
        try:
            descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:  # somebody was faster
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        if newest is not None:
            newest.unlink(missing_ok=True)
        if self._all(name) - {mine, newest}:  # one who read older news than we did: both step back
            mine.unlink()
            return False
        self._held[name] = mine
        return True

    def release(self, names: Sequence[str]) -> None:
        """Give back those of these claims that we hold."""
        for name in names:
            if name in self._held:
                self._held.pop(name).unlink(missing_ok=True)

    def heartbeat(self) -> list[str]:
        """Tell the others that we are alive, if it is time to; returns the claims that we have lost.

        We lose claims when we were suspended so long that another launcher thought us dead.
        """
        if self._clock() - self._beaten < HEARTBEAT_SECONDS:
            return []
        self._beaten = self._clock()
        lost = []
        for name, path in list(self._held.items()):
            try:
                os.utime(path)
            except FileNotFoundError:
                lost.append(name)
                del self._held[name]
        return lost

    def _all(self, name: str) -> set[Path]:
        """The claims on `name`, of all generations."""
        return {p for p in self.folder.iterdir() if p.stem == name and p.suffix[1:].isdigit()}

    def _newest(self, name: str) -> Path | None:
        return max(self._all(name), default=None)

    def _is_stale(self, path: Path) -> bool:
        try:
            beat = path.stat().st_mtime_ns
            owner = json.loads(path.read_text() or "{}")
        except FileNotFoundError:  # given back a moment ago
            return False
        if owner.get("host") == socket.gethostname() and not _exists(int(owner["pid"])):
            return True
        known, since = self._seen.get(path, (-1, 0.0))
        if known != beat:
            self._seen[path] = beat, self._clock()
            return False
        return self._clock() - since > STALE_SECONDS


def is_being_written(run: Path) -> bool:
    """Whether a process holds the lock of the run directory `run`, as `RunDirectory` does."""
    try:
        descriptor = os.open(run / ".lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    finally:
        os.close(descriptor)
    return False


def _exists(pid: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True

"""Running jobs on workers, whatever starts them: order, claims, retries and the record of what went wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

from fire_rl.launch.checkpoint import checkpoints
from fire_rl.launch.claims import Claims, is_being_written
from fire_rl.launch.plan import Job

POLL_SECONDS = 0.2
USAGE_ERROR = 2  # exit code of a run that cannot be run: trying again is in vain
LAUNCHER_LOG = "launcher.jsonl"  # what was started, failed and retried, beside the runs
CLAIMS = ".claims"

Handle = TypeVar("Handle")


class Workers(Protocol[Handle]):
    """What starts processes: on this machine, or on a Ray cluster."""

    def has_room(self, job: Job) -> bool:
        """Whether `job` can be started now."""

    def start(self, job: Job) -> Handle:
        """Start it, with its output going to stdout.log in its directory."""

    def exit_code(self, handle: Handle) -> int | None:
        """None while it runs; −n when signal n ended it."""

    def stop(self, handles: Sequence[Handle]) -> None:
        """Ask all of them to save their state, and wait until they have."""


def run_jobs(
    jobs: Sequence[Job],
    workers: Workers[Handle],
    folder: Path,
    retries: int = 2,
    on_tick: Callable[[dict[Path, str]], None] = lambda failed: None,
) -> dict[Path, str]:
    """Run all jobs; returns the paths of those that failed, with reasons. A failure leaves the others alone.

    A job that fails is started again, from its last checkpoint. `retries` is how often in a row that may
    happen without a new checkpoint in between, so that a long run on a shaky machine gets through and one
    that cannot work does not run for ever.

    Args:
        folder: of the suite: for claims, by which several launchers share the jobs, and for the log.
        on_tick: called a few times a second with the failures so far.

    Raises:
        KeyboardInterrupt: after all runs have saved their state.
    """
    pool = _Pool(jobs, workers, folder, retries)
    try:
        while pool.waiting or pool.running:
            pool.start_what_can()
            pool.collect()
            on_tick(pool.failed)
            if pool.waiting or pool.running:
                time.sleep(POLL_SECONDS)
    finally:
        if pool.running:
            workers.stop(list(pool.running.values()))
        for job in pool.running:
            pool.give_back(job)
    return pool.failed


class _Pool(Generic[Handle]):
    """The state of `run_jobs`."""

    def __init__(self, jobs: Sequence[Job], workers: Workers[Handle], folder: Path, retries: int) -> None:
        self.waiting = list(jobs)
        self.running: dict[Job, Handle] = {}
        self.failed: dict[Path, str] = {}
        self._workers, self._folder, self._retries = workers, folder, retries
        self._claims = Claims(folder / CLAIMS)
        self._attempts: dict[Path, tuple[str, int]] = {}  # newest checkpoint, failures since it was new

    def start_what_can(self) -> None:
        """Start jobs in their order; pass over what waits for a trunk or is somebody else's at the moment."""
        by_path = {job.path for job in self.waiting} | {job.path for job in self.running}
        for job in list(self.waiting):
            if job.after in self.failed:
                self._fail(job, f"the run that it branches from failed: {job.after}")
            elif job.after not in by_path and self._workers.has_room(job) and self._claim(job):
                self.waiting.remove(job)
                if job.is_finished():  # by another launcher
                    self.give_back(job)
                else:
                    self.running[job] = self._workers.start(job)
                    self._log(job, "started")

    def collect(self) -> None:
        """See which jobs have ended, and how."""
        for job, handle in list(self.running.items()):
            code = self._workers.exit_code(handle)
            if code is None:
                continue
            del self.running[job]
            self.give_back(job)
            if code == 0:
                self._log(job, "finished")
            elif self._may_retry(job, code):
                self._log(job, "retried", reason(job.path, code))
                self.waiting.insert(0, job)
            else:
                self._fail(job, reason(job.path, code))
        for name in self._claims.heartbeat():
            lost = [job for job in self.running if self._name(job) == name]
            self._workers.stop([self.running.pop(job) for job in lost])
            self.waiting += lost

    def give_back(self, job: Job) -> None:
        """Let other launchers have it."""
        self._claims.release(self._name(job))

    def _claim(self, job: Job) -> bool:
        if not self._claims.take(self._name(job)):
            return False
        if is_being_written(job.path):  # started by hand, or still saving its state
            self.give_back(job)
            return False
        return True

    def _may_retry(self, job: Job, code: int) -> bool:
        newest = next((p.name for p in reversed(checkpoints(job.path / "checkpoints"))), "")
        at, failures = self._attempts.get(job.path, ("", 0))
        failures = failures + 1 if newest == at else 1
        self._attempts[job.path] = newest, failures
        return code != USAGE_ERROR and failures <= self._retries

    def _fail(self, job: Job, why: str) -> None:
        if job in self.waiting:
            self.waiting.remove(job)
        self.failed[job.path] = why
        self._log(job, "failed", why)

    def _name(self, job: Job) -> str:
        return quote(str(job.path.relative_to(self._folder)), safe="")

    def _log(self, job: Job, event: str, why: str = "") -> None:
        log_event(self._folder, job.path, event, why)


def log_event(folder: Path, run: Path, event: str, why: str = "") -> None:
    """Note in the launchers' log of `folder` what happened to a run."""
    row = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "launcher": os.getpid(),
        "run": str(run.relative_to(folder)),
        "event": event,
        **({"reason": why} if why else {}),
    }
    descriptor = os.open(folder / LAUNCHER_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(row) + "\n").encode())
    finally:
        os.close(descriptor)


def reason(path: Path, code: int) -> str:
    """Why a run failed: the last line that it printed, and how it ended."""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL: by someone, or by the system for want of memory"
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    log = path / "stdout.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    lines = [line.strip() for line in lines if line.strip()]
    return f"{lines[-1]} ({how})" if lines else how

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
from fire_rl.launch.job import Job
from fire_rl.results.status import read_status

POLL_SECONDS = 0.2
FAILED = 1  # exit code of a process of which a run has failed
USAGE_ERROR = 2  # exit code of one that cannot be run: trying again is in vain
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
    """Run all jobs; returns the runs that failed, with reasons. A failure leaves the others alone.

    A job that fails is started again, and does the rest from the last checkpoints. `retries` is how often in
    a row that may happen without a new checkpoint in between, so that a long run on a shaky machine gets
    through and one that cannot work does not run for ever. After that the runs of a job of several are tried
    one by one, since one that raises, or memory for less than all of them, stops all.

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
        self._begun: dict[Job, list[Path]] = {}  # what there was to do when a running job was started
        self._attempts: dict[Job, tuple[list[str], int]] = {}  # newest checkpoints, failures since then

    def start_what_can(self) -> None:
        """Start jobs in their order; pass over what waits for a trunk or is somebody else's at the moment."""
        self._drop_branches_of_failed_trunks()
        to_come = {path for job in (*self.waiting, *self.running) for path in job.paths}
        for job in list(self.waiting):
            if to_come.isdisjoint(job.after) and self._workers.has_room(job) and self._claim(job):
                self.waiting.remove(job)
                if begun := job.unfinished():
                    self.running[job] = self._workers.start(job)
                    self._begun[job] = begun
                    self._log(job, begun, "started")
                else:  # finished by another launcher
                    self.give_back(job)

    def collect(self) -> None:
        """See which jobs have ended, and how."""
        for job, handle in list(self.running.items()):
            code = self._workers.exit_code(handle)
            if code is None:
                continue
            del self.running[job]
            self.give_back(job)
            rest = job.unfinished() if code else []
            self._log(job, [path for path in self._begun[job] if path not in rest], "finished")
            again = self._again(job, rest, code) if rest else []
            self.waiting[:0] = again
            for path in rest:
                why = reason(job, path, code)
                if again:
                    self._log(job, [path], "retried", why)
                else:
                    self._fail(job, path, why)
        if lost := set(self._claims.heartbeat()):
            for job in [job for job in self.running if lost.intersection(self._names(job))]:
                self._workers.stop([self.running.pop(job)])
                self.give_back(job)
                self.waiting.append(job)

    def give_back(self, job: Job) -> None:
        """Let other launchers have it."""
        self._claims.release(self._names(job))

    def _claim(self, job: Job) -> bool:
        if not self._claims.take(self._names(job)):
            return False
        if any(map(is_being_written, job.paths)):  # started by hand, or still saving its state
            self.give_back(job)
            return False
        return True

    def _again(self, job: Job, rest: Sequence[Path], code: int) -> list[Job]:
        """What is started once more of a job that ended with `code`, `rest` of its runs being unfinished."""
        if self._may_retry(job, code):
            return [job]
        return job.one_by_one(rest) if len(rest) > 1 else []  # perhaps one of them brings the others down

    def _may_retry(self, job: Job, code: int) -> bool:
        found = [checkpoints(path / "checkpoints") for path in job.paths]
        newest = [kept[-1].name if kept else "" for kept in found]
        at, failures = self._attempts.get(job, ([], 0))
        failures = failures + 1 if newest == at else 1
        self._attempts[job] = newest, failures
        return code != USAGE_ERROR and failures <= self._retries

    def _drop_branches_of_failed_trunks(self) -> None:
        for place, job in reversed(list(enumerate(self.waiting))):
            if lost := job.branches_of(self.failed):
                self.waiting[place : place + 1] = job.without(lost)
                trunks = dict(zip(job.paths, job.after, strict=True))
                for path in lost:
                    self._fail(job, path, f"the run that it branches from failed: {trunks[path]}")

    def _fail(self, job: Job, path: Path, why: str) -> None:
        self.failed[path] = why
        self._log(job, [path], "failed", why)

    def _names(self, job: Job) -> list[str]:
        return [quote(str(path.relative_to(self._folder)), safe="") for path in job.paths]

    def _log(self, job: Job, paths: Sequence[Path], event: str, why: str = "") -> None:
        for path in paths:
            log_event(self._folder, path, event, why, job.path)


def log_event(folder: Path, run: Path, event: str, why: str = "", printed_to: Path | None = None) -> None:
    """Note in the launchers' log of `folder` what happened to a run.

    Args:
        printed_to: the run in whose directory the output of its process is, if not in its own.
    """
    row = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "launcher": os.getpid(),
        "run": str(run.relative_to(folder)),
        "event": event,
        **({"reason": why} if why else {}),
        **({"printed_to": str(printed_to.relative_to(folder))} if printed_to not in (None, run) else {}),
    }
    descriptor = os.open(folder / LAUNCHER_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(row) + "\n").encode())
    finally:
        os.close(descriptor)


def reason(job: Job, path: Path, code: int) -> str:
    """Why the run at `path` failed: what it says itself, or the last line that the process printed and how
    that ended."""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL: by someone, or by the system for want of memory"
    status = read_status(path)
    if code == FAILED and status.state == "failed" and status.message:
        return status.message
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    log = job.path / "stdout.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    lines = [line.strip() for line in lines if line.strip()]
    return f"{lines[-1]} ({how})" if lines else how

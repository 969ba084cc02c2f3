"""The SLURM engine: arrays of our own, a task per job, branches dependent on their trunks.

Nothing stays running here: SLURM queues, starts and requeues, `fire-rl status` reads the records. A task that
is asked to make way (SIGUSR1 shortly before its time limit, SIGTERM at a pre-emption) saves its state, is
requeued and goes on where it was.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fire_rl.launch.engines.local import LocalWorkers
from fire_rl.launch.engines.pool import run_jobs
from fire_rl.launch.job import Job
from fire_rl.results.jsonl import plain

FOLDER = "slurm"  # beside the runs: scripts, lists of jobs, what was submitted
SUBMITTED = "submitted.jsonl"
WARNING_SECONDS = 120  # between the signal and the time limit
MEMORY_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class SlurmOptions:
    """Options of the engine `slurm`."""

    partition: str = ""
    """Partition; default: the cluster's."""
    account: str = ""
    """Account that is charged."""
    time: str = "24:00:00"
    """Time limit of a task; a run that needs longer saves its state and is requeued."""
    gpus: int = 1
    """GPUs per task; 0 for runs on CPUs."""
    cpus: int = 2
    """CPU cores per task."""
    memory: str = "16G"
    """Memory per task."""
    at_a_time: int = 32
    """Tasks of an array that may run at once."""
    setup: str = ""
    """A shell line to run first, such as `module load cuda`."""
    extra: tuple[str, ...] = ()
    """Further options of sbatch, such as --slurm.extra=--qos=long."""

    def memory_bytes(self) -> int:
        """`memory` as SLURM reads it: a number, of megabytes if no unit follows; 0 is all that a node has.

        Raises:
            ValueError: for what is no amount of memory.
        """
        number = self.memory.rstrip("KMGT")
        unit = self.memory[len(number) :] or "M"
        if not number.isdigit() or unit not in MEMORY_UNITS:
            raise ValueError(f"--slurm.memory is an amount such as 16G, not {self.memory!r}")
        return int(number) * MEMORY_UNITS[unit] or sys.maxsize


def arrays(jobs: Sequence[Job], queued: Mapping[Path, str]) -> list[list[Job]]:
    """`jobs` as arrays: what waits for nothing, then what waits for the same trunks.

    Args:
        queued: tasks that SLURM has already, by the path of their run.
    """
    to_come = {path for job in jobs for path in job.paths} | queued.keys()
    groups: dict[tuple[Path, ...], list[Job]] = {(): []}
    for job in jobs:
        groups.setdefault(tuple(trunk for trunk in job.after if trunk in to_come), []).append(job)
    return [group for group in groups.values() if group]


def script(jobs: Sequence[Job], folder: Path, name: str, options: SlurmOptions, retries: int) -> str:
    """The sbatch script of an array over the lines of `NAME.jsonl`."""
    here = folder.absolute() / FOLDER
    wanted = {
        "job-name": f"fire-rl-{folder.name}",
        "array": f"0-{len(jobs) - 1}%{options.at_a_time}",
        "output": here / f"{name}-%a.out",
        "open-mode": "append",
        "requeue": None,
        "signal": f"B:USR1@{WARNING_SECONDS}",
        "time": options.time,
        "cpus-per-task": options.cpus,
        "mem": options.memory,
        "gres": f"gpu:{options.gpus}" if options.gpus else "",
        "partition": options.partition,
        "account": options.account,
    }
    lines = [f"#SBATCH --{k}" + (f"={v}" if v is not None else "") for k, v in wanted.items() if v != ""]
    lines += [f"#SBATCH {option}" for option in options.extra]
    python = shlex.quote(sys.executable)
    # exec, so that SLURM's signals reach Python itself.
    run = f"exec {python} -m fire_rl.launch.engines.slurm {shlex.quote(str(here / name))}.jsonl {retries}"
    body = [options.setup] if options.setup else []
    body += [f"cd {shlex.quote(os.getcwd())}", f'{run} "$SLURM_ARRAY_TASK_ID"']
    return "\n".join(["#!/bin/bash", *lines, *body, ""])


def scripts(jobs: Sequence[Job], folder: Path, options: SlurmOptions, retries: int) -> list[str]:
    """What `submit` would hand to sbatch, as one text per array, with the commands as comments."""
    texts = []
    recorded = {path for job in jobs for path in job.paths}
    for number, group in enumerate(arrays(jobs, {})):
        trunks = [str(trunk) for trunk in group[0].after if trunk in recorded]
        lines = [f"# after {', '.join(trunks)}:"] if trunks else []
        lines += [f"# {i}: {shlex.join(['fire-rl', *job.words])}" for i, job in enumerate(group)]
        texts.append(script(group, folder, f"array-{number}", options, retries) + "\n".join([*lines, ""]))
    return texts


def submit(jobs: Sequence[Job], folder: Path, options: SlurmOptions, retries: int) -> None:
    """Hand all jobs to SLURM that are not in its queue already, and return at once.

    Args:
        retries: of each task, as of `run_jobs`.

    Raises:
        ValueError: when there is no SLURM here, or it refuses the jobs.
    """
    if shutil.which("sbatch") is None:
        raise ValueError(
            "there is no sbatch here: go to a login node of a SLURM cluster, or use --engine local"
        )
    tasks = _queued(folder)
    new = [part for job in jobs for part in job.without(tasks)]
    there = f"{sum(path in tasks for job in jobs for path in job.paths)} runs were in the queue"
    here = folder / FOLDER
    here.mkdir(parents=True, exist_ok=True)
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    for number, group in enumerate(arrays(new, tasks)):
        name = f"{stamp}-{number}"
        (here / f"{name}.jsonl").write_text("".join(json.dumps(plain(asdict(job))) + "\n" for job in group))
        (here / f"{name}.sh").write_text(script(group, folder, name, options, retries))
        trunks = dict.fromkeys(tasks[trunk] for trunk in group[0].after if trunk in tasks)
        waits = [f"--dependency=afterany:{':'.join(trunks)}"] if trunks else []
        array = _call(["sbatch", "--parsable", *waits, str(here / f"{name}.sh")]).split(";")[0].strip()
        with (here / SUBMITTED).open("a") as log:
            for task, path in ((f"{array}_{i}", path) for i, job in enumerate(group) for path in job.paths):
                tasks[path] = task
                log.write(json.dumps({"task": task, "path": str(path)}) + "\n")
    print(f"{len(new)} jobs submitted, {there}; see fire-rl status {folder} --watch", file=sys.stderr)


def _queued(folder: Path) -> dict[Path, str]:
    """The tasks of this folder that SLURM still has, waiting or running, by the path of their run."""
    log = folder / FOLDER / SUBMITTED
    if not log.exists():
        return {}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    known = set(_call(["squeue", "--noheader", "--array", "--format=%i"]).split())
    return {Path(row["path"]): row["task"] for row in rows if row["task"] in known}


def _call(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{words[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def main(argv: Sequence[str]) -> int:
    """In a task: run line INDEX of the list of jobs; requeue it if it was interrupted.

    A pool of one job does it, so that claims, retries and the log are those of the other engines.
    """
    jobs, retries, index = argv
    job = _parse(Path(jobs).read_text().splitlines()[int(index)])
    signals: list[int] = []

    def stop(number: int, _: object) -> None:
        signals.append(number)
        if len(signals) == 1:  # SLURM repeats itself while the runs save their state
            raise KeyboardInterrupt

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        failed = run_jobs([job], LocalWorkers(1), Path(jobs).parent.parent, int(retries))
    except KeyboardInterrupt:
        if signals[0] == signal.SIGUSR1:  # the time limit is near; SLURM itself requeues at a pre-emption
            task = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
            subprocess.run(["scontrol", "requeue", task], check=True)
        return 128 + signals[0]
    return 1 if failed else 0


def _parse(line: str) -> Job:
    """A job as it was written, with absolute paths."""
    fields = json.loads(line)
    paths = {name: tuple(Path(path).absolute() for path in fields[name]) for name in ("paths", "after")}
    return Job(**{**fields, **paths, "command": tuple(fields["command"])})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`fire-rl bench`: everything of a suite that is missing, then its figure."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from fire_rl.launch.config import RunConfig
from fire_rl.launch.estimate import estimate
from fire_rl.launch.overview import read_overview, render
from fire_rl.launch.plan import Job, Plan, write_plan
from fire_rl.launch.suite import SUITE_FILE, Suite
from fire_rl.results.figures import plot_learning_curves
from fire_rl.results.store import find_runs

REFRESH_SECONDS = 1.0

Launch = Callable[[Sequence[Job], Callable[[dict[Path, str]], None]], dict[Path, str]]
"""Runs jobs, calling back now and then with the failures so far; returns the failures."""


def missing(plan: Plan) -> list[Job]:
    """The jobs that have not been finished, and of trunks those that such a job still needs."""
    open_jobs = [job for job in plan.jobs if not job.is_finished()]
    needed = {job.after for job in open_jobs}
    trunks = {job.after for job in plan.jobs}
    return [job for job in open_jobs if job.path in needed or job.path not in trunks]


def describe(
    suite: Suite, plan: Plan, configs: Sequence[RunConfig], workers: int, commands: bool = True
) -> str:
    """What the suite would run and take, and the command of every job."""
    workers = min(workers, len(plan.jobs))
    takes = estimate(plan, configs)
    saved = plan.unforked_agent_steps - plan.agent_steps
    lines = [f"# {suite.name}: {suite.summary}"]
    lines += [f"# {len(configs)} runs, {plan.agent_steps:,} agent steps in {len(plan.jobs)} jobs"]
    if saved:
        share = saved / plan.unforked_agent_steps
        lines += [f"# {plan.trunks} trunks, trained once for all methods, save {saved:,} steps ({share:.0%})"]
    disk = takes.disk_bytes + workers * takes.disk_bytes_per_worker
    lines += [
        f"# replay memory {takes.replay_bytes / 1e9:.2f} GB a run, {workers} at a time: "
        f"{workers * takes.replay_bytes / 1e9:.2f} GB; disk about {disk / 1e9:.1f} GB"
    ]
    if plan.trunks:
        lines += ["# trunks first, then the branches that begin with --fork-from"]
    if commands:
        lines += [shlex.join(["fire-rl", *job.words]) for job in plan.jobs]
    return "\n".join(lines)


def prepare(suite: Suite, folder: Path, plan: Plan) -> list[Job]:
    """Note suite and plan in `folder`; returns the jobs that are missing there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUITE_FILE).write_text(suite.text)
    write_plan(plan.jobs, folder)
    todo = missing(plan)
    print(f"{suite.name}: {len(plan.jobs)} jobs, {len(todo)} of them to run, in {folder}", file=sys.stderr)
    return todo


def bench(suite: Suite, folder: Path, plan: Plan, launch: Launch) -> int:
    """Run what is missing with `launch`, then draw the figure; returns the exit code."""
    todo = prepare(suite, folder, plan)
    previous = signal.signal(signal.SIGTERM, _interrupt)  # ends as Ctrl-C does: every run saves its state
    try:
        failed = _watched(todo, folder, launch) if todo else {}
    except KeyboardInterrupt:
        print(
            f"stopped: every run has saved its state in {folder}, the same command goes on", file=sys.stderr
        )
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    for path, reason in failed.items():
        print(f"failed: {path}: {reason}", file=sys.stderr)
    draw(suite, folder)
    return 1 if failed else 0


def draw(suite: Suite, folder: Path) -> None:
    """Draw the suite's figure and print its path, if anything has been recorded."""
    try:
        runs = find_runs(folder)
        image = folder / f"{suite.name}.png"
        print(plot_learning_curves(runs, image, panels=suite.panels(), overlay=suite.overlay))
    except ValueError as error:
        print(error, file=sys.stderr)


def _watched(jobs: Sequence[Job], folder: Path, launch: Launch) -> dict[Path, str]:
    """Launch under a live table; where stderr is no terminal, a line per job that has ended."""
    console = Console(stderr=True)
    ended: set[Path] = set()
    shown = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def tick(failed: dict[Path, str]) -> None:
            nonlocal shown
            if time.monotonic() - shown < REFRESH_SECONDS:
                return
            shown = time.monotonic()
            if console.is_terminal:
                live.update(render(read_overview(folder, disk=False), console.height), refresh=True)
                return
            for job in jobs:
                if job.path not in ended and (job.path in failed or job.is_finished()):
                    ended.add(job.path)
                    print(f"{'failed' if job.path in failed else 'finished'}: {job.path}", file=sys.stderr)

        return launch(jobs, tick)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt

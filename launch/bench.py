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
from fire_rl.launch.job import Job, is_finished
from fire_rl.launch.overview import read_overview, render
from fire_rl.launch.plan import Plan, write_plan
from fire_rl.launch.suite import SUITE_FILE, Suite
from fire_rl.results.figures import plot_learning_curves
from fire_rl.results.store import find_runs

REFRESH_SECONDS = 1.0

Launch = Callable[[Sequence[Job], Callable[[dict[Path, str]], None]], dict[Path, str]]
"""Runs jobs, calling back now and then with the failures so far; returns the failures."""


def missing(plan: Plan) -> list[Job]:
    """The jobs with a run that has not been finished; of trunks those that such a run still needs."""
    left = {path for job in plan.jobs for path in job.unfinished()}
    trunks = {trunk for job in plan.jobs for trunk in job.after}
    needed = {
        trunk for job in plan.jobs for path, trunk in zip(job.paths, job.after, strict=False) if path in left
    }
    jobs = [part for job in plan.jobs for part in job.without((trunks & left) - needed)]
    return [job for job in jobs if not left.isdisjoint(job.paths)]


def describe(
    suite: Suite, plan: Plan, configs: Sequence[RunConfig], workers: int, commands: bool = True
) -> str:
    """What the suite would run and take, and the command of every job."""
    workers = min(workers, len(plan.jobs))
    takes = estimate(plan, configs)
    saved = plan.unforked_agent_steps - plan.agent_steps
    lines = [f"# {suite.name}: {suite.summary}"]
    lines += [f"# {len(configs)} runs, {plan.agent_steps:,} agent steps in {len(plan.jobs)} jobs"]
    largest = max(len(job.paths) for job in plan.jobs)
    if largest > 1:
        lines += [f"# --stack: jobs of up to {largest} seeds that are trained together"]
    if saved:
        share = saved / plan.unforked_agent_steps
        lines += [f"# {plan.trunks} trunks, trained once for all methods, save {saved:,} steps ({share:.0%})"]
    disk = takes.disk_bytes + workers * takes.disk_bytes_per_worker
    lines += [
        f"# replay memory {takes.replay_bytes / 1e9:.2f} GB a job, {workers} at a time: "
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
    """Launch under a live table; where stderr is no terminal, a line per run that has ended."""
    console = Console(stderr=True)
    runs = [path for job in jobs for path in job.unfinished()]
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
            for path in runs:
                if path not in ended and (path in failed or is_finished(path)):
                    ended.add(path)
                    print(f"{'failed' if path in failed else 'finished'}: {path}", file=sys.stderr)

        return launch(jobs, tick)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt

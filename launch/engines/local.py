"""The local engine: every run is a process of its own, a few at a time.

Nothing is returned through pipes or pickles: a run writes its directory, and its exit code says how it went.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fire_rl.results.store import load_run

POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1


def run_jobs(jobs: Mapping[Path, Sequence[str]], workers: int) -> dict[Path, str]:
    """Run `fire-rl WORDS` for every run directory, `workers` at a time; returns the failed ones and why.

    The output of a run goes to stdout.log in its directory. A run that fails leaves the others alone. On
    Ctrl-C every run saves its state; when this process dies, however it dies, so do they.

    Raises:
        KeyboardInterrupt: after all runs have saved their state.
    """
    waiting = list(jobs.items())[::-1]
    running: dict[subprocess.Popen[bytes], Path] = {}
    failed: dict[Path, str] = {}
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    path, words = waiting.pop()
                    running[_start(path, words)] = path
                for process in [p for p in running if p.poll() is not None]:
                    path = running.pop(process)
                    if process.returncode:
                        failed[path] = _reason(path, process.returncode)
                    if not console.is_terminal:
                        print(f"{'failed' if path in failed else 'finished'}: {path}", file=sys.stderr)
                if console.is_terminal:
                    live.update(_table(list(running.values()), len(waiting)), refresh=True)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait()
            raise
    return failed


def _start(path: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    path.mkdir(parents=True, exist_ok=True)
    with (path / "stdout.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fire_rl.launch.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_follow_parent,
        )


def _follow_parent() -> None:
    """In the child: a session of its own (Ctrl-C reaches it through us), and SIGTERM when we die (Linux)."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _reason(path: Path, code: int) -> str:
    lines = [line for line in (path / "stdout.log").read_text(errors="replace").splitlines() if line.strip()]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{lines[-1]} ({how})" if lines else how


def _table(paths: Sequence[Path], waiting: int) -> Table:
    table = Table(caption=f"{waiting} waiting")
    for column in ("run", "agent steps", "of", "%"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for path in paths:
        if (path / "config.json").exists():
            status = load_run(path).status
            share = status.agent_steps / max(1, status.total_agent_steps)
            table.add_row(
                str(path), f"{status.agent_steps:,}", f"{status.total_agent_steps:,}", f"{share:.0%}"
            )
    return table

"""How the runs of a folder stand, read from their records alone: whatever started them, on whatever host."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Group
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from fire_rl.launch.engines.pool import LAUNCHER_LOG
from fire_rl.launch.plan import TRUNKS, read_plan
from fire_rl.results.jsonl import parse
from fire_rl.results.store import Run, find_runs, load_run

RunState = Literal["running", "finished", "failed", "interrupted", "lost", "queued"]
STATES: tuple[RunState, ...] = get_args(RunState)
COLOURS = {"running": "cyan", "finished": "green", "failed": "bold red", "lost": "red"}
RECENT_EPISODES = 100
TAIL_BYTES = 32_768
LAST_LINES = 5


@dataclass(frozen=True)
class Row:
    """One run. `lost`: its process is gone without a word; `fire-rl bench` starts it again."""

    path: str  # below the folder
    state: RunState
    agent_steps: int
    total_agent_steps: int
    mean_return: float | None  # of the last episodes in training
    steps_per_second: float | None
    seconds_left: float | None
    attempt: int
    message: str
    last_lines: tuple[str, ...]  # that its process printed, of failed runs


@dataclass(frozen=True)
class Overview:
    """All runs of a folder."""

    rows: tuple[Row, ...]
    disk_bytes: int

    @property
    def counts(self) -> dict[str, int]:
        """Runs by state."""
        found = Counter(row.state for row in self.rows)
        return {state: found[state] for state in STATES}

    @property
    def seconds_left(self) -> float | None:
        """Until all are finished, at the present speed of all that are running; None when none is."""
        speed = sum(row.steps_per_second or 0.0 for row in self.rows if row.state == "running")
        open_steps = sum(r.total_agent_steps - r.agent_steps for r in self.rows if r.state != "finished")
        return open_steps / speed if speed else None

    def to_json(self) -> str:
        """For scripts."""
        rows = [asdict(row) for row in self.rows]
        facts = {"counts": self.counts, "disk_bytes": self.disk_bytes, "seconds_left": self.seconds_left}
        return json.dumps({**facts, "runs": rows}, indent=1)


def read_overview(folder: Path, disk: bool = True) -> Overview:
    """How everything that was planned or recorded below `folder` stands.

    Args:
        disk: also measure what the folder takes on disk.

    Raises:
        ValueError: when there is nothing.
    """
    planned = read_plan(folder)
    if not planned:
        paths = [run.path for run in find_runs(folder)]  # raises where there is none
        planned = {str(path.relative_to(folder)): {} for path in paths}
    events = _launcher_events(folder)
    rows = tuple(_row(folder, name, job, events.get(name, {})) for name, job in planned.items())
    return Overview(rows, disk_bytes(folder) if disk else 0)


def _row(folder: Path, name: str, job: Mapping[str, Any], event: Mapping[str, Any]) -> Row:
    path = folder / name
    run = load_run(path) if (path / "config.json").exists() else None
    total = run.status.total_agent_steps if run else 0
    done = run.status.agent_steps if run else 0
    if not total:  # not started: a branch has only its own part to do
        total = int(job.get("agent_steps", 0))
    state = _state(run, event)
    if state == "finished":
        done = total
    speed = _speed(path) if state == "running" else None
    message = run.status.message if run else ""
    if state == "failed":
        message = str(event.get("reason", message))
    return Row(
        name,
        state,
        done,
        total,
        _mean_return(path),
        speed,
        (total - done) / speed if speed else None,
        run.status.attempt if run else 0,
        message,
        _last_lines(folder / str(event.get("printed_to", name))) if state == "failed" else (),
    )


def _state(run: Run | None, event: Mapping[str, Any]) -> RunState:
    if run is not None and run.status.state == "finished":
        return "finished"
    if run is not None and run.status.is_alive():
        return "running"
    if event.get("event") == "failed":
        return "failed"
    if run is None or run.status.state == "queued":
        return "queued"
    return "lost" if run.status.state == "running" else run.status.state


def _launcher_events(folder: Path) -> dict[str, dict[str, Any]]:
    """The last that a launcher noted about each run."""
    file = folder / LAUNCHER_LOG
    rows = map(parse, file.read_bytes().splitlines()) if file.exists() else ()
    return {str(row["run"]): row for row in rows if row is not None}


def _tail(file: Path) -> list[dict[str, Any]]:
    """The complete rows in the last bytes of a stream."""
    if not file.exists():
        return []
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        lines = stream.read().split(b"\n")[1 if size > TAIL_BYTES else 0 : -1]
    return [row for line in lines if (row := parse(line)) is not None]


def _mean_return(path: Path) -> float | None:
    returns = [float(row["return"]) for row in _tail(path / "episodes.jsonl")[-RECENT_EPISODES:]]
    return sum(returns) / len(returns) if returns else None


def _speed(path: Path) -> float | None:
    """Agent steps per second over the last ten logging intervals."""
    rows = [row for row in _tail(path / "timing.jsonl") if "interval_seconds" in row][-11:]
    seconds = sum(float(row["interval_seconds"]) for row in rows[1:])
    return (rows[-1]["agent_steps"] - rows[0]["agent_steps"]) / seconds if seconds > 0 else None


def _last_lines(path: Path) -> tuple[str, ...]:
    file = path / "stdout.log"
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return tuple(line for line in lines if line.strip())[-LAST_LINES:]


def disk_bytes(folder: Path) -> int:
    """What `folder` takes on disk; files that share their content by hard links count once."""
    seen: dict[tuple[int, int], int] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                facts = os.stat(os.path.join(root, name), follow_symlinks=False)
            except FileNotFoundError:  # a checkpoint that was replaced meanwhile
                continue
            seen[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    return sum(seen.values())


def render(overview: Overview, height: int | None = None) -> Group:
    """Counts and a row per run; with `height`, as many rows as fit, those that run first."""
    order = {state: i for i, state in enumerate(("running", "failed", "lost", "interrupted", "queued"))}
    rows = sorted(overview.rows, key=lambda row: order.get(row.state, len(order)))
    shown = rows if height is None else rows[: max(1, height - 6)]
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state", "agent steps", "%", "return", "steps/s", "left"):
        left = column in ("run", "state")
        table.add_column(column, justify="left" if left else "right", overflow="fold" if left else "ellipsis")
    for row in shown:
        table.add_row(*_cells(row))
    counts = ", ".join(f"{n} {state}" for state, n in overview.counts.items() if n)
    facts = [f"{len(overview.rows)} runs: {counts}"]
    facts += [f"{decimal(overview.disk_bytes)} on disk"] if overview.disk_bytes else []
    facts += [f"{duration(overview.seconds_left)} left"] if overview.seconds_left else []
    more = [Text(f"… and {len(rows) - len(shown)} more")] if len(shown) < len(rows) else []
    return Group(Text("; ".join(facts)), table, *more, *_failures(overview.rows if height is None else ()))


def _cells(row: Row) -> tuple[str | Text, ...]:
    return (
        row.path.replace(f"{TRUNKS}/", "trunk "),
        Text(row.state, style=COLOURS.get(row.state, "dim")),
        f"{row.agent_steps:,}",
        f"{row.agent_steps / max(1, row.total_agent_steps):.0%}",
        "–" if row.mean_return is None else f"{row.mean_return:,.1f}",
        "–" if row.steps_per_second is None else f"{row.steps_per_second:,.0f}",
        "–" if row.seconds_left is None else duration(row.seconds_left),
    )


def _failures(rows: Sequence[Row]) -> list[Text]:
    texts = []
    for row in rows:
        if row.state == "failed":
            lines = "".join(f"\n    {line}" for line in row.last_lines)
            texts.append(Text(f"\nfailed: {row.path}: {row.message}{lines}"))
    return texts


def duration(seconds: float) -> str:
    """`seconds` in the two largest units that matter: 3 d 4 h, 2 h 05 min, 3 min 20 s."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

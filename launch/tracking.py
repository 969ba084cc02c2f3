"""What a run tells the world: its run directory, and Weights & Biases through the real client.

The run directory is the record; W&B is a view of it. So rows go to the directory first, and whatever goes
wrong with W&B is said once, noted in the run's status, and the run goes on without it.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fire_rl.results.store import RunDirectory, State

WandbMode = Literal["offline", "online", "disabled"]
Row = Mapping[str, Any]
CLOCK = ("agent_steps", "env_steps", "updates")


class Tracker:
    """Writes the rows of one run to its directory and to W&B.

    On a resume, construct it after `run.truncate_to`: the directory repeats the rows since the checkpoint,
    W&B (where what is sent cannot be taken back) only gets the rows that it has not seen.

    Args:
        run: the run's directory, created; its configuration, versions, hardware and command go to W&B too.
        wandb: "offline" writes W&B's files below the run directory, for `wandb sync`; "online" needs an API
            key and falls back to offline without one; "disabled" does not even import the client.
        project: W&B's name for the collection of runs.
        tags: added to the tags agent, environment and method.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        wandb: WandbMode = "offline",
        project: str = "fire-rl",
        tags: Sequence[str] = (),
    ) -> None:
        self.run = run
        self._episodes: list[Row] = []  # finished since the last row of `train`, for W&B
        self._client: Any = None
        self._wandb_run: Any = None
        self._sent_before = run.status.wandb_agent_steps  # by earlier attempts
        run.write_status(wandb="disabled")
        if wandb != "disabled":
            self._start(wandb, project, tags)

    def _start(self, mode: WandbMode, project: str, tags: Sequence[str]) -> None:
        if mode == "online":
            try:
                self._init("online", project, tags)
                return
            except Exception as error:
                _say(f"W&B cannot be reached ({_sentence(error)}): this run is tracked offline instead")
        self._guarded(lambda: self._init("offline", project, tags))

    def _init(self, mode: Literal["offline", "online"], project: str, tags: Sequence[str]) -> None:
        if mode == "offline":  # the client would report its own errors to its makers
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        if mode == "online" and not wandb.login(prompt=False):
            raise PermissionError("there is no API key: set WANDB_API_KEY or run `wandb login`")
        agent, env, method = self.run.agent, self.run.env, self.run.method
        wandb_run = wandb.init(
            mode=mode,
            dir=self.run.path,
            project=project,
            id=self.run.id,
            resume="allow",
            reinit="create_new",  # one process may have had other runs, lost ones among them
            name=f"{agent}-{env}-{method}-s{self.run.seed}",
            group=f"{agent}/{env}/{method}",
            job_type="train",
            tags=[tag[:64] for tag in (agent, env, method, *tags)],  # longer ones are refused
            config={**self.run.config, "record": {k: v for k, v in self.run.record.items() if k != "config"}},
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=30),
        )
        wandb_run.define_metric("agent_steps")
        wandb_run.define_metric("*", step_metric="agent_steps")
        for key in ("eval/return", "episode/return"):
            wandb_run.define_metric(key, step_metric="agent_steps", summary="max,last")
        self._client, self._wandb_run = wandb, wandb_run
        self.run.write_status(wandb=mode)

    def train(self, row: Row) -> None:
        """Record one logging interval: the clock, then metrics."""
        self.run.append("train", row)
        episodes, self._episodes = self._episodes, []
        self._log(row, lambda: _flat("train", row) | _summary(episodes))

    def episode(self, row: Row) -> None:
        """Record a finished training episode: the clock, `return`, `length_agent_steps`.

        W&B gets means over each logging interval: one call of the client takes as long as many steps of a
        small environment.
        """
        self.run.append("episodes", row)
        self._episodes.append(row)

    def evaluation(self, row: Row) -> None:
        """Record an evaluation: the clock, `return` (mean) and `returns` (of every episode)."""
        self.run.append("eval", row)
        self._log(row, lambda: _flat("eval", row))

    def measures(self, row: Row) -> None:
        """Record measures of plasticity: the clock, `moment`, and "<learner>/<measure>"."""
        self.run.append("measures", row)
        self._log(row, lambda: _flat("measures", row))

    def event(self, row: Row, tables: Mapping[str, Sequence[Row]]) -> None:
        """Record a reset: the clock, `method`, `options`, measures; `tables` hold its rows per tensor."""
        self.run.append("events", {**row, **tables})
        self._log(
            row, lambda: _flat("reset", row) | {f"reset/{k}": self._table(v) for k, v in tables.items()}
        )

    def timing(self, row: Row) -> None:
        """Record the clock with seconds and speeds, which no two runs share, apart from everything else."""
        self.run.append("timing", row)
        self._log(row, lambda: _flat("timing", row))

    def finish(self, state: State, message: str = "") -> None:
        """End W&B's run and write the run's last status. The directory stays open."""
        if self._wandb_run is not None:
            exit_code = {"finished": 0, "interrupted": 130}.get(state, 1)
            self._guarded(lambda: self._wandb_run.finish(exit_code=exit_code))
            self._wandb_run = None
        self.run.write_status(state=state, message=message)

    def _table(self, rows: Sequence[Row]) -> Any:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[_cell(row.get(column)) for column in columns] for row in rows]
        return self._client.Table(columns=columns, data=data, allow_mixed_types=True)

    def _log(self, row: Row, content: Callable[[], dict[str, Any]]) -> None:
        step = int(row["agent_steps"])
        if self._wandb_run is not None and step > self._sent_before:
            clock = {key: row[key] for key in CLOCK if key in row}
            # W&B refuses steps that go back; `content` may build tables, so it is under guard as well.
            self._guarded(lambda: self._wandb_run.log({**clock, **content()}, step=step))
        sent = self._sent_before if self._wandb_run is None else max(step, self._sent_before)
        self.run.write_status(agent_steps=step, wandb_agent_steps=sent)

    def _guarded(self, call: Callable[[], object]) -> None:
        """The one place where an error of the client ends: W&B is lost, the run is not."""
        try:
            call()
        except Exception as error:
            self._wandb_run = None
            reason = _sentence(error)
            _say(f"W&B is lost ({reason}): the run goes on, and its record is complete in {self.run.path}")
            self.run.write_status(wandb=f"lost: {reason}")


def _flat(prefix: str, row: Row) -> dict[str, Any]:
    """`row` as W&B likes it: names with slashes, the clock left out, only finite numbers and words."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(f"{prefix}/{key}", value)
        elif key not in CLOCK and (isinstance(value, str) or _is_finite(value)):
            flat[f"{prefix}/{key}"] = value
    return flat


def _summary(episodes: Sequence[Row]) -> dict[str, Any]:
    """What W&B is told about the episodes of one logging interval."""
    if not episodes:
        return {}
    means = {
        f"episode/{key}": float(np.mean([episode[key] for episode in episodes]))
        for key in ("return", "length_agent_steps")
    }
    return {**means, "episode/count": len(episodes)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _cell(value: Any) -> Any:
    return value if isinstance(value, str) or _is_finite(value) else None if value is None else str(value)


def _sentence(error: BaseException | None) -> str:
    """An error as part of a sentence: its first line, or else its name."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _say(message: str) -> None:
    print(f"fire-rl: {message}", file=sys.stderr)

"""The plan of a suite: which processes have to run, which wait for which, and what that costs.

Runs that differ in nothing but the reset method are one and the same up to the first reset. That part is
trained once, as a trunk; each method then goes on from it as a branch. A suite of M methods whose reset lies
at the middle costs (1 + M) / 2 runs' worth of steps instead of M.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fire_rl.envs import make_env
from fire_rl.launch.command_line import train_command
from fire_rl.launch.config import RunConfig, identity, make_config
from fire_rl.results.jsonl import plain, write_atomically
from fire_rl.results.store import load_run

TRUNKS = ".trunks"  # folder beside the runs; hidden, since a trunk is no result
PLAN_FILE = "plan.json"  # all jobs that a folder was ever asked for
METHOD_KEYS = ("label", "preset", "reset_at", "reset_every", "reset_from", "reset_until", "reset_unit")


@dataclass(frozen=True)
class Job:
    """One process: `fire-rl WORDS`, which records the run at `path` and can be started again at any time."""

    path: Path
    words: tuple[str, ...]
    agent_steps: int  # that this job trains when started from nothing
    threads: int = 1
    after: Path | None = None  # the run that must be finished before

    def is_finished(self) -> bool:
        """Whether the record says that the run reached its end."""
        return (self.path / "config.json").exists() and load_run(self.path).status.state == "finished"


@dataclass(frozen=True)
class Plan:
    """The jobs of a suite, trunks first, and the steps that a run for run execution would take."""

    jobs: tuple[Job, ...]
    unforked_agent_steps: int

    @property
    def trunks(self) -> int:
        """How many jobs are trunks."""
        return len({job.after for job in self.jobs if job.after is not None})

    @property
    def agent_steps(self) -> int:
        """Steps that are trained in all."""
        return sum(job.agent_steps for job in self.jobs)


def make_plan(configs: Sequence[RunConfig], folder: Path, fork: bool = True) -> Plan:
    """The jobs that record `configs` below `folder`.

    Args:
        fork: share what is the same before the first reset; else every run is trained from its start.
    """
    trunks: list[Job] = []
    branches: list[Job] = []
    for key, alike in _same_until_reset(configs).items():
        steps = _best_trunk([first_reset(config) for config in alike]) if fork else 0
        digest = hashlib.sha256(f"{key} {steps}".encode()).hexdigest()[:8]
        trunk = _trunk(alike[0], folder / TRUNKS, digest, steps) if steps else None
        trunks += [trunk] if trunk else []
        branches += [_branch(c, trunk) if trunk and first_reset(c) >= steps else _job(c) for c in alike]
    return Plan((*trunks, *branches), sum(config.run.agent_steps for config in configs))


def write_plan(jobs: Sequence[Job], folder: Path) -> None:
    """Note the jobs in `folder`, for `fire-rl status`; those of earlier plans stay."""
    ours = {
        str(job.path.relative_to(folder)): {
            "command": ["fire-rl", *job.words],
            "agent_steps": job.agent_steps,
            "after": str(job.after.relative_to(folder)) if job.after else None,
        }
        for job in jobs
    }
    write_atomically(folder / PLAN_FILE, {**read_plan(folder), **ours})


def read_plan(folder: Path) -> dict[str, dict[str, Any]]:
    """The planned jobs of `folder` by their path in it; none if nothing was planned there."""
    file = folder / PLAN_FILE
    return dict(json.loads(file.read_text())) if file.exists() else {}


def first_reset(config: RunConfig) -> int:
    """Agent steps up to which a run does not depend on its method.

    0 for methods that act from the start, and for resets counted in updates, whose moment is not known in
    advance: how many updates a step has is the agent's business.
    """
    repeat = spaces(config)[2]
    schedule = config.schedule(repeat)
    if not config.method.acts_only_at_events or schedule.unit == "updates":
        return 0
    if not schedule.events:
        return config.run.agent_steps
    first = schedule.events[0]
    return -(-first // repeat) if schedule.unit == "env_steps" else first


def _best_trunk(first_resets: Sequence[int]) -> int:
    """Length of the trunk that saves most: all runs whose first reset is no earlier share it. 0: none."""
    saved = {steps: (sum(other >= steps for other in first_resets) - 1) * steps for steps in first_resets}
    best = max(saved, key=lambda steps: saved[steps])
    return best if saved[best] > 0 else 0


def _same_until_reset(configs: Sequence[RunConfig]) -> dict[str, list[RunConfig]]:
    """`configs` grouped by all that their computation depends on but method and resets; order is kept."""
    groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        settings = identity(plain(config.to_dict()))
        shared = {k: v for k, v in settings.items() if k not in METHOD_KEYS and not k.startswith("method.")}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(config)
    return groups


def _job(config: RunConfig) -> Job:
    return Job(config.path, tuple(train_command(config)), config.run.agent_steps, config.run.threads)


def _trunk(config: RunConfig, folder: Path, digest: str, steps: int) -> Job:
    """The run without a method, as far as the first reset."""
    run = config.run
    path = folder / run.agent / run.env / f"s{run.seed}-{digest}"
    settings = {k: v for k, v in config.to_dict().items() if k not in (*METHOD_KEYS, "method")}
    trunk = make_config({**settings, "run_dir": path, "stop_at": steps, "wandb": "disabled"})
    return replace(_job(replace(trunk, path=path)), agent_steps=steps)


def _branch(config: RunConfig, trunk: Job) -> Job:
    whole = _job(replace(config, run=replace(config.run, fork_from=trunk.path)))
    return replace(whole, agent_steps=whole.agent_steps - trunk.agent_steps, after=trunk.path)


def spaces(config: RunConfig) -> tuple[Any, Any, int]:
    """Observation space, action space and action repeat of a run's environment."""
    return _spaces(config.run.env, json.dumps(asdict(config.env), sort_keys=True))


@cache
def _spaces(env: str, options: str) -> tuple[Any, Any, int]:
    chosen = json.loads(options)
    built = make_env(env, 1, **{**chosen, **({"workers": 0} if "workers" in chosen else {})})
    try:
        return built.observation_space, built.action_space, built.action_repeat
    finally:
        built.close()

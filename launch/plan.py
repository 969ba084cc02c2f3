"""The plan of a suite: which processes have to run, which wait for which, and what that costs.

Runs that differ in nothing but the reset method are one and the same up to the first reset. That part is
trained once, as a trunk; each method then goes on from it as a branch. A suite of M methods whose reset lies
at the middle costs (1 + M) / 2 runs' worth of steps instead of M.

Runs that differ in nothing but evenly spaced seeds can be stacked, and so can trunks: one process trains them
together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fire_rl.envs import make_env
from fire_rl.launch.command_line import train_command
from fire_rl.launch.config import RunConfig, RunOptions, identity, located, make_config
from fire_rl.launch.job import Job, evenly_spaced, stride
from fire_rl.results.jsonl import plain, write_atomically

TRUNKS = ".trunks"  # folder beside the runs; hidden, since a trunk is no result
PLAN_FILE = "plan.json"  # all runs that a folder was ever asked for
METHOD_KEYS = ("label", "preset", "reset_at", "reset_every", "reset_from", "reset_until", "reset_unit")


@dataclass(frozen=True)
class Plan:
    """The jobs of a suite, trunks first, and the steps that a run for run execution would take."""

    jobs: tuple[Job, ...]
    unforked_agent_steps: int

    @property
    def trunks(self) -> int:
        """How many runs are trunks."""
        return len({trunk for job in self.jobs for trunk in job.after})

    @property
    def agent_steps(self) -> int:
        """Steps that are trained in all."""
        return sum(job.agent_steps * len(job.paths) for job in self.jobs)


def make_plan(
    configs: Sequence[RunConfig],
    folder: Path,
    fork: bool = True,
    stack: Callable[[RunConfig], int] = lambda config: 1,
) -> Plan:
    """The jobs that record `configs` below `folder`.

    Args:
        fork: share what is the same before the first reset; else every run is trained from its start.
        stack: how many runs like this one a process may train at most.
    """
    trunks: list[Job] = []
    branches: list[Job] = []
    limits: dict[Path, int] = {}
    for (_, key), alike in _same_until_reset(configs).items():
        steps = _best_trunk([first_reset(config) for config in alike]) if fork else 0
        # The seed has no part in the name, so that trunks of several seeds have one command.
        digest = hashlib.sha256(f"{key} {steps}".encode()).hexdigest()[:8]
        trunk = _trunk(alike[0], folder / TRUNKS, digest, steps) if steps else None
        trunks += [_job(trunk, steps)] if trunk else []
        branches += [_branch(c, trunk) if trunk and first_reset(c) >= steps else _job(c) for c in alike]
        limits.update((run.path, stack(run)) for run in (*alike, *([trunk] if trunk else [])))
    jobs = (*_stacked(trunks, limits), *_stacked(branches, limits))
    return Plan(jobs, sum(config.run.agent_steps for config in configs))


def write_plan(jobs: Sequence[Job], folder: Path) -> None:
    """Note the runs of `jobs` in `folder`, for `fire-rl status`; those of earlier plans stay."""
    ours = {
        str(path.relative_to(folder)): {
            "command": ["fire-rl", *job.words],
            "agent_steps": job.agent_steps,
            "after": str(job.after[index].relative_to(folder)) if job.after else None,
        }
        for job in jobs
        for index, path in enumerate(job.paths)
    }
    write_atomically(folder / PLAN_FILE, {**read_plan(folder), **ours})


def read_plan(folder: Path) -> dict[str, dict[str, Any]]:
    """The planned runs of `folder` by their path in it; none if nothing was planned there."""
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


def _same_until_reset(configs: Sequence[RunConfig]) -> dict[tuple[int, str], list[RunConfig]]:
    """`configs` grouped by seed and all else that their computation depends on but method and resets; order
    is kept."""
    groups: dict[tuple[int, str], list[RunConfig]] = {}
    for config in configs:
        settings = identity(plain(config.to_dict()))
        apart = (*METHOD_KEYS, "seed")
        shared = {k: v for k, v in settings.items() if k not in apart and not k.startswith("method.")}
        groups.setdefault((config.run.seed, json.dumps(shared, sort_keys=True)), []).append(config)
    return groups


def _stacked(jobs: Sequence[Job], limits: Mapping[Path, int]) -> list[Job]:
    """`jobs` of one run each, joined where they differ in nothing but evenly spaced seeds.

    Args:
        limits: how many runs a job may have at most, by the path of each run.
    """
    alike: dict[tuple[object, ...], dict[int, Job]] = {}
    for job in jobs:
        key = job.command, job.agent_steps, job.threads, bool(job.after), limits[job.path]
        alike.setdefault(key, {})[job.seed] = job
    joined = []
    for by_seed in alike.values():
        limit = limits[next(iter(by_seed.values())).path]
        joined += [_joined([by_seed[seed] for seed in seeds]) for seeds in evenly_spaced(by_seed, limit)]
    order = {job.path: place for place, job in enumerate(jobs)}
    return sorted(joined, key=lambda job: order[job.path])


def _joined(jobs: Sequence[Job]) -> Job:
    paths = tuple(path for job in jobs for path in job.paths)
    after = tuple(trunk for job in jobs for trunk in job.after)
    return replace(jobs[0], paths=paths, after=after, stride=stride([job.seed for job in jobs]))


def _job(config: RunConfig, agent_steps: int | None = None) -> Job:
    """The job of one run, of which `agent_steps` are trained, or all."""
    run = config.run
    common = replace(config, run=replace(run, seed=RunOptions.seed, stack=RunOptions.stack))
    steps = run.agent_steps if agent_steps is None else agent_steps
    return Job((config.path,), tuple(train_command(common)), run.seed, steps, threads=run.threads)


def _trunk(config: RunConfig, folder: Path, digest: str, steps: int) -> RunConfig:
    """The run without a method, as far as the first reset."""
    run = config.run
    path = folder / run.agent / run.env / f"s{{seed}}-{digest}"
    settings = {k: v for k, v in config.to_dict().items() if k not in (*METHOD_KEYS, "method")}
    return located(make_config({**settings, "run_dir": path, "stop_at": steps, "wandb": "disabled"}))


def _branch(config: RunConfig, trunk: RunConfig) -> Job:
    assert trunk.run.stop_at is not None
    forked = replace(config, run=replace(config.run, fork_from=trunk.run.run_dir))
    return replace(_job(forked, config.run.agent_steps - trunk.run.stop_at), after=(trunk.path,))


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

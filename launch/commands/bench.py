"""`fire-rl bench`: the missing runs of a suite, then its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from fire_rl.agents.replay import free_host_bytes
from fire_rl.launch.bench import Launch, bench, describe, prepare
from fire_rl.launch.config import RunConfig, WandbMode
from fire_rl.launch.engines.local import LocalWorkers, default_workers, free_gpu_bytes, visible_gpus
from fire_rl.launch.engines.pool import run_jobs
from fire_rl.launch.engines.slurm import SlurmOptions, scripts, submit
from fire_rl.launch.job import Job
from fire_rl.launch.plan import Plan, make_plan
from fire_rl.launch.room import Room
from fire_rl.launch.suite import Overrides, Stack, load_suite
from fire_rl.plugins import load_plugins


@dataclass(frozen=True)
class RayOptions:
    """Options of the engine `ray`."""

    address: str = "local"
    """`local` starts a cluster on this machine, `auto` finds a running one, or give host:port."""


@dataclass(frozen=True)
class Options:
    """Run all jobs of a suite that are missing or unfinished, then draw its figure."""

    suite: tyro.conf.Positional[str]
    """Name of a built-in suite (`fire-rl suites`), or a TOML file of your own."""
    out: Path = Path("runs")
    """Folder of the records; the suite's go to OUT/SUITE."""

    envs: tuple[str, ...] = ()
    """Only these environments; also ones that the suite does not list."""
    methods: tuple[str, ...] = ()
    """Only these methods, by label or name; also ones that the suite does not list, with their defaults."""
    plugin: tuple[Path, ...] = ()
    """Python files of your own that register methods; see docs/write-a-method.md."""
    seeds: tuple[str, ...] = ()
    """These seeds instead of the suite's."""
    agent_steps: int | None = None
    """This length of every run."""
    eval_every: int | None = None
    """Agent steps between evaluations; 0: none."""
    checkpoint_minutes: float | None = None
    """Minutes between checkpoints."""
    device: str | None = None
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads per run. Results are bit-identical only for equal numbers."""
    wandb: WandbMode | None = None
    """Weights & Biases: offline, online or disabled."""

    engine: Literal["local", "ray", "slurm"] = "local"
    """Who starts the runs: this process, a Ray cluster, or SLURM (jobs are submitted, and that is all)."""
    workers: int | Literal["auto"] = "auto"
    """Processes at a time; auto: --per-gpu on each GPU, else as many as cores suffice for, and in any case no
    more than memory does."""
    per_gpu: int = 4
    """Processes that share a GPU."""
    stack: Stack | None = None
    """Seeds that one process trains together; auto: on a GPU as many as have room for their replay memories,
    on a CPU one. Default: what the suite says, else auto."""
    retries: int = 2
    """How often a failed run is started again, from its last checkpoint, without having got any further."""
    fork: bool = True
    """Train what is the same before the first reset once for all methods."""
    dry_run: bool = False
    """Print the jobs, what they take and what forking saves, and do nothing."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    ray: RayOptions = field(default_factory=RayOptions)


def main(argv: list[str]) -> int:
    """Run the suite."""
    options = tyro.cli(Options, args=argv, prog="fire-rl bench")
    for name in ("per_gpu", "workers", "stack"):
        value = getattr(options, name)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    load_plugins(options.plugin)
    suite = load_suite(options.suite)
    folder = options.out / suite.name
    overrides = _overrides(options)
    configs = suite.configs(folder, overrides)
    room = _room(options)
    stacks = suite.stacks(overrides)

    def stack(config: RunConfig) -> int:
        asked = stacks.get((config.run.agent, config.run.env), "auto")
        return room.stack(config) if asked == "auto" else asked

    plan = make_plan(configs, folder, options.fork, stack)
    if options.engine == "slurm":
        if options.dry_run:
            print(describe(suite, plan, configs, options.slurm.at_a_time, commands=False))
            print("\n".join(scripts(plan.jobs, folder, options.slurm, options.retries)))
        else:
            submit(prepare(suite, folder, plan), folder, options.slurm, options.retries)
        return 0
    workers, launch = _engine(options, plan, folder, room.processes(plan, configs))
    if options.dry_run:
        print(describe(suite, plan, configs, workers))
        return 0
    return bench(suite, folder, plan, launch)


def _overrides(options: Options) -> Overrides:
    names = ("agent_steps", "eval_every", "checkpoint_minutes", "device", "threads", "wandb", "stack")
    settings: dict[str, Any] = {
        name: getattr(options, name) for name in names if getattr(options, name) is not None
    }
    if options.plugin:
        settings["plugin"] = options.plugin
    try:
        seeds = tuple(map(int, _split(options.seeds)))
    except ValueError:
        raise ValueError(f"--seeds takes whole numbers, not {' '.join(options.seeds)}") from None
    return Overrides(_split(options.envs), _split(options.methods), seeds, settings)


def _room(options: Options) -> Room:
    """Where the processes will find memory; of a cluster only what is known here."""
    if options.engine == "slurm":
        return Room(options.slurm.gpus, 0, options.slurm.memory_bytes())
    gpus = 0 if options.device == "cpu" else len(visible_gpus())
    return Room(gpus, free_gpu_bytes() if gpus else 0, free_host_bytes())


def _engine(options: Options, plan: Plan, folder: Path, fitting: int) -> tuple[int, Launch]:
    """How many processes there are at a time, and what runs them.

    Args:
        fitting: for how many of them there is memory.
    """
    cpu_only = options.device == "cpu"
    gpus = [] if cpu_only else visible_gpus()
    threads = max(job.threads for job in plan.jobs)
    workers = min(default_workers(threads, len(gpus), options.per_gpu), fitting)
    if options.workers != "auto":
        workers = options.workers

    def launch(jobs: Sequence[Job], tick: Callable[[dict[Path, str]], None]) -> dict[Path, str]:
        if options.engine == "local":
            return run_jobs(jobs, LocalWorkers(workers, gpus), folder, options.retries, tick)
        from fire_rl.launch.engines.ray import RayWorkers

        with RayWorkers(options.ray.address, 0.0 if cpu_only else 1 / options.per_gpu) as cluster:
            return run_jobs(jobs, cluster, folder, options.retries, tick)

    return workers, launch


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    """`a,b c` as a, b, c."""
    return tuple(part for value in values for part in value.split(",") if part)

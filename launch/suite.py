"""Suites: named benchmarks as TOML files, their jobs, and the local execution of what is missing."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from fire_rl.launch.config import RunConfig, default_config, located, make_config
from fire_rl.launch.engines.local import run_jobs
from fire_rl.names import unknown_name
from fire_rl.results.figures import Panel, plot_learning_curves
from fire_rl.results.store import find_runs, load_run

GROUP_LISTS = {"envs": "env", "methods": "method", "seeds": "seed"}  # product over these
SUITE_FILE = "suite.toml"  # a copy of the suite beside its runs
FIGURE_KEYS = ("title", "note", "returns", "bin_steps")


@dataclass(frozen=True)
class Suite:
    """A benchmark: jobs (environments × methods × seeds, per group) and panels of its figure."""

    name: str
    summary: str
    groups: tuple[Mapping[str, Any], ...]
    text: str  # of the file

    def jobs(self, out: Path) -> list[RunConfig]:
        """Every run of the suite, recorded below `out`. Raises ValueError for what cannot be run."""
        return [
            located(make_config({**settings, "out": out}))
            for group in self.groups
            for settings in _product(group)
        ]

    def panels(self) -> dict[tuple[str, str], Panel]:
        """How the runs of each (agent, environment) are drawn."""
        panels = {}
        for group in self.groups:
            facts = {k: group[k] for k in FIGURE_KEYS if k in group}
            for settings in _product(group):
                agent, env = (
                    v["name"] if isinstance(v, dict) else v for v in (settings["agent"], settings["env"])
                )
                panels[agent, env] = Panel(**{"title": env.split("/")[1], **facts})
        return panels


def suite_names() -> list[str]:
    """The built-in suites."""
    folder = resources.files("fire_rl.launch.suites")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """A built-in suite by name, or one's own by the path of its TOML file.

    Raises ValueError for an unknown name, or a file that is no suite, saying what is wrong with it.
    """
    if name in suite_names():
        text = (resources.files("fire_rl.launch.suites") / f"{name}.toml").read_text()
    elif name.endswith(".toml"):
        if not Path(name).is_file():
            raise ValueError(f"there is no suite file {name}")
        text = Path(name).read_text()
    else:
        raise unknown_name("suite", name, suite_names())
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"suite {name} is not valid TOML: {error}") from None
    groups = content.get("group", [])
    if not isinstance(groups, list) or not groups:
        raise ValueError(f"suite {name} has no [[group]] of runs")
    for group in groups:
        for key in ("agent", "methods", "seeds"):
            if key not in group:
                raise ValueError(f"suite {name}: a group needs {key!r}")
    return Suite(Path(name).stem, str(content.get("summary", "")), tuple(groups), text)


def bench(name: str, out: Path, workers: int, dry_run: bool) -> int:
    """Run the jobs of a suite that are not finished, then draw its figure; returns the exit code."""
    suite = load_suite(name)
    folder = out / suite.name
    jobs = suite.jobs(folder)
    if dry_run:
        for job in jobs:
            print(shlex.join(["fire-rl", *train_command(job)]))
        return 0
    todo = [job for job in jobs if not _is_finished(job.path)]
    print(
        f"{suite.name}: {len(jobs)} runs, {len(jobs) - len(todo)} of them finished, in {folder}",
        file=sys.stderr,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUITE_FILE).write_text(suite.text)
    failed = run_jobs({job.path: train_command(job) for job in todo}, workers or os.cpu_count() or 1)
    for path, reason in failed.items():
        print(f"failed: {path}: {reason}", file=sys.stderr)
    if any(_is_finished(job.path) for job in jobs):
        image = folder / f"{suite.name}.png"
        print(plot_learning_curves(find_runs(folder), image, panels=suite.panels()))
    return 1 if failed else 0


def panels_of(folder: Path) -> dict[tuple[str, str], Panel]:
    """How the suite that was run into `folder` wants its runs drawn; nothing for other folders."""
    file = folder / SUITE_FILE
    return load_suite(str(file)).panels() if file.exists() else {}


def train_command(config: RunConfig) -> list[str]:
    """The words after `fire-rl` that run `config`: its names, and every option that is not the default."""
    run = config.run
    base = default_config(run.agent, run.env, run.method, run.preset)
    words = ["train", "--agent", run.agent, "--env", run.env, "--method", run.method]
    words += _flags(run, base.run, "", skip=("agent", "env", "method"))
    for part in ("agent", "env", "method"):
        words += _flags(getattr(config, part), getattr(base, part), f"{part}.")
    return words


def _flags(options: Any, default: Any, prefix: str, skip: tuple[str, ...] = ()) -> Iterator[str]:
    for item in fields(options):
        value = getattr(options, item.name)
        if item.name in skip or value == getattr(default, item.name):
            continue
        flag = f"{prefix}{item.name.replace('_', '-')}"
        if isinstance(value, bool):
            parent, _, last = flag.rpartition(".")
            yield (
                f"--{parent}.{'' if value else 'no-'}{last}"
                if parent
                else f"--{'' if value else 'no-'}{last}"
            )
        else:
            yield f"--{flag}"
            yield from map(str, value if isinstance(value, tuple) else (value,))


def _product(group: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of every run of a group."""
    common = {k: v for k, v in group.items() if k not in GROUP_LISTS and k not in FIGURE_KEYS}
    lists = [group[key] if key in group else [group[single]] for key, single in GROUP_LISTS.items()]
    for values in itertools.product(*lists):
        yield {**common, **dict(zip(GROUP_LISTS.values(), values, strict=True))}


def _is_finished(path: Path) -> bool:
    return (path / "config.json").exists() and load_run(path).status.state == "finished"

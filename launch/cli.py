"""The command line: `fire-rl COMMAND …`."""

from __future__ import annotations

import os

# Before torch is imported: idle OpenMP threads sleep instead of spinning. With more runs than cores, spinning
# costs a factor of four to eight.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from fire_rl.names import unknown_name

USAGE_ERROR = 2


@dataclass(frozen=True)
class Command:
    """One word after `fire-rl`."""

    run: Callable[[list[str]], int]
    summary: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 done, 1 failed, 2 wrong usage, 128 + n stopped by signal n.

    What the user got wrong is answered by one sentence on stderr.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else USAGE_ERROR
    try:
        if words[0] not in COMMANDS:
            raise unknown_name("command", words[0], list(COMMANDS))
        return COMMANDS[words[0]].run(words[1:])
    except (ValueError, MemoryError, FileNotFoundError) as error:
        print(f"fire-rl: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 130


def overview() -> str:
    """What `fire-rl --help` prints."""
    lines = [f"  {name:<9} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fire-rl COMMAND [options]",
            "",
            *lines,
            "",
            "fire-rl COMMAND --help tells a command's options.",
        ]
    )


def parse_train(argv: list[str]) -> Any:
    """The `RunConfig` that the flags of `fire-rl train` describe.

    The names of agent, environment, method and preset are read first: they decide which further flags there
    are, and their defaults.
    """
    from fire_rl.launch.config import RunConfig, default_config, located

    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    names.add_argument("--agent", default="dqn")
    names.add_argument("--env", default="atari/Asterix")
    names.add_argument("--method", default="none")
    names.add_argument("--preset", default="paper")
    try:
        chosen, _ = names.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    base = default_config(chosen.agent, chosen.env, chosen.method, chosen.preset)
    parts = {"agent": base.agent, "env": base.env, "method": base.method}
    options = [
        (
            f"{name}_options",
            Annotated[type(part), tyro.conf.arg(name=name)],
            field(default_factory=type(part)),
        )
        for name, part in parts.items()
    ]
    command = make_dataclass("Train", options, bases=(type(base.run),), frozen=True, kw_only=True)
    command.__doc__ = type(base.run).__doc__
    default = command(**_values(base.run), **{f"{k}_options": v for k, v in parts.items()})
    parsed: Any = tyro.cli(command, args=argv, default=default, prog="fire-rl train")
    run = replace(base.run, **{f.name: getattr(parsed, f.name) for f in fields(base.run)})
    return located(RunConfig(run, parsed.agent_options, parsed.env_options, parsed.method_options))


def _values(options: Any) -> dict[str, Any]:
    return {f.name: getattr(options, f.name) for f in fields(options)}


def _train(argv: list[str]) -> int:
    config = parse_train(argv)
    from fire_rl.launch.train import train

    return train(config)


@dataclass(frozen=True)
class BenchOptions:
    """Run all jobs of a suite that are missing or unfinished, then draw its figure."""

    suite: tyro.conf.Positional[str]
    """Name of a built-in suite (`fire-rl suites`), or a TOML file of your own."""
    out: Path = Path("runs")
    """Folder of the records; the suite's go to OUT/SUITE."""
    workers: int = 0
    """Runs at a time; 0: one per CPU core."""
    dry_run: bool = False
    """Print the jobs and do nothing."""


def _bench(argv: list[str]) -> int:
    options = tyro.cli(BenchOptions, args=argv, prog="fire-rl bench")
    from fire_rl.launch.suite import bench

    return bench(options.suite, options.out, options.workers, options.dry_run)


@dataclass(frozen=True)
class PlotOptions:
    """Draw the figures of a folder of records."""

    folder: tyro.conf.Positional[Path]
    """Folder of records: what a command wrote to --out."""
    image: Path | None = None
    """Image to write (png, pdf or svg); default: curves.png in the folder."""


def _plot(argv: list[str]) -> int:
    options = tyro.cli(PlotOptions, args=argv, prog="fire-rl plot")
    from fire_rl.launch.suite import plot

    print(plot(options.folder, options.image or options.folder / "curves.png"))
    return 0


def _methods(argv: list[str]) -> int:
    tyro.cli(_Nothing, args=argv, prog="fire-rl methods", description="List the reset methods.")
    from fire_rl.method import method_class, method_names

    for name in method_names():
        print(f"{name:<22} {_first_line(method_class(name))}")
    return 0


@dataclass(frozen=True)
class EnvsOptions:
    """List the environments."""

    family: tyro.conf.Positional[str] = ""
    """Only this family: atari, humanoid or control."""


def _envs(argv: list[str]) -> int:
    options = tyro.cli(EnvsOptions, args=argv, prog="fire-rl envs")
    from fire_rl.envs import describe, env_names

    for name in env_names(options.family or None):
        print(f"{name:<36} {describe(name)}")
    return 0


def _suites(argv: list[str]) -> int:
    tyro.cli(_Nothing, args=argv, prog="fire-rl suites", description="List the built-in suites.")
    from fire_rl.launch.suite import load_suite, suite_names

    for name in suite_names():
        print(f"{name:<22} {load_suite(name).summary}")
    return 0


@dataclass(frozen=True)
class _Nothing:
    pass


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


COMMANDS: dict[str, Command] = {
    "train": Command(_train, "one run: an agent learns in an environment, a method resets it"),
    "bench": Command(_bench, "many runs: all missing jobs of a suite, then its figure"),
    "plot": Command(_plot, "the figures of recorded runs"),
    "methods": Command(_methods, "the reset methods, a line each"),
    "envs": Command(_envs, "the environments, a line each"),
    "suites": Command(_suites, "the built-in suites, a line each"),
}

if __name__ == "__main__":
    sys.exit(main())

"""`fire-rl train`: one run."""

from __future__ import annotations

import argparse
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from fire_rl.launch.config import RunConfig, RunOptions, default_config, located
from fire_rl.plugins import load_plugins


def main(argv: list[str]) -> int:
    """Parse the flags, then run or continue the run."""
    config = parse(argv)
    from fire_rl.launch.train import train

    return train(config)


def parse(argv: list[str]) -> RunConfig:
    """The configuration that the flags describe.

    Plug-ins and the names of agent, environment, method and preset are read first: they decide which further
    flags there are, and their defaults. Every command that takes the flags of a run parses them here.

    Raises:
        ValueError: for an unknown name. Anything else that is wrong ends the process with code 2.
    """
    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("agent", "env", "preset"):
        names.add_argument(f"--{name}", default=getattr(RunOptions, name))
    names.add_argument("--method", action="append")
    names.add_argument("--plugin", nargs="*", action="extend", default=[])
    try:
        chosen, rest = names.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    plugins = [str(Path(file).resolve()) for file in chosen.plugin]  # a resumed run may start elsewhere
    load_plugins(plugins)
    method = "+".join(chosen.method or [RunOptions.method])
    base = default_config(chosen.agent, chosen.env, method, chosen.preset)
    argv = [*rest, "--agent", chosen.agent, "--env", chosen.env, "--method", method]
    argv += ["--preset", chosen.preset, *(["--plugin", *plugins] if plugins else [])]
    parts = {"agent": base.agent, "env": base.env, "method": base.method}
    options = [
        (f"{name}_options", Annotated[of, tyro.conf.arg(name=name)], field(default_factory=of))
        for name, of in ((name, type(part)) for name, part in parts.items())
    ]
    command = make_dataclass("Train", options, bases=(RunOptions,), frozen=True, kw_only=True)
    command.__doc__ = RunOptions.__doc__
    values = {f.name: getattr(base.run, f.name) for f in fields(base.run)}
    default = command(**values, **{f"{k}_options": v for k, v in parts.items()})
    parsed: Any = tyro.cli(command, args=argv, default=default, prog="fire-rl train")
    run = replace(base.run, **{f.name: getattr(parsed, f.name) for f in fields(base.run)})
    return located(RunConfig(run, parsed.agent_options, parsed.env_options, parsed.method_options))

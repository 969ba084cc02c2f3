"""`fire-rl envs`: where agents can learn."""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Options:
    """List the environments."""

    family: tyro.conf.Positional[str] = ""
    """Only this family: atari, humanoid or control."""


def main(argv: list[str]) -> int:
    """Print a line per environment."""
    options = tyro.cli(Options, args=argv, prog="fire-rl envs")
    from fire_rl.envs import describe, env_names

    for name in env_names(options.family or None):
        print(f"{name:<36} {describe(name)}")
    return 0

"""The command line of a run: the words that `fire-rl` takes to compute exactly a given configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from fire_rl.launch.config import RunConfig, default_config


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
        if item.name in skip or not item.init or value == getattr(default, item.name):
            continue
        name = item.name.replace("_", "-")
        if is_dataclass(value):  # a method of several combined
            yield from _flags(value, getattr(default, item.name), f"{prefix}{name}.")
        elif isinstance(value, bool):
            yield f"--{prefix}{'' if value else 'no-'}{name}"
        else:
            yield f"--{prefix}{name}"
            yield from map(str, value if isinstance(value, tuple) else (value,))

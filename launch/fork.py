"""Forks: a run that begins with the state of another, bit for bit as if it had come there by itself.

The runs of a comparison differ in nothing before their first reset. That part, the trunk, is run once, with
`--stop-at`; each method's run is a branch of it (`--fork-from`). The branch copies all that the trunk has
recorded, so that its own record is complete and needs no other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fire_rl.launch.checkpoint import checkpoints, load_latest
from fire_rl.launch.config import RunConfig, differences, identity
from fire_rl.method import method_class
from fire_rl.results.jsonl import plain
from fire_rl.results.store import load_run
from fire_rl.schedule import Schedule

# What has no part in what is computed before the first reset, if the method acts at resets only.
BRANCHES_DIFFER_IN = (
    "method.",
    "label",
    "preset",
    "reset_",
    "eval_at_reset",
    "probe_size",
    "agent_steps",
    "stop_at",
)


@dataclass(frozen=True)
class Trunk:
    """The run from which a branch goes on."""

    path: Path
    state: dict[str, Any]  # of its checkpoint
    about: dict[str, Any]  # for the record of the branch


def needs_trunk(config: RunConfig) -> bool:
    """Whether the run starts from another's state: not when it has one of its own to go on from."""
    return config.run.fork_from is not None and (
        config.run.fresh or not checkpoints(config.path / "checkpoints")
    )


def load_trunk(config: RunConfig, schedule: Schedule) -> Trunk:
    """The trunk of the branch `config`, which resets when `schedule` says.

    Raises:
        ValueError: when the branch would not be what it is without the trunk, naming the reason.
    """
    path = config.run.fork_from
    assert path is not None
    run = load_run(path)
    if run.status.state != "finished" or run.config.get("stop_at") is None:
        raise ValueError(f"{path} is no run to fork from: run it to its end with --stop-at first")
    for name in (str(run.config["method"]["name"]), config.run.method):
        if not method_class(name).acts_only_at_events:
            raise ValueError(f"method {name} acts from the first update on: run it without --fork-from")
    if differing := differences(_shared(run.config), _shared(plain(config.to_dict()))):
        raise ValueError(f"{path} is not the beginning of this run: {differing}")
    found = load_latest(path / "checkpoints", torch.device("cpu"))
    if found is None:
        raise ValueError(f"{path} has no checkpoint to fork from: run it again with --fresh")
    state, _ = found
    loop = state["loop"]
    if loop["schedule"]["fired"] or copy.copy(schedule).due(loop["settled"]):
        raise ValueError(
            f"{path} has passed the first reset of this run (agent step {loop['settled']['agent_steps']}): "
            f"fork from a run with an earlier --stop-at"
        )
    about = {"trunk": path, "id": run.id, "agent_steps": state["agent"]["agent_steps"]}
    return Trunk(path, state, about)


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in identity(config).items() if not k.startswith(BRANCHES_DIFFER_IN)}

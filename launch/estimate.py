"""What a suite will take: replay memory per process, and disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fire_rl.agents.replay import Layout
from fire_rl.launch.config import RunConfig
from fire_rl.launch.plan import Plan, spaces

# Frames of Atari compress to about 1/35 in the chunks of a checkpoint; vectors of floats hardly at all.
COMPRESSION = {"atari": 1 / 35}
# What stays of a finished run with the default networks: weights and optimiser in the last checkpoint
# (34 and 172 MB), rows, W&B's files.
FINISHED_BYTES = {
    ("dqn", "atari"): 40e6,
    ("dqn", "control"): 5e6,
    ("sac", "humanoid"): 180e6,
    ("sac", "control"): 180e6,
}


@dataclass(frozen=True)
class Estimate:
    """Bytes that a suite needs."""

    replay_bytes: int  # of the process with the largest replay memories
    disk_bytes: int  # when every run has finished: records, and the trunks' replay memory
    disk_bytes_per_worker: int  # added by every process at work


def estimate(plan: Plan, configs: Sequence[RunConfig]) -> Estimate:
    """Estimate memory and disk from the configurations alone; nothing is allocated."""
    by_path = configs_by_path(plan, configs)
    replay = {path: replay_bytes(config) for path, config in by_path.items()}
    stored = {path: int(replay[path] * COMPRESSION.get(_family(by_path[path]), 1.0)) for path in by_path}
    trunks = by_path.keys() - {config.path for config in configs}
    disk = sum(int(FINISHED_BYTES.get((config.run.agent, _family(config)), 0)) for config in configs)
    return Estimate(
        replay_bytes=max(sum(replay[path] for path in job.paths) for job in plan.jobs),
        disk_bytes=disk + sum(stored[trunk] for trunk in trunks),
        disk_bytes_per_worker=max(sum(stored[path] for path in job.paths) for job in plan.jobs),
    )


def configs_by_path(plan: Plan, configs: Sequence[RunConfig]) -> dict[Path, RunConfig]:
    """The runs of `plan` by path; a trunk goes by the configuration of one of its branches."""
    by_path = {config.path: config for config in configs}
    for job in plan.jobs:
        by_path.update((trunk, by_path[path]) for path, trunk in zip(job.paths, job.after, strict=False))
    return by_path


def replay_bytes(config: RunConfig) -> int:
    """Memory that the replay of a run takes, as `ReplayMemory.bytes` will say."""
    observation, action, _ = spaces(config)
    pixels = len(observation.shape) == 3
    layout = Layout(
        frame_shape=observation.shape[1:] if pixels else observation.shape,
        frame_dtype=torch.uint8 if pixels else torch.float32,
        action_shape=tuple(int(n) for n in np.shape(action.sample())),
        stack=observation.shape[0] if pixels else 1,
    )
    envs = config.run.num_envs
    slots = int(config.agent.replay_capacity) // envs * envs
    return slots * layout.bytes_per_slot()


def _family(config: RunConfig) -> str:
    return config.run.env.partition("/")[0]

"""The memory that replay memories find, and what follows from it: seeds in a stack, processes at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fire_rl.launch.config import RunConfig
from fire_rl.launch.estimate import configs_by_path, replay_bytes
from fire_rl.launch.plan import Plan

SHARE = 0.8  # of the free memory: networks, activations and environments need some, too


@dataclass(frozen=True)
class Room:
    """Where processes run, all alike."""

    gpus: int
    gpu_bytes: int  # free on each GPU; 0: unknown, so that nothing relies on it
    host_bytes: int  # free to all processes together

    def stack(self, config: RunConfig) -> int:
        """How many runs like `config` one process should train.

        One on a CPU, where processes side by side use the cores as well; on a GPU as many as have room for
        their replay memories, in the memory that one alone would choose.
        """
        if not self.gpus or config.run.device == "cpu":
            return 1
        size = replay_bytes(config)
        return max(1, self._on_a_gpu(config, size) or self._on_the_host(config, size))

    def processes(self, plan: Plan, configs: Sequence[RunConfig]) -> int:
        """How many processes of `plan` have room at a time, if all are as large as the largest."""
        by_path = configs_by_path(plan, configs)
        fitting = []
        for job in plan.jobs:
            config = by_path[job.path]
            size = len(job.paths) * replay_bytes(config)
            fitting.append(self.gpus * self._on_a_gpu(config, size) + self._on_the_host(config, size))
        return max(1, min(fitting))

    def _on_a_gpu(self, config: RunConfig, size_bytes: int) -> int:
        """How many replay memories of this size fit on one GPU."""
        return 0 if config.agent.replay_storage == "host" else int(SHARE * self.gpu_bytes) // size_bytes

    def _on_the_host(self, config: RunConfig, size_bytes: int) -> int:
        must_be_on_gpu = self.gpus and config.agent.replay_storage == "device"
        return 0 if must_be_on_gpu else int(SHARE * self.host_bytes) // size_bytes

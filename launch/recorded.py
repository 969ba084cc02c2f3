"""The agent of a recorded run, to look at; the record itself is only read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fire_rl.agents import AGENTS, Agent
from fire_rl.envs import VectorEnv, make_env
from fire_rl.launch.checkpoint import load_latest
from fire_rl.launch.config import RunConfig, make_config
from fire_rl.results.store import Run, load_run

SLOTS = 8  # of the replay memory per environment: a memory has to be there, but nothing is stored in it


@dataclass(frozen=True)
class RecordedAgent:
    """An agent as a run's newest intact checkpoint has it."""

    run: Run
    config: RunConfig
    checkpoint: Path
    agent: Agent

    def make_env(self, num_envs: int) -> VectorEnv:
        """Environments like those of the run, all in this process."""
        return _make_env(self.config, num_envs)


def load_agent(
    path: Path, device: str = "auto", *, slots: int = SLOTS, with_memory: bool = False
) -> RecordedAgent:
    """The agent of the run recorded at `path`, for one environment and with an empty replay memory.

    The run may be finished, interrupted, failed or still going on.

    Args:
        slots: of the replay memory.
        with_memory: load the run's replay memory where the checkpoint has one (that of a finished run has
            none); the agent is then for as many environments as the run had.

    Raises:
        ValueError: when there is no run, it has no intact checkpoint, or the device is not there.
    """
    run = load_run(path)
    config = make_config({**run.config, "device": device})
    found = load_latest(path / "checkpoints", torch.device("cpu"))
    if found is None:
        raise ValueError(
            f"{path} has no checkpoint yet: a run writes one every "
            f"{config.run.checkpoint_minutes:g} minutes, when it is interrupted, and at its end"
        )
    state, checkpoint = found
    has_memory = with_memory and "memory" in state
    env = _make_env(config, config.run.num_envs if has_memory else 1)
    constants = config.agent
    if not has_memory:
        constants = replace(config.agent, replay_capacity=slots, replay_storage="host")
    seed = np.random.SeedSequence(0)  # all that is drawn from it is overwritten
    agent = AGENTS[config.run.agent].make(env, constants, seed, config.torch_device(), config.method)
    env.close()
    memory = state["memory"] if has_memory else agent.memory.state_dict()
    agent.load_state_dict({**state["agent"], "memory": memory})
    return RecordedAgent(run, config, checkpoint, agent)


def _make_env(config: RunConfig, num_envs: int) -> VectorEnv:
    """Without the worker processes of training, which would not change the results."""
    options = asdict(config.env)
    if "workers" in options:
        options["workers"] = 0
    return make_env(config.run.env, num_envs, **options)

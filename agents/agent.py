"""What every agent offers to the training loop, and the reset hook that all agents share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fire_rl.agents.learner import Learner
from fire_rl.agents.replay import Batch, ReplayMemory
from fire_rl.measures import probe
from fire_rl.method import LearnerReport, ResetMethod

Array = NDArray[Any]
Metrics = dict[str, Tensor]  # scalars that stay on the device until they are logged


@dataclass(frozen=True)
class ResetReport:
    """What one reset did to one agent, learner by learner."""

    learners: dict[str, LearnerReport]
    before: dict[str, dict[str, float]]  # dormant ratio, feature rank, … of every learner on the probe batch
    after: dict[str, dict[str, float]]
    output_change: dict[str, float]  # largest absolute change of an output on the probe batch
    seconds: float  # of the reset itself, without the probes
    agent: dict[str, float] = field(default_factory=dict)  # the agent's own, such as SAC's temperature


class Agent(Protocol):
    """A learner of behaviour. `num_envs` environments are stepped at once; n = `num_envs` below."""

    learners: dict[str, Learner]
    memory: ReplayMemory
    agent_steps: int  # decisions observed so far
    updates: int  # gradient updates so far

    def act(self, observation: Array) -> Array:
        """Actions for training, (n,) or (n, action_dim), drawn from the agent's exploration generator."""
        ...

    def evaluate(self, observation: Array, rng: np.random.Generator) -> Array:
        """Actions for evaluation, for any number of observations; changes nothing in the agent."""
        ...

    def begin(self, observation: Array, action: Array) -> None:
        """Store what all environments showed and what is done, and advance the clock by n agent steps.

        From here on the updates of this step can be made, while the environments are still busy with it.
        """
        ...

    def observe(
        self,
        reward: Array,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        final_observation: Array,
    ) -> None:
        """Store what came of the step last begun."""
        ...

    def updates_due(self) -> int:
        """Gradient updates owed at this moment by the replay ratio."""
        ...

    def update(self) -> Metrics:
        """One gradient update on a minibatch; returns scalars on the device, without synchronising."""
        ...

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A batch as in training (normalised, on the device), drawn with a generator of the caller's."""
        ...

    def reset(self, method: ResetMethod, rng: torch.Generator, batch: Batch) -> ResetReport:
        """The reset hook: hand every learner to `method`, restore what is the agent's own, report."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that decides how training goes on: nested dicts of tensors, arrays and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state` bit for bit."""
        ...


def reset_learners(
    learners: Mapping[str, Learner],
    method: ResetMethod,
    rng: torch.Generator,
    probes: Mapping[str, tuple[Tensor, ...]],
) -> ResetReport:
    """Apply `method` to every learner, measuring each on its probe inputs before and after.

    Args:
        rng: CPU generator of the reset role; the only source of randomness.
        probes: inputs of each learner's network, as in training (about 2,048 rows for meaningful ranks).
    """
    before, after, change, reports = {}, {}, {}, {}
    seconds = 0.0
    for name, learner in learners.items():
        with torch.no_grad():
            old_output = learner.online(*probes[name])
        before[name] = probe(learner.online, probes[name])
        started = time.perf_counter()
        reports[name] = method.reset(learner, rng)
        seconds += time.perf_counter() - started
        after[name] = probe(learner.online, probes[name])
        with torch.no_grad():
            change[name] = float((learner.online(*probes[name]) - old_output).abs().max())
    return ResetReport(reports, before, after, change, seconds)

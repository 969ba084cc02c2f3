"""What every agent offers to the training loop, and the reset hook that all agents share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fire_rl.agents.learner import Learner, LearnerLike
from fire_rl.agents.program import Compile, Functions, Metrics, Program, resolve
from fire_rl.agents.replay import Batch, ReplayMemory
from fire_rl.measures import probe
from fire_rl.method import LearnerReport, ResetMethod

Array = NDArray[Any]


@dataclass(frozen=True)
class ResetReport:
    """What one reset did to one agent, learner by learner."""

    learners: dict[str, LearnerReport]
    before: dict[str, dict[str, float]]  # dormant ratio, feature rank, … of every learner on the probe batch
    after: dict[str, dict[str, float]]
    output_change: dict[str, float]  # largest absolute change of an output on the probe batch
    seconds: float  # of the reset itself, without the probes
    agent: dict[str, float] = field(default_factory=dict)  # the agent's own, such as SAC's temperature


class Agent(ABC):
    """A learner of behaviour. `num_envs` environments are stepped at once; n = `num_envs` below."""

    num_envs: int
    device: torch.device
    learners: dict[str, Learner]
    policy: Learner  # the one that decides on actions
    memory: ReplayMemory

    def __init__(self, compile: Compile) -> None:
        """Last in the construction of an agent. Raises ValueError for an unknown mode."""
        self.compile = resolve(compile, self.device)
        self.agent_steps = 0  # decisions begun so far
        self.updates = 0  # gradient updates so far
        self.version = 0  # of the addresses and the architecture that a captured update refers to
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        """What the agent computes in a step, for as long as it is not `changed`."""
        if self._program is None:
            self._program = program_of([self], self.learners, self.compile)
        return self._program

    def act(self, observation: Array) -> Array:
        """Actions for training, (n,) or (n, action_dim), drawn from the agent's exploration generator."""
        seen = self.look(observation)
        return self.choose(None if seen is None else self.program.decide(*seen))

    @abstractmethod
    def look(self, observation: Array) -> tuple[Tensor, ...] | None:
        """What a decision is made from, on the host; None while all actions are random."""

    @abstractmethod
    def choose(self, decided: Array | None) -> Array:
        """Actions for training, given what the policy made of what `look` returned."""

    @abstractmethod
    def evaluate(self, observation: Array, rng: np.random.Generator) -> Array:
        """Actions for evaluation, for any number of observations; changes nothing in the agent."""

    def begin(self, observation: Array, action: Array) -> None:
        """Store what all environments showed and what is done, and advance the clock by n agent steps.

        From here on the updates of this step can be made, while the environments are still busy with it.
        """
        self.memory.begin(observation, action)
        self.agent_steps += self.num_envs

    def observe(
        self,
        reward: Array,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        final_observation: Array,
    ) -> None:
        """Store what came of the step last begun."""
        self.memory.complete(reward, terminated, truncated, final_observation)

    @abstractmethod
    def updates_due(self) -> int:
        """Gradient updates owed at this moment by the replay ratio."""

    def update(self) -> Metrics:
        """One gradient update on a minibatch; returns scalars on the device, without synchronising."""
        metrics = self.program.update(*self.draw())
        self.count_update()
        return metrics

    @abstractmethod
    def draw(self) -> tuple[Tensor, ...]:
        """What one update is made of: places in the replay memory, and any noise, from the generators."""

    @staticmethod
    @abstractmethod
    def functions(agents: Sequence[Any], learners: Mapping[str, LearnerLike], mode: Compile) -> Functions:
        """What one agent, or several of one configuration at once, compute in a step.

        Args:
            learners: of the agent; of several the `StackedLearner`s.
            mode: resolved; whether losses are compiled.
        """

    @abstractmethod
    def count_update(self) -> None:
        """Advance the clock of updates, and do what is due by it."""

    @abstractmethod
    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A batch as in training (normalised, on the device), drawn with a generator of the caller's."""

    @abstractmethod
    def reset(self, method: ResetMethod, rng: torch.Generator, batch: Batch) -> ResetReport:
        """The reset hook: hand every learner to `method`, restore what is the agent's own, report."""

    def changed(self) -> None:
        """Note that a reset or a restored state may have put other tensors into networks or optimisers."""
        self.version += 1
        self._program = None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that decides how training goes on: nested dicts of tensors, arrays and plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state` bit for bit."""


def program_of(agents: Sequence[Agent], learners: Mapping[str, LearnerLike], mode: Compile) -> Program:
    """The program of one agent, or of several as one; arguments as of `Agent.functions`."""
    first = agents[0]
    return Program(
        first.functions(agents, learners, mode),
        mode,
        first.learners.values(),
        first.device,
        with_memory=all(agent.memory.storage_device == first.device for agent in agents),
    )


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

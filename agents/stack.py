"""Several agents of one configuration that act and learn side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fire_rl.agents.agent import Agent, Array, program_of
from fire_rl.agents.program import Compile, Metrics, Program, is_adam, notice, resolve
from fire_rl.agents.stacking import StackedLearner


class Stack:
    """Agents with replay memories, generators and clocks of their own, as one program where that pays.

    On a GPU, or where torch.compile is asked for, networks of all agents are evaluated and trained by one
    batched program: up to rounding, each is what it would be alone. Otherwise each takes its turn, and is bit
    for bit what it would be alone; so it is where a method looks at the activations of every update, or has
    an optimiser of its own, which may hold on to where the weights were.

    Args:
        agents: of one kind and configuration, with equal clocks whenever they act or learn.
        mode: as for each of them.

    Raises:
        ValueError: for an unknown mode.
    """

    def __init__(self, agents: Sequence[Agent], mode: Compile = "auto") -> None:
        self.agents = agents
        first = agents[0]
        self._mode = resolve(mode, first.device)
        self.is_batched = len(agents) > 1 and self._mode == "on"
        for learner in first.learners.values() if self.is_batched else ():
            if learner.method.needs_activations or not is_adam(learner.optimizer):
                notice(f"{learner.method.name} cannot be batched: the agents of the stack learn in turn")
                self.is_batched = False
                break
        self._versions: list[int] = []  # of the agents, when they were stacked
        self._program: Program

    def act(self, observations: Sequence[Array]) -> list[Array]:
        """What each agent's `act` gives for its observation."""
        if not self.is_batched:
            return [agent.act(observed) for agent, observed in zip(self.agents, observations, strict=True)]
        self._stack()
        looks = (agent.look(observed) for agent, observed in zip(self.agents, observations, strict=True))
        seen = [look for look in looks if look is not None]
        if not seen:
            return [agent.choose(None) for agent in self.agents]
        decided = self._program.decide(*_stacked(seen))
        return [agent.choose(of_one) for agent, of_one in zip(self.agents, decided, strict=True)]

    def update(self) -> list[Metrics]:
        """One update of every agent; returns the scalars of each."""
        if not self.is_batched:
            return [agent.update() for agent in self.agents]
        self._stack()
        metrics = self._program.update(*_stacked(agent.draw() for agent in self.agents))
        for agent in self.agents:
            agent.count_update()
        of_each = zip(*(of_all.unbind() for of_all in metrics.values()), strict=True)
        return [dict(zip(metrics, values, strict=True)) for values in of_each]

    def _stack(self) -> None:
        """Stack the agents' weights, for the first time or because some have been exchanged since."""
        if self._versions == [agent.version for agent in self.agents]:
            return
        first = self.agents[0]
        learners = {
            name: StackedLearner([agent.learners[name] for agent in self.agents]) for name in first.learners
        }
        self._program = program_of(self.agents, learners, self._mode)
        for agent in self.agents:
            agent.changed()  # its weights have moved
        self._versions = [agent.version for agent in self.agents]


def _stacked(tensors: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    """The agents' tensors side by side."""
    return [torch.stack(of_all) for of_all in zip(*tensors, strict=True)]

"""Several agents of one configuration that act and learn side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fire_rl.agents.agent import Agent, Array
from fire_rl.agents.program import Compile, Learn, Metrics, captured, is_adam, notice, resolve
from fire_rl.agents.replay import Batch
from fire_rl.agents.stacking import StackedLearner, across


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
        self._learn: Learn

    def act(self, observations: Sequence[Array]) -> list[Array]:
        """What each agent's `act` gives for its observation."""
        if not self.is_batched:
            return [agent.act(observed) for agent, observed in zip(self.agents, observations, strict=True)]
        self._stack()
        with torch.no_grad():
            seen = [agent.look(observed) for agent, observed in zip(self.agents, observations, strict=True)]
            inputs = [observed for observed in seen if observed is not None]
            if not inputs:
                return [agent.choose(None) for agent in self.agents]
            outputs = self._evaluate(self._policy.online, torch.stack(inputs))
            return [agent.choose(output) for agent, output in zip(self.agents, outputs, strict=True)]

    def update(self) -> list[Metrics]:
        """One update of every agent; returns the scalars of each."""
        if not self.is_batched:
            return [agent.update() for agent in self.agents]
        self._stack()
        drawn = [agent.draw() for agent in self.agents]
        batch = Batch(*map(torch.stack, zip(*(batch for batch, *_ in drawn), strict=True)))
        noise = map(torch.stack, zip(*(noise for _, *noise in drawn), strict=True))
        metrics = self._learn(batch, *noise)
        for agent in self.agents:
            agent.count_update()
        return [{name: of_all[i] for name, of_all in metrics.items()} for i in range(len(self.agents))]

    def _stack(self) -> None:
        """Stack the agents' weights, for the first time or because some have been exchanged since."""
        versions = [agent.version for agent in self.agents]
        if versions == self._versions:
            return
        first = self.agents[0]
        learners = {
            name: StackedLearner([agent.learners[name] for agent in self.agents]) for name in first.learners
        }
        learn = first.learning(self.agents, learners, self._mode)
        self._learn = captured(learn, self._mode, first.learners.values(), first.device)
        self._evaluate = across(_evaluate, [first.policy.online])
        self._policy = learners[first.policy.name]
        self._versions = versions


def _evaluate(network: Callable[..., Tensor], seen: Tensor) -> Tensor:
    return network(seen)

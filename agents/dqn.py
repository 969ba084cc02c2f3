"""DQN (Mnih et al., Nature 2015) as in the FIRE paper's Figure 4a; every constant is in docs/protocols.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fire_rl.agents.agent import Agent, Array, ResetReport, reset_learners
from fire_rl.agents.learner import NO_METHOD, Learner, LearnerLike
from fire_rl.agents.networks import mlp, nature_cnn
from fire_rl.agents.program import Compile, Functions, Metrics, compiled
from fire_rl.agents.replay import Batch, Layout, ReplayMemory
from fire_rl.agents.stacking import across, fetch, forward
from fire_rl.method import ResetMethod


@dataclass(frozen=True)
class DQNConfig:
    """Constants of DQN; the defaults are those of the paper's Atari runs."""

    replay_ratio: float = 1.0
    """Gradient updates per agent step (1 in the FIRE paper, 0.25 in Mnih et al.)."""
    learning_starts: int = 20_000
    """Agent steps of random play before the first update and before epsilon begins to fall."""
    epsilon_final: float = 0.01
    """Exploration rate at the end of the decay."""
    epsilon_decay: int = 250_000
    """Agent steps over which epsilon falls linearly from 1, counted from `learning_starts`."""
    epsilon_eval: float = 0.001
    """Exploration rate in evaluation."""
    batch_size: int = 32
    """Transitions in a minibatch."""
    replay_capacity: int = 1_000_000
    """Slots of the replay memory, over all environments."""
    replay_storage: Literal["auto", "device", "host"] = "auto"
    """Where the replay memory lives; `auto`: on the GPU when it fits there."""
    gamma: float = 0.99
    """Discount per agent step."""
    learning_rate: float = 6.25e-5
    """Of Adam."""
    adam_epsilon: float = 1.5e-4
    """Of Adam."""
    target_period: int = 2_000
    """Agent steps between hard copies into the target network."""
    clip_rewards: bool = True
    """Learn from the sign of the reward, as usual on Atari; records keep the raw reward."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers on vector observations; pixels take the Nature CNN."""

    def __post_init__(self) -> None:
        for name in (
            "replay_ratio",
            "epsilon_decay",
            "batch_size",
            "replay_capacity",
            "learning_rate",
            "target_period",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"agent.{name.replace('_', '-')} must be positive, not {getattr(self, name)}"
                )
        if self.learning_starts < 0:
            raise ValueError(f"agent.learning-starts must not be negative, but is {self.learning_starts}")
        for name in ("epsilon_final", "epsilon_eval", "gamma"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"agent.{name.replace('_', '-')} must lie between 0 and 1, not {getattr(self, name)}"
                )


# What a method does to DQN in the FIRE reference: rows of table 1.3. `touched` copies to the target what the
# projection wrote and leaves the convolutions' biases; Adam keeps its moments except after an injection.
PAPER: dict[str, dict[str, object]] = {
    "fire": {"encoder": "project", "head": "rewind", "target": "touched", "optimizer": "keep"},
    "full-reset": {"draw": "rewind", "target": "copy", "optimizer": "keep"},
    "shrink-perturb": {"keep": 0.2, "target": "same", "optimizer": "keep"},
    "sr-dqn": {"keep": 0.2, "target": "same", "optimizer": "keep"},
    "plasticity-injection": {"draw": "rewind", "optimizer": "recreate"},
}


class DQN(Agent):
    """Deep Q-learning with a hard-copied target network, Huber loss and uniform replay.

    Args:
        observation_space: (frames, 84, 84) uint8 pixels, or a vector of floats.
        action_space: `gymnasium.spaces.Discrete`.
        num_envs: environments stepped at once, each with an exploration draw of its own.
        seed: parent of the agent's generators (initial weights, exploration, replay, the method's).
        method: what takes part in building and training the network, beside what it does at a reset.
        compile: whether updates are made as one program.

    Raises:
        ValueError: when the spaces are not of these kinds, or the method does not fit the network.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        num_envs: int,
        config: DQNConfig,
        seed: np.random.SeedSequence,
        device: torch.device,
        method: ResetMethod = NO_METHOD,
        compile: Compile = "auto",
    ) -> None:
        if not isinstance(action_space, gym.spaces.Discrete):
            raise ValueError(f"dqn needs discrete actions, not {action_space}: use --agent sac")
        assert observation_space.shape is not None
        self.config, self.device, self.num_envs = config, device, num_envs
        self.actions = int(action_space.n)
        weights, exploration, replay, methods = seed.spawn(4)
        self.exploration_rng = np.random.default_rng(exploration)
        self.replay_rng = np.random.default_rng(replay)
        shape = observation_space.shape
        pixels = len(shape) == 3
        build = nature_cnn(shape[0], self.actions) if pixels else mlp(shape[0], self.actions, config.hidden)
        self.q = Learner(
            "q",
            build,
            self._make_optimizer,
            torch.Generator().manual_seed(_integer(weights)),
            device,
            with_target=True,
            method=method,
            method_seed=_integer(methods),
        )
        self.q.lend(
            inputs=lambda rows, rng: (self.sample(rows, rng).observation,),
            loss=lambda rows, rng: self.loss(self.q.online, self.q.target, self.sample(rows, rng))[0],
        )
        self.learners = {"q": self.q}
        self.policy = self.q
        layout = Layout(
            frame_shape=shape[1:] if pixels else shape,
            frame_dtype=torch.uint8 if pixels else torch.float32,
            action_shape=(),
            stack=shape[0] if pixels else 1,
        )
        self.memory = ReplayMemory(config.replay_capacity, num_envs, layout, device, config.replay_storage)
        self.target_copies = 0
        super().__init__(compile)

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            parameters,
            lr=self.config.learning_rate,
            eps=self.config.adam_epsilon,
            fused=True,
            capturable=self.device.type == "cuda",
        )

    @property
    def epsilon(self) -> float:
        """Exploration rate now: 1 until `learning_starts`, then linear to `epsilon_final`."""
        progress = (self.agent_steps - self.config.learning_starts) / self.config.epsilon_decay
        return 1.0 + (self.config.epsilon_final - 1.0) * min(max(progress, 0.0), 1.0)

    def look(self, observation: Array) -> tuple[Tensor] | None:
        """The observation; None while all actions are random."""
        if self.agent_steps <= self.config.learning_starts:
            return None
        return (torch.from_numpy(observation),)

    def choose(self, decided: Array | None) -> Array:
        """ε-greedy actions (n,), one coin and one random action drawn for every environment."""
        return self._epsilon_greedy(decided, self.num_envs, self.epsilon, self.exploration_rng)

    @torch.no_grad()
    def evaluate(self, observation: Array, rng: np.random.Generator) -> Array:
        """ε-greedy actions with `epsilon_eval` from the caller's generator."""
        best = self.q.online(torch.from_numpy(observation).to(self.device)).argmax(-1).cpu().numpy()
        return self._epsilon_greedy(best, len(observation), self.config.epsilon_eval, rng)

    def _epsilon_greedy(self, best: Array | None, n: int, epsilon: float, rng: np.random.Generator) -> Array:
        explore = rng.random(n) < epsilon
        action = rng.integers(self.actions, size=n)
        return action if best is None else np.where(explore, action, best)

    def updates_due(self) -> int:
        """Updates owed by the replay ratio since `learning_starts`."""
        owed = int(self.config.replay_ratio * max(0, self.agent_steps - self.config.learning_starts))
        return owed - self.updates

    def draw(self) -> tuple[Tensor]:
        """What one update is made of: the places of a minibatch."""
        return (self.memory.draw(self.config.batch_size, self.replay_rng),)

    @staticmethod
    def functions(agents: Sequence[DQN], learners: Mapping[str, LearnerLike], mode: Compile) -> Functions:
        """The greedy action, a minibatch, and one step on its Huber loss; see `Agent.functions`."""
        first, q = agents[0], learners["q"]
        loss: Callable[..., tuple[Tensor, Metrics]] = first.loss
        if len(agents) > 1:
            assert first.q.target is not None
            loss = across(loss, (first.q.online, first.q.target))
        loss = compiled(loss, mode, [first.q])
        values = forward([agent.q for agent in agents], q)
        read = partial(fetch, [agent.memory for agent in agents])

        def learn(batch: Batch) -> Metrics:
            losses, metrics = loss(q.online, q.target, batch)
            q.descend(losses)
            return metrics

        return Functions(lambda seen: values(seen).argmax(-1), read, learn)

    def count_update(self) -> None:
        """Advance the clock of updates; copy the target after a period's last update."""
        self.updates += 1
        periods = self.agent_steps // self.config.target_period
        if periods > self.target_copies and self.updates_due() <= 0:
            self.q.sync_target()
            self.target_copies = periods

    def loss(self, online: nn.Module, target: nn.Module | None, batch: Batch) -> tuple[Tensor, Metrics]:
        """Huber loss of r + γ (1 − terminated) max_a Q_target(s′, a) − Q(s, a): a pure function."""
        assert target is not None
        reward = batch.reward.sign() if self.config.clip_rewards else batch.reward
        with torch.no_grad():
            best_next = target(batch.next_observation).amax(1)
            goal = reward + self.config.gamma * (1.0 - batch.terminated) * best_next
        q = online(batch.observation).gather(1, batch.action[:, None]).squeeze(1)
        loss = F.smooth_l1_loss(q, goal)
        return loss, {"loss": loss.detach(), "q_mean": q.detach().mean()}

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A batch from the replay memory, drawn with `rng`."""
        return self.memory.sample(batch_size, rng)

    def reset(self, method: ResetMethod, rng: torch.Generator, batch: Batch) -> ResetReport:
        """Hand the Q-network to `method`; epsilon, replay memory and clocks go on."""
        report = reset_learners(self.learners, method, rng, {"q": (batch.observation,)})
        self.changed()
        return report

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser, replay memory, generators, clocks."""
        return {
            "q": self.q.state_dict(),
            "memory": self.memory.state_dict(),
            "exploration_rng": self.exploration_rng.bit_generator.state,
            "replay_rng": self.replay_rng.bit_generator.state,
            "agent_steps": self.agent_steps,
            "updates": self.updates,
            "target_copies": self.target_copies,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state` bit for bit."""
        self.q.load_state_dict(state["q"])
        self.memory.load_state_dict(state["memory"])
        self.exploration_rng.bit_generator.state = state["exploration_rng"]
        self.replay_rng.bit_generator.state = state["replay_rng"]
        self.agent_steps = int(state["agent_steps"])
        self.updates = int(state["updates"])
        self.target_copies = int(state["target_copies"])
        self.changed()


def _integer(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1, np.uint64)[0] >> 1)

"""SAC (Haarnoja et al., 2018) with SimBa networks as in the FIRE paper's Figure 4b; see docs/protocols.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from fire_rl.agents.agent import Agent, Array, ResetReport, reset_learners
from fire_rl.agents.learner import NO_METHOD, Learner, LearnerLike
from fire_rl.agents.normalizer import ObservationNormalizer
from fire_rl.agents.program import Compile, Functions, compiled
from fire_rl.agents.replay import Batch, Layout, ReplayMemory
from fire_rl.agents.sac_update import (
    SACUpdate,
    Temperature,
    TemperatureLike,
    actor_loss,
    critic_loss,
    td_target,
)
from fire_rl.agents.simba import Body, MlpBody, SimbaBody, critic_ensemble, gaussian_actor, squashed_gaussian
from fire_rl.agents.stacking import StackedTemperature, across, fetch, forward, stacked_normalizer
from fire_rl.agents.transfer import send
from fire_rl.method import ResetMethod

_POSITIVE = (
    *("actor_width", "actor_blocks", "critic_width", "critic_blocks", "updates_per_agent_step", "batch_size"),
    *("replay_capacity", "learning_rate", "temperature_init", "temperature_learning_rate", "tau"),
)


@dataclass(frozen=True)
class SACConfig:
    """Constants of SAC; the defaults are those of the paper's HumanoidBench runs."""

    network: Literal["simba", "mlp"] = "simba"
    """Preset of actor and critics: `simba` (the paper's residual networks) or a plain `mlp`."""
    actor_width: int = 128
    """Width of the SimBa actor."""
    actor_blocks: int = 1
    """Residual blocks of the SimBa actor."""
    critic_width: int = 512
    """Width of each SimBa critic."""
    critic_blocks: int = 2
    """Residual blocks of each SimBa critic."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of `mlp` actors and critics."""
    updates_per_agent_step: float = 2.0
    """Gradient updates per agent step (2: one per env step at action repeat 2)."""
    learning_starts: int = 5_000
    """Agent steps of uniformly random actions; updates begin with the last of them."""
    batch_size: int = 256
    """Transitions in a minibatch."""
    replay_capacity: int = 1_000_000
    """Slots of the replay memory, over all environments."""
    replay_storage: Literal["auto", "device", "host"] = "auto"
    """Where the replay memory lives; `auto`: on the GPU when it fits there."""
    gamma: float | None = None
    """Discount per agent step; default: the rule of SimBa and TD-MPC2, from the length of an episode."""
    learning_rate: float = 1e-4
    """Of AdamW, for actor and critics."""
    weight_decay: float = 1e-2
    """Of AdamW, decoupled, on all parameters of actor and critics."""
    temperature_init: float = 0.01
    """Entropy coefficient at the start."""
    temperature_learning_rate: float = 1e-4
    """Of the temperature's Adam."""
    target_entropy_per_action: float = -0.5
    """Target entropy in nats, per dimension of the action."""
    tau: float = 0.005
    """Fraction by which the target critics move to the online ones in every update."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"agent.{_flag(name)} must be positive, not {getattr(self, name)}")
        for name in ("learning_starts", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"agent.{_flag(name)} must not be negative, but is {getattr(self, name)}")
        for name in ("tau", "gamma"):
            if getattr(self, name) is not None and not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"agent.{_flag(name)} must lie between 0 and 1, not {getattr(self, name)}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"agent.hidden must be one or more positive widths, not {self.hidden}")

    def body(self, role: Literal["actor", "critic"]) -> Body:
        """The network preset of actor or critic with its sizes."""
        if self.network == "mlp":
            return MlpBody(self.hidden)
        if role == "actor":
            return SimbaBody(self.actor_width, self.actor_blocks)
        return SimbaBody(self.critic_width, self.critic_blocks)


# What a method does to SAC in the FIRE reference: all optimisers are built anew and the temperature starts
# over. Not in the reference, our decisions: sr-dqn does likewise; an injection keeps the temperature, since
# its point is that nothing changes at the event.
_RESTART: dict[str, object] = {"target": "copy", "optimizer": "recreate", "temperature": "init"}
PAPER: dict[str, dict[str, object]] = {
    "fire": {"encoder": "project", "head": "project", **_RESTART},
    "full-reset": {"draw": "rewind", "scope": "all", **_RESTART},
    "shrink-perturb": {"keep": 0.2, "draw": "rewind", "scope": "all", **_RESTART},
    "sr-dqn": {"keep": 0.2, "draw": "rewind", **_RESTART},
    "plasticity-injection": {"draw": "rewind", "optimizer": "recreate", "temperature": "keep"},
}


class SAC(Agent):
    """Soft actor-critic with two critics, clipped double Q and a learned temperature.

    Args:
        observation_space: a vector of floats.
        action_space: a vector in [-1, 1], to which the environments scale their own bounds.
        num_envs: environments stepped at once.
        seed: parent of the agent's generators (initial weights, exploration, replay, update noise, methods).
        max_episode_agent_steps: the environment's time limit, or None if it has none; for the rule of gamma.
        method: what takes part in building and training the networks, beside what it does at a reset.
        compile: whether updates are made as one program.

    Raises:
        ValueError: when the spaces are not of these kinds, or the method does not fit a network.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        num_envs: int,
        config: SACConfig,
        seed: np.random.SeedSequence,
        device: torch.device,
        max_episode_agent_steps: int | None = None,
        method: ResetMethod = NO_METHOD,
        compile: Compile = "auto",
    ) -> None:
        observations, actions = _dimensions(observation_space, action_space)
        self.config, self.device, self.num_envs, self.actions = config, device, num_envs, actions
        self.gamma = discount(max_episode_agent_steps) if config.gamma is None else config.gamma
        self.target_entropy = config.target_entropy_per_action * actions

        actor_weights, critic_weights, exploration, replay, noise, methods = seed.spawn(6)
        actor_method, critic_method = methods.spawn(2)
        self.exploration_rng = np.random.default_rng(exploration)
        self.replay_rng = np.random.default_rng(replay)
        self.noise_rng = torch.Generator(device).manual_seed(_integer(noise))  # there: nothing to copy
        self.actor = Learner(
            "actor",
            gaussian_actor(observations, actions, config.body("actor")),
            self._make_optimizer,
            torch.Generator().manual_seed(_integer(actor_weights)),
            device,
            with_target=False,
            method=method,
            method_seed=_integer(actor_method),
        )
        self.critic = Learner(
            "critic",
            critic_ensemble(observations, actions, config.body("critic")),
            self._make_optimizer,
            torch.Generator().manual_seed(_integer(critic_weights)),
            device,
            with_target=True,
            method=method,
            method_seed=_integer(critic_method),
        )
        self.actor.lend(self._actor_inputs, self._actor_loss_on_data)
        self.critic.lend(self._critic_inputs, self._critic_loss_on_data)
        self.learners = {"actor": self.actor, "critic": self.critic}
        self.policy = self.actor
        self.temperature = Temperature(config.temperature_init, config.temperature_learning_rate, device)
        self.normalizer = ObservationNormalizer(observations, device)
        layout = Layout(frame_shape=(observations,), frame_dtype=torch.float32, action_shape=(actions,))
        self.memory = ReplayMemory(config.replay_capacity, num_envs, layout, device, config.replay_storage)
        super().__init__(compile)

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(
            parameters,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=self.device.type == "cuda",
        )

    def look(self, observation: Array) -> tuple[Tensor, Tensor] | None:
        """Observation and noise; None in the random phase. The normaliser counts it either way."""
        observed = torch.from_numpy(observation)
        if self.agent_steps < self.config.learning_starts:
            self.normalizer.update(send(observed, self.device))
            return None
        noise = self.exploration_rng.standard_normal((self.num_envs, self.actions), dtype=np.float32)
        return observed, torch.from_numpy(noise)

    def choose(self, decided: Array | None) -> Array:
        """A sample of the policy, (n, action_dim); uniform during the random phase."""
        if decided is not None:
            return decided
        shape = (self.num_envs, self.actions)
        return self.exploration_rng.uniform(-1.0, 1.0, shape).astype(np.float32)

    @torch.no_grad()
    def evaluate(self, observation: Array, rng: np.random.Generator) -> Array:
        """The policy's deterministic action tanh(mean); draws nothing."""
        output = self.actor.online(self.normalizer.normalize(torch.from_numpy(observation).to(self.device)))
        action: Array = output[:, : self.actions].tanh().cpu().numpy()
        return action

    def updates_due(self) -> int:
        """Updates owed, counted from the agent step that completes the random phase (as in the reference)."""
        first = max(self.config.learning_starts, 2 * self.num_envs)  # a transition is complete one step later
        learned = max(0, self.agent_steps - first + 1)
        return int(self.config.updates_per_agent_step * learned) - self.updates

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A batch from the replay memory, drawn with `rng`, its observations normalised."""
        return _normalized(self.memory.sample(batch_size, rng), self.normalizer)

    def draw(self) -> tuple[Tensor, Tensor]:
        """What one update is made of: the places of a minibatch and the noise of both policy samples."""
        size = self.config.batch_size
        noise = torch.randn((2, size, self.actions), generator=self.noise_rng, device=self.device)
        return self.memory.draw(size, self.replay_rng), noise

    def count_update(self) -> None:
        """Advance the clock of updates."""
        self.updates += 1

    @staticmethod
    def functions(agents: Sequence[SAC], learners: Mapping[str, LearnerLike], mode: Compile) -> Functions:
        """A sample of the policy, a normalised minibatch, and an update on it; see `Agent.functions`."""
        first = agents[0]
        temperature: TemperatureLike = first.temperature
        normalizer = first.normalizer
        losses: list[Callable[..., Any]] = [actor_loss, partial(td_target, gamma=first.gamma), critic_loss]
        if len(agents) > 1:
            actor, critic, target = first.actor.online, first.critic.online, first.critic.target
            assert target is not None
            networks = (actor, critic), (actor, target), (critic,)
            losses = [across(loss, of) for loss, of in zip(losses, networks, strict=True)]
            temperature = StackedTemperature([agent.temperature for agent in agents])
            normalizer = stacked_normalizer([agent.normalizer for agent in agents])
        losses = [compiled(loss, mode, first.learners.values()) for loss in losses]
        policy = forward([agent.actor for agent in agents], learners["actor"])

        def decide(observed: Tensor, noise: Tensor) -> Tensor:
            normalizer.update(observed)
            return squashed_gaussian(policy(normalizer.normalize(observed)), noise)[0]

        def read(places: Tensor) -> Batch:
            return _normalized(fetch([agent.memory for agent in agents], places), normalizer)

        return Functions(
            decide, read, SACUpdate(learners, temperature, losses, first.target_entropy, first.config.tau)
        )

    def _actor_inputs(self, rows: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        return (self.sample(rows, rng).observation,)

    def _critic_inputs(self, rows: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        batch = self.sample(rows, rng)
        return batch.observation, batch.action

    def _actor_loss_on_data(self, rows: int, rng: np.random.Generator) -> Tensor:
        batch, noise = self._batch_and_noise(rows, rng)
        alpha = self.temperature.log_alpha.detach().exp()
        return actor_loss(self.actor.online, self.critic.online, alpha, batch, noise)[0]

    def _critic_loss_on_data(self, rows: int, rng: np.random.Generator) -> Tensor:
        batch, noise = self._batch_and_noise(rows, rng)
        assert self.critic.target is not None
        alpha = self.temperature.log_alpha.detach().exp()
        goal = td_target(self.actor.online, self.critic.target, alpha, batch, noise, self.gamma)
        return critic_loss(self.critic.online, goal, batch)[0]

    def _batch_and_noise(self, rows: int, rng: np.random.Generator) -> tuple[Batch, Tensor]:
        batch = self.sample(rows, rng)
        noise = rng.standard_normal(batch.action.shape, dtype=np.float32)
        return batch, torch.from_numpy(noise).to(self.device)

    def reset(self, method: ResetMethod, rng: torch.Generator, batch: Batch) -> ResetReport:
        """Hand actor and critics to `method`, then the temperature; replay memory and normaliser go on."""
        probes = {"actor": (batch.observation,), "critic": (batch.observation, batch.action)}
        before = float(self.temperature.log_alpha.detach().exp())
        report = reset_learners(self.learners, method, rng, probes)
        if method.temperature == "init":
            self.temperature.restart()
        self.changed()
        after = float(self.temperature.log_alpha.detach().exp())
        return replace(report, agent={"temperature_before": before, "temperature_after": after})

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, temperature, normaliser, replay memory, generators, clocks."""
        return {
            **{name: learner.state_dict() for name, learner in self.learners.items()},
            **self.temperature.state_dict(),
            "normalizer": self.normalizer.state_dict(),
            "memory": self.memory.state_dict(),
            "exploration_rng": self.exploration_rng.bit_generator.state,
            "replay_rng": self.replay_rng.bit_generator.state,
            "noise_rng": {"device": self.device.type, "state": self.noise_rng.get_state()},
            "agent_steps": self.agent_steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state` bit for bit, if it comes from the same kind of device."""
        for name, learner in self.learners.items():
            learner.load_state_dict(state[name])
        self.temperature.load_state_dict(state)
        self.normalizer.load_state_dict(state["normalizer"])
        self.memory.load_state_dict(state["memory"])
        self.exploration_rng.bit_generator.state = state["exploration_rng"]
        self.replay_rng.bit_generator.state = state["replay_rng"]
        if (
            state["noise_rng"]["device"] == self.device.type
        ):  # another device's generator is another algorithm
            self.noise_rng.set_state(state["noise_rng"]["state"].cpu())
        self.agent_steps = int(state["agent_steps"])
        self.updates = int(state["updates"])
        self.changed()


def discount(max_episode_agent_steps: int | None) -> float:
    """γ of SimBa and TD-MPC2: (T − 1)/T with T a fifth of an episode, kept between 0.95 and 0.995."""
    if max_episode_agent_steps is None:
        return 0.995
    horizon = max_episode_agent_steps / 5
    return min(max((horizon - 1) / horizon, 0.95), 0.995)


def _normalized(batch: Batch, normalizer: ObservationNormalizer) -> Batch:
    return batch._replace(
        observation=normalizer.normalize(batch.observation),
        next_observation=normalizer.normalize(batch.next_observation),
    )


def _dimensions(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> tuple[int, int]:
    """Sizes of observation and action. Raises ValueError for spaces that SAC cannot handle."""
    if not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1:
        raise ValueError(f"sac needs a vector of continuous actions, not {action_space}: use --agent dqn")
    if (action_space.low != -1.0).any() or (action_space.high != 1.0).any():
        raise ValueError(f"sac acts in [-1, 1], not in {action_space}: use gymnasium's RescaleAction")
    if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) != 1:
        raise ValueError(
            f"sac needs a vector of floats as observation, not {observation_space}: use --agent dqn"
        )
    return observation_space.shape[0], action_space.shape[0]


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _integer(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1, np.uint64)[0] >> 1)

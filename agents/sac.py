"""SAC (Haarnoja et al., 2018) with SimBa networks as in the FIRE paper's Figure 4b; see docs/protocols.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fire_rl.agents.agent import Array, Metrics, ResetReport, reset_learners
from fire_rl.agents.learner import NO_METHOD, Learner
from fire_rl.agents.normalizer import ObservationNormalizer
from fire_rl.agents.replay import Batch, Layout, ReplayMemory
from fire_rl.agents.simba import Body, MlpBody, SimbaBody, critic_ensemble, gaussian_actor, squashed_gaussian
from fire_rl.method import ResetMethod, reset_optimizer

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


class SAC:
    """Soft actor-critic with two critics, clipped double Q and a learned temperature.

    Args:
        observation_space: a vector of floats.
        action_space: a vector in [-1, 1], to which the environments scale their own bounds.
        num_envs: environments stepped at once.
        seed: parent of the agent's generators (initial weights, exploration, replay, update noise, methods).
        max_episode_agent_steps: the environment's time limit, or None if it has none; for the rule of gamma.
        method: what takes part in building and training the networks, beside what it does at a reset.

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
        self.log_alpha = nn.Parameter(torch.tensor(math.log(config.temperature_init), device=device))
        self.temperature_optimizer = torch.optim.Adam(
            [self.log_alpha], lr=config.temperature_learning_rate, fused=True
        )
        self.normalizer = ObservationNormalizer((observations,), device)
        layout = Layout(frame_shape=(observations,), frame_dtype=torch.float32, action_shape=(actions,))
        self.memory = ReplayMemory(config.replay_capacity, num_envs, layout, device, config.replay_storage)
        self.agent_steps = 0
        self.updates = 0

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def act(self, observation: Array) -> Array:
        """Actions (n, action_dim): uniform until `learning_starts`, then a sample of the policy.

        Counts the observations into the normaliser, during the random phase too.
        """
        observed = torch.from_numpy(observation).to(self.device)
        self.normalizer.update(observed)
        shape = (len(observation), self.actions)
        if self.agent_steps < self.config.learning_starts:
            return self.exploration_rng.uniform(-1.0, 1.0, shape).astype(np.float32)
        noise = self.exploration_rng.standard_normal(shape, dtype=np.float32)
        with torch.no_grad():
            output = self.actor.online(self.normalizer.normalize(observed))
            sample, _ = squashed_gaussian(output, torch.from_numpy(noise).to(self.device))
        action: Array = sample.cpu().numpy()
        return action

    @torch.no_grad()
    def evaluate(self, observation: Array, rng: np.random.Generator) -> Array:
        """The policy's deterministic action tanh(mean); draws nothing."""
        output = self.actor.online(self.normalizer.normalize(torch.from_numpy(observation).to(self.device)))
        action: Array = output[:, : self.actions].tanh().cpu().numpy()
        return action

    def begin(self, observation: Array, action: Array) -> None:
        """Store what was seen and done, with raw observations, and advance the clock."""
        self.memory.begin(observation, action)
        self.agent_steps += self.num_envs

    def observe(
        self,
        reward: Array,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        final_observation: Array,
    ) -> None:
        """Store what came of it."""
        self.memory.complete(reward, terminated, truncated, final_observation)

    def updates_due(self) -> int:
        """Updates owed, counted from the agent step that completes the random phase (as in the reference)."""
        first = max(self.config.learning_starts, 2 * self.num_envs)  # a transition is complete one step later
        learned = max(0, self.agent_steps - first + 1)
        return int(self.config.updates_per_agent_step * learned) - self.updates

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A batch from the replay memory, drawn with `rng`, its observations normalised."""
        batch = self.memory.sample(batch_size, rng)
        return batch._replace(
            observation=self.normalizer.normalize(batch.observation),
            next_observation=self.normalizer.normalize(batch.next_observation),
        )

    def update(self) -> Metrics:
        """One step of actor, temperature, critics and target on a minibatch."""
        batch = self.sample(self.config.batch_size, self.replay_rng)
        shape = (2, *batch.action.shape)
        metrics = self.learn(batch, torch.randn(shape, generator=self.noise_rng, device=self.device))
        self.updates += 1
        return metrics

    def learn(self, batch: Batch, noise: Tensor) -> Metrics:
        """The update as a function of weights, optimiser states, batch and noise alone.

        Args:
            noise: (2, B, action_dim) standard normal, for the actor's step and for the critics' targets.
        """
        actor, critic = self.actor, self.critic
        alpha = self.log_alpha.detach().exp()
        actor_loss, entropy = self.actor_loss(actor.online, critic.online, alpha, batch, noise[0])
        actor.descend(actor_loss)

        temperature_loss = self.log_alpha.exp() * (entropy - self.target_entropy)
        self.temperature_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(temperature_loss, inputs=[self.log_alpha])
        self.temperature_optimizer.step()

        alpha = self.log_alpha.detach().exp()
        goal = self.td_target(actor.online, critic.target, alpha, batch, noise[1])
        critic_loss, q = self.critic_loss(critic.online, goal, batch)
        critic.descend(critic_loss)
        critic.sync_target(self.config.tau)
        return {
            "actor_loss": actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "q_mean": q.detach().mean(),
            "entropy": entropy,
            "temperature": alpha,
        }

    def actor_loss(
        self, actor: nn.Module, critic: nn.Module, alpha: Tensor, batch: Batch, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """E[α log π(a|s) − min_i Q_i(s, a)], and the entropy −E[log π(a|s)] without gradient."""
        action, log_prob = squashed_gaussian(actor(batch.observation), noise)
        q = critic(batch.observation, action).amin(0)
        return (alpha * log_prob - q).mean(), -log_prob.detach().mean()

    @torch.no_grad()
    def td_target(
        self, actor: nn.Module, target: nn.Module | None, alpha: Tensor, batch: Batch, noise: Tensor
    ) -> Tensor:
        """r + γ (1 − terminated) (min_i Q_target,i(s′, a′) − α log π(a′|s′)), shape (B,)."""
        assert target is not None
        action, log_prob = squashed_gaussian(actor(batch.next_observation), noise)
        value: Tensor = target(batch.next_observation, action).amin(0) - alpha * log_prob
        return batch.reward + self.gamma * (1.0 - batch.terminated) * value

    def critic_loss(self, critic: nn.Module, goal: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Σ_i E[(Q_i(s, a) − goal)²], and the values (2, B)."""
        q = critic(batch.observation, batch.action)
        return (q - goal).square().sum(0).mean(), q

    def _actor_inputs(self, rows: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        return (self.sample(rows, rng).observation,)

    def _critic_inputs(self, rows: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        batch = self.sample(rows, rng)
        return batch.observation, batch.action

    def _actor_loss_on_data(self, rows: int, rng: np.random.Generator) -> Tensor:
        batch, noise = self._batch_and_noise(rows, rng)
        alpha = self.log_alpha.detach().exp()
        return self.actor_loss(self.actor.online, self.critic.online, alpha, batch, noise)[0]

    def _critic_loss_on_data(self, rows: int, rng: np.random.Generator) -> Tensor:
        batch, noise = self._batch_and_noise(rows, rng)
        alpha = self.log_alpha.detach().exp()
        goal = self.td_target(self.actor.online, self.critic.target, alpha, batch, noise)
        return self.critic_loss(self.critic.online, goal, batch)[0]

    def _batch_and_noise(self, rows: int, rng: np.random.Generator) -> tuple[Batch, Tensor]:
        batch = self.sample(rows, rng)
        noise = rng.standard_normal(batch.action.shape, dtype=np.float32)
        return batch, torch.from_numpy(noise).to(self.device)

    def reset(self, method: ResetMethod, rng: torch.Generator, batch: Batch) -> ResetReport:
        """Hand actor and critics to `method`, then the temperature; replay memory and normaliser go on."""
        probes = {"actor": (batch.observation,), "critic": (batch.observation, batch.action)}
        before = float(self.log_alpha.detach().exp())
        report = reset_learners(self.learners, method, rng, probes)
        if method.temperature == "init":
            with torch.no_grad():
                self.log_alpha.fill_(math.log(self.config.temperature_init))
            reset_optimizer(self.temperature_optimizer, "recreate")
        after = float(self.log_alpha.detach().exp())
        return replace(report, agent={"temperature_before": before, "temperature_after": after})

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, temperature, normaliser, replay memory, generators, clocks."""
        return {
            **{name: learner.state_dict() for name, learner in self.learners.items()},
            "log_alpha": self.log_alpha.detach(),
            "temperature_optimizer": self.temperature_optimizer.state_dict(),
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
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self.temperature_optimizer.load_state_dict(state["temperature_optimizer"])
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


def discount(max_episode_agent_steps: int | None) -> float:
    """γ of SimBa and TD-MPC2: (T − 1)/T with T a fifth of an episode, kept between 0.95 and 0.995."""
    if max_episode_agent_steps is None:
        return 0.995
    horizon = max_episode_agent_steps / 5
    return min(max((horizon - 1) / horizon, 0.95), 0.995)


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

"""SAC with SimBa networks as public code writes it: what `benchmarks/sac.py` compares ours with.

Critics as modules of their own, PyTorch's default AdamW, a replay memory and observation statistics in NumPy,
and a target that follows parameter by parameter. The constants are those of ours, and so is the amount of
learning.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fire_rl.agents.sac import SACConfig


class Block(nn.Module):
    """SimBa's residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(torch.relu(self.up(self.norm(x))))
        return y


def simba(inputs: int, width: int, blocks: int, outputs: int) -> nn.Module:
    """Input layer, residual blocks, norm, output layer."""
    body = [Block(width) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(inputs, width), *body, nn.LayerNorm(width), nn.Linear(width, outputs))


class PlainSAC:
    """Networks and the update, on `transitions` random ones in memory."""

    def __init__(
        self, observations: int, actions: int, config: SACConfig, transitions: int, device: torch.device
    ) -> None:
        self.config, self.actions, self.device = config, actions, device
        self.rng = np.random.default_rng(0)
        self.observation = self._random(transitions, observations)
        self.next_observation = self._random(transitions, observations)
        self.action, self.reward = self._random(transitions, actions).clip(-1, 1), self._random(transitions)
        self.terminated = np.zeros(transitions, np.float32)
        self.mean, self.variance = np.zeros(observations), np.ones(observations)
        self.actor = simba(observations, config.actor_width, config.actor_blocks, 2 * actions).to(device)
        both = observations + actions
        self.critics = nn.ModuleList(
            simba(both, config.critic_width, config.critic_blocks, 1) for _ in range(2)
        ).to(device)
        self.targets = copy.deepcopy(self.critics)
        rate, decay = config.learning_rate, config.weight_decay
        self.actor_optimizer = torch.optim.AdamW(self.actor.parameters(), lr=rate, weight_decay=decay)
        self.critic_optimizer = torch.optim.AdamW(self.critics.parameters(), lr=rate, weight_decay=decay)
        self.log_alpha = torch.tensor(math.log(config.temperature_init), device=device, requires_grad=True)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=config.temperature_learning_rate)

    def _random(self, *shape: int) -> NDArray[np.float32]:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def _sample(self) -> list[Tensor]:
        slots = self.rng.integers(len(self.reward), size=self.config.batch_size)
        arrays = [
            self._normalized(self.observation[slots]),
            self.action[slots],
            self.reward[slots],
            self._normalized(self.next_observation[slots]),
            self.terminated[slots],
        ]
        return [torch.from_numpy(array).to(self.device) for array in arrays]

    def _normalized(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        normalized = (observation - self.mean) / np.sqrt(self.variance + 1e-8)
        return normalized.astype(np.float32)

    def _policy(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.actor(observation).chunk(2, -1)
        log_std = -10.0 + 6.0 * (1.0 + torch.tanh(raw))
        normal = torch.distributions.Normal(mean, log_std.exp(), validate_args=False)
        x = normal.rsample()
        slope = 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))
        density: Tensor = normal.log_prob(x)  # type: ignore[no-untyped-call]
        return torch.tanh(x), (density - slope).sum(-1)

    def _q(self, critics: nn.ModuleList, observation: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([observation, action], -1)
        return torch.stack([critic(inputs).squeeze(-1) for critic in critics])

    def update(self) -> None:
        """One step of actor, temperature, critics and targets."""
        observation, action, reward, next_observation, terminated = self._sample()
        alpha = self.log_alpha.exp().detach()
        sampled, log_prob = self._policy(observation)
        actor_loss = (alpha * log_prob - self._q(self.critics, observation, sampled).min(0).values).mean()
        self._step(self.actor_optimizer, actor_loss)
        target_entropy = self.config.target_entropy_per_action * self.actions
        self._step(self.alpha_optimizer, self.log_alpha.exp() * (-log_prob.detach().mean() - target_entropy))
        with torch.no_grad():
            next_action, next_log_prob = self._policy(next_observation)
            value = self._q(self.targets, next_observation, next_action).min(0).values
            goal = reward + 0.99 * (1 - terminated) * (value - alpha * next_log_prob)
        critic_loss = F.mse_loss(self._q(self.critics, observation, action), goal.expand(2, -1))
        self._step(self.critic_optimizer, 2.0 * critic_loss)
        with torch.no_grad():
            for old, new in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                old.mul_(1 - self.config.tau).add_(self.config.tau * new)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

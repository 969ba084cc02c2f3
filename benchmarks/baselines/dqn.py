"""DQN as public code runs it on a CPU: what `benchmarks/dqn.py` compares ours with.

The wrappers of the FIRE paper's DQN code with a process per environment, a replay memory of stacked
observations, and eager PyTorch with its defaults. The constants are those of ours, and so is the amount of
learning.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.baselines import atari
from fire_rl.agents.dqn import DQNConfig


class QNetwork(nn.Module):
    """The Nature CNN."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, 512),
            nn.ReLU(),
            nn.Linear(512, actions),
        )

    def forward(self, x: Tensor) -> Tensor:
        q: Tensor = self.network(x / 255.0)
        return q


class ReplayBuffer:
    """Every stacked observation once; the successor of a slot is the slot after it."""

    def __init__(self, capacity: int, num_envs: int, device: torch.device) -> None:
        self.size, self.num_envs, self.device = capacity // num_envs, num_envs, device
        self.observations = np.zeros((self.size, num_envs, 4, 84, 84), np.uint8)
        self.actions = np.zeros((self.size, num_envs), np.int64)
        self.rewards = np.zeros((self.size, num_envs), np.float32)
        self.terminated = np.zeros((self.size, num_envs), np.float32)
        self.position, self.is_full = 0, False

    def add(
        self,
        observation: NDArray[np.uint8],
        next_observation: NDArray[np.uint8],
        action: NDArray[np.int64],
        reward: NDArray[np.float64],
        terminated: NDArray[np.bool_],
    ) -> None:
        """One step of all environments."""
        here = self.position
        self.observations[here] = observation
        self.observations[(here + 1) % self.size] = next_observation
        self.actions[here], self.rewards[here], self.terminated[here] = action, reward, terminated
        self.position = (here + 1) % self.size
        self.is_full = self.is_full or self.position == 0

    def sample(self, batch_size: int, rng: np.random.Generator) -> list[Tensor]:
        """Observations, actions, rewards, next observations, terminations."""
        if self.is_full:  # the slot at `position` holds no successor of the one before it
            slots = (self.position + rng.integers(1, self.size, batch_size)) % self.size
        else:
            slots = rng.integers(0, self.position, batch_size)
        envs = rng.integers(0, self.num_envs, batch_size)
        arrays = (
            self.observations[slots, envs],
            self.actions[slots, envs],
            self.rewards[slots, envs],
            self.observations[(slots + 1) % self.size, envs],
            self.terminated[slots, envs],
        )
        return [torch.from_numpy(array).to(self.device) for array in arrays]


class PlainDQN:
    """Environments, memory, networks and the loop."""

    def __init__(self, game: str, num_envs: int, config: DQNConfig, device: torch.device) -> None:
        make_one = functools.partial(atari.authors_stack, game)
        self.envs = atari.in_processes(make_one, num_envs)
        space: Any = self.envs.single_action_space
        self.actions, self.num_envs = int(space.n), num_envs
        self.config, self.device = config, device
        self.q = QNetwork(self.actions).to(device)
        self.target = QNetwork(self.actions).to(device)
        self.target.load_state_dict(self.q.state_dict())
        self.optimizer = torch.optim.Adam(
            self.q.parameters(), lr=config.learning_rate, eps=config.adam_epsilon
        )
        self.memory = ReplayBuffer(config.replay_capacity, num_envs, device)
        self.rng = np.random.default_rng(0)
        self.observation, _ = self.envs.reset(seed=0)
        self.agent_steps = 0

    def act(self) -> NDArray[np.int64]:
        """ε-greedy; random until learning starts."""
        explore = self.rng.random(self.num_envs) < self.config.epsilon_final
        action = self.rng.integers(self.actions, size=self.num_envs)
        if self.agent_steps < self.config.learning_starts:
            return action
        with torch.no_grad():
            greedy = self.q(torch.from_numpy(self.observation).to(self.device)).argmax(1).cpu().numpy()
        return np.where(explore, action, greedy)

    def update(self) -> None:
        """One step on the Huber loss of a minibatch."""
        observation, action, reward, next_observation, terminated = self.memory.sample(
            self.config.batch_size, self.rng
        )
        with torch.no_grad():
            best_next = self.target(next_observation).max(1).values
            goal = reward + self.config.gamma * best_next * (1 - terminated)
        q = self.q(observation).gather(1, action[:, None]).squeeze(1)
        loss = F.smooth_l1_loss(q, goal)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def run(self, agent_steps: int) -> None:
        """Act, step, store, learn."""
        end = self.agent_steps + agent_steps
        while self.agent_steps < end:
            action = self.act()
            observation, reward, terminated, truncated, infos = self.envs.step(action)
            next_observation = observation.copy()
            for i in np.flatnonzero(terminated | truncated):
                next_observation[i] = infos["final_obs"][i]
            self.memory.add(self.observation, next_observation, action, reward, terminated)
            self.observation = observation
            self.agent_steps += self.num_envs
            if self.agent_steps <= self.config.learning_starts:
                continue
            for _ in range(round(self.config.replay_ratio * self.num_envs)):
                self.update()
            if self.agent_steps % self.config.target_period < self.num_envs:
                self.target.load_state_dict(self.q.state_dict())

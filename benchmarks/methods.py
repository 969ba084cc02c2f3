"""What methods that act in training cost per update, at the sizes of the paper's networks.

    python -m benchmarks.methods --threads 1

Prints a Markdown table. In every round all methods take their turn beside an agent without a method; the
overhead is the median over rounds of the ratio to that agent's time in the same round, so that a busy machine
slows both alike. The replay memory holds random transitions, which cost what real ones do. The units of
continual backprop are mature from the start, so that it replaces some; give it 20 updates per turn.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.options import positive, usable_device
from benchmarks.timing import machine, now
from fire_rl.agents import AGENTS, DQNConfig, SACConfig
from fire_rl.agents.learner import NO_METHOD
from fire_rl.method import ResetMethod, make_method, method_class, method_names
from fire_rl.methods import ContinualBackprop

PIXELS = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
JOINTS = gym.spaces.Box(-np.inf, np.inf, (51,), np.float32)  # H1 without hands
TORQUES = gym.spaces.Box(-1.0, 1.0, (19,), np.float32)


class Environments:
    """The spaces of the paper's environments."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.num_envs, self.max_episode_agent_steps = 4, 500


def dqn(method: ResetMethod, device: torch.device) -> Any:
    """DQN on Atari pixels, batch 32, with a short memory."""
    config = replace(DQNConfig(), replay_capacity=2_000, learning_starts=0)
    env = Environments(PIXELS, gym.spaces.Discrete(9))
    return filled(AGENTS["dqn"].make(env, config, np.random.SeedSequence(0), device, method), env)


def sac(method: ResetMethod, device: torch.device) -> Any:
    """SAC with the paper's SimBa networks, batch 256."""
    config = replace(SACConfig(), replay_capacity=2_000, learning_starts=0)
    env = Environments(JOINTS, TORQUES)
    return filled(AGENTS["sac"].make(env, config, np.random.SeedSequence(0), device, method), env)


def filled(agent: Any, env: Environments) -> Any:
    """`agent` with 400 random transitions in its memory."""
    rng = np.random.default_rng(0)
    shape = env.observation_space.shape
    assert shape is not None
    no = np.zeros(4, bool)
    for _ in range(100):
        look = rng.integers(0, 256, (4, *shape)).astype(env.observation_space.dtype)
        observation = look if len(shape) == 3 else look / 255.0 - 0.5
        action = agent.act(observation.astype(env.observation_space.dtype))
        agent.begin(observation, action)
        agent.observe(rng.normal(size=4).astype(np.float32), no, no, observation)
    return agent


def time_of(agent: Any, updates: int, device: torch.device) -> float:
    """Seconds of one update, the mean of `updates`."""
    start = now(device)
    for _ in range(updates):
        agent.update()
    return (now(device) - start) / updates


def measure(
    make: Callable[[ResetMethod, torch.device], Any],
    name: str,
    rounds: int,
    updates: int,
    device: torch.device,
) -> tuple[float, float]:
    """Seconds of an update without a method, and the overhead of method `name`."""
    method = make_method(name)
    plain, agent = make(NO_METHOD, device), make(method, device)
    if isinstance(method, ContinualBackprop):
        method.let_all_mature(agent.learners.values())
    for each in (plain, agent):
        time_of(each, 2, device)
    pairs = [(time_of(plain, updates, device), time_of(agent, updates, device)) for _ in range(rounds)]
    overhead = statistics.median(with_method / without for without, with_method in pairs) - 1.0
    return statistics.median(without for without, _ in pairs), overhead


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    continuous = [name for name in method_names() if not method_class(name).acts_only_at_events]
    parser.add_argument("--methods", nargs="*", default=continuous, choices=continuous)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--updates", type=positive, default=5, help="updates per turn")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--device", type=usable_device, default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = options.device
    print("| method | DQN | SAC |")
    print("|---|---|---|")
    plain: dict[str, list[float]] = {"dqn": [], "sac": []}
    for name in options.methods:
        cells = []
        for agent, make in (("dqn", dqn), ("sac", sac)):
            seconds, overhead = measure(make, name, options.rounds, options.updates, device)
            plain[agent].append(seconds)
            cells.append(f"{100 * overhead:+.0f}%")
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)
    without = ", ".join(f"{agent} {1e3 * statistics.median(t):.0f} ms" for agent, t in plain.items())
    print(f"\nAn update without a method: {without}.")
    print(machine(device))


if __name__ == "__main__":
    main()

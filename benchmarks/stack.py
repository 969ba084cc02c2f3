"""Updates per second of agents alone and stacked: operation by operation, and as one program.

    python -m benchmarks.stack --agents dqn-control sac-control --members 1 3 10 --threads 1
    python -m benchmarks.stack --members 1 5 15 25 75          (on a GPU)

Sizes of the paper's SAC on h1-walk and DQN on Atari, and of control tasks, with random transitions in memory.
"in turn": one agent's update after the other's, operation by operation, which is what a CPU does by itself.
"one program": torch.compile, batched over the members, and on a GPU a CUDA graph.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.options import add_precision, positive, usable_device
from benchmarks.timing import GRAPH_WARM_UP, in_turns, machine
from fire_rl.agents import AGENTS
from fire_rl.agents.program import Compile, set_precision
from fire_rl.agents.stack import Stack
from fire_rl.launch.config import default_config

WAYS: dict[str, Compile] = {"in turn": "off", "one program": "on"}


@dataclass(frozen=True)
class Spaces:
    """What an agent is told about its environments."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    num_envs: int = 4
    max_episode_agent_steps: int | None = 500


def vector(size: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)


# Sizes of h1-walk, an Atari game with nine actions, Pendulum and CartPole.
KINDS: dict[str, tuple[str, str, Spaces]] = {
    "sac": ("sac", "humanoid/h1-walk", Spaces(vector(51), gym.spaces.Box(-1, 1, (19,), np.float32))),
    "dqn": (
        "dqn",
        "atari/Asterix",
        Spaces(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), gym.spaces.Discrete(9)),
    ),
    "sac-control": ("sac", "control/Pendulum-v1", Spaces(vector(3), gym.spaces.Box(-1, 1, (1,), np.float32))),
    "dqn-control": ("dqn", "control/CartPole-v1", Spaces(vector(4), gym.spaces.Discrete(2))),
}


def agents(kind: str, members: int, mode: Compile, device: torch.device) -> list[Any]:
    """Agents with 1,000 random transitions each."""
    name, env, spaces = KINDS[kind]
    config = default_config(name, env, "none").agent
    config = type(config)(**{**vars(config), "replay_capacity": 2_000, "learning_starts": 0})
    made = []
    rng = np.random.default_rng(0)
    shape, no = spaces.observation_space.shape, np.zeros(spaces.num_envs, bool)
    assert shape is not None
    for seed in range(members):
        agent: Any = AGENTS[name].make(spaces, config, np.random.SeedSequence(seed), device, compile=mode)
        for _ in range(250):
            look = rng.integers(0, 256, (spaces.num_envs, *shape)).astype(spaces.observation_space.dtype)
            agent.begin(look, np.array([spaces.action_space.sample() for _ in range(spaces.num_envs)]))
            agent.observe(rng.normal(size=spaces.num_envs), no, no, look)
        made.append(agent)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", nargs="+", choices=list(KINDS), default=["sac", "dqn"])
    parser.add_argument("--members", nargs="+", type=positive, default=[1, 5])
    parser.add_argument("--rounds", type=positive, default=10)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--device", type=usable_device, default="auto")
    add_precision(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_precision(options.precision)
    device = options.device
    print(f"{machine(device)}; median of {options.rounds}\n")
    print("| agent | members | | ms per update of all | updates/s | times one alone | GPU memory, GB |")
    print("|---|---|---|---|---|---|---|")
    for kind in options.agents:
        alone = 0.0
        for members in options.members:
            for how, mode in WAYS.items():
                ms, gpu = measure(kind, members, mode, options.rounds, device)
                rate = 1e3 * members / ms
                alone = alone or rate
                print(
                    f"| {kind} | {members} | {how} | {ms:.1f} | {rate:,.0f} | {rate / alone:.2f} "
                    f"| {gpu:.2f} |",
                    flush=True,
                )
    print()


def measure(kind: str, members: int, mode: Compile, rounds: int, device: torch.device) -> tuple[float, float]:
    """Milliseconds of one update of all members, and peak GPU memory in GB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    stack = Stack(agents(kind, members, mode, device), mode)
    times = in_turns({"update": stack.update}, rounds, device, GRAPH_WARM_UP)["update"]
    gpu = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    del stack
    gc.collect()
    return statistics.median(times), gpu


if __name__ == "__main__":
    main()

"""Speed of the whole DQN loop on Atari, and where its time goes.

    python -m benchmarks.dqn --game Asterix --replay-ratio 1 --threads 2

The Nature CNN of the paper, 4 environments, batch 32. Parts are timed inside one run of the loop, after a
warm-up; on a GPU each part ends with a synchronisation, so that asynchronous work is charged to who asked for
it, and the total is measured apart, without.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from fire_rl.agents.dqn import DQN, DQNConfig
from fire_rl.envs import VectorEnv, make_env

WARM_UP_AGENT_STEPS = 400
T = TypeVar("T")


class Parts:
    """Seconds by part of the loop."""

    def __init__(self, device: torch.device, measure: bool) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._measure = device, measure

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if not self._measure:
            yield
            return
        started = time.perf_counter()
        yield
        synchronize(self._device)
        self.seconds[part] += time.perf_counter() - started

    def within(self, outer: str, part: str, call: Callable[..., T]) -> Callable[..., T]:
        """`call`, whose time counts for `part` instead of `outer`."""

        def timed(*args: object) -> T:
            started = time.perf_counter()
            result = call(*args)
            synchronize(self._device)
            seconds = time.perf_counter() - started
            self.seconds[part] += seconds
            self.seconds[outer] -= seconds
            return result

        return timed


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def loop(agent: DQN, env: VectorEnv, agent_steps: int, parts: Parts) -> Callable[[], float]:
    """A function that runs the loop for `agent_steps` and returns its seconds."""
    observation = env.reset(np.random.SeedSequence(1))

    def run() -> float:
        nonlocal observation
        end = agent.agent_steps + agent_steps
        synchronize(agent.device)
        started = time.perf_counter()
        while agent.agent_steps < end:
            with parts("act"):
                action = agent.act(observation)
            with parts("environment"):
                step = env.step(action)
            with parts("replay"):
                agent.begin(observation, action)
                agent.observe(step.reward, step.terminated, step.truncated, step.final_observation)
            observation = step.observation
            for _ in range(agent.updates_due()):
                with parts("update"):
                    agent.update()
        synchronize(agent.device)
        return time.perf_counter() - started

    return run


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", default="Asterix")
    parser.add_argument("--replay-ratio", type=float, default=1.0)
    parser.add_argument("--agent-steps", type=int, default=400, help="measured")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    env = make_env(f"atari/{options.game}", 4)
    config = DQNConfig(
        learning_starts=200, epsilon_decay=1, replay_capacity=20_000, replay_ratio=options.replay_ratio
    )
    agent = DQN(env.observation_space, env.action_space, 4, config, np.random.SeedSequence(0), device)
    loop(agent, env, WARM_UP_AGENT_STEPS, Parts(device, measure=False))()
    total = loop(agent, env, options.agent_steps, Parts(device, measure=False))()
    parts = Parts(device, measure=True)
    agent.memory.sample = parts.within("update", "replay", agent.memory.sample)  # type: ignore[method-assign]
    loop(agent, env, options.agent_steps, parts)()

    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    print(f"{where}, {os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}")
    speed = options.agent_steps / total
    print(f"\n{options.game}, replay ratio {options.replay_ratio:g}: {speed:.1f} agent steps/s\n")
    print("| part | ms per agent step | share |\n|---|---|---|")
    of_parts = sum(parts.seconds.values())
    for part, seconds in sorted(parts.seconds.items(), key=lambda item: -item[1]):
        print(f"| {part} | {1e3 * seconds / options.agent_steps:.2f} | {seconds / of_parts:.1%} |")


if __name__ == "__main__":
    main()

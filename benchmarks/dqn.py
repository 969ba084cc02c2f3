"""Speed of the whole DQN loop on Atari against a plain one, and where the time goes.

    python -m benchmarks.dqn --game Asterix --threads 1

The Nature CNN, 4 environments, batches of 32 and the paper's constants. "Plain" is the loop of
`benchmarks/baselines/dqn.py`: the wrappers of the FIRE paper's DQN code in a process per environment, a
replay memory of stacked observations, eager PyTorch with its defaults. Both stay open and take turns in
blocks of agent steps, so that whatever else the machine does hits them alike; ratios are medians over the
rounds. CPU time counts all processes. In as many rounds more, parts are timed; on a GPU each then ends with a
synchronisation, so that asynchronous work is charged to who asked for it.

The floor is the convolutions and matrix products of one update alone, in channels_last and in turns with it.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.baselines.dqn import PlainDQN
from benchmarks.options import add_precision, known_game, positive, usable_device
from benchmarks.timing import cpu_seconds, machine, median_ratio, now
from fire_rl.agents.dqn import DQN, DQNConfig
from fire_rl.agents.program import set_precision
from fire_rl.envs import make_env

NUM_ENVS = 4


class Loop(Protocol):
    """Something that plays and learns."""

    def run(self, agent_steps: int) -> None:
        """Go on for so long."""
        ...


class OurDQN:
    """The loop of `fire_rl.launch.train`, without records."""

    def __init__(self, game: str, workers: int, config: DQNConfig, device: torch.device) -> None:
        self.envs = make_env(f"atari/{game}", NUM_ENVS, **({"workers": workers} if workers else {}))
        spaces = self.envs.observation_space, self.envs.action_space
        self.agent = DQN(*spaces, NUM_ENVS, config, np.random.SeedSequence(0), device)
        self.observation = self.envs.reset(np.random.SeedSequence(1))

    def run(self, agent_steps: int) -> None:
        """Act, learn while the environments step, observe."""
        agent = self.agent
        end = agent.agent_steps + agent_steps
        while agent.agent_steps < end:
            action = agent.act(self.observation)
            self.envs.send(action)
            agent.begin(self.observation, action)
            for _ in range(agent.updates_due()):
                agent.update()
            step = self.envs.receive()
            agent.observe(step.reward, step.terminated, step.truncated, step.final_observation)
            self.observation = step.observation


class Parts:
    """Seconds by part of a loop: of methods, without those of the methods that they call."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._inside = [0.0]  # per call under way: seconds in parts that it called

    def watch(self, owner: object, methods: str, part: str) -> None:
        """From now on charge calls of these methods to `part`."""
        for name in methods.split():
            setattr(owner, name, partial(self._timed, part, getattr(owner, name)))

    def _timed(self, part: str, call: Callable[..., Any], *args: Any) -> Any:
        started = now(self._device)
        self._inside.append(0.0)
        result = call(*args)
        seconds = now(self._device) - started
        self.seconds[part] += seconds - self._inside.pop()
        self._inside[-1] += seconds
        return result


@dataclass
class Contestant:
    """One loop and what was measured of it, a number per block."""

    loop: Loop
    parts: Parts
    wall_ms: list[float] = field(default_factory=list)  # per agent step
    cpu_ms: list[float] = field(default_factory=list)

    def block(self, agent_steps: int, device: torch.device) -> None:
        """Run for so long and note the time."""
        wall, cpu = now(device), cpu_seconds()
        self.loop.run(agent_steps)
        self.wall_ms.append(1e3 * (now(device) - wall) / agent_steps)
        self.cpu_ms.append(1e3 * (cpu_seconds() - cpu) / agent_steps)


def contestants(
    game: str, workers: int, config: DQNConfig, device: torch.device
) -> tuple[Contestant, Contestant]:
    """Ours and the plain one, with their memories filled and after the first updates."""
    found = []
    for loop in (OurDQN(game, workers, config, device), PlainDQN(game, NUM_ENVS, config, device)):
        loop.run(config.learning_starts + 10 * NUM_ENVS)
        found.append(Contestant(loop, Parts(device)))
    return found[0], found[1]


def watch_parts(ours: Contestant, plain: Contestant) -> None:
    """Begin to time the parts."""
    assert isinstance(ours.loop, OurDQN) and isinstance(plain.loop, PlainDQN)
    agent = ours.loop.agent
    ours.parts.watch(agent, "act", "act")
    ours.parts.watch(ours.loop.envs, "send receive", "environment")
    ours.parts.watch(agent, "begin observe", "replay")
    ours.parts.watch(agent.memory, "draw fetch", "replay")
    ours.parts.watch(agent, "update", "update")
    plain.parts.watch(plain.loop, "act", "act")
    plain.parts.watch(plain.loop.envs, "step", "environment")
    plain.parts.watch(plain.loop.memory, "add sample", "replay")
    plain.parts.watch(plain.loop, "update", "update")


def products(network: nn.Module, observation: Tensor) -> list[Callable[[], object]]:
    """The convolutions and matrix products of one update: two forward passes and one backward."""
    found: list[Callable[[], object]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,), g = inputs, torch.ones_like(output)
        is_first = x.shape[1:] == observation.shape[1:]  # needs no gradient of its input
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        w = layer.weight.detach()
        if isinstance(layer, nn.Linear):
            forward, to_input = partial(torch.mm, x, w.T), partial(torch.mm, g, w)
            found.extend([forward, forward, to_input, partial(torch.mm, g.T, x)])
            return
        w = w.contiguous(memory_format=torch.channels_last)
        forward = partial(torch.conv2d, x, w, None, layer.stride)
        stride, wanted = list(layer.stride), [not is_first, True, False]
        gradient = torch.ops.aten.convolution_backward
        backward = partial(gradient, g, x, w, [0], stride, [0, 0], [1, 1], False, [0, 0], 1, wanted)
        found.extend([forward, forward, backward])

    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        network(observation.contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    return found


def floor_and_update(agent: DQN, rounds: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Milliseconds of the products of an update, and of an update with its sampling, in turns."""
    work = products(agent.q.online, agent.sample(agent.config.batch_size, agent.replay_rng).observation)
    runs: tuple[Callable[[], object], ...] = (lambda: [product() for product in work], agent.update)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, noted in zip(runs, times, strict=True):
            run()  # the caches are its own
            started = now(device)
            run()
            noted.append(1e3 * (now(device) - started))
    return times


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", type=known_game, default="Asterix")
    parser.add_argument("--replay-ratio", type=float, default=1.0, help="a multiple of 1/4")
    parser.add_argument("--workers", type=int, choices=range(NUM_ENVS + 1), default=0, help="of ours")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=10)
    parser.add_argument("--agent-steps", type=positive, default=100, help="of a block")
    parser.add_argument("--fill", type=positive, default=10_000, help="random agent steps before")
    parser.add_argument("--device", type=usable_device, default="auto")
    add_precision(parser)
    options = parser.parse_args()
    if options.replay_ratio <= 0 or options.replay_ratio * NUM_ENVS % 1:
        parser.error(f"--replay-ratio must be a multiple of 1/{NUM_ENVS}, not {options.replay_ratio:g}")
    torch.set_num_threads(options.threads)
    set_precision(options.precision)
    device = options.device
    config = DQNConfig(
        learning_starts=options.fill,
        epsilon_decay=1,
        replay_capacity=2 * options.fill,
        replay_ratio=options.replay_ratio,
    )
    ours, plain = contestants(options.game, options.workers, config, device)
    both = {"ours": ours, "plain": plain}
    for _ in range(options.rounds):
        for contestant in both.values():
            contestant.block(options.agent_steps, device)

    print(f"{machine(device)}")
    print(f"{options.game}, replay ratio {options.replay_ratio:g}; medians of {options.rounds} blocks\n")
    print("| loop | agent steps/s | wall ms/step | CPU ms/step | speed | less CPU |")
    print("|---|---|---|---|---|---|")
    for name, contestant in both.items():
        wall, cpu = statistics.median(contestant.wall_ms), statistics.median(contestant.cpu_ms)
        speed = median_ratio(plain.wall_ms, contestant.wall_ms)
        less = median_ratio(plain.cpu_ms, contestant.cpu_ms)
        print(f"| {name} | {1e3 / wall:.1f} | {wall:.1f} | {cpu:.1f} | {speed:.2f}x | {less:.2f}x |")

    watch_parts(ours, plain)
    for _ in range(options.rounds):
        for contestant in both.values():
            contestant.block(options.agent_steps, device)
    print("\n| part | ours, ms per agent step | share | plain |\n|---|---|---|---|")
    total = sum(ours.parts.seconds.values())
    ms = 1e3 / (options.rounds * options.agent_steps)
    for part, seconds in sorted(ours.parts.seconds.items(), key=lambda item: -item[1]):
        other = plain.parts.seconds[part]
        print(f"| {part} | {ms * seconds:.2f} | {seconds / total:.1%} | {ms * other:.2f} |")

    assert isinstance(ours.loop, OurDQN)
    floor, update = floor_and_update(ours.loop.agent, 3 * options.rounds, device)
    print(
        f"\nFloor of an update: {statistics.median(floor):.1f} ms of convolutions and matrix products, "
        f"{median_ratio(floor, update):.0%} of it with sampling."
    )


if __name__ == "__main__":
    main()

"""Everything that is to be fast, in one table.

    python -m benchmarks.all --threads 2
    python -m benchmarks.all --quick

In every row ours, the baseline and the floor took turns; only stacks, and the speed of a large product from
which the floor of projections follows, are measured one after the other. Speeds are medians over the rounds;
ratio and share are medians of what they were within a round, so they need not be the quotients of the speeds.
Baselines are public algorithms written plainly (`benchmarks/baselines/`). The floor is what cannot be had for
less on the same machine: emulation or physics alone, convolutions and matrix products alone. Rows on a GPU
appear where there is one; there FIRE must cost less than two updates. The module that a name begins with says
more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import atari, checkpoint, dqn, humanoid, projection, sac, stack
from benchmarks.options import add_precision, positive
from benchmarks.timing import CPU, in_turns, machine, median_ratio
from fire_rl.agents.dqn import DQNConfig
from fire_rl.agents.program import set_precision
from fire_rl.agents.sac import SACConfig
from fire_rl.envs.humanoid import TASK_SETS

FIRE = "sac: FIRE on all layers (less is better)"
MOST_UPDATES = 2.0  # that it may cost on a GPU


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int = 8
    burst_seconds: float = 0.5  # of an Atari environment
    bursts: int = 10  # of a humanoid environment, per round
    projections: tuple[str, ...] = ("Nature CNN, 3 convolutions", "SimBa actor", "SimBa twin critics")
    projection_rounds: int = 3
    dqn_fill: int = 4_000  # random agent steps before the loop is timed
    dqn_block: int = 60  # agent steps per turn
    sac: SACConfig = sac.SIZES
    frames: int = 100_000  # in the replay memory that is saved
    played: int = 2_000  # of these, real ones per game
    members: tuple[int, ...] = (1, 5, 15, 25, 75)  # of a stack, on a GPU


QUICK = Effort(3, 0.4, 4, projection_rounds=1, dqn_fill=1_000, dqn_block=40, frames=20_000, played=500)


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure per round. Of speeds, where more is better, unless it says otherwise."""

    name: str
    unit: str
    ours: list[float]
    baseline: list[float] | None = None
    floor: list[float] | None = None

    def __str__(self) -> str:
        cells = [self.name, f"{number(self.ours)} {self.unit}"]
        for other in (self.baseline, self.floor):
            cells += ["–", "–"] if other is None else [number(other), f"{median_ratio(self.ours, other):.2f}"]
        return f"| {' | '.join(cells)} |"


def number(figures: list[float]) -> str:
    """Their median, with three digits or more."""
    median = statistics.median(figures)
    return f"{median:,.0f}" if median >= 100 else f"{median:.3g}"


def per_second(ms: list[float]) -> list[float]:
    """Speeds from milliseconds."""
    return [1e3 / each for each in ms]


def of_atari(effort: Effort) -> Iterator[Row]:
    """Frames; baseline: the wrappers of the paper's DQN code; floor: ale-py's C++ environment."""
    names = (atari.OURS, atari.REFERENCE, atari.CPP)
    found = atari.measure("Asterix", 4, effort.rounds, effort.burst_seconds, names)
    wall = [[4 * speed for speed in found[name].agent_steps_per_second] for name in names]
    yield Row("atari: 4 x Asterix in one process; baseline a process each", "frames/s", *wall)
    cpu = [[4e3 / ms for ms in found[name].cpu_ms_per_agent_step] for name in names]
    yield Row("atari: the same, per second of CPU time", "frames/s", *cpu)


def of_humanoid(effort: Effort) -> Iterator[Row]:
    """Env steps of the paper's tasks; floor: the bare physics; and of eight copies on two threads and one."""
    for task in TASK_SETS["fire"]:
        contest: dict[str, humanoid.Contestant] = {
            "floor": humanoid.Bare(task, 1, "published", 1),
            "ours": humanoid.Vector(task, 1, "published", 1),
        }
        speed = humanoid.measure(task, contest, 1, "published", effort.rounds, effort.bursts)
        yield Row(f"humanoid: {task}", "env steps/s", speed["ours"], None, speed["floor"])
    contest = {
        "floor": humanoid.Bare("h1-walk", 8, "published", 2),
        "one": humanoid.Vector("h1-walk", 8, "published", 1),
        "two": humanoid.Vector("h1-walk", 8, "published", 2),
    }
    speed = humanoid.measure("h1-walk", contest, 8, "published", effort.rounds, max(1, effort.bursts // 4))
    figures = (speed["two"], speed["one"], speed["floor"])
    yield Row("humanoid: 8 x h1-walk, 2 threads; baseline 1 thread", "env steps/s", *figures)


def of_projection(effort: Effort, device: torch.device) -> Iterator[Row]:
    """Projections; baseline: one matrix after the other; floor: their products at the machine's speed."""
    for name in effort.projections:
        build, rounds = projection.CASES[name], effort.projection_rounds
        ms = projection.measure(build, device, rounds, with_exact=False)
        floor = rounds * [projection.floor_ms(build(), device)]
        yield Row(f"projection: {name}", "/s", *map(per_second, (ms["batched"], ms["loop"], floor)))


def of_dqn(effort: Effort, device: torch.device) -> Iterator[Row]:
    """The whole loop at replay ratio 1; baseline: a plain one; floor: its convolutions and products alone."""
    fill = effort.dqn_fill
    config = DQNConfig(learning_starts=fill, epsilon_decay=1, replay_capacity=2 * fill)
    ours, plain = dqn.contestants("Asterix", int(device.type == "cuda"), config, device)
    assert isinstance(ours.loop, dqn.OurDQN)
    agent = ours.loop.agent
    work = dqn.products(agent.q.online, agent.sample(config.batch_size, agent.replay_rng).observation)
    floor = []
    for _ in range(effort.rounds):
        for contestant in (ours, plain):
            contestant.block(effort.dqn_block, device)
        times = in_turns({"floor": lambda: [product() for product in work]}, 3, device)
        floor.append(statistics.median(times["floor"]))
    figures = map(per_second, (ours.wall_ms, plain.wall_ms, floor))
    yield Row("dqn: the loop on Asterix", "agent steps/s", *figures)


def of_sac(effort: Effort, device: torch.device) -> Iterator[Row]:
    """Updates at the paper's sizes; baseline: a plain one; floor: its products alone. And FIRE in updates."""
    is_gpu = device.type == "cuda"
    times, agent, _ = sac.contest("humanoid/h1-walk", effort.rounds, device, is_gpu, effort.sac)
    ms = {name: per_second(of) for name, of in times.items()}
    for name in ("eager", "compiled")[: 1 + is_gpu]:
        yield Row(f"sac: an update, {name}", "updates/s", ms[name], ms["plain loop"], ms["floor"])
    ratios = sac.fire_in_updates(agent, effort.projection_rounds, device)
    yield Row(FIRE, "eager updates", ratios)


def of_checkpoint(effort: Effort) -> Iterator[Row]:
    """Saving a replay memory with 1 % of new frames; baseline: all of it."""
    with tempfile.TemporaryDirectory() as folder:
        costs = checkpoint.measure(effort.frames, min(3, effort.rounds), Path(folder), effort.played)
    seconds = (costs.written[name].seconds for name in ("1 % new", "full again"))
    rates = [[1 / each for each in of] for of in seconds]
    yield Row(f"checkpoint: {effort.frames:,} frames, 1 % new; baseline all", "/s", *rates)


def of_stack(effort: Effort, device: torch.device) -> Iterator[Row]:
    """Updates of stacks; baseline: as many agents in turn, operation by operation."""
    for kind in ("sac", "dqn"):
        for members in effort.members:
            together, alone = (
                stack.measure(kind, members, stack.WAYS[way], effort.rounds, device)[0]
                for way in ("one program", "in turn")
            )
            rates = [1e3 * members / together], [1e3 * members / alone]
            yield Row(f"stack: {members} x {kind}", "updates/s", *rates)


def parts(effort: Effort) -> Iterator[Callable[[], Iterator[Row]]]:
    """What is measured on a CPU, one part after the other."""
    yield partial(of_atari, effort)
    yield partial(of_humanoid, effort)
    yield partial(of_projection, effort, CPU)
    yield partial(of_dqn, effort, CPU)
    yield partial(of_sac, effort, CPU)
    yield partial(of_checkpoint, effort)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    add_precision(parser)
    parser.add_argument(
        "--members", type=positive, nargs="+", default=Effort.members, help="of stacks, on a GPU"
    )
    parser.add_argument("--gpu-only", action="store_true", help="leave out the rows on a CPU")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller memories")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_precision("float32")  # for the loop of projections; fire_ sees to it itself
    effort, is_slow = QUICK if options.quick else Effort(), False
    effort = replace(effort, members=tuple(options.members))
    print(f"{machine(CPU, 'numpy', 'mujoco', 'ale-py', 'gymnasium')}; {time.strftime('%Y-%m-%d')}\n")
    print("| name | ours | baseline | ratio | floor | share of the floor |\n|---|---|---|---|---|---|")
    for part in () if options.gpu_only else parts(effort):
        for row in part():
            print(row, flush=True)
    if torch.cuda.is_available():
        gpu = torch.device("cuda")
        print(f"| **{machine(gpu)}** | | | | | |")
        for on_gpu in (of_projection, of_dqn, of_sac, of_stack):
            for row in on_gpu(effort, gpu):
                print(row, flush=True)
                is_slow |= row.name == FIRE and statistics.median(row.ours) >= MOST_UPDATES
            set_precision(options.precision)
    print(f"\nLoad at the end: {os.getloadavg()[0]:.1f}.")
    if is_slow:
        sys.exit(f"On the GPU FIRE does not cost less than {MOST_UPDATES:g} updates.")


if __name__ == "__main__":
    main()

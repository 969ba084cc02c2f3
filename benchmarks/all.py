"""Everything that is to be fast, in one table.

    python -m benchmarks.all --threads 2

Each row comes from one run in which ours, the baseline and the floor took turns; numbers are medians.
Baselines are public algorithms written plainly (`benchmarks/baselines/`). The floor is what cannot be had for
less on the same machine: emulation or physics alone, convolutions and matrix products alone. Rows on a GPU
appear where there is one. The module that the first column names says more about each row.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import atari, dqn, humanoid, projection, sac, stack
from fire_rl import fire_
from fire_rl.agents.dqn import DQNConfig
from fire_rl.envs.humanoid import TASK_SETS

CPP = "ale-py's C++ environment, 1 thread"


@dataclass(frozen=True)
class Row:
    """A line of the table; speeds are per second, so more is better."""

    name: str
    ours: float
    baseline: float | None
    floor: float | None
    unit: str

    def __str__(self) -> str:
        baseline = "–" if self.baseline is None else f"{self.baseline:,.1f}"
        ratio = "–" if self.baseline is None else f"{self.ours / self.baseline:.2f}"
        floor = "–" if self.floor is None else f"{self.floor:,.1f}"
        share = "–" if self.floor is None else f"{self.ours / self.floor:.2f}"
        return f"| {self.name} | {self.ours:,.1f} {self.unit} | {baseline} | {ratio} | {floor} | {share} |"


def of_atari(rounds: int) -> Iterator[Row]:
    """Frames of four games; baseline: the wrappers of the paper's DQN code, a process per environment."""
    found = atari.measure("Asterix", 4, rounds, 0.5)
    ours, theirs, cpp = (
        4.0 * statistics.median(found[name].agent_steps_per_second) for name in ("ours", atari.REFERENCE, CPP)
    )
    yield Row("atari: 4 x Asterix, one process", ours, theirs, cpp, "frames/s")
    ours, theirs, cpp = (
        4e3 / statistics.median(found[name].cpu_ms_per_agent_step) for name in ("ours", atari.REFERENCE, CPP)
    )
    yield Row("atari: the same, per second of CPU time", ours, theirs, cpp, "frames/s")


def of_humanoid(rounds: int) -> Iterator[Row]:
    """Env steps of the paper's tasks; floor: the bare physics; and of eight copies on all cores."""
    cores = os.cpu_count() or 1
    for task in TASK_SETS["fire"]:
        contest: dict[str, humanoid.Contestant] = {
            "floor": humanoid.Bare(task, 1, "published", 1),
            "ours": humanoid.Vector(task, 1, "published", 1),
        }
        speed = humanoid.measure(task, contest, 1, "published", rounds, 10)
        medians = {name: statistics.median(of) for name, of in speed.items()}
        yield Row(f"humanoid: {task}", medians["ours"], None, medians["floor"], "env steps/s")
    contest = {
        "one": humanoid.Vector("h1-walk", 8, "published", 1),
        "all": humanoid.Vector("h1-walk", 8, "published", cores),
    }
    speed = humanoid.measure("h1-walk", contest, 8, "published", rounds, 2)
    one, every = (statistics.median(speed[name]) for name in ("one", "all"))
    yield Row(
        f"humanoid: 8 copies, {cores} threads; baseline 1 thread", every, one, cores * one, "env steps/s"
    )


def of_projection(device: torch.device, rounds: int) -> Iterator[Row]:
    """Projections; baseline: one matrix after the other; floor: their products at the machine's speed."""
    for name in ("Nature CNN, 3 convolutions", "SimBa actor", "SimBa twin critics"):
        ms = projection.measure(projection.CASES[name], device, rounds)
        floor = projection.floor_ms(projection.CASES[name](), device)
        yield Row(f"projection: {name}", 1e3 / ms["batched"], 1e3 / ms["loop"], 1e3 / floor, "/s")


def of_dqn(device: torch.device, rounds: int) -> Iterator[Row]:
    """The whole loop at replay ratio 1; baseline: a plain one; floor: its convolutions and products alone."""
    config = DQNConfig(learning_starts=4_000, epsilon_decay=1, replay_capacity=8_000)
    ours, plain = dqn.contestants("Asterix", 0, config, device)
    for _ in range(rounds):
        for contestant in (ours, plain):
            contestant.block(60, device)
    assert isinstance(ours.loop, dqn.OurDQN)
    floor, _ = dqn.floor_and_update(ours.loop.agent, 3 * rounds, device)
    wall = [1e3 / statistics.median(of) for of in (ours.wall_ms, plain.wall_ms, floor)]
    yield Row("dqn: the loop on Asterix", wall[0], wall[1], wall[2], "agent steps/s")


def of_sac(device: torch.device, rounds: int) -> Iterator[Row]:
    """Updates at the paper's sizes; baseline: a plain one; floor: its products alone. And FIRE in updates."""
    times, agent, _ = sac.contest("humanoid/h1-walk", rounds, device, compile=device.type == "cuda")
    ms = {name: statistics.median(of) for name, of in times.items()}
    ours = min(ms["eager"], ms.get("compiled", ms["eager"]))
    yield Row("sac: an update", 1e3 / ours, 1e3 / ms["plain loop"], 1e3 / ms["floor"], "updates/s")
    fire = min(sum(fire_(learner.online).seconds for learner in agent.learners.values()) for _ in range(3))
    yield Row("sac: FIRE on all layers; baseline two updates", 1 / fire, 1e3 / (2 * ours), None, "/s")


def of_stack(device: torch.device, rounds: int) -> Iterator[Row]:
    """Updates of stacks; baseline: as many agents in turn, operation by operation."""
    for kind in ("sac", "dqn"):
        for members in (1, 5, 15, 25, 75):
            together, alone = (
                stack.measure(kind, members, stack.WAYS[way], rounds, device)[0]
                for way in ("one program", "in turn")
            )
            yield Row(
                f"stack: {members} x {kind}",
                1e3 * members / together,
                1e3 * members / alone,
                None,
                "updates/s",
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n, cpu = options.rounds, torch.device("cpu")
    parts: list[Callable[[], Iterator[Row]]] = [
        lambda: of_atari(n),
        lambda: of_humanoid(n),
        lambda: of_projection(cpu, n),
        lambda: of_dqn(cpu, n),
        lambda: of_sac(cpu, n),
    ]
    if torch.cuda.is_available():
        gpu = torch.device("cuda")
        parts += [
            lambda: of_projection(gpu, n),
            lambda: of_dqn(gpu, n),
            lambda: of_sac(gpu, n),
            lambda: of_stack(gpu, n),
        ]
    print(
        f"{projection.machine(cpu)}, load {os.getloadavg()[0]:.1f} at the start, {time.strftime('%Y-%m-%d')}"
    )
    print("\n| name | ours | baseline | ratio | floor | share of the floor |\n|---|---|---|---|---|---|")
    for number, part in enumerate(parts):
        if number == 5:
            print(f"| **{projection.machine(torch.device('cuda'))}** | | | | | |")
        for row in part():
            print(row, flush=True)


if __name__ == "__main__":
    main()

"""What a checkpoint of the replay memory costs: time, disk, and how long training pauses for it.

    python -m benchmarks.checkpoint --frames 1000000

The memory of four Atari games is filled with frames of random play. Some 40,000 real ones are repeated,
each time shifted by another number of pixels, so that no two chunks are alike. Then checkpoints are written:
all of it, then with 1 % of new frames, and for comparison all of it as plain safetensors (`raw`).
Training waits while a checkpoint is written: the pause is the whole of its time.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.options import positive
from benchmarks.timing import CPU, machine, median_ratio
from fire_rl.agents.replay import Layout, ReplayMemory
from fire_rl.envs import make_env
from fire_rl.launch.checkpoint import load_checkpoint, save_checkpoint
from fire_rl.launch.chunks import ChunkStore

NUM_ENVS = 4
GAMES = ("Asterix", "BeamRider", "DemonAttack", "Breakout")


def real_frames(agent_steps: int) -> NDArray[np.uint8]:
    """Frames of random play in four games, (agent_steps, games, 84, 84)."""
    envs = [make_env(f"atari/{game}", 1) for game in GAMES]
    rng = np.random.default_rng(0)
    frames = np.empty((agent_steps, len(GAMES), 84, 84), np.uint8)
    for k, env in enumerate(envs):
        frames[0, k] = env.reset(np.random.SeedSequence(k))[0, -1]
        actions: Any = env.action_space
        for t in range(1, agent_steps):
            frames[t, k] = env.step(rng.integers(actions.n, size=1)).observation[0, -1]
        env.close()
    return frames


def play(frames: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Stacks of one frame for `ReplayMemory.add`, without end."""
    for repetition in range(10**9):
        shifted = np.roll(frames, (repetition % 84, repetition // 84), axis=(2, 3))
        yield from shifted[:, :, None]


def fill(memory: ReplayMemory, play: Iterator[NDArray[np.uint8]], slots: int) -> None:
    """Add `slots` transitions per environment; an episode ends every 500."""
    rng = np.random.default_rng(1)
    no = np.zeros(NUM_ENVS, bool)
    for t in range(slots):
        frame = next(play)
        ended = no if t % 500 else ~no
        action, reward = rng.integers(9, size=NUM_ENVS), rng.integers(2, size=NUM_ENVS)
        memory.begin(frame, action)
        memory.complete(reward, no, ended, frame)


def size(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@dataclass
class Written:
    """What one kind of checkpoint cost, a number per time that it was written."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    gigabytes: list[float] = field(default_factory=list)  # more on the disk

    def note(self, write: Callable[[], object], folder: Path) -> None:
        """Write and measure."""
        before, started, cpu = size(folder), time.perf_counter(), time.process_time()
        write()
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds.append(time.process_time() - cpu)
        self.gigabytes.append((size(folder) - before) / 1e9)


@dataclass(frozen=True)
class Costs:
    """What was measured: by kind, all that is kept on the disk, and reading the last one back."""

    memory_gigabytes: float
    written: dict[str, Written]
    kept_gigabytes: float
    load_seconds: float


def measure(frames: int, rounds: int, folder: Path, played: int = 10_000) -> Costs:
    """Fill a memory with `played` agent steps of four games, shifted and repeated, and save it."""
    # Two, so that `add` is handed stacks, of one frame here.
    layout = Layout((84, 84), torch.uint8, (), stack=2)
    memory = ReplayMemory(frames, NUM_ENVS, layout, CPU)
    source = play(real_frames(played))
    fill(memory, source, memory.slots)
    written = {name: Written() for name in ("full", "full again", "1 % new", "raw")}

    def checkpoint(step: int, store: ChunkStore, to: Path) -> None:
        save_checkpoint(to, step, {"memory": memory.state_dict()}, store)

    store = ChunkStore(folder / "run")
    written["full"].note(lambda: checkpoint(0, store, folder / "run"), folder)
    for k in range(1, rounds + 1):
        fill(memory, source, memory.slots // 100)
        other = folder / str(k)
        written["full again"].note(partial(checkpoint, 0, ChunkStore(other), other), folder)
        shutil.rmtree(other)
        written["1 % new"].note(partial(checkpoint, k, store, folder / "run"), folder)
    kept = size(folder / "run") / 1e9

    # No room for two large ones.
    restored = ReplayMemory(frames, NUM_ENVS, layout, CPU) if frames <= 400_000 else memory
    started = time.perf_counter()
    restored.load_state_dict(load_checkpoint(folder / "run" / f"{rounds:012d}", CPU)["memory"])
    load = time.perf_counter() - started
    written["raw"].note(lambda: save_file({"frames": memory.frames}, folder / "raw.safetensors"), folder)
    return Costs(memory.bytes / 1e9, written, kept, load)


def main() -> None:
    """Parse the flags, measure in a temporary folder, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=positive, default=1_000_000, help="slots of the replay memory")
    parser.add_argument("--rounds", type=positive, default=3, help="how often 1 %% of new frames are saved")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; default: a temporary folder"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        costs = measure(options.frames, options.rounds, Path(folder))
    written = costs.written
    print(f"{machine(CPU)}; {options.frames:,} frames, {costs.memory_gigabytes:.2f} GB in memory\n")
    print("| what is written | seconds | CPU seconds | GB more on the disk |\n|---|---|---|---|")
    for name, of in written.items():
        numbers = [statistics.median(values) for values in (of.seconds, of.cpu_seconds, of.gigabytes)]
        print(f"| {name} | {numbers[0]:.2f} | {numbers[1]:.2f} | {numbers[2]:.3f} |")
    ratio = median_ratio(written["1 % new"].seconds, written["full again"].seconds)
    print(f"\n1 % new / full again: {ratio:.1%}; medians of {options.rounds}")
    print(f"on the disk: {costs.kept_gigabytes:.3f} GB for all kept; restored in {costs.load_seconds:.1f} s")


if __name__ == "__main__":
    main()

"""What a checkpoint of the replay memory costs: time, disk, and how long training pauses for it.

    python -m benchmarks.checkpoint --frames 1000000

The memory of four Atari games is filled with frames of random play. Some 40,000 real ones are repeated,
each time shifted by another number of pixels, so that no two chunks are alike. Then checkpoints are written:
all of it, then with 1 % of new frames, and for comparison all of it as plain safetensors (`raw`).
Training waits while a checkpoint is written: the pause is the whole of its time.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from fire_rl.agents.replay import Layout, ReplayMemory
from fire_rl.envs import make_env
from fire_rl.launch.checkpoint import load_checkpoint, save_checkpoint
from fire_rl.launch.chunks import ChunkStore

NUM_ENVS = 4
GAMES = ("Asterix", "BeamRider", "DemonAttack", "Breakout")
CPU = torch.device("cpu")


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


def measure(frames: int, rounds: int, folder: Path) -> None:
    """Print the table."""
    layout = Layout(
        (84, 84), torch.uint8, (), stack=2
    )  # two, so that `add` is handed stacks, of one frame here
    memory = ReplayMemory(frames, NUM_ENVS, layout, CPU)
    source = play(real_frames(10_000))
    fill(memory, source, memory.slots)
    rows: list[tuple[str, float, float, float]] = []

    def timed(name: str, write: Any) -> float:
        before, started, cpu = size(folder), time.perf_counter(), time.process_time()
        write()
        seconds = time.perf_counter() - started
        rows.append((name, seconds, time.process_time() - cpu, (size(folder) - before) / 1e9))
        return seconds

    def checkpoint(step: int, store: ChunkStore, to: Path) -> None:
        save_checkpoint(to, step, {"memory": memory.state_dict()}, store)

    store = ChunkStore(folder / "run")
    full = timed("full", lambda: checkpoint(0, store, folder / "run"))
    increments = []
    for k in range(1, rounds + 1):
        fill(memory, source, memory.slots // 100)
        again = timed("full again", lambda k=k: checkpoint(0, ChunkStore(folder / str(k)), folder / str(k)))
        shutil.rmtree(folder / str(k))
        increment = timed("1 % new", lambda k=k: checkpoint(k, store, folder / "run"))
        increments.append(increment / again)
    disk = size(folder / "run") / 1e9

    restored = ReplayMemory(frames, NUM_ENVS, layout, CPU) if frames <= 400_000 else None
    started = time.perf_counter()
    state = load_checkpoint(folder / "run" / f"{rounds:012d}", CPU)["memory"]
    if restored is not None:
        restored.load_state_dict(state)
    else:  # no room for two
        memory.load_state_dict(state)
    load = time.perf_counter() - started

    raw = timed("raw", lambda: save_file({"frames": memory.frames}, folder / "raw.safetensors"))
    print(f"{frames:,} frames, {memory.bytes / 1e9:.2f} GB in memory; {platform.processor() or 'CPU'}")
    print("| what is written | seconds | CPU seconds | GB more on the disk |\n|---|---|---|---|")
    for name, seconds, cpu, gigabytes in rows:
        print(f"| {name} | {seconds:.2f} | {cpu:.2f} | {gigabytes:.3f} |")
    print(f"1 % new / full: {statistics.median(increments):.1%}; full {full:.1f} s; raw {raw:.1f} s")
    print(f"on the disk: {disk:.3f} GB for both kept checkpoints; restored in {load:.1f} s")


def main() -> None:
    """Parse the flags, measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000, help="slots of the replay memory")
    parser.add_argument("--rounds", type=int, default=3, help="how often 1 %% of new frames are saved")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; default: a temporary folder"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(options.frames, options.rounds, Path(folder))


if __name__ == "__main__":
    main()

"""What all benchmarks share: clocks, turns, ratios, and the machine in words."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from fire_rl.agents.program import CALLS_BEFORE_CAPTURE

CPU = torch.device("cpu")
GRAPH_WARM_UP = CALLS_BEFORE_CAPTURE + 2  # updates: the capture and a replay are over, too


def now(device: torch.device = CPU) -> float:
    """Seconds, after the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def cpu_seconds() -> float:
    """CPU time of this process and its living descendants, in seconds (Linux; steps of 10 ms)."""
    ticks, pids = 0, [os.getpid()]
    while pids:
        process = Path(f"/proc/{pids.pop()}")
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system time
        for thread in (process / "task").iterdir():
            pids += [int(pid) for pid in (thread / "children").read_text().split()]
    return ticks / os.sysconf("SC_CLK_TCK")


def in_turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int, device: torch.device = CPU, warm_up: int = 2
) -> dict[str, list[float]]:
    """Milliseconds of each contestant in every round after the first `warm_up`."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for repetition in range(rounds + warm_up):
        for name, run in contestants.items():
            start = now(device)
            run()
            elapsed = 1e3 * (now(device) - start)
            if repetition >= warm_up:
                times[name].append(elapsed)
    return times


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """The median over rounds of the ratio within a round, which a busy machine distorts least."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def machine(device: torch.device = CPU, *packages: str) -> str:
    """Processor, cores, threads and load, or the GPU; versions of torch and of `packages`."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {versions}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, {threads} thread(s) of torch, load {load:.1f}; {versions}"

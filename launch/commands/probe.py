"""`fire-rl probe`: a supervised test of plasticity in a minute or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tyro

from fire_rl.launch.probe import CLASSES, NetworkName, Setting, fits
from fire_rl.plugins import load_plugins


@dataclass(frozen=True)
class Options(Setting):
    """Let small networks memorise a stream of tasks, a method acting between them; draw how well they do.

    The fastest way to see whether an idea has merit: without intervention the networks lose the ability to
    learn (docs/plasticity-probe.md).
    """

    methods: tyro.conf.Positional[tuple[str, ...]] = ("none", "fire", "full-reset")
    """Reset methods; `fire-rl methods` lists them."""
    networks: tuple[NetworkName, ...] = ("mlp", "cnn")
    """Networks to test."""
    seeds: int = 1
    """Repetitions, with the seeds --seed, --seed + 1, …; the figure shows their mean."""
    plugin: tuple[Path, ...] = ()
    """Python files with methods of your own."""
    out: Path = Path("probe.png")
    """The figure (.png, .pdf or .svg); the numbers go to a .csv beside it."""


def main(argv: list[str]) -> int:
    """Run the stream for every method, network and seed; print a table and draw the figure."""
    options = tyro.cli(Options, args=argv, prog="fire-rl probe")
    import torch

    from fire_rl.results.probe_figure import plot_probe

    if options.seeds < 1 or not options.methods:
        raise ValueError("give at least one method, and --seeds of at least 1")
    load_plugins(options.plugin)
    torch.set_num_threads(1)  # faster than more on networks this small
    setting = {f.name: getattr(options, f.name) for f in fields(Setting)}
    rows: list[dict[str, Any]] = []
    print(f"{'network':<9}{'method':<24}{'accuracy, first tasks':>22}{'last tasks':>12}")
    for network in options.networks:
        for method in options.methods:
            of_method = []
            for seed in range(options.seed, options.seed + options.seeds):
                for fit in fits(method, network, Setting(**{**setting, "seed": seed})):
                    of_method.append({**asdict(fit), "seed": seed})
            first, last = ends(of_method, options.tasks)
            print(f"{network:<9}{method:<24}{first:>22.2f}{last:>12.2f}", flush=True)
            rows += of_method
    print(plot_probe(rows, 1 / CLASSES, options.out))
    return 0


def ends(rows: Sequence[dict[str, Any]], tasks: int) -> tuple[float, float]:
    """Mean accuracy over the first and over the last eighth of the tasks."""
    few = max(1, tasks // 8)
    first = [row["accuracy"] for row in rows if row["task"] <= few]
    last = [row["accuracy"] for row in rows if row["task"] > tasks - few]
    return sum(first) / len(first), sum(last) / len(last)

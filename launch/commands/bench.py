"""`fire-rl bench`: the missing runs of a suite, then its figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Options:
    """Run all jobs of a suite that are missing or unfinished, then draw its figure."""

    suite: tyro.conf.Positional[str]
    """Name of a built-in suite (`fire-rl suites`), or a TOML file of your own."""
    out: Path = Path("runs")
    """Folder of the records; the suite's go to OUT/SUITE."""
    workers: int = 0
    """Runs at a time; 0: one per CPU core."""
    dry_run: bool = False
    """Print the jobs and do nothing."""


def main(argv: list[str]) -> int:
    """Run the suite."""
    options = tyro.cli(Options, args=argv, prog="fire-rl bench")
    from fire_rl.launch.suite import bench

    return bench(options.suite, options.out, options.workers, options.dry_run)

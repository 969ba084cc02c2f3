"""`fire-rl status`: how the runs of a folder stand."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Options:
    """Show how the runs of a folder stand: counts, a row per run, failures with their last lines."""

    folder: tyro.conf.Positional[Path]
    """Folder of a suite (OUT/SUITE), or of any runs."""
    watch: bool = False
    """Show it anew every few seconds, until Ctrl-C."""
    json: bool = False
    """As JSON, for scripts."""


def main(argv: list[str]) -> int:
    """Print the overview; 1 if a run has failed."""
    options = tyro.cli(Options, args=argv, prog="fire-rl status")
    from rich.console import Console
    from rich.live import Live

    from fire_rl.launch.overview import read_overview, render

    overview = read_overview(options.folder)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.json:
        print(overview.to_json())
    elif options.watch:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(render(read_overview(options.folder), console.height), refresh=True)
                time.sleep(2)
    else:
        console.print(render(overview))
    return 1 if overview.counts["failed"] else 0

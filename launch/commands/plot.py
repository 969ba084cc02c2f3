"""`fire-rl plot`: figures from the record alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Options:
    """Draw the figures of a folder of records."""

    folder: tyro.conf.Positional[Path]
    """Folder of records: what a command wrote to --out."""


def main(argv: list[str]) -> int:
    """Draw the figures and print their paths."""
    options = tyro.cli(Options, args=argv, prog="fire-rl plot")
    from fire_rl.launch.suite import plot

    print(plot(options.folder, options.folder / "curves.png"))
    return 0

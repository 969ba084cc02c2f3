"""`fire-rl report`: one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Write one self-contained HTML file on the records of a folder: figures, tables, failures."""

    folder: tyro.conf.Positional[Path]
    """Folder of records: what a command wrote to --out."""
    out: Path | None = None
    """The HTML file; default: FOLDER/report.html."""
    clock: Literal["agent_steps", "env_steps"] = "agent_steps"
    """Unit of the x axis of learning curves."""


def main(argv: list[str]) -> int:
    """Write the report and print its path."""
    options = tyro.cli(Options, args=argv, prog="fire-rl report")
    from fire_rl.launch.suite import panels_of
    from fire_rl.results.report import write_report

    print(write_report(options.folder, options.out, panels=panels_of(options.folder), clock=options.clock))
    return 0

"""`fire-rl export`: records as tables for other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Write the records of a folder as tidy tables, one per stream."""

    folder: tyro.conf.Positional[Path]
    """Folder of records: what a command wrote to --out."""
    out: Path | None = None
    """Folder of the tables; default: FOLDER/tables."""
    to: Literal["csv", "parquet"] = "csv"
    """Format; parquet needs `pip install pyarrow`."""


def main(argv: list[str]) -> int:
    """Write the tables and print their paths."""
    options = tyro.cli(Options, args=argv, prog="fire-rl export")
    from fire_rl.results.export import export

    print("\n".join(map(str, export(options.folder, options.out, options.to))))
    return 0

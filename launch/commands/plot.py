"""`fire-rl plot`: figures from the record alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Draw every figure that the records of a folder have the data for."""

    folder: tyro.conf.Positional[Path]
    """Folder of records: what a command wrote to --out."""
    out: Path | None = None
    """Folder of the images; default: FOLDER/figures."""
    formats: tuple[Literal["png", "pdf", "svg"], ...] = ("png",)
    """Image formats."""
    overlay: Literal["paper"] | None = None
    """`paper` draws the FIRE paper's own curves too, where it has some."""
    clock: Literal["agent_steps", "env_steps"] = "agent_steps"
    """Unit of the x axis of learning curves."""
    band: Literal["bootstrap", "t", "se", "sd"] = "bootstrap"
    """What is shaded around the mean over seeds: 95% bootstrap or t interval, standard error or deviation."""
    palette: Literal["paper", "colorblind"] = "paper"
    """The paper's colours, or ones for colour-blind readers."""


def main(argv: list[str]) -> int:
    """Draw the figures and print their paths."""
    options = tyro.cli(Options, args=argv, prog="fire-rl plot")
    from fire_rl.launch.suite import panels_of
    from fire_rl.results.figures import plot_directory

    images = plot_directory(
        options.folder,
        options.out,
        formats=options.formats,
        overlay=options.overlay,
        panels=panels_of(options.folder),
        clock=options.clock,
        band=options.band,
        palette=options.palette,
    )
    print("\n".join(map(str, images)))
    return 0

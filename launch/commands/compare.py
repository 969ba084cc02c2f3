"""`fire-rl compare`: two folders of records side by side."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Compare what two folders of records have in common: before and after a change, or ours and others'."""

    a: tyro.conf.Positional[Path]
    """Folder of records."""
    b: tyro.conf.Positional[Path]
    """Folder of records whose advantage over A is reported."""
    measure: Literal["final", "area"] = "final"
    """`final`: mean return over the last tenth of a run; `area`: mean return after the reset."""


def main(argv: list[str]) -> int:
    """Print a line per agent, environment and method; what only one of them has goes to stderr."""
    options = tyro.cli(Options, args=argv, prog="fire-rl compare")
    from fire_rl.results.compare import compare

    remark = partial(print, file=sys.stderr)
    for difference in compare(options.a, options.b, options.measure, on_remark=remark):
        print(difference)
    return 0

"""`fire-rl methods`: what there is to compare."""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Options:
    """List the reset methods."""


def main(argv: list[str]) -> int:
    """Print a line per method."""
    tyro.cli(Options, args=argv, prog="fire-rl methods")
    from fire_rl.method import method_class, method_names

    width = max(map(len, method_names()))
    for name in method_names():
        print(f"{name:<{width}} {(method_class(name).__doc__ or '').strip().splitlines()[0]}")
    return 0

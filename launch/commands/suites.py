"""`fire-rl suites`: the named benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Options:
    """List the built-in suites."""


def main(argv: list[str]) -> int:
    """Print a line per suite."""
    tyro.cli(Options, args=argv, prog="fire-rl suites")
    from fire_rl.launch.suite import load_suite, suite_names

    for name in suite_names():
        print(f"{name:<22} {load_suite(name).summary}")
    return 0

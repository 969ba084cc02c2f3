"""`fire-rl check-method`: does a method keep the reset contract?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from fire_rl.launch.contract import Breach
from fire_rl.plugins import load_plugins


@dataclass(frozen=True)
class Options:
    """Try a method on small DQN and SAC agents, and say in words what it breaks (docs/reset-contract.md)."""

    method: tyro.conf.Positional[str]
    """Name of the method; `a+b` for several at once."""
    plugin: tuple[Path, ...] = ()
    """Python files with methods of your own."""
    agents: tuple[Literal["dqn", "dqn-pixels", "sac"], ...] = ("dqn", "dqn-pixels", "sac")
    """Agents to try it on: DQN on vectors and on pixels, SAC."""
    preset: Literal["paper", "harmonised"] = "paper"
    """Where the method's options come from."""


def main(argv: list[str]) -> int:
    """Print a line per agent, and one per rule that is broken; returns 1 if there is any."""
    options = tyro.cli(Options, args=argv, prog="fire-rl check-method")
    load_plugins(options.plugin)
    import torch

    from fire_rl.launch.config import default_method
    from fire_rl.launch.contract import breaches
    from fire_rl.method import ResetMethod, method_class

    method_class(options.method)  # an unknown name is no breach
    torch.set_num_threads(1)  # faster than more on agents this small

    def make(kind: str) -> ResetMethod:
        return default_method(kind.partition("-")[0], options.method, options.preset)

    is_broken = False
    for kind in options.agents:
        found: list[Breach] = []
        verdict = "keeps the contract"
        try:
            found = breaches(make, kind)
        except ValueError as error:
            verdict = f"does not apply: {error}"
        is_broken |= bool(found)
        print(f"{kind:<11} {'BREAKS the contract' if found else verdict}", flush=True)
        for rule, details in _by_rule(found).items():
            more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
            print(f"{'':<11} {rule}: {details[0]}{more}", flush=True)
    return int(is_broken)


def _by_rule(found: list[Breach]) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {}
    for breach in found:
        rules.setdefault(breach.rule, []).append(breach.detail)
    return rules

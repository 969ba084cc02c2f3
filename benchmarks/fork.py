"""What forking saves: the wall time of `fire-humanoid` in small sizes, with trunks and without.

    python -m benchmarks.fork --agent-steps 1000

Runs the suite's five methods with `fire-rl bench`, one run at a time on one thread, twice each way (forked,
whole, whole, forked), and prints a Markdown table of the sums. With M methods and the reset at the middle,
(1 + M) / 2M of the steps remain. CPU time is that of all processes: trust it on a busy machine.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.options import positive

METHODS = ("none", "fire", "shrink-perturb", "full-reset", "plasticity-injection")
SUITE = """
agent = {{ name = "sac", actor_width = 32, critic_width = 64, critic_blocks = 1, learning_starts = {starts} }}
envs = [{envs}]
methods = [{methods}]
seeds = [0]
agent_steps = {agent_steps}
reset_at = [0.5]
eval_every = 0
wandb = "disabled"
"""


def run(file: Path, out: Path, *words: str) -> tuple[float, float]:
    """Wall and CPU seconds of `fire-rl bench FILE`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command = [sys.executable, "-m", "fire_rl.launch.cli", "bench", str(file), "--out", str(out)]
    subprocess.run([*command, "--workers", "1", *words], check=True, capture_output=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(agent_steps: int, envs: list[str]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Wall and CPU seconds of two suites with trunks, and of two without."""
    quoted = {
        "envs": ", ".join(f'"{env}"' for env in envs),
        "methods": ", ".join(f'"{method}"' for method in METHODS),
    }
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fork.toml"
        file.write_text(SUITE.format(agent_steps=agent_steps, starts=agent_steps // 20, **quoted))
        for turn, words in enumerate(((), ("--no-fork",), ("--no-fork",), ())):  # what slows the machine
            seconds.append(run(file, Path(folder) / str(turn), *words))  # slows both
    first, second, third, fourth = seconds
    forked, whole = (first[0] + fourth[0], first[1] + fourth[1]), (second[0] + third[0], second[1] + third[1])
    return forked, whole


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agent-steps", type=positive, default=1_000)
    parser.add_argument("--envs", nargs="+", default=["humanoid/h1-walk"])
    options = parser.parse_args()
    forked, whole = measure(options.agent_steps, options.envs)
    count = len(METHODS)
    print("| | wall, s | CPU, s |")
    print("|---|---|---|")
    print(f"| {count} whole runs | {whole[0]:.0f} | {whole[1]:.0f} |")
    print(f"| a trunk and {count} branches | {forked[0]:.0f} | {forked[1]:.0f} |")
    print(f"| ratio | {forked[0] / whole[0]:.2f} | {forked[1] / whole[1]:.2f} |")
    print(f"| steps: (1 + M) / 2M | {(1 + count) / (2 * count):.2f} | {(1 + count) / (2 * count):.2f} |")


if __name__ == "__main__":
    main()

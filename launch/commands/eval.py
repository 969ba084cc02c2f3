"""`fire-rl eval`: how well the agent of a recorded run plays."""

from __future__ import annotations

import os

# Gymnasium draws with pygame, which would greet on stdout, where our JSON goes, and look for a screen.
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class Options:
    """Play full episodes with the agent of a run's newest checkpoint; the record stays as it is."""

    run: tyro.conf.Positional[Path]
    """Folder of one run, finished or not: the one with the config.json."""
    episodes: int = 10
    """Full episodes."""
    seed: int = 0
    """All randomness of the evaluation derives from it; the run's own seed has no part in it."""
    video: Path | None = None
    """Film the first episode to this .mp4 file: always the first, whatever its return."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.seed < 0:
            raise ValueError("--episodes must be at least 1, and --seed at least 0")


def main(argv: list[str]) -> int:
    """Play, then print the returns with their mean, its interval and their median."""
    options = tyro.cli(Options, args=argv, prog="fire-rl eval")
    result = evaluate(options)
    print(json.dumps(result) if options.json else readable(result))
    return 0


def evaluate(options: Options) -> dict[str, Any]:
    """What `--json` prints.

    Raises:
        ValueError: when there is no run with an intact checkpoint, or no film can be made.
    """
    import numpy as np
    import torch

    from fire_rl.envs import VectorEnv
    from fire_rl.launch.evaluate import Evaluator
    from fire_rl.launch.film import Filmed
    from fire_rl.launch.recorded import load_agent
    from fire_rl.results.statistics import MIN_SEEDS, interval, mean

    recorded = load_agent(options.run, options.device)
    torch.set_num_threads(recorded.config.run.threads or torch.get_num_threads())

    def make_env(num_envs: int) -> VectorEnv:
        env = recorded.make_env(num_envs)
        return env if options.video is None else Filmed(env, options.video)

    evaluator = Evaluator(make_env, options.episodes)
    try:
        returns = evaluator(recorded.agent, np.random.SeedSequence(options.seed))
    finally:
        evaluator.close()
    estimate = interval(mean, [np.array(returns)])
    few = len(returns) < MIN_SEEDS
    return {
        "run": str(options.run),
        "agent": recorded.run.agent,
        "env": recorded.run.env,
        "method": recorded.run.method,
        "agent_steps": recorded.agent.agent_steps,
        "total_agent_steps": recorded.config.run.agent_steps,
        "checkpoint": str(recorded.checkpoint),
        "seed": options.seed,
        "episodes": options.episodes,
        "mean": estimate.value,
        "interval": None if few else [estimate.lower, estimate.upper],
        "median": float(np.median(returns)),
        "returns": returns,
        "video": None if options.video is None else str(options.video),
    }


def readable(result: dict[str, Any]) -> str:
    """The result of `evaluate` as lines for people."""
    interval = "too few episodes for an interval"
    if result["interval"] is not None:
        interval = "95% bootstrap interval {:.6g} to {:.6g}".format(*result["interval"])
    lines = [
        f"{result['agent']} with {result['method']} on {result['env']}, "
        f"agent step {result['agent_steps']} of {result['total_agent_steps']}",
        f"episodes {result['episodes']}, seed {result['seed']}",
        f"mean     {result['mean']:.6g} ({interval})",
        f"median   {result['median']:.6g}",
        f"returns  {' '.join(f'{value:.6g}' for value in result['returns'])}",
    ]
    if result["video"] is not None:
        lines.append(f"film     {result['video']}, of the first episode")
    return "\n".join(lines)

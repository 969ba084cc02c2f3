"""`fire-rl measure`: how plastic the networks of a recorded run are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    import numpy as np

    from fire_rl.launch.recorded import RecordedAgent


@dataclass(frozen=True)
class Options:
    """Measures of plasticity of a run's newest checkpoint; the record stays as it is."""

    run: tyro.conf.Positional[Path]
    """Folder of one run, finished or not: the one with the config.json."""
    batch_size: int = 2_048
    """Transitions that are measured on; ranks want more of them than there are features."""
    curvature_steps: int = 50
    """Hessian-vector products at most, on 256 transitions; 0 leaves the curvature out."""
    refit_steps: int = 1_000
    """Steps of the refit probe: a copy of each network learns new targets; 0 leaves it out."""
    seed: int = 0
    """All randomness of the measurement derives from it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or min(self.curvature_steps, self.refit_steps, self.seed) < 0:
            raise ValueError("--batch-size must be at least 1, and no number may be negative")


def main(argv: list[str]) -> int:
    """Measure, then print a table or JSON."""
    options = tyro.cli(Options, args=argv, prog="fire-rl measure")
    result = measured(options)
    print(json.dumps(result) if options.json else readable(result))
    return 0


def measured(options: Options) -> dict[str, Any]:
    """What `--json` prints.

    Raises:
        ValueError: when there is no run with an intact checkpoint.
    """
    import numpy as np
    import torch

    from fire_rl.agents.measuring import measure
    from fire_rl.launch.recorded import load_agent

    slots = 2 * options.batch_size + 8  # an episode's last frame takes a slot, too
    recorded = load_agent(options.run, options.device, slots=slots, with_memory=True)
    torch.set_num_threads(recorded.config.run.threads or torch.get_num_threads())
    rng, play = (np.random.default_rng(s) for s in np.random.SeedSequence(options.seed).spawn(2))
    agent = recorded.agent
    has_memory = len(agent.memory) > 0
    steps = agent.agent_steps
    if not has_memory:
        _play(recorded, options.batch_size, play)
    measures = measure(agent, rng, options.batch_size, options.curvature_steps, options.refit_steps)
    return {
        "run": str(options.run),
        "agent": recorded.run.agent,
        "env": recorded.run.env,
        "method": recorded.run.method,
        "agent_steps": steps,
        "total_agent_steps": recorded.config.run.agent_steps,
        "checkpoint": str(recorded.checkpoint),
        "seed": options.seed,
        "batch_size": options.batch_size,
        "data": "replay memory" if has_memory else "played",
        "measures": measures,
    }


def _play(recorded: RecordedAgent, agent_steps: int, rng: np.random.Generator) -> None:
    """Fill the agent's replay memory with what its evaluation policy does in a fresh environment."""
    import numpy as np

    env, agent = recorded.make_env(1), recorded.agent
    observation = env.reset(np.random.SeedSequence(int(rng.integers(2**62))))
    for _ in range(agent_steps):
        action = agent.evaluate(observation, rng)
        step = env.step(action)
        agent.memory.begin(observation, action)
        agent.memory.complete(step.reward, step.terminated, step.truncated, step.final_observation)
        observation = step.observation
    env.close()


def readable(result: dict[str, Any]) -> str:
    """The result of `measured` as a table: a row per measure, a column per network."""
    data = f"on {result['batch_size']} transitions from the replay memory"
    if result["data"] == "played":
        data = (
            f"on {result['batch_size']} transitions that the agent's evaluation policy played just now: "
            "this checkpoint holds no replay memory"
        )
    learners: dict[str, dict[str, float]] = {}
    for key, value in result["measures"].items():
        learner, _, name = key.rpartition("/")
        learners.setdefault(learner, {})[name] = value
    names = list(dict.fromkeys(name for of in learners.values() for name in of))
    width = max(map(len, names))
    return "\n".join(
        [
            f"{result['agent']} with {result['method']} on {result['env']}, "
            f"agent step {result['agent_steps']} of {result['total_agent_steps']}",
            f"{data}, seed {result['seed']}",
            "",
            f"{'':<{width}}" + "".join(f"{learner:>14}" for learner in learners),
            *(
                f"{name:<{width}}" + "".join(f"{of[name]:>14.5g}" for of in learners.values())
                for name in names
            ),
        ]
    )

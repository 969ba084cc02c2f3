"""Wall time of a whole suite, projected from the parts of a step, and a short real run to compare it with.

    python -m benchmarks.suite fire-humanoid --stack 5
    python -m benchmarks.suite fire-atari --stack 5 --agent-steps 8000

First the loop of `fire-rl train` trains the suite's first runs for `--agent-steps`, with constants and replay
memories of the suite but for a shorter random phase, without resets and evaluations. Then the parts of a step
are timed one by one. The projection is their sum, of environments that step in the background and of updates
the longer one; the suite's time is that of all its steps in one process, without evaluations.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `fire-rl` does, before torch is imported

import torch

from benchmarks.options import positive
from benchmarks.timing import machine, now
from fire_rl.agents.program import set_precision
from fire_rl.agents.stack import Stack
from fire_rl.envs.humanoid import HumanoidVectorEnv
from fire_rl.envs.workers import ProcessEnvs
from fire_rl.launch.config import RunConfig, members
from fire_rl.launch.evaluate import Evaluator
from fire_rl.launch.plan import make_plan
from fire_rl.launch.run import Run, make_envs
from fire_rl.launch.suite import load_suite
from fire_rl.launch.train import train
from fire_rl.methods.none import NoReset
from fire_rl.results.store import load_run

PARTS = ("act", "environment", "replay", "updates")
FEWEST = 160  # agent steps


def shortened(config: RunConfig, agent_steps: int, stack: int, device: str, threads: int) -> RunConfig:
    """A stack of runs like `config`, of which the last three quarters learn and act by the policy."""
    run = replace(
        config.run,
        agent_steps=agent_steps,
        stack=stack,
        method="none",
        label="",
        reset_at=(),
        eval_every=0,
        log_every=max(1, agent_steps // 16),
        wandb="disabled",
        device=device,
        threads=threads,
    )
    constants = {"learning_starts": agent_steps // 4}
    if config.run.agent == "dqn":
        constants["epsilon_decay"] = 1
    return replace(config, run=run, agent=replace(config.agent, **constants), method=NoReset())


def real_rate(config: RunConfig) -> float:
    """Agent steps per second of all runs together, over the last half of real ones."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, run=replace(config.run, out=Path(folder)))
        if code := train(config):
            sys.exit(code)
        rows = load_run(members(config)[0].path).rows("timing")
    late = [row["interval_seconds"] for row in rows if 2 * row["agent_steps"] > config.run.agent_steps]
    return config.run.stack * config.run.log_every / float(statistics.median(late))


def parts(config: RunConfig) -> tuple[dict[str, float], bool]:
    """Milliseconds per step of all runs by part; whether their environments step in the background."""
    evaluator = Evaluator(lambda num_envs: make_envs(config, num_envs), 1)
    runs = [Run(member, evaluator) for member in members(config)]
    device, first = runs[0].device, runs[0].agent
    stack = Stack([run.agent for run in runs], config.run.compile)
    observations = [run.observation for run in runs]
    times: dict[str, list[float]] = defaultdict(list)
    while first.agent_steps < config.run.agent_steps:
        marks = [now(device)]
        actions = stack.act(observations)
        marks.append(now(device))
        for run, action in zip(runs, actions, strict=True):
            run.env.send(action)
        steps = [run.env.receive() for run in runs]
        marks.append(now(device))
        for run, action, step in zip(runs, actions, steps, strict=True):
            run.agent.begin(run.observation, action)
            run.agent.observe(step.reward, step.terminated, step.truncated, step.final_observation)
            run.observation = step.observation
        observations = [run.observation for run in runs]
        marks.append(now(device))
        for _ in range(first.updates_due()):
            stack.update()
        marks.append(now(device))
        if 2 * first.agent_steps > config.run.agent_steps:
            for part, (start, end) in zip(PARTS, pairwise(marks), strict=True):
                times[part].append(1e3 * (end - start))
    in_background = isinstance(runs[0].env, (HumanoidVectorEnv, ProcessEnvs))
    for run in runs:
        run.close()
    return {part: statistics.median(of) for part, of in times.items()}, in_background


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", help="its name, or a TOML file")
    parser.add_argument("--stack", type=int, default=1)
    parser.add_argument("--agent-steps", type=int, default=4_000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    options = parser.parse_args(words)
    if options.agent_steps < FEWEST:
        parser.error(f"--agent-steps must be at least {FEWEST}: the last half of them is timed")
    try:
        configs = load_suite(options.suite).configs(Path("runs"))
        config = shortened(configs[0], options.agent_steps, options.stack, options.device, options.threads)
        device = config.torch_device()
    except ValueError as error:
        parser.error(str(error))
    plan = make_plan(configs, Path("runs"))
    print(f"{machine(device)}; {options.suite}, {config.run.env} x {options.stack}\n")

    real = real_rate(config)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB on Linux
    gpu = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the replay memories of `parts` go where there is room
    set_precision(config.run.precision)
    ms, in_background = parts(config)
    print("| part | ms per step of all |\n|---|---|")
    for part, value in ms.items():
        print(f"| {part} | {value:.2f} |")
    waiting = max if in_background else lambda *both: sum(both)
    step = ms["act"] + ms["replay"] + waiting(ms["environment"], ms["updates"])
    projected = 1e3 * options.stack * config.run.num_envs / step
    hours = [plan.agent_steps / rate / 3600 for rate in (projected, real)]
    print(
        f"\nProjected {projected:,.1f} agent steps/s, measured {real:,.1f}: {real / projected:.2f} of it.\n"
        f"{options.suite}: {plan.agent_steps:,} agent steps in {hours[0]:,.1f} h as projected, "
        f"{hours[1]:,.1f} h as measured.\n"
        f"Peak memory of the run: {host / 1e9:.1f} GB on the host, {gpu / 1e9:.1f} GB on the GPU."
    )


if __name__ == "__main__":
    main()

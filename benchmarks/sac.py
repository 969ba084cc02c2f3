"""Speed of SAC at the paper's sizes: one update, its bare matrix products, acting, and the environment.

    python -m benchmarks.sac --threads 2

Prints a Markdown table. "plain loop" is the update of `benchmarks/baselines/sac.py`. The floor is the matrix
products of one update alone, in their fastest layout and without allocation. All take turns, so that a busy
machine slows them alike. `--compile` adds a row with torch.compile on the three losses, which on a GPU is
also one CUDA graph per update.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.baselines.sac import PlainSAC
from benchmarks.options import add_precision, known_env, positive
from benchmarks.timing import GRAPH_WARM_UP, in_turns, machine, median_ratio, now
from fire_rl import fire_
from fire_rl.agents.program import Compile, set_precision
from fire_rl.agents.sac import SAC, SACConfig
from fire_rl.agents.simba import EnsembleLinear
from fire_rl.envs import make_env

SIZES = SACConfig(replay_capacity=20_000, learning_starts=500)  # the paper's, with a short memory

Product = tuple[Tensor, Tensor, Tensor]  # two operands (E, m, k) and (E, k, n), and where the result goes


def products(agent: SAC) -> list[Product]:
    """The matrix products of one update, and nothing else of it."""
    batch = agent.config.batch_size
    found: list[Product] = []
    # Forward passes; whether the gradient of the network's own input is needed by the actor's step.
    for learner, forwards, is_differentiated in ((agent.actor, 2, False), (agent.critic, 3, True)):
        for name, layer in learner.online.named_modules():
            if not isinstance(layer, (nn.Linear, EnsembleLinear)):
                continue
            w = layer.weight.detach()
            w = w if w.ndim == 3 else w[None]
            x, y = w.new_ones(len(w), batch, w.shape[2]), w.new_ones(len(w), batch, w.shape[1])
            is_input = name in ("encoder.input", "encoder.linear0")
            found += forwards * [(x, w.mT, torch.empty_like(y))]
            found += (is_differentiated + (not is_input)) * [(y, w, torch.empty_like(x))]
            found += [(y.mT, x, torch.empty_like(w))]
    return found


def gflop(work: list[Product]) -> float:
    """Floating-point operations in billions."""
    return sum(2e-9 * len(a) * a.shape[1] * a.shape[2] * b.shape[2] for a, b, _ in work)


def trained_a_little(
    name: str, config: SACConfig, device: torch.device, compile: Compile = "off"
) -> tuple[SAC, dict[str, float]]:
    """An agent with real transitions in its memory; milliseconds of acting and of the environment's step."""
    env = make_env(name, 1)
    spaces = env.observation_space, env.action_space
    agent = SAC(*spaces, 1, config, np.random.SeedSequence(0), device, 500, compile=compile)
    observation = env.reset(np.random.SeedSequence(1))
    times: dict[str, list[float]] = {"act": [], "env": []}
    for _ in range(2 * config.learning_starts):
        start = now(device)
        action = agent.act(observation)
        middle = now(device)
        step = env.step(action)
        times["env"].append(now(device) - middle)
        times["act"].append(middle - start)
        agent.begin(observation, action)
        agent.observe(step.reward, step.terminated, step.truncated, step.final_observation)
        observation = step.observation
    env.close()
    half = config.learning_starts  # the second half acts by the policy
    return agent, {key: 1e3 * statistics.median(values[half:]) for key, values in times.items()}


def contest(
    name: str, rounds: int, device: torch.device, compile: bool = False, config: SACConfig = SIZES
) -> tuple[dict[str, list[float]], SAC, dict[str, float]]:
    """Milliseconds of the floor, our update (also compiled, if asked for) and the plain one, in turns.

    Also returns our agent, and milliseconds of acting and of the environment's step.
    """
    agent, ms = trained_a_little(name, config, device)
    work = products(agent)
    observations = agent.memory.layout.frame_shape[0]
    plain = PlainSAC(observations, agent.actions, config, config.replay_capacity, device)
    contestants: dict[str, Callable[[], object]] = {
        "floor": lambda: [torch.bmm(a, b, out=out) for a, b, out in work],
        "eager": agent.update,
        "plain loop": plain.update,
    }
    if compile:
        contestants["compiled"] = trained_a_little(name, config, device, "on")[0].update
    return in_turns(contestants, rounds, device, GRAPH_WARM_UP), agent, ms


def fire_in_updates(agent: SAC, rounds: int, device: torch.device) -> list[float]:
    """What projecting all layers of actor and critics costs, in updates of `agent`, in turns."""

    def fire() -> float:
        copies = [copy.deepcopy(learner.online) for learner in agent.learners.values()]
        return sum(fire_(module).seconds for module in copies)

    ratios = []
    for _ in range(rounds + 1):
        seconds, start = fire(), now(device)
        agent.update()
        ratios.append(seconds / (now(device) - start))
    return ratios[1:]  # the first warms up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=20)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--env", type=known_env, default="humanoid/h1-walk")
    parser.add_argument("--compile", action="store_true")
    add_precision(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_precision(options.precision)
    for device in [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available():
        times, agent, ms = contest(options.env, options.rounds, device, options.compile)
        work = gflop(products(agent))
        floor = statistics.median(times.pop("floor"))
        print(f"{machine(device)}; {options.env}, median of {options.rounds}\n")
        print(f"Floor: {work:.1f} GFLOP in {floor:.0f} ms, {1e3 * work / floor:.0f} GFLOP/s.")
        print(f"Acting: {ms['act']:.2f} ms. Environment: {ms['env']:.2f} ms per agent step.\n")
        print("| update | ms | best ms | updates/s | speed | of the floor | environment's share of a run |")
        print("|---|---|---|---|---|---|---|")
        for name, of_update in times.items():
            update = statistics.median(of_update)
            speed = median_ratio(times["plain loop"], of_update)
            whole = agent.config.updates_per_agent_step * update + ms["act"] + ms["env"]
            print(
                f"| {name} | {update:.1f} | {min(of_update):.1f} | {1e3 / update:.1f} | {speed:.2f}x "
                f"| {floor / update:.2f} | {ms['env'] / whole:.3f} |"
            )
        print()


if __name__ == "__main__":
    main()

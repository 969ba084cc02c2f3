"""Speed of the Atari environments: ours against Gymnasium's wrappers and ale-py's C++ vector environment.

    python -m benchmarks.atari --games Asterix BeamRider DemonAttack --num-envs 4

All contestants stay open and take turns in short bursts, so that whatever else the machine does hits them
alike; medians over the bursts. CPU time, per agent step of one environment, counts this process and all below
it, and is the figure to trust on a busy machine; "in caller" is this process's share. Actions are random and
drawn beforehand. A second table says where the time of our agent step goes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import cv2
import gymnasium as gym
import numpy as np

from benchmarks.baselines import atari as baselines
from benchmarks.options import known_game, positive
from benchmarks.timing import CPU, cpu_seconds, machine, median_ratio
from fire_rl.envs import atari
from fire_rl.envs.atari import GAME_SETS, PROTOCOLS, AtariGame, rom_name
from fire_rl.envs.atari_game import SIZE
from fire_rl.envs.vector import VectorEnv

FRAMES_PER_AGENT_STEP = 4
OURS = "ours"
CPP = "ale-py's C++ environment, 1 thread"
REFERENCE = "authors' wrappers, a process each"

Step = Callable[[np.ndarray[Any, Any]], object]


@dataclass
class Contestant:
    """One implementation and what was measured of it, a number per burst."""

    step: Step
    close: Callable[[], None]
    agent_steps_per_second: list[float] = field(default_factory=list)
    cpu_ms_per_agent_step: list[float] = field(default_factory=list)
    cpu_ms_of_caller: list[float] = field(
        default_factory=list
    )  # the part spent by the process that calls `step`


def contestants(game: str, num_envs: int, names: Collection[str] = ()) -> dict[str, Contestant]:
    """Implementations of `game`, started: those of these names, or all."""
    authors = functools.partial(baselines.authors_stack, game)
    gymnasium = functools.partial(baselines.gymnasium_stack, game)
    ours: dict[str, Callable[[], VectorEnv]] = {OURS: lambda: atari.make(game, num_envs)}
    for k in sorted({1, min(2, num_envs)}):
        ours[f"ours, {k} worker{'s' * (k > 1)}"] = functools.partial(atari.make, game, num_envs, workers=k)
    others: dict[str, Callable[[], gym.vector.VectorEnv[Any, Any, Any]]] = {
        CPP: lambda: baselines.native(game, num_envs, threads=1),
        "ale-py's C++ environment, all cores": lambda: baselines.native(game, num_envs, threads=0),
        "Gymnasium's wrappers, one process": lambda: baselines.in_this_process(gymnasium, num_envs),
        "Gymnasium's wrappers, a process each": lambda: baselines.in_processes(gymnasium, num_envs),
        "authors' wrappers, one process": lambda: baselines.in_this_process(authors, num_envs),
        REFERENCE: lambda: baselines.in_processes(authors, num_envs),
    }
    found = {}
    for name, make in ours.items():
        if not names or name in names:
            envs = make()
            envs.reset(np.random.SeedSequence(0))
            found[name] = Contestant(envs.step, envs.close)
    for name, make_other in others.items():
        if not names or name in names:
            vector = make_other()
            vector.reset(seed=0)
            found[name] = Contestant(vector.step, vector.close)
    return found


def burst(contestant: Contestant, actions: np.ndarray[Any, Any], seconds: float) -> None:
    """Step for so long and note the speed."""
    steps, cpu, cpu_here, start = 0, cpu_seconds(), time.process_time(), time.perf_counter()
    while (wall := time.perf_counter() - start) < seconds:
        contestant.step(actions[steps % len(actions)])
        steps += 1
    agent_steps = steps * actions.shape[1]
    contestant.agent_steps_per_second.append(agent_steps / wall)
    contestant.cpu_ms_of_caller.append(1000 * (time.process_time() - cpu_here) / agent_steps)
    contestant.cpu_ms_per_agent_step.append(1000 * (cpu_seconds() - cpu) / agent_steps)


def measure(
    game: str, num_envs: int, rounds: int, seconds: float, names: Collection[str] = ()
) -> dict[str, Contestant]:
    """The contestants of these names, or all, with what was measured of them, closed."""
    found = contestants(game, num_envs, names)
    num_actions = AtariGame(rom_name(game), PROTOCOLS["fire-paper"]).num_actions
    actions = np.random.default_rng(0).integers(num_actions, size=(4096, num_envs))
    for contestant in found.values():
        burst(contestant, actions, seconds)  # warm-up
        contestant.agent_steps_per_second.clear()
        contestant.cpu_ms_per_agent_step.clear()
        contestant.cpu_ms_of_caller.clear()
    for _ in range(rounds):
        for contestant in found.values():
            burst(contestant, actions, seconds)
    for contestant in found.values():
        contestant.close()
    return found


def row(contestant: Contestant, reference: Contestant) -> str:
    """Medians, and the median over rounds of the ratios to the reference in the same round."""
    speed = statistics.median(contestant.agent_steps_per_second)
    cpu = statistics.median(contestant.cpu_ms_per_agent_step)
    caller = statistics.median(contestant.cpu_ms_of_caller)
    wall_ratio = median_ratio(contestant.agent_steps_per_second, reference.agent_steps_per_second)
    cpu_ratio = median_ratio(reference.cpu_ms_per_agent_step, contestant.cpu_ms_per_agent_step)
    frames = speed * FRAMES_PER_AGENT_STEP
    return f"{speed:,.0f} | {frames:,.0f} | {wall_ratio:.1f}x | {cpu:.2f} | {cpu_ratio:.1f}x | {caller:.2f}"


def parts(game: str, steps: int = 2000) -> dict[str, float]:
    """Microseconds of an agent step of ours in one process, whole and by what it calls: medians.

    Emulation is four frames, grey the two screens that are looked at, resize what is observed of them.
    """
    whole, played = (AtariGame(rom_name(game), PROTOCOLS["fire-paper"]) for _ in range(2))
    for each in (whole, played):
        each.reset(np.random.SeedSequence(0))
    actions = np.random.default_rng(0).integers(whole.num_actions, size=steps).tolist()
    ale, screen = played._ale, np.zeros(played._ale.getScreenDims(), np.uint8)
    times: dict[str, list[float]] = {"whole": [], "emulation": [], "grey": [], "resize": []}
    for action in actions:
        marks = [time.perf_counter()]
        ended = any(whole.step(action)[1:])
        marks.append(time.perf_counter())
        for _ in range(FRAMES_PER_AGENT_STEP):
            ale.act(played._actions[action])
        marks.append(time.perf_counter())
        for _ in range(2):
            ale.getScreenGrayscale(screen)
        marks.append(time.perf_counter())
        cv2.resize(screen, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        marks.append(time.perf_counter())
        for part, (start, end) in zip(times, pairwise(marks), strict=True):
            times[part].append(1e6 * (end - start))
        if ended:
            whole.start_episode()
        if ale.game_over():
            ale.reset_game()
    return {part: statistics.median(of) for part, of in times.items()}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Speed of the Atari environments.")
    parser.add_argument("--games", type=known_game, nargs="+", default=GAME_SETS["fire"])
    parser.add_argument("--num-envs", type=positive, default=4)
    parser.add_argument("--rounds", type=positive, default=8, help="bursts of each contestant")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a burst")
    args = parser.parse_args()
    if args.seconds <= 0:
        parser.error("--seconds must be more than 0")
    print("| game | environment | agent steps/s | frames/s | speed | CPU ms/step | less CPU | in caller |")
    print("|---|---|---|---|---|---|---|---|")
    for game in args.games:
        found = measure(game, args.num_envs, args.rounds, args.seconds)
        for name, contestant in found.items():
            print(f"| {game} x {args.num_envs} | {name} | {row(contestant, found[REFERENCE])} |", flush=True)
    print("\n| game | agent step, µs | emulation | grey | resize |\n|---|---|---|---|---|")
    for game in args.games:
        print(f"| {game} | {' | '.join(f'{us:.0f}' for us in parts(game).values())} |")
    print(f"\n{machine(CPU, 'ale-py', 'gymnasium')}")


if __name__ == "__main__":
    main()

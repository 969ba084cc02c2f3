"""Speed of the humanoid environments against the bare physics that they contain.

    python -m benchmarks.humanoid --tasks h1-walk --threads 1 2 4 --workers 1 2 4

First one copy, then several: the bare physics on 1, 2, 4 threads, the environment on as many threads, and in
as many worker processes.
In every burst all contestants play the same actions from the same states, so that their physics is the same:
the bare loop calls `mj_step` on the controls that the environments would compute, and nothing else. Bursts
end before any episode does. Contestants take turns, so that whatever else the machine does hits them alike.
With one copy CPU time counts, with several wall time; medians over the rounds, ratios within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from benchmarks.options import positive
from benchmarks.timing import CPU, machine, median_ratio
from fire_rl.envs import humanoid
from fire_rl.envs.humanoid import TASK_SETS, TASKS, HumanoidEnv, HumanoidVectorEnv
from fire_rl.envs.humanoid.scenes import Contacts
from fire_rl.envs.humanoid.simulation import PHYSICS_STEPS, STATE, Simulation

ACTION_REPEAT = 2
LONGEST_BURST = 25  # agent steps

Starts = list[dict[str, Any]]  # a simulation's state per copy
Actions = NDArray[np.float32]  # (agent steps, copies, 19)


class Bare:
    """`mj_step` on recorded controls, with `threads` threads that each take a share of the copies."""

    def __init__(self, task: str, copies: int, contacts: Contacts, threads: int) -> None:
        self.reference = Simulation(TASKS[task], contacts)
        self.model = self.reference.model
        self.data = [mujoco.MjData(self.model) for _ in range(copies)]
        self.shares = [range(t, copies, threads) for t in range(threads)]
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def prepare(self, starts: Starts, actions: Actions) -> Callable[[], object]:
        for data, start in zip(self.data, starts, strict=True):
            mujoco.mj_setState(self.model, data, start["physics"], STATE)
        controls = self.reference.control(actions)

        def play(share: range) -> None:
            for control in controls:
                for i in share:
                    self.data[i].ctrl[:] = control[i]
                    for _ in range(ACTION_REPEAT):
                        mujoco.mj_step(self.model, self.data[i], PHYSICS_STEPS)

        if self.pool is None:
            return lambda: play(self.shares[0])
        pool = self.pool
        return lambda: list(pool.map(play, self.shares))


class Single:
    """The Gymnasium environment, as `gymnasium.make` returns it; the action repeated by the caller."""

    def __init__(self, task: str, contacts: Contacts) -> None:
        self.env = gym.make(f"fire_rl/{task}-v0", contacts=contacts)

    def prepare(self, starts: Starts, actions: Actions) -> Callable[[], object]:
        raw = self.env.unwrapped
        assert isinstance(raw, HumanoidEnv)
        self.env.reset()
        raw.simulation.load_state_dict(starts[0])

        def play() -> None:
            for action in actions[:, 0]:
                for _ in range(ACTION_REPEAT):
                    self.env.step(action)

        return play


class Vector:
    """The environment of the training loop, on `threads` threads or in `workers` processes."""

    def __init__(self, task: str, copies: int, contacts: Contacts, threads: int, workers: int = 0) -> None:
        self.envs = humanoid.make(
            task, copies, contacts=contacts, action_repeat=ACTION_REPEAT, threads=threads, workers=workers
        )

    def prepare(self, starts: Starts, actions: Actions) -> Callable[[], object]:
        self.envs.reset(np.random.SeedSequence(0))
        state = self.envs.state_dict()
        envs = [{**env, "simulation": start} for env, start in zip(state["envs"], starts, strict=True)]
        self.envs.load_state_dict({**state, "envs": envs})

        def play() -> None:
            for action in actions:
                self.envs.step(action)

        return play


Contestant = Bare | Single | Vector


def draw_burst(envs: HumanoidVectorEnv, rng: np.random.Generator) -> tuple[Starts, Actions]:
    """Fresh episodes and random actions up to the step before the first of them ends."""
    while True:
        envs.reset(np.random.SeedSequence(int(rng.integers(2**32))))
        starts = [part["simulation"] for part in envs.state_dict()["envs"]]
        actions = rng.uniform(-1, 1, (LONGEST_BURST, envs.num_envs, 19)).astype(np.float32)
        steps = 0
        while steps < LONGEST_BURST and not envs.step(actions[steps]).finished.any():
            steps += 1
        if steps >= 2:
            return starts, actions[:steps]


def measure(
    task: str, found: dict[str, Contestant], copies: int, contacts: Contacts, rounds: int, bursts: int
) -> dict[str, list[float]]:
    """Env steps per second of each contestant, one figure per round."""
    clock = time.thread_time if copies == 1 else time.perf_counter
    scout = HumanoidVectorEnv(task, copies, contacts=contacts, action_repeat=ACTION_REPEAT)
    rng = np.random.default_rng(0)
    speed: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        seconds, env_steps = dict.fromkeys(found, 0.0), 0
        for _ in range(bursts):
            starts, actions = draw_burst(scout, rng)
            env_steps += actions.shape[0] * copies * ACTION_REPEAT
            for name in rng.permutation(list(found)):
                found[name].prepare(starts, actions)()  # warms caches and threads up after the others' turn
                play = found[name].prepare(starts, actions)
                begin = clock()
                play()
                seconds[name] += clock() - begin
        for name, total in seconds.items():
            speed[name].append(env_steps / total)
    return speed


def rows(task: str, speed: dict[str, list[float]], bare: str) -> list[str]:
    """Medians, and medians of the ratios to the bare loop of the same round."""
    table = []
    for name, figures in speed.items():
        of_bare = median_ratio(figures, speed[bare])
        table.append(f"| {task} | {name} | {statistics.median(figures):.0f} | {of_bare:.2f} |")
    return table


def one_copy(task: str, contacts: Contacts) -> dict[str, Contestant]:
    """The bare physics first, as in `several_copies`: to it the others are compared."""
    return {
        "bare `mj_step`": Bare(task, 1, contacts, 1),
        "Gymnasium environment": Single(task, contacts),
        "vector environment, 1 copy": Vector(task, 1, contacts, 1),
    }


def several_copies(
    task: str, n: int, contacts: Contacts, threads: list[int], workers: list[int]
) -> dict[str, Contestant]:
    """`n` copies on each number of threads and of workers."""
    found: dict[str, Contestant] = {}
    for k in threads:
        found[f"bare `mj_step`, {n} copies, threads: {k}"] = Bare(task, n, contacts, k)
    for k in threads:
        found[f"vector environment, {n} copies, threads: {k}"] = Vector(task, n, contacts, k)
    for k in workers:
        found[f"vector environment, {n} copies, workers: {k}"] = Vector(task, n, contacts, 1, k)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASK_SETS["fire"], choices=list(TASKS), metavar="TASK")
    parser.add_argument("--contacts", default="published", choices=["published", "current"])
    parser.add_argument("--num-envs", type=positive, default=8, help="copies in the second comparison")
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2], help="1 is always among them")
    parser.add_argument("--workers", type=positive, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--bursts", type=positive, default=20, help="per round")
    args = parser.parse_args()
    n, threads = args.num_envs, sorted({1, *args.threads})
    print("| task | | env steps/s | of bare |\n|---|---|---|---|")
    for task in args.tasks:
        single = one_copy(task, args.contacts)
        many = several_copies(task, n, args.contacts, threads, args.workers)
        for found, copies, bursts in ((single, 1, args.bursts), (many, n, max(1, args.bursts // n))):
            speed = measure(task, found, copies, args.contacts, args.rounds, bursts)
            print("\n".join(rows(task, speed, bare=next(iter(found)))), flush=True)
        for contestant in many.values():
            if isinstance(contestant, Vector):
                contestant.envs.close()
    print(f"\n{machine(CPU, 'mujoco')}; contacts {args.contacts}")


if __name__ == "__main__":
    main()

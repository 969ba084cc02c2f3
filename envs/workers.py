"""Worker processes: any `VectorEnv` whose copies do not depend on each other, split over several processes.

What every agent step exchanges lies in shared memory; an empty message through a pipe says that it is there.
What is rare goes through the pipe itself: episodes that ended, states, errors. Workers are started afresh
("spawn"), so they inherit neither torch's threads nor open files; they leave when their pipe closes, which
also happens when the parent is killed. They ignore the signals that stop a run, because the parent wants
their state when it stops. As for every use of `multiprocessing`, a script that starts workers needs the guard
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import multiprocessing
import multiprocessing.util
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from fire_rl.envs.vector import Array, Episode, Step, VectorEnv, check_num_envs

MakePart = Callable[[int], VectorEnv]
"""Builds a `VectorEnv` of so many copies; must be picklable. Its state must have a list `envs`, one entry per
copy, and be the same for every part otherwise; environment i must take the i-th of `child_seeds`."""

_CLOSE_SECONDS = 5.0  # patience with a worker that was told to leave


class WorkerError(RuntimeError):
    """A worker process died."""


class ProcessEnvs:
    """`num_envs` environments in `workers` processes; results are those of one process."""

    def __init__(self, make_part: MakePart, num_envs: int, workers: int) -> None:
        """Start the workers. ValueError for an impossible number of them."""
        self.num_envs = check_num_envs(num_envs)
        if not 1 <= workers <= num_envs:
            raise ValueError(f"{num_envs} environments need 1 to {num_envs} worker processes, not {workers}")
        template = make_part(1)  # also: a mistake in its arguments is raised here, not in a worker
        self.observation_space = template.observation_space
        self.action_space = template.action_space
        self.action_repeat = template.action_repeat
        self.max_episode_agent_steps = template.max_episode_agent_steps
        template.close()

        bounds = [num_envs * k // workers for k in range(workers + 1)]
        self._parts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []
        self._started = False
        # Before multiprocessing's own exit handler, which would wait for workers that wait for us.
        self._finalizer = multiprocessing.util.Finalize(
            self, _shut_down, (self._processes, self._pipes), exitpriority=10
        )
        context = multiprocessing.get_context("spawn")
        shared = _Shared(self.observation_space, self.action_space, num_envs)
        for part in self._parts:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, make_part, part, shared), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        self._arrays = shared.arrays()

    def reset(self, seed: np.random.SeedSequence) -> Array:
        """Start every environment afresh. See `VectorEnv.reset`."""
        first = seed.n_children_spawned
        self._tell("reset", [_with_spawned(seed, first + part.start) for part in self._parts])
        self._answers()
        return self._arrays.observation.copy()

    def step(self, actions: Array) -> Step:
        """Take one agent step in every environment. See `VectorEnv.step`."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Array) -> None:
        """Begin an agent step; the workers take it while the caller goes on."""
        actions = np.asarray(actions)
        if len(actions) != self.num_envs:
            raise ValueError(f"there are {self.num_envs} environments but {len(actions)} actions")
        ours = self._arrays.action
        if (actions.shape, actions.dtype) == (ours.shape, ours.dtype):
            ours[:] = actions
            self._tell("step", None)
        else:  # the environments say what is wrong with them, or take them
            self._tell("step", [actions[part] for part in self._parts])
        self._started = True

    def receive(self) -> Step:
        """Wait for the step begun by `send`."""
        if not self._started:
            raise RuntimeError("receive() without a send() before it")
        self._started = False
        episodes = tuple(
            episode._replace(env_index=episode.env_index + part.start)
            for part, ended in zip(self._parts, self._answers(), strict=True)
            for episode in ended or ()
        )
        arrays = self._arrays
        reward, terminated, truncated = (
            array.copy() for array in (arrays.reward, arrays.terminated, arrays.truncated)
        )
        observation = final_observation = arrays.observation.copy()
        if episodes:
            final_observation = observation.copy()
            finished = terminated | truncated
            final_observation[finished] = arrays.final_observation[finished]
        return Step(observation, reward, terminated, truncated, final_observation, episodes)

    def state_dict(self) -> dict[str, Any]:
        """The state that one process would have: it can be loaded with any number of workers."""
        self._tell("state_dict", [None] * len(self._parts))
        states = self._answers()
        return {**states[0], "envs": [env for state in states for env in state["envs"]]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        if len(state["envs"]) != self.num_envs:
            raise ValueError(f"the saved state has {len(state['envs'])} environments, not {self.num_envs}")
        self._tell("load_state_dict", [{**state, "envs": state["envs"][part]} for part in self._parts])
        self._answers()

    def close(self) -> None:
        """End the worker processes; may be called twice."""
        self._finalizer()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return [process.pid or 0 for process in self._processes]

    def _tell(self, command: str, arguments: list[Any] | None) -> None:
        """Begin a command; without arguments it is a step with the actions in shared memory."""
        if not self._pipes:
            raise RuntimeError("these environments are closed")
        if self._started:
            raise RuntimeError(f"{command} while an agent step is under way: call receive() first")
        for k, pipe in enumerate(self._pipes):
            try:
                if arguments is None:
                    pipe.send_bytes(b"")
                else:
                    pipe.send((command, arguments[k]))
            except OSError:
                raise self._death(k) from None

    def _answers(self) -> list[Any]:
        """One answer per worker; raises what a worker raised, after which nothing more can be asked."""
        answers = []
        for k, pipe in enumerate(self._pipes):
            try:
                answers.append(_received(pipe))
            except (EOFError, OSError):
                raise self._death(k) from None
        for answer in answers:
            if isinstance(answer, Exception):
                self.close()
                raise answer
        return answers

    def _death(self, k: int) -> WorkerError:
        process, part = self._processes[k], self._parts[k]
        process.join(_CLOSE_SECONDS)
        code = process.exitcode or 0
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.close()
        return WorkerError(
            f"worker process {k} (environments {part.start} to {part.stop - 1}) died with {cause}; look for "
            "its message above, or, if it was killed, for a lack of memory"
        )


class _Arrays(NamedTuple):
    """What an agent step exchanges, of all environments or of a part: (n, ...) each."""

    action: Array
    observation: Array
    final_observation: Array
    reward: Array
    terminated: Array
    truncated: Array

    def part(self, of: slice) -> _Arrays:
        """Those of some environments."""
        return _Arrays._make(array[of] for array in self)


class _Shared:
    """`_Arrays` in memory shared with the workers, freed with its last user."""

    def __init__(self, observations: gym.Space[Any], actions: gym.Space[Any], num_envs: int) -> None:
        seen, done = (observations.shape, observations.dtype), (actions.shape, actions.dtype)
        number, flag = ((), np.float64), ((), np.bool_)
        kinds: list[tuple[Any, Any]] = [done, seen, seen, number, flag, flag]
        self._layout = [((num_envs, *shape), np.dtype(dtype)) for shape, dtype in kinds]
        context = multiprocessing.get_context("spawn")
        self._memory = [
            context.RawArray(ctypes.c_uint8, math.prod(shape) * dtype.itemsize)
            for shape, dtype in self._layout
        ]

    def arrays(self) -> _Arrays:
        """The memory as seen from this process."""
        views: list[Array] = [
            np.frombuffer(memoryview(memory), dtype).reshape(shape)
            for memory, (shape, dtype) in zip(self._memory, self._layout, strict=True)
        ]
        return _Arrays(*views)


def _received(pipe: Connection) -> Any:
    """What was sent; None for an empty message."""
    message = pipe.recv_bytes()
    return ForkingPickler.loads(message) if message else None


def _with_spawned(seed: np.random.SeedSequence, count: int) -> np.random.SeedSequence:
    """`seed` as if it had given `count` children: a part's `child_seeds` are then its own."""
    return np.random.SeedSequence(
        seed.entropy, spawn_key=seed.spawn_key, pool_size=seed.pool_size, n_children_spawned=count
    )


def _work(pipe: Connection, make_part: MakePart, part: slice, shared: _Shared) -> None:
    """The life of a worker: answer commands until the pipe closes."""
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    arrays = shared.arrays().part(part)
    envs: VectorEnv | None = None
    while True:
        try:
            told: tuple[str, Any] = _received(pipe) or ("step", arrays.action)
        except (EOFError, OSError):
            return
        answer: Any = None
        try:
            command, argument = told
            envs = envs or make_part(part.stop - part.start)
            if command == "reset":
                arrays.observation[:] = envs.reset(argument)
            elif command == "step":
                answer = _step(envs, argument, arrays) or None
            elif command == "state_dict":
                answer = envs.state_dict()
            else:
                envs.load_state_dict(argument)
        except Exception as error:
            error.add_note(f"in a worker process:\n{traceback.format_exc()}")
            answer = error
        try:
            if answer is None:
                pipe.send_bytes(b"")
            else:
                pipe.send(answer)
        except OSError:
            return


def _step(envs: VectorEnv, actions: Array, arrays: _Arrays) -> tuple[Episode, ...]:
    """Take an agent step; returns the episodes that ended."""
    step = envs.step(actions)
    arrays.observation[:] = step.observation
    arrays.reward[:], arrays.terminated[:], arrays.truncated[:] = step.reward, step.terminated, step.truncated
    if step.episodes:
        arrays.final_observation[step.finished] = step.final_observation[step.finished]
    return step.episodes


def _shut_down(processes: list[SpawnProcess], pipes: list[Connection]) -> None:
    """Close the pipes, at which the workers leave, and make sure of it."""
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(_CLOSE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
    pipes.clear()

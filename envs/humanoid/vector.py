"""The tasks as FIRE-RL's training loop steps them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.humanoid.catalogue import find_task
from fire_rl.envs.humanoid.checks import check_counts, check_saved_by, checked_actions
from fire_rl.envs.humanoid.env import MAX_EPISODE_ENV_STEPS, action_space, observation_space
from fire_rl.envs.humanoid.rendering import Camera
from fire_rl.envs.humanoid.robot import NUM_JOINTS
from fire_rl.envs.humanoid.scenes import Contacts
from fire_rl.envs.humanoid.simulation import PHYSICS_STEPS, Simulation
from fire_rl.envs.vector import Episode, Step, check_num_envs, child_seeds


class HumanoidVectorEnv:
    """`num_envs` copies of one built-in task; implements `fire_rl.envs.vector.VectorEnv`.

    The agent's step is the paper's: one action for `action_repeat` env steps, rewards summed, cut short by
    termination or by the time limit, which counts env steps. `truncated` excludes `terminated`. Simulated in
    float64; observations are rounded to float32 once, on the way out.

    Args:
        task: a name of `TASKS`.
        num_envs: copies, at least 1.
        contacts: "published" (as on mujoco 3.1.6, comparable with the literature) or "current".
        action_repeat: env steps per agent step.
        threads: threads that step the copies; the physics runs without Python's lock. The results do not
            depend on it.
        max_episode_env_steps: time limit.

    Raises:
        ValueError: an unknown task or contacts; a count below 1.
        MissingRequirementError: the package with the robot's meshes is not installed.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        *,
        contacts: Contacts = "published",
        action_repeat: int = 2,
        threads: int = 1,
        max_episode_env_steps: int = MAX_EPISODE_ENV_STEPS,
    ) -> None:
        check_counts(
            action_repeat=action_repeat, threads=threads, max_episode_env_steps=max_episode_env_steps
        )
        spec = find_task(task)
        self.task = task
        self.num_envs = check_num_envs(num_envs)
        self.action_repeat = action_repeat
        self.max_episode_agent_steps: int | None = -(-max_episode_env_steps // action_repeat)
        self.observation_space = observation_space(spec.observation_dim, np.float32)
        self.action_space: gym.Space[Any] = action_space()
        self._copies = [
            _Copy(Simulation(spec, contacts), action_repeat, max_episode_env_steps) for _ in range(num_envs)
        ]
        self._threads = min(threads, num_envs)
        self._pool = ThreadPoolExecutor(self._threads)
        self._under_way: list[Future[None]] = []
        timestep_seconds = float(self._copies[0].simulation.model.opt.timestep)
        self.render_fps = 1.0 / (action_repeat * PHYSICS_STEPS * timestep_seconds)
        self._camera: Camera | None = None  # built at the first picture: all copies share one model

    def reset(self, seed: np.random.SeedSequence) -> NDArray[np.float32]:
        """Start every copy afresh, each from its own child of `seed`; returns (num_envs, observation_dim)."""
        for copy, child in zip(self._copies, child_seeds(seed, self.num_envs), strict=True):
            copy.rng = np.random.default_rng(child)
        return np.array([copy.begin_episode() for copy in self._copies], np.float32)

    def step(self, actions: NDArray[Any]) -> Step:
        """One agent step of every copy. `actions`: (num_envs, 19), finite; beyond ±1 they act like ±1."""
        if self._threads > 1:
            self.send(actions)
            return self.receive()
        batch = self._begin(actions)
        self._step_copies(iter(range(self.num_envs)), batch)
        return batch.outcome()

    def send(self, actions: NDArray[Any]) -> None:
        """Begin an agent step; threads take it while the caller goes on."""
        if self._under_way:
            raise RuntimeError("send() while an agent step is under way: call receive() first")
        self._batch = self._begin(actions)
        # A thread that is done takes the next copy: some robots have more contacts to solve than others.
        waiting = iter(range(self.num_envs))
        self._under_way = [
            self._pool.submit(self._step_copies, waiting, self._batch) for _ in range(self._threads)
        ]

    def receive(self) -> Step:
        """Wait for the step begun by `send`."""
        if not self._under_way:
            raise RuntimeError("receive() without a send() before it")
        under_way, self._under_way = self._under_way, []
        for part in under_way:
            part.result()
        return self._batch.outcome()

    def _begin(self, actions: NDArray[Any]) -> _Batch:
        actions = checked_actions(actions, (self.num_envs, NUM_JOINTS))
        return _Batch(actions, self.observation_space.shape)

    def _step_copies(self, waiting: Iterator[int], batch: _Batch) -> None:
        for i in waiting:
            self._copies[i].step(i, batch)

    def state_dict(self) -> dict[str, Any]:
        """Physics, generators and running episodes of all copies."""
        return {"task": self.task, "envs": [copy.state_dict() for copy in self._copies]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, bit for bit.

        Raises:
            ValueError: `state` is of another task or of another number of copies.
        """
        check_saved_by(state, self.task, self.num_envs)
        for copy, part in zip(self._copies, state["envs"], strict=True):
            copy.load_state_dict(part)

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """Copy `index` from beside the robot, (480, 640, 3) RGB.

        Raises:
            MissingRequirementError: no OpenGL for pictures without a screen.
        """
        simulation = self._copies[index].simulation
        if self._camera is None:
            self._camera = Camera(simulation.model)
        return self._camera.picture(simulation.data)

    def close(self) -> None:
        """End the threads and free the camera."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        self._pool.shutdown()


class _Batch:
    """An agent step of all copies in the making: each fills in its row, in whichever thread."""

    def __init__(self, actions: NDArray[Any], observation_shape: tuple[int, ...]) -> None:
        n = len(actions)
        self.actions = actions
        self.reward = np.zeros(n)
        self.terminated, self.truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self.final_observation = np.empty((n, *observation_shape), np.float32)
        # Episodes that ended, each with the first observation of the next.
        self.ended: list[tuple[Episode, NDArray[np.float64]]] = []

    def outcome(self) -> Step:
        """When every copy has taken its step."""
        final = self.final_observation
        if not self.ended:
            return Step(final, self.reward, self.terminated, self.truncated, final)
        observation = final.copy()
        self.ended.sort(key=lambda end: end[0].env_index)
        for episode, first_observation in self.ended:
            observation[episode.env_index] = first_observation
        episodes = tuple(episode for episode, _ in self.ended)
        return Step(observation, self.reward, self.terminated, self.truncated, final, episodes)


class _Copy:
    """One copy with its generator and its running episode."""

    def __init__(self, simulation: Simulation, action_repeat: int, max_episode_env_steps: int) -> None:
        self.simulation = simulation
        self.rng = np.random.default_rng(0)  # replaced at reset
        self.action_repeat = action_repeat
        self.max_episode_env_steps = max_episode_env_steps
        self.env_steps = self.agent_steps = 0
        self.episode_return = 0.0

    def begin_episode(self) -> NDArray[np.float64]:
        self.env_steps = self.agent_steps = 0
        self.episode_return = 0.0
        return self.simulation.reset(self.rng)

    def step(self, i: int, batch: _Batch) -> None:
        """One agent step, into row `i` of `batch`."""
        control = self.simulation.control(batch.actions[i])
        total, terminated, truncated = 0.0, False, False
        for _ in range(self.action_repeat):
            reward, terminated, _ = self.simulation.advance(control)
            total += reward
            self.env_steps += 1
            truncated = not terminated and self.env_steps >= self.max_episode_env_steps
            if terminated or truncated:
                break
        self.agent_steps += 1
        self.episode_return += total
        batch.reward[i] = total
        self.simulation.observe(batch.final_observation[i])
        if terminated or truncated:
            batch.terminated[i], batch.truncated[i] = terminated, truncated
            episode = Episode(i, self.episode_return, self.agent_steps)
            batch.ended.append((episode, self.begin_episode()))

    def state_dict(self) -> dict[str, Any]:
        return {
            "simulation": self.simulation.state_dict(),
            "rng": self.rng.bit_generator.state,
            "env_steps": self.env_steps,
            "agent_steps": self.agent_steps,
            "episode_return": self.episode_return,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.simulation.load_state_dict(state["simulation"])
        self.rng.bit_generator.state = state["rng"]
        self.env_steps, self.agent_steps = state["env_steps"], state["agent_steps"]
        self.episode_return = state["episode_return"]

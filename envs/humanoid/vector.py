"""The tasks as FIRE-RL's training loop steps them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

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
        threads = min(threads, num_envs)
        # Thread t steps the copies t, t + threads, ...
        self._shares = [range(t, num_envs, threads) for t in range(threads)]
        self._pool = ThreadPoolExecutor(threads)
        self._under_way: list[Future[list[_Result]]] = []
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
        if len(self._shares) > 1:
            self.send(actions)
            return self.receive()
        actions = checked_actions(actions, (self.num_envs, NUM_JOINTS))
        return self._gather([self._step_share(self._shares[0], actions)])

    def send(self, actions: NDArray[Any]) -> None:
        """Begin an agent step; threads take it while the caller goes on."""
        if self._under_way:
            raise RuntimeError("send() while an agent step is under way: call receive() first")
        actions = checked_actions(actions, (self.num_envs, NUM_JOINTS))
        self._under_way = [self._pool.submit(self._step_share, share, actions) for share in self._shares]

    def receive(self) -> Step:
        """Wait for the step begun by `send`."""
        if not self._under_way:
            raise RuntimeError("receive() without a send() before it")
        under_way, self._under_way = self._under_way, []
        return self._gather([part.result() for part in under_way])

    def _step_share(self, share: range, actions: NDArray[Any]) -> list[_Result]:
        return [self._copies[i].step(actions[i]) for i in share]

    def _gather(self, parts: list[list[_Result]]) -> Step:
        results: dict[int, _Result] = {}
        for share, part in zip(self._shares, parts, strict=True):
            results.update(zip(share, part, strict=True))
        in_order = [results[i] for i in range(self.num_envs)]
        reward, terminated, truncated, final, ended = zip(*in_order, strict=True)
        final_observation = np.array(final, np.float32)
        observation = final_observation.copy()
        episodes = []
        for i, end in enumerate(ended):
            if end is not None:
                observation[i] = end.first_observation
                episodes.append(Episode(i, end.episode_return, end.agent_steps))
        return Step(
            observation,
            np.array(reward),
            np.array(terminated),
            np.array(truncated),
            final_observation,
            tuple(episodes),
        )

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


class _Ended(NamedTuple):
    """The episode that ended in a step, and the first observation of the next."""

    episode_return: float
    agent_steps: int
    first_observation: NDArray[np.float64]


class _Result(NamedTuple):
    """One copy's part of a `Step`."""

    reward: float
    terminated: bool
    truncated: bool
    observation: NDArray[np.float64]  # what the action led to
    ended: _Ended | None


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

    def step(self, action: NDArray[Any]) -> _Result:
        total, terminated, truncated = 0.0, False, False
        for _ in range(self.action_repeat):
            reward, terminated, _ = self.simulation.step(action)
            total += reward
            self.env_steps += 1
            truncated = not terminated and self.env_steps >= self.max_episode_env_steps
            if terminated or truncated:
                break
        self.agent_steps += 1
        self.episode_return += total
        observation = self.simulation.observation()
        ended = None
        if terminated or truncated:
            ended = _Ended(self.episode_return, self.agent_steps, self.begin_episode())
        return _Result(total, terminated, truncated, observation, ended)

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

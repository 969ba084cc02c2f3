"""ale-py's own C++ vector environment under our interface: the option `--env.backend gymnasium`.

An independent second implementation, on threads instead of processes. Its emulators cannot be saved, so a run
that uses it cannot be resumed exactly.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from ale_py.vector_env import AtariVectorEnv

from fire_rl.envs.atari import OBSERVATION_SPACE, protocol_of, rom_name
from fire_rl.envs.atari_game import FRAME_SKIP, AtariProtocol
from fire_rl.envs.vector import (
    Array,
    Episode,
    Step,
    check_discrete_actions,
    check_num_envs,
    child_seeds,
)


class GymnasiumAtariEnvs:
    """`AtariEnvs` on `ale_py.AtariVectorEnv`.

    Sticky actions per decision are drawn here, from the same streams as in `AtariEnvs`, so the two agree
    frame for frame. Sticky actions per frame are ALE's own: equal in distribution only.
    """

    action_repeat = FRAME_SKIP
    observation_space: gym.spaces.Box = OBSERVATION_SPACE
    action_space: gym.Space[Any]

    def __init__(
        self, game: str, num_envs: int, *, protocol: str | AtariProtocol = "fire-paper", threads: int = 0
    ) -> None:
        """Start the emulators on `threads` threads (0: one per core). ValueError for an unknown name."""
        self.num_envs = check_num_envs(num_envs)
        if threads < 0:
            raise ValueError(f"the number of threads must be 0 or more, not {threads}")
        self._protocol = protocol_of(protocol)
        per_frame = self._protocol.sticky_unit == "frame"
        self._envs: AtariVectorEnv | None = AtariVectorEnv(
            rom_name(game),
            num_envs,
            num_threads=threads,
            max_num_frames_per_episode=self._protocol.max_frames,
            repeat_action_probability=self._protocol.sticky_probability if per_frame else 0.0,
            full_action_space=self._protocol.all_actions,
            autoreset_mode="SameStep",
            stack_num=1,  # stacked here: its own stacks begin with black frames
            frameskip=FRAME_SKIP,
            noop_max=0,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self._sticky_probability = 0.0 if per_frame else self._protocol.sticky_probability
        self._num_actions = int(self._envs.single_action_space.n)
        self.action_space = gym.spaces.Discrete(self._num_actions)
        self._stack = np.zeros((num_envs, *OBSERVATION_SPACE.shape), np.uint8)
        self._sent = False
        self.max_episode_agent_steps: int | None = self._protocol.max_frames // FRAME_SKIP

    def reset(self, seed: np.random.SeedSequence) -> Array:
        """Switch all consoles on anew. See `VectorEnv.reset`."""
        children = child_seeds(seed, self.num_envs)
        self._rngs = [np.random.Generator(np.random.PCG64(child)) for child in children]
        ale_seeds = np.array([child.generate_state(1)[0] >> 1 for child in children], np.int64)
        self._stack[:] = self._open().reset(seed=ale_seeds)[0]
        self._sticky_actions = np.zeros(self.num_envs, np.int64)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        return self._stack.copy()

    def step(self, actions: Array) -> Step:
        """Take one agent step of four frames in every game. See `VectorEnv.step`."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Array) -> None:
        """Begin an agent step; threads take it while the caller goes on."""
        # Checked before it is sent: an action that the C++ side refuses makes it wait for ever.
        checked = check_discrete_actions(actions, self.num_envs, self._num_actions)
        if self._sent:
            raise RuntimeError("send() while an agent step is under way: call receive() first")
        taken = np.array([rng.random() >= self._sticky_probability for rng in self._rngs])
        self._sticky_actions = np.where(taken, checked, self._sticky_actions)
        self._open().send(self._sticky_actions)
        self._sent = True

    def receive(self) -> Step:
        """Wait for the step begun by `send`."""
        if not self._sent:
            raise RuntimeError("receive() without a send() before it")
        self._sent = False
        frames, rewards, terminated, truncated, info = self._open().recv()
        finished = terminated | truncated
        self._stack[:, :-1] = self._stack[:, 1:]
        self._stack[:, -1] = frames[:, 0]
        self._returns += rewards
        self._lengths += 1
        observation = final_observation = self._stack.copy()
        episodes: list[Episode] = []
        if finished.any():
            # Rows of `final_obs` that belong to running games hold garbage.
            final_observation[finished, -1] = info["final_obs"][finished, 0]
            self._stack[finished] = frames[finished]
            observation = self._stack.copy()
            episodes = [
                Episode(i, float(self._returns[i]), int(self._lengths[i]))
                for i in np.flatnonzero(finished).tolist()
            ]
            self._returns[finished] = 0.0
            self._lengths[finished] = 0
            self._sticky_actions[finished] = 0
        return Step(
            observation=observation,
            reward=rewards.astype(np.float64),
            terminated=np.array(terminated, np.bool_),
            truncated=truncated & ~terminated,
            final_observation=final_observation,
            episodes=tuple(episodes),
        )

    def state_dict(self) -> dict[str, Any]:
        """Not possible: raises ValueError."""
        raise ValueError(
            "the state of Gymnasium's Atari environments cannot be saved: use the backend 'ale' for a run "
            "that is to be resumed"
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Not possible: raises ValueError."""
        self.state_dict()

    def close(self) -> None:
        """End the threads; may be called twice."""
        self._envs = None

    def _open(self) -> AtariVectorEnv:
        if self._envs is None:
            raise RuntimeError("these environments are closed")
        return self._envs

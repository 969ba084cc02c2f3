"""A film of one episode, taken while it is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fire_rl.envs import AtOnce, FilmableVectorEnv, Step, VectorEnv
from fire_rl.envs.vector import Array

CODEC = "mp4v"  # MPEG-4 part 2: fast, and in every build of OpenCV, which H.264 is not


class Filmed(AtOnce):
    """A `VectorEnv` that films the first episode of its first environment and is otherwise the one given.

    One picture per agent step: what the agent decides upon. The film runs at the speed of the world.

    Args:
        env: the environments that are played.
        path: the film, named `….mp4`; a file of that name is replaced.

    Raises:
        ValueError: when these environments cannot be filmed, or the film cannot be written.
    """

    def __init__(self, env: VectorEnv, path: Path) -> None:
        if not isinstance(env, FilmableVectorEnv):
            raise ValueError(f"{type(env).__name__} makes no pictures: leave out --video")
        if path.suffix.lower() != ".mp4" or not path.parent.is_dir():
            raise ValueError(f"the film {path} must be named ….mp4 and lie in a folder that exists")
        self.env, self.path = env, path
        self.num_envs, self.action_repeat = env.num_envs, env.action_repeat
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.max_episode_agent_steps = env.max_episode_agent_steps
        self.pictures = 0
        self._writer: cv2.VideoWriter | None = None
        self._done = False

    def reset(self, seed: np.random.SeedSequence) -> Array:
        """See `VectorEnv.reset`."""
        observation = self.env.reset(seed)
        self._take_picture()
        return observation

    def step(self, actions: Array) -> Step:
        """See `VectorEnv.step`."""
        step = self.env.step(actions)
        if step.finished[0] and not self._done:
            self._finish()
        self._take_picture()
        return step

    def state_dict(self) -> dict[str, Any]:
        """See `VectorEnv.state_dict`."""
        return self.env.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `VectorEnv.load_state_dict`."""
        self.env.load_state_dict(state)

    def close(self) -> None:
        """Close the environments; a film that was broken off is removed."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self.path.unlink(missing_ok=True)
        self.env.close()

    def _take_picture(self) -> None:
        if self._done:
            return
        picture = cv2.cvtColor(self.env.render(0), cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._writer = self._open(picture.shape[1], picture.shape[0])
        self._writer.write(picture)
        self.pictures += 1

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        codec = cv2.VideoWriter.fourcc(*CODEC)
        writer = cv2.VideoWriter(str(self.path), codec, self.env.render_fps, (width, height))
        if not writer.isOpened():
            raise ValueError(f"cannot write the film {self.path}: is its folder writable?")
        return writer

    def _finish(self) -> None:
        """Complete the file. OpenCV does not tell when the disk is full, so what was written is counted."""
        assert self._writer is not None
        self._writer.release()
        self._writer, self._done = None, True
        written = cv2.VideoCapture(str(self.path)).get(cv2.CAP_PROP_FRAME_COUNT)
        if written != self.pictures:
            raise ValueError(
                f"of {self.pictures} pictures {written:.0f} are in {self.path}: is the disk full?"
            )

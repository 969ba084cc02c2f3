"""One Atari 2600 game on the Arcade Learning Environment, and the protocols under which it is played.

Why not one of the existing environments: none can save its state. Here a game is a few calls of
`ale_py.ALEInterface`, so that it costs no more than ALE's C++ vector environment, shows the same pixels, and
continues bit for bit from `state_dict`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ale_py
import cv2
import numpy as np
from ale_py import roms
from numpy.typing import NDArray

from fire_rl.envs.vector import Array

FRAME_SKIP = 4  # frames per agent step: one action is shown to the game for so long
STACK = 4  # observed frames per observation
FRAMES_PER_SECOND = 60  # of the console
SIZE = 84  # pixels, of either side of an observed frame


@dataclass(frozen=True)
class AtariProtocol:
    """The conditions of play. Scores under different protocols are not comparable."""

    sticky_probability: float
    """Probability that the game repeats the previous action instead of taking the new one."""
    sticky_unit: Literal["decision", "frame"]
    """How often that is drawn: once per agent step (all of its frames repeat) or anew for every frame."""
    all_actions: bool
    """All 18 actions of the console (9 in the two games without a button), or the game's minimal set."""
    max_frames: int
    """Frames after which an episode is truncated."""
    evaluation_epsilon: float
    """Share of random actions in evaluations."""


PROTOCOLS: dict[str, AtariProtocol] = {
    # The authors' DQN code (Han et al., ICLR 2026, Figure 4a). The sticky-action wrapper lies outside the
    # frame skip, so a repeat lasts a whole agent step: four times the delay that ALE's authors recommend. Its
    # limit of 100,000 agent steps never binds, because the NoFrameskip-v4 games end after 108,000 frames.
    "fire-paper": AtariProtocol(
        sticky_probability=0.25,
        sticky_unit="decision",
        all_actions=False,
        max_frames=108_000,
        evaluation_epsilon=0.001,
    ),
    # Machado et al. (JAIR 2018, "Revisiting the ALE"): sticky actions per frame, full episodes, no life-loss
    # signal, all 18 actions. The limit of 108,000 frames (30 minutes of play) is that of the ALE/*-v5 games
    # and of Hafner et al. (ICLR 2021), who follow the same protocol; evaluation epsilon from Dopamine.
    "machado": AtariProtocol(
        sticky_probability=0.25,
        sticky_unit="frame",
        all_actions=True,
        max_frames=108_000,
        evaluation_epsilon=0.001,
    ),
}


class AtariGame:
    """One emulator, from the action to the stack of observed frames. It resets when told, not by itself.

    No random start, no FIRE on reset, no end at the loss of a life, in either protocol. An observed frame is
    the maximum of the last two of an agent step, in the emulator's own greyscale, then resized (INTER_AREA):
    Gymnasium's `AtariPreprocessing` pixel for pixel. The authors resize in colour before they turn to grey;
    12-19 % of the pixels differ from theirs, by about 1 of 255 on average.
    """

    stack: Array
    """(4, 84, 84) uint8, newest last; at the start of an episode its first frame, four times."""
    episode_return: float
    """Sum of the raw rewards of the episode so far."""
    length_agent_steps: int
    """Agent steps of the episode so far."""

    def __init__(self, rom: str, protocol: AtariProtocol) -> None:
        """Load the ROM of `rom`, in ALE's spelling: `beam_rider`."""
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._rom_path = roms.get_rom_path(rom)
        self._protocol = protocol
        self._ale = ale_py.ALEInterface()
        # Sticky actions are drawn here: ALE's own memory of the previous action is not part of its state.
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.setInt("random_seed", 0)
        self._load_rom()
        ale = self._ale
        self._actions = ale.getLegalActionSet() if protocol.all_actions else ale.getMinimalActionSet()
        self.num_actions = len(self._actions)
        self._pool = np.zeros((2, *self._ale.getScreenDims()), np.uint8)  # last two frames of an agent step
        self.stack = np.zeros((STACK, SIZE, SIZE), np.uint8)

    def reset(self, seed: np.random.SeedSequence) -> None:
        """Start the first episode from a console just switched on."""
        self._rng = np.random.Generator(np.random.PCG64(seed))
        if not self._pristine:
            self._load_rom()
        self.start_episode()

    def start_episode(self) -> None:
        """Start the next episode; the emulator's clock and the random stream run on."""
        self._pristine = False
        self._ale.reset_game()
        # Index 0, as in the authors' wrapper: no-op in all games but Backgammon and VideoCheckers.
        self._sticky_action = 0
        self._frames = 0
        self.episode_return = 0.0
        self.length_agent_steps = 0
        self._ale.getScreenGrayscale(self._pool[0])
        self._pool[1] = 0
        self.stack[:] = self._observe()

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Take one agent step. Returns raw reward, terminated, truncated; `stack` is what it led to."""
        per_frame = self._protocol.sticky_unit == "frame"
        reward = 0.0
        terminated = truncated = False
        for frame in range(FRAME_SKIP):
            if (per_frame or frame == 0) and self._rng.random() >= self._protocol.sticky_probability:
                self._sticky_action = action
            reward += self._ale.act(self._actions[self._sticky_action])
            self._frames += 1
            terminated = self._ale.game_over()
            truncated = not terminated and self._frames >= self._protocol.max_frames
            if terminated or truncated:
                break  # before looking at the screen, as `AtariPreprocessing` does
            if frame >= FRAME_SKIP - 2:
                self._ale.getScreenGrayscale(self._pool[FRAME_SKIP - 1 - frame])
        self.stack[:-1] = self.stack[1:]
        self.stack[-1] = self._observe()
        self.episode_return += reward
        self.length_agent_steps += 1
        return reward, terminated, truncated

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the game depends on: about 110 KB."""
        state = self._ale.cloneState(include_rng=True).serialize()
        return {
            "emulator": np.frombuffer(state, np.uint8),
            "pool": self._pool.copy(),
            "stack": self.stack.copy(),
            "rng": self._rng.bit_generator.state,
            "sticky_action": self._sticky_action,
            "frames": self._frames,
            "episode_return": self.episode_return,
            "length_agent_steps": self.length_agent_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, bit for bit."""
        if not self._pristine:
            self._load_rom()
        self._pristine = False
        emulator = ale_py.ALEState(np.asarray(state["emulator"], np.uint8).tobytes())
        # Twice, around one frame: a single restore leaves part of a fresh console behind (ale-py 0.12.1), and
        # Qbert and Tetris then diverge.
        self._ale.restoreState(emulator)
        self._ale.act(ale_py.Action.NOOP)
        self._ale.restoreState(emulator)
        self._pool[:] = state["pool"]
        self.stack[:] = state["stack"]
        self._rng = np.random.Generator(np.random.PCG64())
        self._rng.bit_generator.state = state["rng"]
        self._sticky_action = int(state["sticky_action"])
        self._frames = int(state["frames"])
        self.episode_return = float(state["episode_return"])
        self.length_agent_steps = int(state["length_agent_steps"])

    def screen(self) -> NDArray[np.uint8]:
        """The last frame in colour, (H, W, 3) RGB."""
        pixels: NDArray[np.uint8] = self._ale.getScreenRGB()
        return pixels

    def _load_rom(self) -> None:
        """Switch the console off and on (80 ms)."""
        self._ale.loadROM(self._rom_path)
        self._pristine = True

    def _observe(self) -> Array:
        """The pooled, resized frame, (84, 84) uint8.

        Pools in place, so that an agent step cut short by the end of the game shows the pooled frame before
        it, as `AtariPreprocessing` does.
        """
        np.maximum(self._pool[0], self._pool[1], out=self._pool[0])
        frame: Array = cv2.resize(self._pool[0], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return frame

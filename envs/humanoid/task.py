"""What the fourteen tasks share: the terms of their rewards, the end by falling, hidden state."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.humanoid.measurements import Measurements, Vector
from fire_rl.envs.humanoid.tolerance import INF, gaussian, linear

Reward = tuple[float, dict[str, float]]  # the reward and its terms

STANDING_HEAD_HEIGHT = 1.65  # m


class Task:
    """Reward, termination and hidden state of one simulated robot."""

    fall_height: ClassVar[float] = 0.2  # of the pelvis, m; -inf: never ends
    head_height: ClassVar[float] = STANDING_HEAD_HEIGHT
    upright_bound: ClassVar[float] = 0.9

    def __init__(self, measured: Measurements) -> None:
        self.m = measured

    def reset(self, rng: np.random.Generator) -> None:
        """Draw what the task draws at the start of an episode; the pose is already set."""

    def observation(self) -> tuple[NDArray[np.float64], ...]:
        """What the agent sees: all positions and velocities, absolute ones included."""
        return self.m.qpos, self.m.qvel

    def reward(self) -> Reward:
        """Of the present state; may advance hidden state, so once per step."""
        raise NotImplementedError

    def terminated(self) -> bool:
        """Whether the present state ends the episode."""
        return self.m.pelvis_height() < self.fall_height

    def state_dict(self) -> dict[str, Any]:
        """Hidden state as plain JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore hidden state."""

    def small_control(self) -> float:
        """(4 + mean of max(0, 1 - (torque / 10 N m)²)) / 5: 1 without torque, 0.8 if all exceed 10 N m."""
        torques = self.m.torques()
        excess = 0.0
        for torque in torques:
            if -10.0 < torque < 10.0:
                scaled = torque / 10.0
                excess += scaled * scaled
            else:
                excess += 1.0
        return 1.0 - excess / (5 * len(torques))

    def standing(self) -> float:
        """Head high enough."""
        height = self.m.height("head")
        return gaussian(height, self.head_height, INF, STANDING_HEAD_HEIGHT / 4)

    def upright(self) -> float:
        """Torso upright; 0 only when it points 1.9 below the bound."""
        return linear(self.m.torso_upright(), self.upright_bound, INF, 1.9)

    def dont_move(self, velocity: Vector) -> float:
        """Centre of mass at rest horizontally."""
        return (gaussian(velocity[0], 0, 0, 2) + gaussian(velocity[1], 0, 0, 2)) / 2

    def move(self, velocity: Vector, speed: float) -> float:
        """Forward velocity of at least `speed`; standing still already gives 1/6."""
        return (5 * linear(velocity[0], speed, INF, speed) + 1) / 6

"""The fourteen tasks: rewards and terminations as in HumanoidBench v0.2.

Where a task looks odd, the original does so; the comments point it out.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.humanoid.measurements import Measurements, Pairs
from fire_rl.envs.humanoid.scenes import BOARD_HEIGHT
from fire_rl.envs.humanoid.task import STANDING_HEAD_HEIGHT, Reward, Task
from fire_rl.envs.humanoid.tolerance import INF, gaussian, linear

TOUCH_DISCOUNT = 0.1  # factor on the reward while the robot touches what it should not


class Stand(Task):
    """Stand still."""

    def reward(self) -> Reward:
        control, standing, upright = self.small_control(), self.standing(), self.upright()
        dont_move = self.dont_move(self.m.velocity())
        return control * standing * upright * dont_move, {
            "small_control": control,
            "stand_reward": standing * upright,
            "dont_move": dont_move,
            "standing": standing,
            "upright": upright,
        }


class Walk(Task):
    """Walk forwards at 1 m/s."""

    speed: ClassVar[float] = 1.0

    def reward(self) -> Reward:
        control, standing, upright = self.small_control(), self.standing(), self.upright()
        move = self.move(self.m.velocity(), self.speed)
        return control * standing * upright * move, {
            "stand_reward": standing * upright,
            "small_control": control,
            "move": move,
            "standing": standing,
            "upright": upright,
        }


class Run(Walk):
    """Run forwards at 5 m/s."""

    speed = 5.0


class Hurdle(Run):
    """Run over hurdles; touching the barriers around the track costs nine tenths of the reward."""

    upright_bound = 0.8

    def __init__(self, measured: Measurements) -> None:
        super().__init__(measured)
        self._barriers = _touching(measured, "barrier_")

    def reward(self) -> Reward:
        reward, terms = super().reward()
        discount = TOUCH_DISCOUNT if self.m.any_contact(self._barriers) else 1.0
        return reward * discount, {**terms, "wall_collision_discount": discount}


class Pole(Walk):
    """Walk at 0.5 m/s through a forest of poles without touching them; standing and moving add up."""

    fall_height = 0.5
    speed = 0.5

    def __init__(self, measured: Measurements) -> None:
        super().__init__(measured)
        self._poles = _touching(measured, "pole_")

    def reward(self) -> Reward:
        _, terms = super().reward()
        discount = TOUCH_DISCOUNT if self.m.any_contact(self._poles) else 1.0
        stable = terms["small_control"] * terms["stand_reward"]
        return (0.5 * stable + 0.5 * terms["move"]) * discount, {**terms, "collision_discount": discount}


class Climb(Walk):
    """Walk over stairs or ramps: the head must be high above the feet, not above the ground."""

    upright_bound = 0.5

    def standing(self) -> float:
        head = self.m.height("head")
        left, right = (head - self.m.height(foot) for foot in ("left_foot", "right_foot"))
        return gaussian(left, 1.2, INF, 0.45) * gaussian(right, 1.2, INF, 0.45)

    def terminated(self) -> bool:
        """When the torso lies; no test of the height."""
        return self.m.torso_upright() < 0.1


class Balance(Stand):
    """Stand still on a board on a ball."""

    fall_height = 0.8
    head_height = STANDING_HEAD_HEIGHT + BOARD_HEIGHT

    def __init__(self, measured: Measurements) -> None:
        super().__init__(measured)
        floor, ball, board = (measured.geoms(name) for name in ("floor", "ball", "board"))
        self._forbidden = _pairs(_between(ball, ~(floor | board)) | _between(floor, ~ball))

    def terminated(self) -> bool:
        """Also when the robot touches ball or floor, or the board the floor."""
        return self.m.pelvis_height() < self.fall_height or self.m.any_contact(self._forbidden)


class Sit(Stand):
    """Sit on the chair, at rest."""

    fall_height = 0.5

    def upright(self) -> float:
        return linear(self.m.torso_upright(), 0.95, INF, 0.9)

    def reward(self) -> Reward:
        x, y, z = self.m.position()
        chair_x, chair_y, _ = self.m.body("chair")
        sitting = gaussian(z, 0.68, 0.72, 0.2)
        on_chair = gaussian(x - chair_x, -0.19, 0.19, 0.2) * gaussian(y - chair_y, 0, 0, 0.1)
        posture = gaussian(self.m.height("head") - self.m.height("imu"), 0.35, 0.45, 0.3)
        upright, control = self.upright(), self.small_control()
        dont_move = self.dont_move(self.m.velocity())
        sit_reward = (0.5 * sitting + 0.5 * on_chair) * upright * posture
        return control * sit_reward * dont_move, {
            "small_control": control,
            "sit_reward": sit_reward,
            "dont_move": dont_move,
            "sitting": sitting,
            "upright": upright,
            "sitting_posture": posture,
        }


class SitHard(Sit):
    """The same with a chair that can tip over, from a random place and heading in front of it."""

    def reset(self, rng: np.random.Generator) -> None:
        x, y, yaw = rng.uniform(0.2, 0.4), rng.uniform(-0.15, 0.15), rng.uniform(-1.8, 1.8)
        self.m.qpos[:2] = x, y
        self.m.qpos[3:7] = math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)
        mujoco.mj_forward(self.m.model, self.m.data)


class Reach(Task):
    """Bring the left hand to a goal that is drawn around the origin."""

    fall_height = -INF

    def __init__(self, measured: Measurements) -> None:
        super().__init__(measured)
        self.goal = np.zeros(3)

    def reset(self, rng: np.random.Generator) -> None:
        self.goal = rng.uniform([-2.0, -2.0, 0.2], [2.0, 2.0, 2.0])

    def observation(self) -> tuple[NDArray[np.float64], ...]:
        return self.m.qpos, self.m.qvel, np.array(self.m.site("left_hand")), self.goal

    def reward(self) -> Reward:
        distance = math.dist(self.m.site("left_hand"), self.goal.tolist())
        healthy = 5 * self.m.pelvis_upright()
        penalty = self.m.joint_speed_squared()
        close = 5.0 if distance < 1 else 0.0
        success = 10.0 if distance < 0.05 else 0.0
        return healthy - 0.0001 * penalty + close + success, {
            "hand_dist": distance,
            "healthy_reward": healthy,
            "motion_penalty": penalty,
            "reward_close": close,
            "reward_success": success,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"goal": self.goal.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.goal = np.array(state["goal"])


class Crawl(Task):
    """Crawl through a tunnel at 1 m/s; never ends early."""

    fall_height = -INF
    # Not of unit norm in the original, and -q, the same orientation, does not count.
    target_quat = np.array([0.75, 0.0, 0.65, 0.0])

    def reward(self) -> Reward:
        _, imu_y, imu_z = self.m.site("imu")
        crawling = gaussian(imu_z, 0.6, 1.0, 1)
        crawling_head = gaussian(self.m.height("head"), 0.6, 1.0, 1)
        offset = self.m.pelvis_quat() - self.target_quat
        orientation = gaussian(math.sqrt(float(np.dot(offset, offset))), 0, 0, 1)
        in_tunnel = 1.0 if -1 <= imu_y <= 1 else 0.0
        control, move = self.small_control(), self.move(self.m.velocity(), 1.0)
        reward = 0.1 * control + 0.25 * min(crawling, crawling_head) + 0.4 * move + 0.25 * orientation
        return reward * in_tunnel, {
            "crawling": crawling,
            "crawling_head": crawling_head,
            "small_control": control,
            "move": move,
            "in_tunnel": in_tunnel,
        }


class Maze(Task):
    """Walk through a maze by its checkpoints at 2 m/s; the stage is not observed."""

    # Centre of each stage's checkpoint. The robot starts on the first, so the first step already pays 100.
    checkpoints = ((0.0, 0.0), (3.0, 0.0), (3.0, 6.0), (6.0, 6.0), (6.0, 6.0))
    # Where to go at stage s: as left by the last change of stage, which sets it by the stage just left.
    directions = ((1, 0), (1, 0), (0, 1), (1, 0), (0, 1))
    last_stage = 4

    def __init__(self, measured: Measurements) -> None:
        super().__init__(measured)
        self.stage = 0
        self._blocks = _touching(measured, "block_")

    def reset(self, rng: np.random.Generator) -> None:
        self.stage = 0

    def _advance(self) -> float:
        """Go to the next stage where its checkpoint is reached; returns the bonus."""
        pelvis_x, pelvis_y, _ = self.m.body("pelvis")
        checkpoint = self.checkpoints[self.stage]
        if self.stage == self.last_stage or math.dist((pelvis_x, pelvis_y), checkpoint) >= 0.4:
            return 0.0
        self.stage += 1
        return 100.0 * self.stage

    def reward(self) -> Reward:
        bonus = self._advance()
        v_x, v_y, _ = self.m.velocity()
        imu_x, imu_y, _ = self.m.site("imu")
        direction, checkpoint = self.directions[self.stage], self.checkpoints[self.stage]
        at_speed = linear(v_x - 2 * direction[0], 0, 0, 1) * linear(v_y - 2 * direction[1], 0, 0, 1)
        move = (5 * (1.0 if self.stage == self.last_stage else at_speed) + 1) / 6
        proximity = gaussian(math.dist((imu_x, imu_y), checkpoint), 0, 0, 1)
        discount = TOUCH_DISCOUNT if self.m.any_contact(self._blocks) else 1.0
        stand_reward, control = self.standing() * self.upright(), self.small_control()
        reward = (0.2 * stand_reward * control + 0.4 * move + 0.4 * proximity) * discount + bonus
        return reward, {
            "stand_reward": stand_reward,
            "small_control": control,
            "move": move,
            "wall_collision_discount": discount,
            "stage_convert_reward": bonus,
            "checkpoint_proximity_reward": proximity,
            "success_subtasks": float(self.stage),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self.stage}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stage = state["stage"]


def _between(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(ngeom, ngeom): whether one geom is in `first` and the other in `second`, in either order."""
    return np.outer(first, second) | np.outer(second, first)


def _touching(measured: Measurements, prefix: str) -> Pairs:
    """The pairs of geoms of which at least one is named `prefix`..."""
    geoms = measured.geoms(prefix)
    return _pairs(_between(geoms, np.ones_like(geoms)))


def _pairs(mask: NDArray[np.bool_]) -> Pairs:
    return [row.tobytes() for row in mask]

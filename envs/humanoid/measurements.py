"""What rewards and terminations read from the simulator.

Two ages of quantities, as in HumanoidBench: after a step, `qpos` and `qvel` are new, whereas all that derives
from them (positions of bodies and sites, rotations, the velocity of the centre of mass, actuator forces,
contacts) is what the last physics step of 2 ms started from, since no forward kinematics follow it. Methods
that return such older values say "previous".
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.humanoid.robot import ROBOT_NV

Vector = tuple[float, float, float]
Pairs = list[bytes]  # of geoms, (ngeom, ngeom): 1 or 0; small, so as to stay in the cache


class Measurements:
    """Reads `data` through views; nothing is recomputed unless a docstring says so.

    Python floats come out, because rewards are scalar: after ten physics steps NumPy's code is out of the
    processor's caches, and each of its functions then costs more than a loop over 19 numbers.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.model, self.data = model, data
        self.qpos: NDArray[np.float64] = data.qpos
        self.qvel: NDArray[np.float64] = data.qvel
        self._actuator_force: NDArray[np.float64] = data.actuator_force
        self._contact = data.contact  # follows `data`: as many as there are when it is read
        self._site = {model.site(i).name: data.site_xpos[i] for i in range(model.nsite)}
        self._body = {model.body(i).name: i for i in range(model.nbody)}
        self._torso_matrix: NDArray[np.float64] = data.xmat[self._body["torso_link"]]
        self._pelvis_matrix: NDArray[np.float64] = data.xmat[self._body["pelvis"]]
        self._pelvis_velocity: NDArray[np.float64] = data.subtree_linvel[self._body["pelvis"]]
        self._body_position: NDArray[np.float64] = data.xpos
        self._pelvis_quat: NDArray[np.float64] = data.xquat[self._body["pelvis"]]

    def position(self) -> Vector:
        """Of the pelvis, new."""
        x, y, z = self.qpos[:3].tolist()
        return x, y, z

    def pelvis_height(self) -> float:
        """New."""
        return self.qpos.item(2)

    def joint_speed_squared(self) -> float:
        """Sum of squares of the robot's 25 velocities, new."""
        speed = self.qvel[:ROBOT_NV]
        return float(np.dot(speed, speed))

    def site(self, name: str) -> Vector:
        """World position of a site, previous."""
        x, y, z = self._site[name].tolist()
        return x, y, z

    def body(self, name: str) -> Vector:
        """World position of a body, previous."""
        x, y, z = self._body_position[self._body[name]].tolist()
        return x, y, z

    def height(self, site: str) -> float:
        """World z of a site, previous."""
        z: float = self._site[site].item(2)
        return z

    def torso_upright(self) -> float:
        """z component of the torso's z axis, previous: 1 upright, 0 lying, -1 head down."""
        return self._torso_matrix.item(8)

    def pelvis_upright(self) -> float:
        """z component of the pelvis' z axis, previous."""
        return self._pelvis_matrix.item(8)

    def pelvis_quat(self) -> NDArray[np.float64]:
        """Orientation of the pelvis (w, x, y, z), previous."""
        return self._pelvis_quat

    def velocity(self) -> Vector:
        """Of the whole robot's centre of mass in the world, m/s, previous; computed on each call."""
        mujoco.mj_subtreeVel(self.model, self.data)
        x, y, z = self._pelvis_velocity.tolist()
        return x, y, z

    def torques(self) -> list[float]:
        """Of the 19 servos in N m, previous."""
        torques: list[float] = self._actuator_force.tolist()
        return torques

    def any_contact(self, pairs: Pairs) -> bool:
        """Whether a previous contact is between geoms g, h with `pairs[g][h]`."""
        for g, h in self._contact.geom.tolist():  # noqa: SIM110 - half the time of any(), in every step
            if pairs[g][h]:
                return True
        return False

    def geoms(self, *prefixes: str) -> NDArray[np.bool_]:
        """(ngeom,) mask of the geoms whose name starts with one of `prefixes`."""
        return np.array([self.model.geom(i).name.startswith(prefixes) for i in range(self.model.ngeom)])

"""One robot in one task: what the Gymnasium environment and the vector environment both step."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.humanoid.catalogue import TaskSpec
from fire_rl.envs.humanoid.measurements import Measurements
from fire_rl.envs.humanoid.scenes import Contacts, load_model

PHYSICS_STEPS = 10  # of 2 ms in one env step, so control at 50 Hz
RESET_NOISE = 0.01  # uniform, on every entry of qpos
STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class Simulation:
    """The raw task: no time limit, no action repeat, no automatic reset.

    Args:
        spec: the task.
        contacts: see `scenes.load_model`. The model is shared by all simulations of the process.
    """

    def __init__(self, spec: TaskSpec, contacts: Contacts = "published") -> None:
        self.model = load_model(spec.scene, contacts)
        self.data = mujoco.MjData(self.model)
        self.task = spec.task(Measurements(self.model, self.data))
        # The original keeps the control range in float32, and so do the controls of float32 actions.
        low, high = self.model.actuator_ctrlrange.T.astype(np.float32)
        self._low, self._half_width = low, (high - low) / 2
        self._ctrl = self.data.ctrl

    def reset(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Start an episode with draws from `rng`; returns the observation, (observation_dim,)."""
        mujoco.mj_resetDataKeyframe(self.model, self.data, 0)
        self.data.qpos += rng.uniform(-RESET_NOISE, RESET_NOISE, size=self.model.nq)
        # mujoco 3.1.6 did this inside mj_forward; mujoco 4 leaves qpos as it is.
        mujoco.mj_normalizeQuat(self.model, self.data.qpos)
        mujoco.mj_forward(self.model, self.data)
        self.task.reset(rng)
        return self.observation()

    def step(self, action: NDArray[Any]) -> tuple[float, bool, dict[str, float]]:
        """One env step (0.02 s) with an action (19,) in [-1, 1]; returns reward, terminated, reward terms."""
        reward, terminated, terms = self.advance(self.control(action))
        return reward, terminated, {**terms, "per_timestep_reward": reward}

    def advance(self, control: NDArray[Any]) -> tuple[float, bool, dict[str, float]]:
        """The same with the action's `control`, without the term `per_timestep_reward`."""
        self._ctrl[:] = control
        mujoco.mj_step(self.model, self.data, PHYSICS_STEPS)
        reward, terms = self.task.reward()
        return reward, self.task.terminated(), terms

    def control(self, action: NDArray[Any]) -> NDArray[Any]:
        """Joint targets in radians (19,), of `action`'s dtype; the engine clamps them to the range."""
        target: NDArray[Any] = (action + 1) * self._half_width + self._low
        return target

    def observation(self) -> NDArray[np.float64]:
        """A new array (observation_dim,)."""
        return np.concatenate(self.task.observation())

    def observe(self, out: NDArray[np.float32]) -> None:
        """Write the observation, rounded, to `out` (observation_dim,)."""
        np.concatenate(self.task.observation(), out=out)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the future depends on."""
        physics = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, physics, STATE)
        return {"physics": physics, "task": self.task.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, bit for bit."""
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, state["physics"], STATE)
        # Positions of bodies for whoever looks before the next step. It overwrites nothing of `STATE` but the
        # solver's warm start, which therefore is set once more.
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, state["physics"], STATE)
        self.task.load_state_dict(state["task"])

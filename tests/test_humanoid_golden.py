"""The humanoid tasks compute what the official code computed, layer by layer.

Model parameters, then observation, reward and termination as functions of the state, then single steps, then
trajectories, then resets. Steps are compared with the official code run on the same foot hull as ours, and
equal it to the last bit on the mujoco version that made the golden values.
"""

from typing import Any

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from fire_rl.envs.humanoid import TASKS
from fire_rl.envs.humanoid.foot import foot_hull
from fire_rl.envs.humanoid.scenes import PUBLISHED_DISABLEFLAGS
from fire_rl.envs.humanoid.simulation import Simulation
from fire_rl.envs.humanoid.tasks import Maze
from tests.humanoid_for_tests import (
    CONTACTS,
    GOLDEN_MUJOCO,
    Contacts,
    golden,
    names,
    put,
    put_golden,
    put_hidden,
)

every_task = pytest.mark.parametrize("task", names())
both_contacts = pytest.mark.parametrize("contacts", CONTACTS)
golden_physics = pytest.mark.skipif(
    mujoco.__version__ != GOLDEN_MUJOCO, reason=f"golden steps are of mujoco {GOLDEN_MUJOCO}"
)


def inertia_matrix(quat: NDArray[Any], moments: NDArray[Any]) -> NDArray[Any]:
    """In the body's frame, so that the order of the principal axes does not matter."""
    flat = np.zeros(9)
    mujoco.mju_quat2Mat(flat, quat)
    axes = flat.reshape(3, 3)
    return np.asarray(axes @ np.diag(moments) @ axes.T)


@every_task
def test_bodies_joints_and_servos(task: str) -> None:
    values, model = golden(task), Simulation(TASKS[task]).model
    checked = 0
    for i, name in enumerate(values["model/body_name"]):
        if name in ("left_hand", "right_hand"):  # massless and without geoms: left out
            assert values["model/body_mass"][i] == 0
            continue
        body = model.body(str(name)).id
        assert model.body_mass[body] == values["model/body_mass"][i]
        np.testing.assert_array_equal(model.body_ipos[body], values["model/body_ipos"][i])
        np.testing.assert_allclose(
            inertia_matrix(model.body_iquat[body], model.body_inertia[body]),
            inertia_matrix(values["model/body_iquat"][i], values["model/body_inertia"][i]),
            atol=1e-15,
        )
        if name != "pelvis":
            np.testing.assert_array_equal(model.body_pos[body], values["model/body_pos"][i])
            np.testing.assert_array_equal(model.body_quat[body], values["model/body_quat"][i])
        checked += 1
    assert checked >= 20
    for field in ("jnt_type", "jnt_axis", "jnt_range", "dof_damping", "dof_armature", "dof_frictionloss"):
        np.testing.assert_array_equal(getattr(model, field), values[f"model/{field}"], err_msg=field)
    for field in ("actuator_ctrlrange", "actuator_forcerange", "actuator_gear"):
        np.testing.assert_array_equal(getattr(model, field), values[f"model/{field}"], err_msg=field)
    np.testing.assert_array_equal(model.actuator_gainprm[:, :3], values["model/actuator_gain"])
    np.testing.assert_array_equal(model.actuator_biasprm[:, :3], values["model/actuator_bias"])
    np.testing.assert_array_equal(model.key_qpos[0], values["model/key_qpos"])
    assert not model.key_qvel.any()


@every_task
@both_contacts
def test_engine_options(task: str, contacts: Contacts) -> None:
    values, options = golden(task), Simulation(TASKS[task], contacts).model.opt
    for name, value in zip(values["model/opt_names"], values["model/opt"], strict=True):
        if name == "disableflags":
            assert value == 0
            value = PUBLISHED_DISABLEFLAGS if contacts == "published" else 0
        assert getattr(options, str(name)) == value, name


def geom_rows(types: list[str], *columns: NDArray[Any]) -> list[tuple[Any, ...]]:
    """One comparable row per geom, in an order that does not depend on theirs."""
    table = np.concatenate([column.reshape(len(types), -1) for column in columns], axis=1)
    return sorted((kind, *np.round(row, 9) + 0.0) for kind, row in zip(types, table, strict=True))


@every_task
def test_colliding_geoms(task: str) -> None:
    """Type, size, pose at the start and contact parameters of everything that collides."""
    values, simulation = golden(task), Simulation(TASKS[task])
    model, data = simulation.model, simulation.data
    put(simulation, values["model/key_qpos"], values["model/key_qvel"])
    ours = np.flatnonzero(model.geom_contype | model.geom_conaffinity)
    theirs = np.arange(len(values["model/colgeom_type"]))
    assert len(ours) == len(theirs)
    for name in ("friction", "condim", "solref", "solimp", "margin"):
        np.testing.assert_array_equal(getattr(model, f"geom_{name}")[ours], values[f"model/colgeom_{name}"])

    feet = {model.body(f"{side}_ankle_link").id for side in ("left", "right")}
    ours = np.array([g for g in ours if model.geom_bodyid[g] not in feet])
    theirs = theirs[~np.char.endswith(values["model/colgeom_body"], "ankle_link")]
    assert len(ours) == len(theirs)
    kinds = [mujoco.mjtGeom(int(model.geom_type[g])).name for g in ours]
    assert geom_rows(
        kinds, model.geom_size[ours], data.geom_xpos[ours], data.geom_xmat[ours], model.geom_aabb[ours]
    ) == geom_rows(
        [str(kind) for kind in values["model/colgeom_type"][theirs]],
        *(values[f"model/colgeom_{name}"][theirs] for name in ("size", "key_xpos", "key_xmat", "aabb")),
    )


def test_foot_hull_has_the_known_figures() -> None:
    """Bounds and volume of the official ankle's hull, from the specification of the foot."""
    vertices = foot_hull()
    hull = ConvexHull(vertices)
    assert len(hull.vertices) == len(vertices) == 920
    np.testing.assert_allclose(vertices.min(0), (-0.100, -0.015, -0.070), atol=5e-5)
    np.testing.assert_allclose(vertices.max(0), (0.200, 0.015, 0.011), atol=5e-5)
    assert hull.volume == pytest.approx(406.38e-6, abs=0.01e-6)
    sole = vertices[vertices[:, 2] < -0.0699999]
    np.testing.assert_allclose(sole.min(0)[:2], (-0.0947, -0.012), atol=2e-6)
    np.testing.assert_allclose(sole.max(0)[:2], (0.1944, 0.012), atol=2e-6)


@every_task
@both_contacts
def test_functions_of_the_state(task: str, contacts: Contacts) -> None:
    values, simulation = golden(task), Simulation(TASKS[task], contacts)
    prefix = f"{contacts}/pure_info_"
    terms = [key.removeprefix(prefix) for key in values if key.startswith(prefix)]
    assert terms
    for i, name in enumerate(values["kind"]):
        put_golden(simulation, values, i, ctrl=True)
        where = f"state {i}, {name}"
        np.testing.assert_allclose(
            simulation.observation(), values["pure_obs"][i], rtol=0, atol=1e-9, err_msg=where
        )
        reward, info = simulation.task.reward()
        assert abs(reward - values[f"{contacts}/pure_reward"][i]) <= 1e-9, where
        assert set(terms) == set(info)
        for term in terms:
            assert abs(info[term] - values[prefix + term][i]) <= 1e-9, f"{where}, {term}"
        assert simulation.task.terminated() == bool(values[f"{contacts}/pure_terminated"][i]), where
        if isinstance(simulation.task, Maze):
            assert simulation.task.stage == values[f"{contacts}/pure_stage_after"][i]


@every_task
def test_controls(task: str) -> None:
    values, simulation = golden(task), Simulation(TASKS[task])
    low, high = simulation.model.actuator_ctrlrange.T
    for action, ctrl in zip(values["action"], values["ctrl"], strict=True):
        # Where an action is out of bounds, the engine clamps what the original passes on unclamped.
        ours = np.clip(simulation.control(action), low, high)
        np.testing.assert_allclose(ours, np.clip(ctrl, low, high), rtol=0, atol=1e-15)


@golden_physics
@every_task
@both_contacts
def test_single_steps(task: str, contacts: Contacts) -> None:
    values, simulation = golden(task), Simulation(TASKS[task], contacts)
    prefix = f"{contacts}/step_info_"
    for i, name in enumerate(values["kind"]):
        put_golden(simulation, values, i, ctrl=False)
        reward, terminated, info = simulation.step(values["action"][i])
        where = f"state {i}, {name}"
        np.testing.assert_array_equal(
            simulation.observation(), values[f"{contacts}/step_obs"][i], err_msg=where
        )
        assert abs(reward - values[f"{contacts}/step_reward"][i]) <= 1e-12, where
        assert terminated == bool(values[f"{contacts}/step_terminated"][i]), where
        for term in (key.removeprefix(prefix) for key in values if key.startswith(prefix)):
            assert abs(info[term] - values[prefix + term][i]) <= 1e-12, f"{where}, {term}"


@golden_physics
@every_task
@both_contacts
@pytest.mark.parametrize("number", [0, 1])
def test_trajectories(task: str, contacts: Contacts, number: int) -> None:
    """30 steps open loop: the maze's stage, and that what rewards read is one physics step old."""
    values, simulation = golden(task), Simulation(TASKS[task], contacts)
    key, expected = f"traj{number}_", f"{contacts}/traj{number}_"
    put(simulation, values[key + "qpos0"], values[key + "qvel0"])
    put_hidden(simulation, values.get(key + "goal"), None)
    for i, action in enumerate(values[key + "actions"]):
        reward, terminated, _ = simulation.step(action)
        np.testing.assert_array_equal(simulation.observation(), values[expected + "obs"][i], f"step {i}")
        assert abs(reward - values[expected + "reward"][i]) <= 1e-12, f"step {i}"
        assert terminated == bool(values[expected + "terminated"][i]), f"step {i}"


@every_task
def test_resets(task: str) -> None:
    """The original's draws, save for quaternions of unit norm and poses from the own generator."""
    values, simulation = golden(task), Simulation(TASKS[task])
    own_draws = {"h1-sit_hard": [0, 1, 3, 4, 5, 6]}.get(task, [])
    for seed, qpos in zip(values["reset_seeds"], values["reset_qpos"], strict=True):
        observation = simulation.reset(np.random.default_rng(int(seed)))
        mujoco.mj_normalizeQuat(simulation.model, qpos)
        kept = np.setdiff1d(np.arange(len(qpos)), own_draws)
        np.testing.assert_allclose(simulation.data.qpos[kept], qpos[kept], rtol=0, atol=1e-15)
        np.testing.assert_array_equal(observation[: len(qpos)], simulation.data.qpos)
        assert not simulation.data.qvel.any()


def test_reset_draws_of_sit_hard_and_reach() -> None:
    rng = np.random.default_rng(0)
    sit, reach = Simulation(TASKS["h1-sit_hard"]), Simulation(TASKS["h1-reach"])
    poses, goals = [], []
    for _ in range(300):
        poses.append(sit.reset(rng)[:7])
        goals.append(reach.reset(rng)[-3:])
    x, y, _, *quat = np.transpose(poses)
    yaw = 2 * np.arctan2(quat[3], quat[0])
    assert not np.any(quat[1:3])  # neither roll nor pitch
    for values, low, high in [
        (x, 0.2, 0.4),
        (y, -0.15, 0.15),
        (yaw, -1.8, 1.8),
        *zip(np.transpose(goals), (-2, -2, 0.2), (2, 2, 2.0), strict=True),
    ]:
        width = high - low
        assert low <= values.min() < low + 0.03 * width
        assert high - 0.03 * width < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.08 * width

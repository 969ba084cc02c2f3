"""The Unitree H1 without hands, as HumanoidBench v0.2 simulates it, from tables.

Lengths in metres, angles in radians, masses in kilograms, quaternions (w, x, y, z). The figures are those of
HumanoidBench's H1 (MIT licence); the shapes of the links are the STL files of the PyPI package
`robosuite-models`, the same bytes as HumanoidBench's except for the ankle, whose hull is rebuilt here.
Left and right are not mirror images in every digit, hence both are listed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import mujoco

from fire_rl.envs.humanoid.errors import MissingRequirementError
from fire_rl.envs.humanoid.foot import foot_hull

Vec3 = tuple[float, float, float]
Quat = tuple[float, float, float, float]

IDENTITY: Quat = (1.0, 0.0, 0.0, 0.0)
# 25 degrees about x: the left shoulder's pitch axis is tilted, the upper arm hangs straight again.
TILT: Quat = (0.976296, 0.216438, 0.0, 0.0)
TILT_BACK: Quat = (0.976296, -0.216438, 0.0, 0.0)

X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


class Servo(NamedTuple):
    """Position servo: force = clip(kp (ctrl - q) - kv dq/dt, ±max_force)."""

    kp: float
    kv: float
    max_force: float


HIP, KNEE, ANKLE = Servo(200, 5, 200), Servo(300, 6, 300), Servo(40, 2, 40)
TORSO, SHOULDER, ARM = Servo(300, 6, 200), Servo(100, 2, 40), Servo(100, 2, 18)


class Link(NamedTuple):
    """A body `name` with its hinge (named without "_link"), servo and inertia."""

    name: str
    parent: str
    pos: Vec3  # of the body in its parent
    quat: Quat
    axis: Vec3  # of the hinge, which sits at the body's origin
    range: tuple[float, float]  # of the hinge; also the range of the control
    servo: Servo
    mass: float
    com: Vec3
    inertia_quat: Quat
    inertia: Vec3  # principal moments


# fmt: off
PELVIS_MASS, PELVIS_COM = 5.39, (-0.0002, 4e-05, -0.04522)
PELVIS_INERTIA_QUAT = (0.498303, 0.499454, -0.500496, 0.501741)
PELVIS_INERTIA = (0.0490211, 0.0445821, 0.00824619)

# Parents before children; joints, servos, actions and observations keep this order.
LINKS = (
    Link("left_hip_yaw_link", "pelvis", (0, 0.0875, -0.1742), IDENTITY, Z, (-0.43, 0.43), HIP,
         2.244, (-0.04923, 0.0001, 0.0072), (0.69699, 0.219193, 0.233287, 0.641667),
         (0.00304494, 0.00296885, 0.00189201)),
    Link("left_hip_roll_link", "left_hip_yaw_link", (0.039468, 0, 0), IDENTITY, X, (-0.43, 0.43), HIP,
         2.232, (-0.0058, -0.00319, -9e-05), (0.0438242, 0.70721, -0.0729075, 0.701867),
         (0.00243264, 0.00225325, 0.00205492)),
    Link("left_hip_pitch_link", "left_hip_roll_link", (0, 0.11536, 0), IDENTITY, Y, (-3.14, 2.53), HIP,
         4.152, (0.00746, -0.02346, -0.08193), (0.979828, 0.0513522, -0.0169854, -0.192382),
         (0.0829503, 0.0821457, 0.00510909)),
    Link("left_knee_link", "left_hip_pitch_link", (0, 0, -0.4), IDENTITY, Y, (-0.26, 2.05), KNEE,
         1.721, (-0.00136, -0.00512, -0.1384), (0.626132, -0.034227, -0.0416277, 0.777852),
         (0.0125237, 0.0123104, 0.0019428)),
    Link("left_ankle_link", "left_knee_link", (0, 0, -0.4), IDENTITY, Y, (-0.87, 0.52), ANKLE,
         0.552448, (0.048568, 0, -0.045609), (0.489385, 0.510394, 0.510394, 0.489385),
         (0.00362, 0.00355701, 0.000149987)),
    Link("right_hip_yaw_link", "pelvis", (0, -0.0875, -0.1742), IDENTITY, Z, (-0.43, 0.43), HIP,
         2.244, (-0.04923, -0.0001, 0.0072), (0.641667, 0.233287, 0.219193, 0.69699),
         (0.00304494, 0.00296885, 0.00189201)),
    Link("right_hip_roll_link", "right_hip_yaw_link", (0.039468, 0, 0), IDENTITY, X, (-0.43, 0.43), HIP,
         2.232, (-0.0058, 0.00319, -9e-05), (-0.0438242, 0.70721, 0.0729075, 0.701867),
         (0.00243264, 0.00225325, 0.00205492)),
    Link("right_hip_pitch_link", "right_hip_roll_link", (0, -0.11536, 0), IDENTITY, Y, (-3.14, 2.53), HIP,
         4.152, (0.00746, 0.02346, -0.08193), (0.979828, -0.0513522, -0.0169854, 0.192382),
         (0.0829503, 0.0821457, 0.00510909)),
    Link("right_knee_link", "right_hip_pitch_link", (0, 0, -0.4), IDENTITY, Y, (-0.26, 2.05), KNEE,
         1.721, (-0.00136, 0.00512, -0.1384), (0.777852, -0.0416277, -0.034227, 0.626132),
         (0.0125237, 0.0123104, 0.0019428)),
    Link("right_ankle_link", "right_knee_link", (0, 0, -0.4), IDENTITY, Y, (-0.87, 0.52), ANKLE,
         0.552448, (0.048568, 0, -0.045609), (0.489385, 0.510394, 0.510394, 0.489385),
         (0.00362, 0.00355701, 0.000149987)),
    Link("torso_link", "pelvis", (0, 0, 0), IDENTITY, Z, (-2.35, 2.35), TORSO,
         17.789, (0.000489, 0.002797, 0.20484), (0.999989, -0.00130808, -0.00282289, -0.00349105),
         (0.487315, 0.409628, 0.127837)),
    Link("left_shoulder_pitch_link", "torso_link", (0.0055, 0.15535, 0.42999),
         TILT, Y, (-2.87, 2.87), SHOULDER,
         1.033, (0.005045, 0.053657, -0.015715), (0.814858, 0.579236, -0.0201072, -0.00936488),
         (0.00129936, 0.000987113, 0.000858198)),
    Link("left_shoulder_roll_link", "left_shoulder_pitch_link", (-0.0055, 0.0565, -0.0165),
         TILT_BACK, X, (-0.34, 3.11), SHOULDER,
         0.793, (0.000679, 0.00115, -0.094076), (0.732491, 0.00917179, 0.0766656, 0.676384),
         (0.00170388, 0.00158256, 0.00100336)),
    Link("left_shoulder_yaw_link", "left_shoulder_roll_link", (0, 0, -0.1343), IDENTITY, Z, (-1.3, 4.45), ARM,
         0.839, (0.01365, 0.002767, -0.16266), (0.703042, -0.0331229, -0.0473362, 0.708798),
         (0.00408038, 0.00370367, 0.000622687)),
    Link("left_elbow_link", "left_shoulder_yaw_link", (0.0185, 0, -0.198), IDENTITY, Y, (-1.25, 2.61), ARM,
         0.669, (0.15908, -0.000144, -0.015776), (0.0765232, 0.720327, 0.0853116, 0.684102),
         (0.00601829, 0.00600579, 0.000408305)),
    Link("right_shoulder_pitch_link", "torso_link", (0.0055, -0.15535, 0.42999),
         TILT_BACK, Y, (-2.87, 2.87), SHOULDER,
         1.033, (0.005045, -0.053657, -0.015715), (0.579236, 0.814858, 0.00936488, 0.0201072),
         (0.00129936, 0.000987113, 0.000858198)),
    Link("right_shoulder_roll_link", "right_shoulder_pitch_link", (-0.0055, -0.0565, -0.0165),
         TILT, X, (-3.11, 0.34), SHOULDER,
         0.793, (0.000679, -0.00115, -0.094076), (0.676384, 0.0766656, 0.00917179, 0.732491),
         (0.00170388, 0.00158256, 0.00100336)),
    Link("right_shoulder_yaw_link", "right_shoulder_roll_link", (0, 0, -0.1343),
         IDENTITY, Z, (-4.45, 1.3), ARM,
         0.839, (0.01365, -0.002767, -0.16266), (0.708798, -0.0473362, -0.0331229, 0.703042),
         (0.00408038, 0.00370367, 0.000622687)),
    Link("right_elbow_link", "right_shoulder_yaw_link", (0.0185, 0, -0.198), IDENTITY, Y, (-1.25, 2.61), ARM,
         0.669, (0.15908, 0.000144, -0.015776), (-0.0765232, 0.720327, -0.0853116, 0.684102),
         (0.00601829, 0.00600579, 0.000408305)),
)
# fmt: on

SITES: tuple[tuple[str, str, Vec3], ...] = (  # name, body, position in the body
    ("head", "torso_link", (0, 0, 0.7)),
    ("imu", "torso_link", (-0.04452, -0.01891, 0.27756)),
    ("left_foot", "left_ankle_link", (0, 0, -0.05)),
    ("right_foot", "right_ankle_link", (0, 0, -0.05)),
    ("left_hand", "left_elbow_link", (0.31, 0, -0.01)),
)

NUM_JOINTS = len(LINKS)  # 19
ROBOT_NQ, ROBOT_NV = 7 + NUM_JOINTS, 6 + NUM_JOINTS  # 26 and 25


def key_qpos(x: float = 0.0, z: float = 0.98) -> list[float]:
    """The pose from which episodes start, (26,): knees bent, everything else straight."""
    bent = {"hip_pitch": -0.4, "knee": 0.8, "ankle": -0.4}
    joints = [next((a for part, a in bent.items() if part in link.name), 0.0) for link in LINKS]
    return [x, 0.0, z, *IDENTITY, *joints]


def add_robot(spec: mujoco.MjSpec) -> None:
    """Add the robot, with its meshes, sites and servos, to the world of `spec`.

    Raises:
        MissingRequirementError: the package with the meshes is not installed.
    """
    spec.compiler.degree = False
    spec.add_mesh(name="ankle", uservert=foot_hull().flatten())
    pelvis = spec.worldbody.add_body(name="pelvis", pos=(0, 0, 2.7))
    pelvis.add_freejoint(name="free_base")
    _set_inertia(pelvis, PELVIS_MASS, PELVIS_COM, PELVIS_INERTIA_QUAT, PELVIS_INERTIA)
    _add_shape(spec, pelvis)
    bodies = {"pelvis": pelvis}
    for link in LINKS:
        body = bodies[link.parent].add_body(name=link.name, pos=link.pos, quat=link.quat)
        bodies[link.name] = body
        joint = link.name.removesuffix("_link")
        body.add_joint(
            name=joint,
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=link.axis,
            range=link.range,
            limited=True,
            armature=0.1,
            damping=[1, 0, 0],
        )
        _set_inertia(body, link.mass, link.com, link.inertia_quat, link.inertia)
        _add_shape(spec, body)
        _add_servo(spec, joint, link)
    for name, body_name, pos in SITES:
        bodies[body_name].add_site(name=name, pos=pos, group=4)


def _set_inertia(body: Any, mass: float, com: Vec3, quat: Quat, moments: Vec3) -> None:
    body.explicitinertial = True
    body.mass, body.ipos, body.iquat, body.inertia = mass, com, quat, moments


def _add_servo(spec: mujoco.MjSpec, joint: str, link: Link) -> None:
    servo = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    servo.set_to_position(kp=link.servo.kp, kv=link.servo.kv)
    servo.ctrllimited = servo.forcelimited = True
    servo.ctrlrange = link.range
    servo.forcerange = (-link.servo.max_force, link.servo.max_force)


def _add_shape(spec: mujoco.MjSpec, body: Any) -> None:
    """The colliding geom of a link: its own mesh, save for the ankles and the hip yaws."""
    name: str = body.name
    if "hip_yaw" in name:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=(0.06, 0.035, 0),
            pos=(-0.067, 0, 0),
            quat=(0.707123, 0, 0.70709, 0),
            mass=0,
        )
        return
    mesh = "ankle" if "ankle" in name else name
    if mesh == name:
        spec.add_mesh(name=name, file=str(mesh_directory() / f"{name}.STL"))
    body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=mesh, mass=0)


def mesh_directory() -> Path:
    """Where the STL files of the links are; found without importing their package."""
    package = importlib.util.find_spec("robosuite_models")
    if package is None or package.origin is None:
        raise MissingRequirementError(
            "the humanoid tasks take the shapes of the robot's links from the package robosuite-models, "
            "which is not installed: pip install robosuite-models==1.0.0"
        )
    return Path(package.origin).parent / "assets" / "robots" / "h1" / "meshes"

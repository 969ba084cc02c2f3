"""What stands around the robot in each task, and the compiled models.

Boxes are given by centre and half-sizes in metres. All colliding geoms have MuJoCo's default contact
parameters. The order of geoms (those of the world's own body precede the robot's) and of mesh vertices is the
original's, because contacts are solved in that order: with it, the states after a step agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, get_args

import mujoco
import numpy as np

from fire_rl.envs.humanoid.robot import IDENTITY, Vec3, add_robot, key_qpos

BOX, SPHERE = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE
CYLINDER, MESH = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_MESH

Contacts = Literal["published", "current"]
# mujoco 3.1.6, on which HumanoidBench was published, had neither of these two convex colliders.
PUBLISHED_DISABLEFLAGS = int(mujoco.mjtDisableBit.mjDSBL_NATIVECCD | mujoco.mjtDisableBit.mjDSBL_MULTICCD)

# '#' is a block; row r and column c are centred at x = -1.5 + 1.5 c, y = 7.5 - 1.5 r.
MAZE = (
    "#######",
    "#.....#",
    "###.#.#",
    "#.....#",
    "#.#.###",
    "#.....#",
    "#######",
)
BALL_RADIUS = 0.17
BOARD_HEIGHT = 0.37

WALL_COLOUR, OBJECT_COLOUR = (0.75, 0.75, 0.8, 1.0), (0.8, 0.55, 0.3, 1.0)

# A scene adds itself to a spec and returns the key pose of its own free bodies (7 numbers each).
Scene = Callable[[mujoco.MjSpec], list[float]]


def _box(body: Any, name: str, centre: Vec3, half_size: Vec3, mass: float = 0.0) -> None:
    body.add_geom(name=name, type=BOX, pos=centre, size=half_size, mass=mass, rgba=OBJECT_COLOUR)


def _visual_box(body: Any, centre: Vec3, half_size: Vec3) -> None:
    """A box of density 1000 kg/m³ that collides with nothing: it gives its body mass."""
    body.add_geom(
        type=BOX, pos=centre, size=half_size, density=1000, contype=0, conaffinity=0, rgba=OBJECT_COLOUR
    )


def _walls(body: Any, *walls: tuple[str, Vec3, Vec3]) -> None:
    for name, centre, half_size in walls:
        body.add_geom(name=name, type=BOX, pos=centre, size=half_size, mass=0, rgba=WALL_COLOUR)


def _static(spec: mujoco.MjSpec) -> Any:
    return spec.worldbody.add_body(name="scene")


def empty(spec: mujoco.MjSpec) -> list[float]:
    """Only the floor."""
    return []


def hurdles(spec: mujoco.MjSpec) -> list[float]:
    """Ten hurdles of 0.375 m between three barriers."""
    for k in range(1, 11):
        _box(spec.worldbody, f"hurdle_{k}", (7.0 * k, 0, 0.1875), (0.03, 5, 0.1875))
    _walls(
        _static(spec),
        ("barrier_left", (35, -4.725, 1), (35.5, 0.275, 1)),
        ("barrier_right", (35, 4.725, 1), (35.5, 0.275, 1)),
        ("barrier_behind", (-0.525, 0, 1), (0.05, 5, 1)),
    )
    return []


def tunnel(spec: mujoco.MjSpec) -> list[float]:
    """A tunnel of 1.15 m height from x = 2.2 to 18.2."""
    _walls(
        _static(spec),
        ("side_left", (10.2, -1.35, 0.775), (8, 0.2, 0.775)),
        ("side_right", (10.2, 1.35, 0.775), (8, 0.2, 0.775)),
        ("ceiling", (10.2, 0, 1.35), (8, 1.15, 0.2)),
    )
    return []


def maze(spec: mujoco.MjSpec) -> list[float]:
    """The blocks of `MAZE`; the robot starts in the lower left cell."""
    body = _static(spec)
    for r, row in enumerate(MAZE):
        for c, cell in enumerate(row):
            if cell == "#":
                centre = (-1.5 + 1.5 * c, 7.5 - 1.5 * r, 0.6)
                _walls(body, (f"block_{r}_{c}", centre, (0.75, 0.75, 0.6)))
    return []


def _chair(body: Any) -> None:
    _box(body, "chair_back", (-0.23, 0, 0.65), (0.02, 0.21, 0.2))
    _box(body, "chair_seat", (0, 0, 0.2375), (0.21, 0.21, 0.2375))


def fixed_chair(spec: mujoco.MjSpec) -> list[float]:
    """A chair that is part of the world."""
    _chair(spec.worldbody.add_body(name="chair", pos=(-0.25, 0, 0)))
    return []


def loose_chair(spec: mujoco.MjSpec) -> list[float]:
    """A chair of 15.7 kg; what collides is massless, what has mass is only seen."""
    position = [-0.25, 0.0, 0.0]
    body = spec.worldbody.add_body(name="chair", pos=position)
    body.add_freejoint()
    for x in (0.19, -0.19):
        for y in (0.19, -0.19):
            _visual_box(body, (x, y, 0.225), (0.02, 0.02, 0.225))
    _visual_box(body, (0, 0, 0.45), (0.21, 0.21, 0.025))
    for y in (0.19, -0.19):
        _visual_box(body, (-0.23, y, 0.6375), (0.02, 0.02, 0.2125))
    _visual_box(body, (-0.23, 0, 0.77), (0.02, 0.21, 0.08))
    _chair(body)
    return [*position, *IDENTITY]


def _board_on_ball(spec: mujoco.MjSpec, ball_rolls: bool) -> list[float]:
    board_position, ball_position = [0.0, 0.0, BOARD_HEIGHT], [0.0, 0.0, BALL_RADIUS]
    board = spec.worldbody.add_body(name="stand_board", pos=board_position)
    board.add_freejoint()
    _visual_box(board, (0, 0, 0), (0.15, 0.55, 0.03))
    _box(board, "board", (0, 0, 0), (0.15, 0.55, 0.03))
    ball = spec.worldbody.add_body(name="rolling_pivot", pos=ball_position)
    ball.add_geom(
        name="ball",
        type=SPHERE,
        size=(BALL_RADIUS, 0, 0),
        density=1000 if ball_rolls else 0,
        rgba=WALL_COLOUR,
    )
    key = [*board_position, *IDENTITY]
    if ball_rolls:
        ball.add_freejoint()
        key += [*ball_position, *IDENTITY]
    return key


def fixed_ball(spec: mujoco.MjSpec) -> list[float]:
    """A free board of 19.8 kg on a ball that is part of the world."""
    return _board_on_ball(spec, ball_rolls=False)


def rolling_ball(spec: mujoco.MjSpec) -> list[float]:
    """A free board of 19.8 kg on a free ball of 20.6 kg."""
    return _board_on_ball(spec, ball_rolls=True)


def stairs(spec: mujoco.MjSpec) -> list[float]:
    """Four stepped ridges of five layers, each 0.18 m high and 0.6 m deep, between walls."""
    ridges = _static(spec)
    for x in (3.2, 9.2, 15.2, 21.2):
        for height, half_length in ((0.09, 2.7), (0.27, 2.1), (0.45, 1.5), (0.63, 0.9), (0.81, 0.3)):
            _box(ridges, f"step_{x}_{height}", (x, 0, height), (half_length, 5, 0.09))
    _walls(
        spec.worldbody,
        ("wall_left", (13.5, -5.05, 2), (15.5, 0.1, 2)),
        ("wall_right", (13.5, 5.05, 2), (15.5, 0.1, 2)),
        ("wall_behind", (-2.1, 0, 2), (0.1, 7.25, 2)),
    )
    return []


def slides(spec: mujoco.MjSpec) -> list[float]:
    """Nine ramps up and down, 1.75 m high and 10 m long, between walls."""
    corners = [(x, y, z) for x, z in ((0.3, 0), (5.3, 1.75), (10.3, 0)) for y in (5, -5)]
    spec.add_mesh(name="slide", uservert=np.array(corners).flatten())
    ramps = _static(spec)
    for k in range(9):
        ramps.add_geom(
            name=f"slide_{k}", type=MESH, meshname="slide", pos=(10.0 * k, 0, 0), mass=0, rgba=OBJECT_COLOUR
        )
    _walls(
        spec.worldbody,
        ("wall_left", (48.85, -5.15, 4), (53, 0.15, 4)),
        ("wall_right", (48.85, 5.15, 4), (53, 0.15, 4)),
        ("wall_behind", (-4, 0, 4), (0.15, 5.15, 4)),
    )
    return []


def poles(spec: mujoco.MjSpec) -> list[float]:
    """A forest of 144 poles in staggered rows one metre apart, between walls."""
    body = _static(spec)
    for row in range(1, 42):
        for y in (2.25, 0.75, -0.75, -2.25) if row % 2 else (1.5, 0.0, -1.5):
            body.add_geom(
                name=f"pole_{row}_{y:g}",
                type=CYLINDER,
                pos=(row, y, 1),
                size=(0.05, 1, 0),
                mass=0,
                rgba=OBJECT_COLOUR,
            )
    _walls(
        body,
        ("wall_left", (20, -3.15, 1), (20.75, 0.15, 1)),
        ("wall_right", (20, 3.15, 1), (20.75, 0.15, 1)),
        ("wall_behind", (-0.6, 0, 1), (0.15, 3, 1)),
    )
    return []


@cache
def load_model(scene: Scene, contacts: Contacts = "published") -> mujoco.MjModel:
    """The compiled model of the robot in `scene`: one per process, for all environments to read.

    Raises:
        ValueError: `contacts` is not an option.
        MissingRequirementError: the package with the robot's meshes is not installed.
    """
    if contacts not in get_args(Contacts):
        raise ValueError(f"contacts must be one of {', '.join(get_args(Contacts))}, not {contacts!r}")
    spec = mujoco.MjSpec()
    spec.modelname = f"h1_{scene.__name__}"
    spec.option.timestep = 0.002
    spec.option.iterations = 100
    spec.option.ls_iterations = 50
    if contacts == "published":
        spec.option.disableflags |= PUBLISHED_DISABLEFLAGS
    _add_surroundings(spec)
    add_robot(spec)
    balancing = scene in (fixed_ball, rolling_ball)
    robot_key = key_qpos(x=-0.1, z=1.38) if balancing else key_qpos()
    spec.add_key(name="start", qpos=robot_key + scene(spec))
    return spec.compile()


def _add_surroundings(spec: mujoco.MjSpec) -> None:
    """Floor, light and sky; only the floor matters to the physics."""
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 960
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=(0.9, 0.95, 1.0),
        rgb2=(0.5, 0.65, 0.8),
        width=256,
        height=1536,
    )
    spec.add_texture(
        name="tiles",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=(0.85, 0.85, 0.85),
        rgb2=(0.75, 0.75, 0.75),
        width=256,
        height=256,
    )
    floor = spec.add_material(name="floor", texrepeat=(1, 1), texuniform=True)
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=(0, 0, 10), dir=(0.3, 0.2, -1), castshadow=False
    )
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=(20, 20, 1), material="floor", mass=0
    )

"""Pictures of a simulation, with or without a screen."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import sys
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.humanoid.errors import MissingRequirementError

WIDTH, HEIGHT = 640, 480  # pixels
HOW_TO = (
    "pictures need OpenGL without a screen: install EGL (Debian, Ubuntu: apt-get install libegl1 libgl1) "
    "or OSMesa (libosmesa6, then set MUJOCO_GL=osmesa)"
)


class Camera:
    """Looks at the robot from the side and follows it.

    Raises:
        MissingRequirementError: neither EGL nor OSMesa is on this machine, or it does not start.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._context = _gl_context()
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        self._camera.trackbodyid = model.body("pelvis").id
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 4.0, 130.0, -15.0
        self._render = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._render)

    def picture(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """The present view, (HEIGHT, WIDTH, 3)."""
        self._context.make_current()
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._options,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        viewport = mujoco.MjrRect(0, 0, WIDTH, HEIGHT)
        mujoco.mjr_render(viewport, self._scene, self._render)
        pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, viewport, self._render)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's rows run upwards

    def close(self) -> None:
        """Free the OpenGL context."""
        self._context.make_current()
        self._render.free()
        self._context.free()


def gl_backend() -> str:
    """Which OpenGL makes pictures in memory: `egl`, `osmesa`, what MUJOCO_GL says, or "" for mujoco's own.

    mujoco's own choice, made at its import, is a window; here a machine without a screen is the normal case.

    Raises:
        MissingRequirementError: neither EGL nor OSMesa is on this machine.
    """
    backend = os.environ.get("MUJOCO_GL", "").lower()
    if not backend and sys.platform == "linux":
        found = [name for name in ("EGL", "OSMesa") if ctypes.util.find_library(name)]
        if not found:
            raise MissingRequirementError(HOW_TO)
        backend = found[0].lower()
    return backend


def _gl_context() -> Any:
    """A current OpenGL context for pictures in memory."""
    backend = gl_backend()
    try:
        module = importlib.import_module(f"mujoco.{backend}") if backend in ("egl", "osmesa") else mujoco
        context = module.GLContext(WIDTH, HEIGHT)
        context.make_current()
    except Exception as error:  # each backend fails in its own way
        name = backend or "OpenGL"
        raise MissingRequirementError(f"{name} does not start ({error}); {HOW_TO}") from error
    return context

"""The convex hull of the H1's foot.

HumanoidBench's ankle mesh is narrow and long, differs from that of `robosuite-models` by 36 mm and is in no
package. Its hull is that of seventeen balls on each side of the foot, tessellated in steps of ten degrees.
Rebuilt so, its support function differs from the original's by at most 0.023 mm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Arc(NamedTuple):
    """A patch of a ball's surface: degrees, both ends included, in steps of ten."""

    longitude: tuple[int, int]  # in the x-z plane, from +x towards +z
    latitude: tuple[int, int] = (0, 80)  # from the x-z plane towards the outside, +y


class Ball(NamedTuple):
    """A ball on the left side, in millimetres in the ankle's frame, and its surface's share in the hull."""

    radius: float
    x: float
    y: float
    z: float
    arcs: tuple[Arc, ...]
    pole: bool = True  # whether its outermost point is on the hull


def _on_circle(x: float, z: float, radius: float, degrees: float) -> tuple[float, float]:
    angle = math.radians(degrees)
    return x + radius * math.cos(angle), z + radius * math.sin(angle)


def _instep(degrees: float, *arcs: Arc) -> Ball:
    x, z = _on_circle(171.876, -53, 5, degrees)
    return Ball(3, x, 12, z, arcs)


def _shaft(degrees: float, *arcs: Arc, pole: bool) -> Ball:
    x, z = _on_circle(0, 0, 10, degrees)
    return Ball(1, x, 10, z, arcs, pole)


LEFT_BALLS = (
    Ball(3, -97, 12, -66.528, (Arc((180, 260)),)),
    Ball(3, -94.699, 12, -67, (Arc((260, 270)),)),
    Ball(3, -97, 12, -61.732, (Arc((130, 180)), Arc((120, 120), (50, 80)))),
    Ball(3, 197, 12, -61.732, (Arc((0, 60)),)),
    Ball(3, 197, 12, -65.91, (Arc((0, 0)), Arc((290, 350)))),
    Ball(3, 194.401, 12, -67, (Arc((270, 290)),)),
    Ball(3, -73.215, 12, -48, (Arc((120, 120), (70, 80)), Arc((100, 110), (80, 80)))),
    _instep(60, Arc((60, 60))),
    _instep(70, Arc((70, 70))),
    _instep(80, Arc((80, 80), (70, 80))),
    _instep(90, Arc((90, 90), (80, 80))),
    _shaft(75, Arc((80, 80)), Arc((70, 70), (0, 70)), pole=False),
    _shaft(85, Arc((80, 90)), pole=True),
    _shaft(95, Arc((90, 100)), pole=True),
    _shaft(105, Arc((100, 110)), pole=False),
    _shaft(115, Arc((110, 120)), pole=False),
    _shaft(125, Arc((120, 120), (0, 70)), Arc((130, 130), (0, 50)), pole=False),
)


def foot_hull() -> NDArray[np.float64]:
    """Vertices of the hull, (920, 3), in metres in the ankle's frame; the same for both feet."""
    left = [vertex for ball in LEFT_BALLS for vertex in _vertices(ball)]
    right = [(x, -y, z) for x, y, z in left]
    return np.array(left + right) / 1000


def _vertices(ball: Ball) -> list[tuple[float, float, float]]:
    """In a fixed order, since the compiler's rounding depends on it."""
    found = [(ball.x, ball.y + ball.radius, ball.z)] if ball.pole else []
    for latitude in range(0, 90, 10):
        for longitude in range(0, 360, 10):
            if any(_contains(a.longitude, longitude) and _contains(a.latitude, latitude) for a in ball.arcs):
                level, turn = math.radians(latitude), math.radians(longitude)
                x = ball.x + ball.radius * (math.cos(level) * math.cos(turn))
                y = ball.y + ball.radius * math.sin(level)
                z = ball.z + ball.radius * (math.cos(level) * math.sin(turn))
                found.append((x, y, z))
    return found


def _contains(ends: tuple[int, int], degrees: int) -> bool:
    return ends[0] <= degrees <= ends[1]

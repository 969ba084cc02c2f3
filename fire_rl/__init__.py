"""FIRE-RL: reset methods for deep reinforcement learning. This level needs torch only."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from fire_rl import methods  # registers the built-in methods
from fire_rl.fire import ProjectionReport, fire_
from fire_rl.measures import deviation_from_isometry, squared_frobenius_error
from fire_rl.method import ResetMethod, make_method, method_names, register
from fire_rl.orthogonal import nearest_isometry
from fire_rl.plugins import load_entry_points
from fire_rl.schedule import Schedule

__all__ = [
    "ProjectionReport",
    "ResetMethod",
    "Schedule",
    "deviation_from_isometry",
    "fire_",
    "make_method",
    "method_names",
    "methods",
    "nearest_isometry",
    "register",
    "squared_frobenius_error",
]

try:
    __version__ = version("fire-rl")
except PackageNotFoundError:
    __version__ = "0+checkout"


class _Checkout:
    """Finds `fire_rl.agents` in `agents/` beside this package, …; asked last, where nothing is installed."""

    root = Path(__file__).resolve().parents[1]
    names = frozenset({"fire_rl.agents", "fire_rl.envs", "fire_rl.launch", "fire_rl.results"})

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        init = cls.root / name.removeprefix("fire_rl.") / "__init__.py"
        if name not in cls.names or not init.is_file():
            return None
        return spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])


sys.meta_path.append(_Checkout)
load_entry_points()  # last: plug-ins import this package

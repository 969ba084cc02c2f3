"""Methods of other people: from installed packages, and from files named on the command line."""

from __future__ import annotations

import importlib.util
import sys
import traceback
import zlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

GROUP = "fire_rl.methods"


class PluginError(ValueError):
    """A plug-in that cannot be used; the message names its file and line."""


def load_entry_points() -> None:
    """Import what installed packages declare under the entry point group `fire_rl.methods`.

    A package that fails must not take the others down: its failure is told on stderr.
    """
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            print(f"warning: plug-in {point.name} of {package}: {_describe(error)}", file=sys.stderr)


def load_plugins(paths: Iterable[Path | str]) -> None:
    """Import Python files, each once, so that the methods in them are registered.

    Raises:
        PluginError: when a file is missing or fails, naming file and line.
    """
    for path in map(Path, paths):
        file = path.resolve()
        if not file.is_file():
            raise PluginError(f"--plugin {path}: there is no such file")
        name = f"fire_rl_plugin_{file.stem}_{zlib.crc32(str(file).encode()):08x}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise PluginError(f"--plugin {path}: not a Python file (its name must end in .py)")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise PluginError(f"--plugin {path}: {_describe(error, file)}") from error


def _describe(error: Exception, file: Path | None = None) -> str:
    """One sentence with the place: that of a syntax error, else the deepest line in `file`."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file is None or Path(frame.filename) == file] or frames
    return f"{own[-1].filename}:{own[-1].lineno}: {type(error).__name__}: {error}"

"""Where a record comes from: the versions, the machine and the command that made it."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def command_line() -> str:
    """The command that started this process, ready to be pasted into a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in ("fire-rl", "torch", "numpy", "gymnasium", "ale-py", "mujoco", "wandb"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """The machine: host, CPU, memory, GPUs."""
    torch = sys.modules.get("torch")  # a record may be written without torch, so it is not imported for this
    gpus = [] if torch is None else [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()

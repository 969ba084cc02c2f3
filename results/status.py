"""The heartbeat of a run, status.json: read here, written by `fire_rl.results.store`."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

State = Literal["queued", "running", "finished", "failed", "interrupted"]


@dataclass(frozen=True)
class Status:
    """Heartbeat of a run. `started` and `updated` are seconds since 1970."""

    state: State = "queued"
    agent_steps: int = 0
    total_agent_steps: int = 0
    attempt: int = 0  # how often the run was started
    message: str = ""
    wandb: str = ""  # "offline", "online", "disabled", or why it was lost
    wandb_agent_steps: int = -1  # the last step that W&B was sent
    pid: int = 0
    host: str = ""
    started: float = 0.0
    updated: float = 0.0

    def is_alive(self) -> bool:
        """Whether the process that wrote this may still be at work; always true for another host."""
        if self.state != "running":
            return False
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it exists, and belongs to someone else
            return True
        return True


def read_status(path: Path) -> Status:
    """The status of the run at `path`; ValueError when there is one that cannot be read."""
    try:
        content = json.loads((path / "status.json").read_text())
        known = {f.name for f in fields(Status)}
        return Status(**{key: value for key, value in content.items() if key in known})
    except FileNotFoundError:
        return Status()
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}/status.json cannot be read ({error})") from error

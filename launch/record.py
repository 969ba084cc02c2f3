"""Opening the record of a run: new, or to go on with exactly the run that it holds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from fire_rl.launch.config import RunConfig, differences, identity
from fire_rl.results.jsonl import plain
from fire_rl.results.store import RunDirectory, load_run


def is_finished(config: RunConfig) -> bool:
    """Whether the run of `config` has been recorded to its end and shall not be started over.

    Raises:
        ValueError: when the directory holds a run of another configuration, naming the keys that differ.
    """
    if config.run.fresh or not (config.path / "config.json").exists():
        return False
    run = load_run(config.path)
    if differing := differences(identity(run.config), identity(plain(config.to_dict()))):
        raise ValueError(
            f"{config.path} holds a run with another configuration: {differing}; "
            f"choose another --out, or delete it and start over with --fresh"
        )
    return run.status.state == "finished"


def open_record(config: RunConfig, fork: Mapping[str, Any] | None = None) -> RunDirectory:
    """The run directory of `config`: created, emptied first if --fresh says so, or opened to go on.

    Args:
        fork: where the run's state comes from, if from another run; kept in the new record.

    Raises:
        ValueError: when it cannot be written, or another process is writing it.
    """
    record = RunDirectory(config.path)
    if record.exists and config.run.fresh:
        record.close()
        shutil.rmtree(config.path)
        record = RunDirectory(config.path)
    if not record.exists:
        record.create(config.to_dict(), fork)
    return record

"""Opening the record of a run: new, or to go on with exactly the run that it holds."""

from __future__ import annotations

import shutil

from fire_rl.launch.config import RunConfig, identity
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
    old, new = identity(run.config), identity(plain(config.to_dict()))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        what = ", ".join(f"{k} ({old.get(k)!r} there, {new.get(k)!r} now)" for k in differing[:5])
        raise ValueError(
            f"{config.path} holds a run with another configuration: {what}; "
            f"choose another --out, or delete it and start over with --fresh"
        )
    return run.status.state == "finished"


def open_record(config: RunConfig) -> RunDirectory:
    """The run directory of `config`: created, emptied first if --fresh says so, or opened to go on.

    Raises:
        ValueError: when it cannot be written, or another process is writing it.
    """
    record = RunDirectory(config.path)
    if record.exists and config.run.fresh:
        record.close()
        shutil.rmtree(config.path)
        record = RunDirectory(config.path)
    if not record.exists:
        record.create(config.to_dict())
    return record

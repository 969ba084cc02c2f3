"""The run directory: the record of one run, its schema written and read here only.

    <out>/<agent>/<family>/<env>/<method>/s<seed>/
        config.json      schema version, id, resolved configuration, versions, hardware, command line
        status.json      heartbeat: state, pid, host, agent_steps, attempt, ...; replaced atomically
        train.jsonl      one row per logging interval: agent_steps, env_steps, updates, then metrics
        episodes.jsonl   every finished training episode: agent_steps, env_steps, return, length_agent_steps
        eval.jsonl       every evaluation: agent_steps, env_steps, return (mean), returns (all of them)
        events.jsonl     every reset: the clock, method, options, and what it did (see `EVENT_KEYS`)
        measures.jsonl   all measures of plasticity, if asked for: agent_steps, …, "<learner>/<measure>"
        timing.jsonl     wall-clock seconds and speeds, and nothing else
        checkpoints/     written by the training loop

Rows are JSON objects, one per line; readers ignore keys they do not know and read missing numbers as NaN.
Non-finite numbers are written as null. All streams but `timing` are functions of configuration and seed
alone: the same seed twice gives the same bytes. Each row is one `write` to a file opened with O_APPEND, so
that a killed run leaves at most one torn line, at the end; it is cut off when the run goes on.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fire_rl.results.jsonl import cut_torn_tail, dumps, flat_columns, parse, plain, write_atomically
from fire_rl.results.provenance import command_line, hardware, versions
from fire_rl.results.status import State, Status, read_status

__all__ = [
    "SCHEMA",
    "STREAMS",
    "Run",
    "RunDirectory",
    "State",
    "Status",
    "Stream",
    "find_runs",
    "load_run",
    "run_path",
]

SCHEMA = 1  # raise it when a reader of the old schema would misread the new one
Stream = Literal["train", "episodes", "eval", "events", "measures", "timing"]
STREAMS: tuple[Stream, ...] = get_args(Stream)
NAMES = {"agent", "env", "method", "seed"}  # what every configuration says under these keys

EVENT_KEYS = """
agent_steps, env_steps, updates  the clock at which the reset fired
method, options                  its name and every option
before, after                    measures of the agent: "<learner>/dormant_ratio", "<learner>/srank", …
output_change                    by learner: largest change of an output on the probe batch
agent                            what the agent restored itself, such as SAC's temperature
sfe, dfi_before, dfi_after       sums over all weight matrices of all learners
projection                       rows, one per weight tensor: learner, name, matrices, rows, cols, sfe,
                                 sfe_rel, and <measure>_before, <measure>_after for dfi_raw, dfi, dfi_shape,
                                 sigma_max, sigma_min
spectra                          of the first reset, one row per weight tensor: learner, name, and before and
                                 after at most 64 singular values of all its matrices, descending
"""


def run_path(out: str | Path, agent: str, env: str, method: str, seed: int) -> Path:
    """Where a run is recorded below `out`. `env` is "family/name", such as "atari/Asterix"."""
    return Path(out) / agent / env / method / f"s{seed}"


class _Identified:
    """What the configuration says about which run this is."""

    record: dict[str, Any]  # the whole of config.json

    @property
    def id(self) -> str:
        """Drawn when the run was created: no other run ever has it, all attempts of this one do."""
        return str(self.record["id"])

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        config: dict[str, Any] = self.record["config"]
        return config

    @property
    def agent(self) -> str:
        """Name of the agent, such as "dqn"."""
        return _name(self.config["agent"])

    @property
    def env(self) -> str:
        """Environment as "family/name", such as "atari/Asterix"."""
        return _name(self.config["env"])

    @property
    def method(self) -> str:
        """What figures call the method: the label of the configuration, or else the method's name."""
        return str(self.config.get("label") or _name(self.config["method"]))

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])


class RunDirectory(_Identified):
    """The record of one run, opened for writing by the one process that runs it.

    Args:
        path: the run directory; it need not exist yet.

    Raises:
        ValueError: when `path` is a file, cannot be written, is being written by another process, or holds
            records of a newer schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._files: dict[Stream, int] = {}
        self._lock: int | None = None
        self.status = Status()
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: give a directory for the run, or move the file away")
        if self.exists:
            self.record = _read_config(self.path)
            self.status = read_status(self.path)
            self._open()

    @property
    def exists(self) -> bool:
        """Whether a run has been recorded here."""
        return (self.path / "config.json").exists()

    def create(self, config: Mapping[str, Any], fork: Mapping[str, Any] | None = None) -> None:
        """Start the record.

        `config` is the resolved configuration as plain JSON values. It names what was run under the keys
        `agent`, `env`, `method` (a string, or a table with a `name`) and `seed`; a `label`, if present, is
        what figures call the method. `fork` says of a run that began with another's state whose that was.

        Raises:
            ValueError: when a run is already recorded here, or the directory cannot be written.
        """
        if self.exists:
            raise ValueError(f"{self.path} already holds a run: resume it, or choose another --out")
        if missing := NAMES - config.keys():
            raise ValueError(f"the configuration of a run must name its {', '.join(sorted(missing))}")
        self.record = {
            "schema": SCHEMA,
            "id": secrets.token_hex(8),
            "config": plain(config),
            "versions": versions(),
            "hardware": hardware(),
            "command": command_line(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **({"fork": plain(fork)} if fork else {}),
        }
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "config.json", self.record)
        except OSError as error:
            raise ValueError(
                f"cannot write the run directory {self.path} ({error.strerror}): choose another --out"
            ) from error
        self._open()

    def _open(self) -> None:
        try:
            self._lock = _lock(self.path)
            for stream in STREAMS:
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
                self._files[stream] = os.open(self.path / f"{stream}.jsonl", flags, 0o644)
                cut_torn_tail(self._files[stream])
        except PermissionError as error:
            raise ValueError(f"cannot write the run directory {self.path} ({error.strerror})") from error

    def append(self, stream: Stream, row: Mapping[str, Any]) -> None:
        """Add one row; it is in the hands of the operating system when this returns."""
        line = dumps(row).encode() + b"\n"
        written = os.write(self._files[stream], line)
        if written != len(line):
            raise OSError(f"{self.path}/{stream}.jsonl: only part of a row was written; is the disk full?")

    def write_status(self, **changes: Any) -> None:
        """Replace status.json: the fields of `Status` in `changes`, the others as they were."""
        now = time.time()
        about_us = {"pid": os.getpid(), "host": socket.gethostname(), "updated": now}
        started = self.status.started or now
        self.status = replace(self.status, **{**about_us, "started": started, **changes})
        write_atomically(self.path / "status.json", asdict(self.status))

    def offsets(self) -> dict[str, int]:
        """Bytes in each stream, for a checkpoint; the rows before them are on the disk when this returns."""
        for descriptor in self._files.values():
            os.fsync(descriptor)
        return {stream: os.fstat(descriptor).st_size for stream, descriptor in self._files.items()}

    def truncate_to(self, offsets: Mapping[str, int]) -> None:
        """Cut every stream back to where it was at a checkpoint, so that a resumed run repeats no row.

        Raises:
            ValueError: when a stream is shorter than its offset.
        """
        for stream, descriptor in self._files.items():
            size, offset = os.fstat(descriptor).st_size, offsets.get(stream, 0)
            if size < offset:
                raise ValueError(
                    f"{self.path}/{stream}.jsonl has {size} bytes, and the checkpoint was taken at {offset}: "
                    "rows are missing, so the run cannot go on from here"
                )
        for stream, descriptor in self._files.items():
            os.ftruncate(descriptor, offsets.get(stream, 0))

    def copy_rows(self, source: Path, offsets: Mapping[str, int]) -> None:
        """Make the rows of this run those that another had when its streams had `offsets` bytes.

        Raises:
            ValueError: when a stream of `source` is shorter than its offset.
        """
        for stream in STREAMS:
            with (source / f"{stream}.jsonl").open("rb") as file:
                rows = file.read(offsets[stream])
            if len(rows) < offsets[stream]:
                raise ValueError(f"{source}/{stream}.jsonl lacks rows that its checkpoint knows of")
            (self.path / f"{stream}.jsonl").write_bytes(rows)

    def close(self) -> None:
        """Release the files; may be called twice."""
        for descriptor in (*self._files.values(), *(() if self._lock is None else (self._lock,))):
            os.close(descriptor)
        self._files, self._lock = {}, None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Run(_Identified):
    """The record of one run, read without disturbing whoever may be writing it."""

    path: Path
    record: dict[str, Any]  # the whole of config.json
    status: Status
    unreadable: dict[Stream, int] = field(default_factory=dict)  # rows that were no JSON, per stream read

    def rows(self, stream: Stream) -> list[dict[str, Any]]:
        """All readable rows of `stream` (a torn last line is left out); none if there is no such file.

        Rows that are no JSON object are left out and counted in `unreadable`.
        """
        lines = self._bytes(stream).split(b"\n")[:-1]
        rows = [row for line in lines if (row := parse(line)) is not None]
        self.unreadable[stream] = len(lines) - len(rows)
        return rows

    def columns(self, stream: Stream, keys: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """The numbers under `keys`, each (rows,); NaN where a row has none."""
        columns = flat_columns(self._bytes(stream), keys)
        if columns is not None:
            self.unreadable[stream] = 0
            return columns
        rows = self.rows(stream)
        return {key: np.array([_number(row.get(key)) for row in rows], dtype=np.float64) for key in keys}

    def _bytes(self, stream: Stream) -> bytes:
        """The complete lines of a stream."""
        try:
            data = (self.path / f"{stream}.jsonl").read_bytes()
        except FileNotFoundError:
            return b""
        return data[: data.rfind(b"\n") + 1]


def load_run(path: str | Path) -> Run:
    """Read the run at `path`.

    Raises:
        ValueError: when there is no run, or its record is unreadable or of a newer schema.
    """
    path = Path(path)
    return Run(path, _read_config(path), read_status(path))


def find_runs(root: str | Path, on_problem: Callable[[str], None] | None = None) -> list[Run]:
    """All runs at or below `root`, ordered by agent, environment, method, seed.

    A run that cannot be read is left out, and `on_problem` is told why (default: a line on stderr).

    Raises:
        ValueError: when `root` is no directory or holds no readable run.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"{root} {what}: give the directory that a command wrote its runs to (--out)")
    runs = []
    for path in _run_paths(root):
        try:
            runs.append(load_run(path))
        except ValueError as error:
            if on_problem is None:
                print(error, file=sys.stderr)
            else:
                on_problem(str(error))
    if not runs:
        raise ValueError(f"no run is recorded below {root}: `fire-rl train --out {root}` records one")
    return sorted(runs, key=lambda run: (run.agent, run.env, run.method, run.seed, run.path))


def _run_paths(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):  # hidden folders hold no results, but trunks of forks
        if "config.json" in files:
            below.clear()  # a run holds no runs
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path} holds no run: there is no config.json in it") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}/config.json cannot be read ({error})") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if (
        not isinstance(schema, int)
        or not {"agent", "env", "method", "seed"} <= record.get("config", {}).keys()
    ):
        raise ValueError(f"{path}/config.json is not the configuration of a run of FIRE-RL")
    if schema > SCHEMA:
        raise ValueError(
            f"{path} has records of schema {schema}, and this version reads up to {SCHEMA}: update fire-rl"
        )
    return dict(record)


def _name(value: Any) -> str:
    return str(value["name"] if isinstance(value, Mapping) else value)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _lock(path: Path) -> int:
    """Claim the run for this process. The kernel gives the lock back however the process ends, and forked
    environment workers do not inherit it."""
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(descriptor)
            message = f"another process is writing the run {path}: wait for it, or stop it"
            raise ValueError(message) from error
        # Some cluster file systems have no locks: there, starting a run once is up to the user.
    return descriptor

"""The record of many runs as tidy tables, for other tools."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from fire_rl.results.curves import write_csv
from fire_rl.results.store import STREAMS, Run, Stream, find_runs

Format = Literal["csv", "parquet"]
RUN_COLUMNS = ("agent", "env", "method", "seed", "run")


def export(root: str | Path, out: str | Path | None = None, to: Format = "csv") -> list[Path]:
    """Write one table per stream of the runs below `root`, with a row per recorded row, and one of the runs.

    Every table begins with the columns agent, env, method, seed, run (the directory); nested values become
    columns named "before.q/dormant_ratio", lists are left out of all but the table `projection`, which has a
    row per reset and weight tensor.

    Args:
        root: directory of runs.
        out: folder of the tables; default: `root`/tables.
        to: "csv", or "parquet" (needs `pip install pyarrow`).

    Returns:
        The files written; streams without rows have none.

    Raises:
        ValueError: when there are no runs, `to` is unknown, or pyarrow is missing.
    """
    if to not in get_args(Format):
        raise ValueError(f"tables are exported to {' or '.join(get_args(Format))}, not {to!r}")
    folder = Path(out) if out is not None else Path(root) / "tables"
    runs = find_runs(root)
    tables: dict[str, Iterator[dict[str, Any]]] = {
        "runs": (_about(run) for run in runs),
        **{stream: _rows(runs, stream) for stream in STREAMS},
        "projection": (_named(run, row) for run in runs for row in _projections(run)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write tables to {folder} ({error.strerror})") from error
    files = []
    for name, content in tables.items():
        rows = list(content)
        if rows:
            files.append(_write(folder / f"{name}.{to}", rows, to))
    return files


def _write(path: Path, rows: list[dict[str, Any]], to: Format) -> Path:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if to == "csv":
        missing = float("nan")
        return write_csv(path, columns, [[row.get(key, missing) for key in columns] for row in rows])
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError("parquet needs pyarrow: pip install pyarrow, or export to csv") from error
    parquet.write_table(arrow.table({key: [row.get(key) for row in rows] for key in columns}), path)
    return path


def _rows(runs: Sequence[Run], stream: Stream) -> Iterator[dict[str, Any]]:
    return (_named(run, _flat(row)) for run in runs for row in run.rows(stream))


def _named(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "agent": run.agent,
        "env": run.env,
        "method": run.method,
        "seed": run.seed,
        "run": str(run.path),
        **row,
    }


def _about(run: Run) -> dict[str, Any]:
    record = {key: value for key, value in run.record.items() if key != "config"}
    return _named(
        run, {**_flat({"status": vars(run.status)}), **_flat(record), **_flat({"config": run.config})}
    )


def _projections(run: Run) -> Iterator[dict[str, Any]]:
    for event in run.rows("events"):
        for row in event.get("projection", []):
            yield {"agent_steps": event["agent_steps"], "env_steps": event["env_steps"], **row}


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            # An event says which method it was; the run's own column has that name.
            flat[f"{prefix}{key}" if prefix or key not in RUN_COLUMNS else f"event.{key}"] = value
    return flat

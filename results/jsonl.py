"""Rows of JSON, one per line: written so that a killed process leaves at most one torn line, at the end."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def dumps(row: Mapping[str, Any]) -> str:
    """`row` as one line of JSON; numbers that are not finite become null."""
    try:
        return json.dumps(row, allow_nan=False, separators=(",", ":"), default=_from_numpy)
    except ValueError:  # not finite somewhere
        return json.dumps(plain(row), allow_nan=False, separators=(",", ":"))


def parse(line: bytes) -> dict[str, Any] | None:
    """The JSON object in `line`, or None if there is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def flat_columns(data: bytes, keys: Sequence[str]) -> dict[str, NDArray[np.float64]] | None:
    """The numbers under `keys` in lines of flat objects that all have all of the keys, else None.

    One regular expression per key reads rows as the training loop writes them some five times as fast as
    parsing every row does.
    """
    count = data.count(b"\n")
    if data.count(b"{") != count:  # nested rows, or no rows
        return None
    text = data.decode(errors="replace")
    columns = {}
    for key in keys:
        words = re.findall(rf'"{re.escape(key)}":([^,}}\n]+)', text)
        if len(words) != count:
            return None
        if "null" in words:
            words = ["nan" if word == "null" else word for word in words]
        try:
            columns[key] = np.array(list(map(float, words)))
        except ValueError:  # a value that is no number
            return None
    return columns


def plain(value: Any) -> Any:
    """`value` in plain JSON types, with null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return plain(_from_numpy(value))


def _from_numpy(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a record holds plain values, not {type(value).__name__}: {value!r}")


def write_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` by `content` as JSON; a reader sees the old file or the new one, nothing between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(plain(content), allow_nan=False, indent=1) + "\n")
    os.replace(temporary, path)


def cut_torn_tail(descriptor: int) -> None:
    """Drop what follows the last newline of the open file."""
    size = os.fstat(descriptor).st_size
    end, block = size, 1 << 16
    while end > 0:
        start = max(0, end - block)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)

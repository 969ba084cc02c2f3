"""Checkpoints: a directory with a manifest and two files per component, JSON and safetensors.

    checkpoints/000123456/            agent steps at which it was taken
        manifest.json                 format version, and size and SHA-256 of every file
        <component>.json              the state with every array replaced by a reference
        <component>.safetensors       the arrays

Nothing in it can run code on loading. A checkpoint is written under a temporary name and renamed when it is
on the disk, so that one that carries its final name is complete unless the disk itself failed; sizes and sums
tell that too, and then the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1  # raise it when a checkpoint can no longer be read by the code of the format before
KEPT = 2  # checkpoints that stay


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why."""


def save_checkpoint(folder: Path, agent_steps: int, components: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a checkpoint into `folder` and remove all but the newest two.

    Args:
        components: state by name: nested dicts, lists and tuples of tensors, arrays and plain values.

    Raises:
        OSError: when it cannot be written; what was there before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{agent_steps:012d}"
    temporary = folder / f".tmp-{os.getpid()}-{final.name}"
    try:
        temporary.mkdir()
        for name, state in components.items():
            _write_component(temporary, name, state)
        files = {
            p.name: {"bytes": p.stat().st_size, "sha256": _digest(p)} for p in sorted(temporary.iterdir())
        }
        manifest = {"format": FORMAT, "agent_steps": agent_steps, "files": files}
        _write(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        _sync(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)
    for leftover in folder.glob(".tmp-*"):  # of a process that was killed while writing
        shutil.rmtree(leftover, ignore_errors=True)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def load_latest(folder: Path, device: torch.device) -> tuple[dict[str, Any], Path] | None:
    """The newest intact checkpoint of `folder` and its path, or None when there is none at all.

    A damaged one is passed over with a warning on stderr.

    Raises:
        CheckpointError: when all are damaged, or the newest was written by a newer version.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return load_checkpoint(path, device), path
        except CheckpointError as error:
            if "newer version" in str(error):
                raise
            print(f"warning: {error}; using the checkpoint before it", file=sys.stderr)
    if found:
        raise CheckpointError(f"no checkpoint in {folder} is intact: start over with --fresh")
    return None


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """All components of the checkpoint at `path`, tensors on `device`.

    Raises:
        CheckpointError: naming the file that is missing, torn, altered or of a newer format.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version, files = int(manifest["format"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} has no readable manifest") from error
    if version > FORMAT:
        raise CheckpointError(
            f"checkpoint {path} was written by a newer version (format {version}, this one reads {FORMAT}): "
            f"update fire-rl"
        )
    for name, facts in files.items():
        file = path / name
        if not file.exists() or file.stat().st_size != facts["bytes"] or _digest(file) != facts["sha256"]:
            raise CheckpointError(f"checkpoint {path} is damaged ({name} is not what was written)")
    return {
        name.removesuffix(".json"): _read_component(path, name.removesuffix(".json"), device)
        for name in files
        if name.endswith(".json")
    }


def _write_component(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(state, tensors))
    _write(folder / f"{name}.json", text.encode())
    try:
        save_file(tensors, folder / f"{name}.safetensors")
    except SafetensorError as error:  # how it reports a disk that is full
        raise OSError(str(error)) from error
    _sync(folder / f"{name}.safetensors")


def _read_component(folder: Path, name: str, device: torch.device) -> Any:
    tensors = load_file(folder / f"{name}.safetensors", device=str(device))
    return _decode(json.loads((folder / f"{name}.json").read_text()), tensors)


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; arrays move to `tensors`. Keys that are no strings and tuples survive the way back."""
    if isinstance(value, Tensor):
        # clone: safetensors refuses tensors that share memory, and a CPU copy is what is written anyway
        tensors[key := str(len(tensors))] = value.detach().cpu().clone().contiguous()
        return {"$tensor": key}
    if isinstance(value, np.ndarray):
        tensors[key := str(len(tensors))] = torch.from_numpy(np.ascontiguousarray(value).copy())
        return {"$array": key, "shape": list(value.shape)}
    if isinstance(value, bytes):
        return {"$bytes": _encode(np.frombuffer(value, dtype=np.uint8), tensors)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return {k: _encode(v, tensors) for k, v in value.items()}
        return {"$items": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_encode(v, tensors) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a checkpoint holds tensors, arrays and plain values, not {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$array" in value:
        return tensors[value["$array"]].cpu().numpy().reshape(value["shape"])
    if "$bytes" in value:
        return _decode(value["$bytes"], tensors).tobytes()
    if "$items" in value:
        return {_decode(k, tensors): _decode(v, tensors) for k, v in value["$items"]}
    if "$tuple" in value:
        return tuple(_decode(v, tensors) for v in value["$tuple"])
    return {k: _decode(v, tensors) for k, v in value.items()}


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

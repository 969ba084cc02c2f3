"""Checkpoints: a directory with a manifest and two files per component, JSON and safetensors.

    checkpoints/000123456/            agent steps at which it was taken
        manifest.json                 format version, size and SHA-256 of every file, the chunks it refers to
        <component>.json              the state with every array replaced by a reference
        <component>.safetensors       the arrays
    checkpoints/chunks/               replay memory, shared by the checkpoints: see chunks.py

Nothing in it can run code on loading. A checkpoint is written under a temporary name and renamed when it is
on the disk, so that one that carries its final name is complete unless the disk itself failed; sizes and sums
tell that too, and then the one before it is used.
"""

from __future__ import annotations

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

from fire_rl.agents.replay import Chunk
from fire_rl.launch.chunks import ChunkStore
from fire_rl.launch.files import digest, sync, write_durably

FORMAT = 2  # raise it when a checkpoint can no longer be read by the code of the format before


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why."""


class OtherFormat(CheckpointError):
    """A checkpoint of another version's format."""


def save_checkpoint(
    folder: Path,
    agent_steps: int,
    components: Mapping[str, Mapping[str, Any]],
    chunks: ChunkStore | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint into `folder` and remove all but the newest `keep`.

    Args:
        components: state by name: nested dicts, lists and tuples of tensors, arrays, plain values and chunks.
        chunks: the store of `folder`, which knows what it holds already; default: one that knows nothing.

    Raises:
        OSError: when it cannot be written; what was there before stays.
    """
    store = chunks or ChunkStore(folder)
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{agent_steps:012d}"
    temporary = folder / f".tmp-{os.getpid()}-{final.name}"
    try:
        temporary.mkdir()
        encoder = _Encoder(store)
        for name, state in components.items():
            encoder.write(temporary, name, state)
        store.sync()
        files = {
            p.name: {"bytes": p.stat().st_size, "sha256": digest(p)} for p in sorted(temporary.iterdir())
        }
        manifest = {
            "format": FORMAT,
            "agent_steps": agent_steps,
            "files": files,
            "chunks": sorted(encoder.chunks),
        }
        write_durably(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        sync(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync(folder)
        older = [path for path in checkpoints(folder) if path.name < final.name]
        for path in checkpoints(folder):
            # Newer ones are damaged, or this run would have gone on from them.
            if path.name > final.name or path in older[: len(older) + 1 - keep]:
                shutil.rmtree(path)
    finally:
        for leftover in folder.glob(".tmp-*"):  # ours, or of a process that was killed while writing
            shutil.rmtree(leftover, ignore_errors=True)
        store.keep_only({name for path in checkpoints(folder) for name in _chunks_of(path)})
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def load_latest(folder: Path, device: torch.device) -> tuple[dict[str, Any], Path] | None:
    """The newest intact checkpoint of `folder` and its path, or None when there is none at all.

    A damaged one is passed over with a warning on stderr.

    Raises:
        CheckpointError: when all are damaged, or the newest was written by another version.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return load_checkpoint(path, device), path
        except CheckpointError as error:
            if isinstance(error, OtherFormat):
                raise
            print(f"warning: {error}; using the checkpoint before it", file=sys.stderr)
    if found:
        raise CheckpointError(f"no checkpoint in {folder} is intact: start over with --fresh")
    return None


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """All components of the checkpoint at `path`, tensors on `device`; chunks are verified, and read later.

    Raises:
        CheckpointError: naming the file that is missing, torn, altered or of a newer format.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version = int(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} has no readable manifest") from error
    if version != FORMAT:
        remedy = "update fire-rl" if version > FORMAT else "start over with --fresh"
        raise OtherFormat(
            f"checkpoint {path} was written by {'a newer' if version > FORMAT else 'an older'} version "
            f"(format {version}, this one reads {FORMAT}): {remedy}"
        )
    store = ChunkStore(path.parent)
    for name in manifest["chunks"]:
        if not store.is_intact(name):
            raise CheckpointError(f"checkpoint {path} is damaged (chunk {name} is not what was written)")
    files = manifest["files"]
    for name, facts in files.items():
        file = path / name
        if not file.exists() or file.stat().st_size != facts["bytes"] or digest(file) != facts["sha256"]:
            raise CheckpointError(f"checkpoint {path} is damaged ({name} is not what was written)")
    return {
        name.removesuffix(".json"): _read_component(path, name.removesuffix(".json"), device, store)
        for name in files
        if name.endswith(".json")
    }


def _chunks_of(path: Path) -> list[str]:
    """The chunks that a checkpoint refers to; none if its manifest is damaged, for then it is of no use."""
    try:
        return list(json.loads((path / "manifest.json").read_text())["chunks"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


class _Encoder:
    """Turns components into JSON and arrays, and remembers which chunks they refer to."""

    def __init__(self, store: ChunkStore) -> None:
        self.store = store
        self.chunks: set[str] = set()

    def write(self, folder: Path, name: str, state: Mapping[str, Any]) -> None:
        """Write one component into `folder`."""
        tensors: dict[str, Tensor] = {}
        text = json.dumps(self.encode(state, tensors))
        write_durably(folder / f"{name}.json", text.encode())
        try:
            save_file(tensors, folder / f"{name}.safetensors")
        except SafetensorError as error:  # how it reports a disk that is full
            raise OSError(str(error)) from error
        sync(folder / f"{name}.safetensors")

    def encode(self, value: Any, tensors: dict[str, Tensor]) -> Any:
        """`value` as JSON; arrays move to `tensors`. Keys that are no strings and tuples survive."""
        if isinstance(value, Chunk):
            self.chunks.add(name := self.store.put(value))
            return {"$chunk": name, "place": list(value.place), "writes": value.writes}
        if isinstance(value, Tensor):
            # clone: safetensors refuses tensors that share memory, and a CPU copy is what is written anyway
            tensors[key := str(len(tensors))] = value.detach().cpu().clone().contiguous()
            return {"$tensor": key}
        if isinstance(value, np.ndarray):
            tensors[key := str(len(tensors))] = torch.from_numpy(np.ascontiguousarray(value).copy())
            return {"$array": key, "shape": list(value.shape)}
        if isinstance(value, bytes):
            return {"$bytes": self.encode(np.frombuffer(value, dtype=np.uint8), tensors)}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Mapping):
            if all(isinstance(k, str) and not k.startswith("$") for k in value):
                return {k: self.encode(v, tensors) for k, v in value.items()}
            return {"$items": [[self.encode(k, tensors), self.encode(v, tensors)] for k, v in value.items()]}
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(v, tensors) for v in value]}
        if isinstance(value, list):
            return [self.encode(v, tensors) for v in value]
        if value is None or isinstance(value, str | int | float | bool):
            return value
        raise TypeError(f"a checkpoint holds tensors, arrays and plain values, not {type(value).__name__}")


def _read_component(folder: Path, name: str, device: torch.device, store: ChunkStore) -> Any:
    tensors = load_file(folder / f"{name}.safetensors", device=str(device))
    return _decode(json.loads((folder / f"{name}.json").read_text()), tensors, store)


def _decode(value: Any, tensors: Mapping[str, Tensor], store: ChunkStore) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors, store) for v in value]
    if not isinstance(value, dict):
        return value
    if "$chunk" in value:
        return store.get(value["$chunk"], tuple(value["place"]), value["writes"])
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$array" in value:
        return tensors[value["$array"]].cpu().numpy().reshape(value["shape"])
    if "$bytes" in value:
        return _decode(value["$bytes"], tensors, store).tobytes()
    if "$items" in value:
        return {_decode(k, tensors, store): _decode(v, tensors, store) for k, v in value["$items"]}
    if "$tuple" in value:
        return tuple(_decode(v, tensors, store) for v in value["$tuple"])
    return {k: _decode(v, tensors, store) for k, v in value.items()}

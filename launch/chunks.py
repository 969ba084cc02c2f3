"""Replay memory on the disk: ranges of slots as compressed files that are written once.

    checkpoints/chunks/<SHA-256 of the file>.zst      safetensors, compressed with Zstandard

Slots do not change until they are overwritten, so a checkpoint writes only the chunks that have changed since
the one before and refers to the others. A file is never opened for writing under its final name: checkpoints
share it by its name, runs that were forked from one another by hard links.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import zstandard
from torch import Tensor

from fire_rl.agents.replay import Chunk
from fire_rl.launch.files import digest, sync

LEVEL = 1  # of compression: higher ones take several times as long and save little on Atari frames
SUFFIX = ".zst"


@dataclass(frozen=True)
class StoredChunk(Chunk):
    """A chunk that is in a file."""

    file: Path


class ChunkStore:
    """The chunks of the checkpoints in `checkpoints`, for one memory whose content goes on from them."""

    def __init__(self, checkpoints: Path) -> None:
        self.folder = checkpoints / "chunks"
        self._stored: dict[tuple[int, int], tuple[int, str]] = {}  # by place: writes, name of the file
        self._unsynced: list[Path] = []  # written, but perhaps not on the disk yet

    def put(self, chunk: Chunk) -> str:
        """Store a chunk, unless it is what was stored from its place before; returns its name.

        It is on the disk after the next `sync`.

        Raises:
            OSError: when it cannot be written.
        """
        writes, name = self._stored.get(chunk.place, (-1, ""))
        if writes == chunk.writes and (self.folder / name).exists():
            return name
        arrays = {name: array.cpu().contiguous() for name, array in chunk.read().items()}
        content = zstandard.ZstdCompressor(level=LEVEL).compress(safetensors.torch.save(arrays))
        name = hashlib.sha256(content).hexdigest() + SUFFIX
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".tmp-{os.getpid()}"
        temporary.write_bytes(content)
        temporary.rename(self.folder / name)  # over what a damaged checkpoint may have left there
        self._unsynced.append(self.folder / name)
        self._stored[chunk.place] = (chunk.writes, name)
        return name

    def get(self, name: str, place: tuple[int, int], writes: int) -> StoredChunk:
        """The stored chunk of that name, to be read later."""
        file = self.folder / name
        return StoredChunk(place, writes, partial(_read, file), file)

    def is_intact(self, name: str) -> bool:
        """Whether the file is what was written."""
        file = self.folder / name
        return file.exists() and digest(file) == name.removesuffix(SUFFIX)

    def adopt(self, chunks: Iterable[StoredChunk]) -> None:
        """Know the chunks that the memory has just been restored from, of our own folder or of another's.

        Raises:
            OSError: when another's cannot be linked or copied.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for chunk in chunks:
            ours = self.folder / chunk.file.name
            if not ours.exists():
                _share(chunk.file, ours)
            self._stored[chunk.place] = (chunk.writes, ours.name)
        self.sync()

    def sync(self) -> None:
        """Wait until all chunks are on the disk: once for many, since a wait costs as much as a write."""
        while self._unsynced:
            sync(self._unsynced[-1])
            self._unsynced.pop()
        if self.folder.exists():
            sync(self.folder)

    def keep_only(self, names: set[str]) -> None:
        """Remove all other chunks."""
        for file in self.folder.glob("*") if self.folder.exists() else ():
            if file.name not in names:
                file.unlink()
        self._stored = {place: known for place, known in self._stored.items() if known[1] in names}
        self._unsynced = [file for file in self._unsynced if file.name in names]


def _read(file: Path) -> dict[str, Tensor]:
    arrays: dict[str, Tensor] = safetensors.torch.load(
        zstandard.ZstdDecompressor().decompress(file.read_bytes())
    )
    return arrays


def _share(source: Path, destination: Path) -> None:
    """A hard link; a copy where there can be none."""
    try:
        os.link(source, destination)
    except (
        OSError
    ):  # another file system, or one without links; if it is the disk that fails, copying does too
        temporary = destination.with_name(f".tmp-{os.getpid()}")
        shutil.copyfile(source, temporary)
        sync(temporary)
        temporary.rename(destination)

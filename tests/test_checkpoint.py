"""Checkpoints: what goes in comes out, and what is damaged is not used."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fire_rl.agents import replay
from fire_rl.agents.replay import Layout, ReplayMemory
from fire_rl.launch.checkpoint import (
    CheckpointError,
    checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from fire_rl.launch.chunks import ChunkStore

CPU = torch.device("cpu")


def state() -> dict[str, Any]:
    parameter = torch.nn.Parameter(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.Adam([parameter], fused=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "optimizer": optimizer.state_dict(),
        "view": torch.arange(12).reshape(3, 4)[:, :2],
        "array": np.arange(6, dtype=np.uint64).reshape(2, 3)[:, ::-1],
        "empty": np.zeros((0, 3)),
        "scalar": np.float32(0.1),
        "bool": torch.tensor([True, False]),
        "rng": np.random.default_rng(5).bit_generator.state,
        "bytes": b"\x00ALE\xff",
        "tuple": (1, (2.5, None)),
        "inexact": 0.1 + 0.2,
        "keys": {1: "one", "$odd": 2},
        "text": "ü",
    }


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 7, {"one": state(), "two": {}})
    found = load_latest(tmp_path, CPU)
    assert found is not None
    assert_same(state(), found[0]["one"])
    assert found[0]["two"] == {}


def test_two_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-1-000000000001").mkdir()
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"a": {"step": step}})
    assert [p.name for p in checkpoints(tmp_path)] == ["000000000002", "000000000003"]
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("file", ["manifest.json", "a.json", "a.safetensors"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, damage: str
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"a": {"step": step, "x": torch.ones(100)}})
    victim = tmp_path / "000000000002" / file
    content = victim.read_bytes()
    if damage == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        victim.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        victim.unlink()
    found = load_latest(tmp_path, CPU)
    assert found is not None and found[0]["a"]["step"] == 1
    assert "000000000002" in capsys.readouterr().err
    (tmp_path / "000000000001" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="--fresh"):
        load_latest(tmp_path, CPU)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"a": {}})
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="update fire-rl"):
        load_latest(tmp_path, CPU)


def test_objects_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"a": {"x": 1}})
    with pytest.raises(TypeError, match="object"):
        save_checkpoint(tmp_path, 2, {"a": {"x": object()}})
    assert [p.name for p in tmp_path.iterdir()] == ["000000000001"]
    assert load_checkpoint(tmp_path / "000000000001", CPU) == {"a": {"x": 1}}


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """Really full: a process whose files may not grow beyond 100 kB."""
    program = textwrap.dedent("""
        import resource, signal, sys, torch
        from pathlib import Path
        from fire_rl.launch.checkpoint import save_checkpoint
        folder = Path(sys.argv[1])
        save_checkpoint(folder, 1, {"a": {"x": torch.ones(100)}})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_checkpoint(folder, 2, {"a": {"x": torch.ones(100_000)}})
        except OSError:
            sys.exit(3)
    """)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=os.environ.copy(), check=False)
    assert done.returncode == 3
    assert [p.name for p in tmp_path.iterdir()] == ["000000000001"]
    assert load_latest(tmp_path, CPU) is not None


def test_an_older_format_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"a": {}})
    (path / "manifest.json").write_text(json.dumps({"format": 1, "files": {}}))
    with pytest.raises(CheckpointError, match=r"older version.*--fresh"):
        load_latest(tmp_path, CPU)


def test_a_later_checkpoint_that_was_passed_over_does_not_outlive_the_next(tmp_path: Path) -> None:
    for step in (1, 3):
        save_checkpoint(tmp_path, step, {"a": {"step": step}})
    (tmp_path / "000000000003" / "a.json").unlink()
    save_checkpoint(tmp_path, 2, {"a": {"step": 2}})
    assert [p.name for p in checkpoints(tmp_path)] == ["000000000001", "000000000002"]


SLOTS, CHUNK_SLOTS = 50, 8  # of each environment: seven chunks, the last one shorter
LAYOUT = Layout((2, 3), torch.uint8, (), stack=2)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ReplayMemory:
    monkeypatch.setattr(replay, "CHUNK_BYTES", CHUNK_SLOTS * LAYOUT.bytes_per_slot())
    return ReplayMemory(2 * SLOTS, 2, LAYOUT, CPU)


def play(memory: ReplayMemory, steps: int, rng: np.random.Generator) -> None:
    for _ in range(steps):
        observation, after = rng.integers(256, size=(2, 2, 2, 2, 3)).astype(np.uint8)
        ended = rng.random((2, 2)) < 0.1
        memory.begin(observation, rng.integers(9, size=2))
        memory.complete(rng.normal(size=2), ended[0], ended[1], after)


def save(folder: Path, step: int, memory: ReplayMemory, store: ChunkStore) -> set[str]:
    """Write a checkpoint; returns the chunks that are new."""
    before = {file.name: file.stat().st_mtime_ns for file in store.folder.glob("*")}
    save_checkpoint(folder, step, {"memory": memory.state_dict()}, store)
    return {f.name for f in store.folder.glob("*") if before.get(f.name) != f.stat().st_mtime_ns}


def assert_same_memory(a: ReplayMemory, b: ReplayMemory) -> None:
    one, other = a.state_dict(), b.state_dict()
    for x, y in zip(one.pop("chunks"), other.pop("chunks"), strict=True):
        assert (x.place, x.writes) == (y.place, y.writes)
        assert_same(x.read(), y.read())
    assert_same(one, other)
    batches = (memory.sample(64, np.random.default_rng(0)) for memory in (a, b))
    assert all(torch.equal(x, y) for x, y in zip(*batches, strict=True))


def test_every_checkpoint_restores_the_memory_through_four_laps(tmp_path: Path, memory: ReplayMemory) -> None:
    rng, store = np.random.default_rng(0), ChunkStore(tmp_path)
    for step in range(1, 40):
        play(memory, int(rng.integers(1, 10)), rng)
        save(tmp_path, step, memory, store)
        restored = ReplayMemory(2 * SLOTS, 2, LAYOUT, CPU)
        found = load_latest(tmp_path, CPU)
        assert found is not None
        restored.load_state_dict(found[0]["memory"])
        assert_same_memory(memory, restored)
    assert (memory.written > 4 * SLOTS).all()


def test_only_what_is_new_is_written_and_what_is_old_is_removed(tmp_path: Path, memory: ReplayMemory) -> None:
    rng, store = np.random.default_rng(0), ChunkStore(tmp_path)
    play(memory, 3 * SLOTS, rng)
    assert len(save(tmp_path, 1, memory, store)) == 14  # two environments of seven chunks
    assert not save(tmp_path, 2, memory, store)
    play(memory, 1, rng)
    assert (
        2 <= len(save(tmp_path, 3, memory, store)) <= 4
    )  # one or two chunks each: an episode may have ended
    assert len(list(store.folder.iterdir())) <= 14 + 4  # of the two checkpoints that are kept
    resumed = ChunkStore(tmp_path)
    found = load_latest(tmp_path, CPU)
    assert found is not None
    resumed.adopt(found[0]["memory"]["chunks"])
    assert not save(tmp_path, 4, memory, resumed)


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_chunk_damages_the_checkpoints_that_refer_to_it(
    tmp_path: Path, memory: ReplayMemory, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    rng, store = np.random.default_rng(0), ChunkStore(tmp_path)
    play(memory, 20, rng)
    first = save(tmp_path, 1, memory, store)
    play(memory, 1, rng)
    second = save(tmp_path, 2, memory, store)
    for names, at in ((second, 1), (first, 0)):
        victim = store.folder / min(names)
        content = victim.read_bytes()
        if damage == "truncate":
            victim.write_bytes(content[:-1])
        elif damage == "flip":
            victim.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
        else:
            victim.unlink()
        if at:
            found = load_latest(tmp_path, CPU)
            assert found is not None and found[1].name == "000000000001"
            assert f"chunk {victim.name}" in capsys.readouterr().err
        else:
            with pytest.raises(CheckpointError, match="--fresh"):
                load_latest(tmp_path, CPU)


def test_a_disk_that_fills_up_in_a_chunk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """Really full: a process whose files may not grow beyond 100 kB."""
    program = textwrap.dedent("""
        import resource, sys, torch
        from pathlib import Path
        from fire_rl.agents.replay import Chunk
        from fire_rl.launch.checkpoint import save_checkpoint
        from fire_rl.launch.chunks import ChunkStore
        folder = Path(sys.argv[1])
        store = ChunkStore(folder)
        chunk = lambda n: Chunk((0, 0), n, lambda: {"x": torch.rand(n)})
        save_checkpoint(folder, 1, {"a": {"x": chunk(100)}}, store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_checkpoint(folder, 2, {"a": {"x": chunk(100_000)}}, store)
        except OSError:
            save_checkpoint(folder, 3, {"a": {"x": chunk(100)}}, store)
            sys.exit(3)
    """)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=os.environ.copy(), check=False)
    assert done.returncode == 3
    assert [p.name for p in checkpoints(tmp_path)] == ["000000000001", "000000000003"]
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".tmp")]
    found = load_latest(tmp_path, CPU)
    assert found is not None and found[1].name == "000000000003"
    assert len(found[0]["a"]["x"].read()["x"]) == 100

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

from fire_rl.launch.checkpoint import (
    CheckpointError,
    checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)

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

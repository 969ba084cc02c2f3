"""CUDA graphs acted out on the CPU: what is captured is the operations, and nothing of Python around them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fire_rl.agents import program, replay

# What a real capture refuses: they wait for the device to know a value.
_WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Graph(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stands for `torch.cuda.CUDAGraph`; capturing already computes here, so the first replay does not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.replays = 0
        self._operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _WAITS:
            raise RuntimeError(f"{func} waits for the device, which a capture does not permit")
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self._operations.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Do all operations again on the tensors of the capture, wherever Python has gone since."""
        self.replays += 1
        for func, args, kwargs, result in self._operations if self.replays > 1 else ():
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for held, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(held, Tensor):
                        held.copy_(new)


class _Stream:
    def __init__(self, device: Any = None) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass


@contextlib.contextmanager
def _capture(graph: Graph, stream: object) -> Iterator[None]:
    assert not gc.isenabled(), "what is freed during a capture ends it"
    with graph:
        yield


def act_out(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Let agents on the CPU capture "graphs" from now on, with losses as written; returns these graphs."""
    graphs: list[Graph] = []

    def new() -> Graph:
        graphs.append(Graph())
        return graphs[-1]

    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", new)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
    monkeypatch.setattr(program, "Compiled", lambda function: function)
    monkeypatch.setattr(program, "has_graphs", lambda device: True)
    # On a GPU batches stay as they are; on a CPU NumPy changes their layout, outside of torch's operations.
    monkeypatch.setattr(replay, "channels_last", lambda images: images)
    return graphs

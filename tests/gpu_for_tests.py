"""A GPU acted out on the CPU: tensors that say they are on a GPU, and refuse what such tensors refuse.

What a computation does with tensors of two devices, or with a value that it would have to wait for, is found
without a GPU. The numbers are the CPU's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fire_rl.agents import program

GPU = torch.device("cuda:0")
CPU = torch.device("cpu")
aten = torch.ops.aten

_INDEXES = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}  # may be on the host
# Of these even a number (0-dim) must be on the device.
_MIXES_NOTHING = {aten.cat.default, aten.stack.default}
_WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default}


class OnGpu(Tensor):
    """A tensor of the CPU that passes for one of a GPU.

    To torch's C++ code it is on the CPU, since the CPU build's autograd has no thread for a GPU; to Python's
    code, and to the checks here, it is on the GPU.
    """

    # Results are what the dispatch returns.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    _real: Tensor
    waiting_is_an_error = False

    @staticmethod
    def __new__(cls, real: Tensor) -> OnGpu:
        self: OnGpu = Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            requires_grad=False,
        )
        self._real = real
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"OnGpu({self._real})"

    def __deepcopy__(self, memo: dict[int, Any]) -> OnGpu:
        if id(self) not in memo:
            copied = OnGpu(self._real.clone()).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given: dict[int, OnGpu] = {}  # by the id of the tensor behind it

        def real(x: Any) -> Any:
            if isinstance(x, OnGpu):
                given[id(x._real)] = x
                return x._real
            if isinstance(x, Tensor):
                _check_mixing(func, x)
            return [real(y) for y in x] if isinstance(x, list | tuple) else x

        def on_gpu(x: Any) -> Any:
            if isinstance(x, Tensor):
                # What was written in place stays the tensor that it was.
                return given[id(x)] if id(x) in given else OnGpu(x)
            return type(x)(map(on_gpu, x)) if isinstance(x, list | tuple) else x

        if func in _WAITS:
            _note_waiting(str(func))
        if func is aten.copy_.default:
            _check_copy(args[1], args[0], non_blocking=len(args) > 2 and args[2])
        result = func(*map(real, args), **{key: real(value) for key, value in (kwargs or {}).items()})
        is_on_host = func is aten.copy_.default or func in _INDEXES
        return result if is_on_host and not isinstance(args[0], OnGpu) else on_gpu(result)


class PretendGpu(TorchFunctionMode):
    """While it is on, `device="cuda"` gives tensors `OnGpu`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first: Any = args[0] if args else None
        if func == Tensor.device.__get__:
            return GPU if isinstance(first, OnGpu) else func(*args, **kwargs)
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return isinstance(first, OnGpu)
        if func == Tensor.data.__set__ and isinstance(first, OnGpu):  # type: ignore[attr-defined]
            assert isinstance(args[1], OnGpu), "a parameter on the GPU must stay there"
            first._real = args[1]._real
            return None
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return _moved(func, args, kwargs)
        if func is Tensor.numpy and isinstance(first, OnGpu):
            raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")
        if func is Tensor.pin_memory:
            assert not isinstance(first, OnGpu), "only memory of the host can be pinned"
            pinned = first.clone()
            pinned.has_been_pinned = True
            return pinned
        if func is torch._has_compatible_shallow_copy_type and any(isinstance(x, OnGpu) for x in args):
            return all(isinstance(x, OnGpu) for x in args)
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            made = func(*args, **{**kwargs, "device": CPU})
            return OnGpu(made.detach()).requires_grad_(made.requires_grad)
        return func(*args, **kwargs)


def _check_mixing(func: Any, on_host: Tensor) -> None:
    """Whether an operation of the GPU may be given a tensor of the host."""
    if func in _INDEXES:
        _note_waiting("an index on the host")
    # Numbers may be on the host. With an axis, too: torch's formulas for gradients have such.
    elif func is not aten.copy_.default and (on_host.numel() > 1 or func in _MIXES_NOTHING):
        raise RuntimeError(f"{func}: all tensors must be on the same device, cuda:0 and cpu found")


def _note_waiting(what: str) -> None:
    if OnGpu.waiting_is_an_error:
        raise RuntimeError(f"{what} waits for the GPU: a synchronizing operation")


def _check_copy(source: Any, destination: Any, non_blocking: bool) -> None:
    """A copy between host and GPU waits, but for one to the GPU that is told not to, from pinned memory."""
    to_gpu, from_gpu = isinstance(destination, OnGpu), isinstance(source, OnGpu)
    if from_gpu and not to_gpu:
        _note_waiting("a copy to the host")
    if to_gpu and not from_gpu and not (non_blocking and hasattr(source, "has_been_pinned")):
        _note_waiting("a copy of what is not pinned")


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """`Tensor.to` and the like: a copy where the device changes."""
    x, *rest = args
    here = GPU if isinstance(x, OnGpu) else CPU
    target, dtype = kwargs.get("device"), kwargs.get("dtype")
    for argument in rest:
        if isinstance(argument, Tensor):
            target, dtype = (GPU if isinstance(argument, OnGpu) else CPU), argument.dtype
        elif isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, str | torch.device):
            target = argument
    if func is Tensor.to:
        x = Tensor.type(x, dtype or x.dtype)
        x = x.clone() if kwargs.get("copy") and x is args[0] else x
    there = torch.device(target or here) if func is Tensor.to else CPU if func is Tensor.cpu else GPU
    if there.type == here.type:
        return x  # type: ignore[no-any-return]
    if here is CPU:
        moved = OnGpu(x.detach().clone())
        _check_copy(args[0], moved, kwargs.get("non_blocking", False))
        return moved
    _note_waiting("a copy to the host")
    return x._real.detach().clone()  # type: ignore[no-any-return]


class _Generator:
    """In place of `torch.Generator`: of a GPU there is none in a CPU build."""

    _new = torch.Generator

    def __new__(cls, device: Any = CPU) -> Any:
        return cls._new()


@contextlib.contextmanager
def acted_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU without graphs and compiler; resolved `--compile on` then only batches."""
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (10**11, 10**11))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "acted out")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices=(): contextlib.nullcontext())
    monkeypatch.setattr(program, "Compiled", lambda function: function)
    monkeypatch.setattr(program, "has_graphs", lambda device: False)
    with PretendGpu():
        yield

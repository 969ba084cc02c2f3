"""A decision and an update as one program each: losses compiled, and on a GPU all of it as CUDA graphs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from fire_rl.agents.learner import Learner
from fire_rl.agents.replay import Batch
from fire_rl.agents.transfer import send, staged

Compile = Literal["auto", "on", "off"]
Precision = Literal["tf32", "float32"]
Metrics = dict[str, Tensor]  # scalars that stay on the device until they are logged
Array = NDArray[Any]
P = ParamSpec("P")
R = TypeVar("R")

DEFAULT = "FIRE_RL_COMPILE"  # environment variable: what `auto` means, for whole test suites and clusters
CALLS_BEFORE_CAPTURE = 3  # in which libraries choose and allocate what a graph cannot


class Functions(NamedTuple):
    """What an agent computes in a step, as functions of tensors on its device and of its state there.

    So does a stack of agents, whose tensors then have the agents as a further, first axis.
    """

    decide: Callable[..., Tensor]  # what `Agent.look` returned -> what `Agent.choose` is given
    read: Callable[[Tensor], Batch]  # places in the replay memory -> a batch as the networks see it
    learn: Callable[..., Metrics]  # batch and noise -> scalars: one update


def resolve(mode: Compile, device: torch.device) -> Compile:
    """What `auto` stands for: programs where launching an operation costs more than computing it, on GPUs.

    Raises ValueError for a mode that is none, from the command line or the environment.
    """
    chosen = os.environ.get(DEFAULT, "auto") if mode == "auto" else mode
    if chosen not in ("auto", "on", "off"):
        raise ValueError(f"{DEFAULT} is auto, on or off, not {chosen!r}")
    if chosen == "auto":
        return "on" if device.type == "cuda" else "off"
    return chosen  # type: ignore[return-value]


def set_precision(precision: Precision) -> None:
    """How GPUs compute products of float32 numbers in this process from now on.

    By the older of torch's two switches: compiled code asks for it, and torch refuses to answer once only the
    newer one has been used.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def compiled(function: Callable[P, R], mode: Compile, learners: Iterable[Learner]) -> Callable[P, R]:
    """`function`, a pure one, through torch.compile if `mode` (resolved) says so and the method lets it."""
    if mode == "off":
        return function
    if watching := [learner.method.name for learner in learners if learner.method.needs_activations]:
        notice(
            f"{watching[0]} looks at activations, which compiled losses do not show: they are not compiled"
        )
        return function
    return Compiled(function)


class Program:
    """`functions` ready to be called with tensors on the host or on the device.

    Args:
        mode: resolved. Where it says so, on a GPU, a decision and an update are a CUDA graph each. Not so
            where a method does something in every update: that is Python, which a graph does not repeat.
        with_memory: whether all replay memories are on `device`; then `read` is part of the graph.
    """

    def __init__(
        self,
        functions: Functions,
        mode: Compile,
        learners: Iterable[Learner],
        device: torch.device,
        with_memory: bool,
    ) -> None:
        self._device = device
        self._decide: Callable[..., Tensor] = functions.decide
        self._update: Callable[..., Metrics] = partial(_read_and_learn, functions)
        if _is_captured(mode, learners, device):
            self._decide = Captured(functions.decide, device)
            if with_memory:
                self._update = _captured_update(self._update, device)
            else:
                on_batch = _captured_update(partial(_learn_from, functions), device)
                self._update = lambda places, *noise: on_batch(*functions.read(places), *noise)

    @torch.no_grad()
    def decide(self, *seen: Tensor) -> Array:
        """What the policy makes of what `Agent.look` returned, on the host."""
        if not isinstance(self._decide, Captured):
            seen = tuple(send(x, self._device) for x in seen)
        decided: Array = self._decide(*seen).cpu().numpy()
        return decided

    def update(self, places: Tensor, *noise: Tensor) -> Metrics:
        """One update on the transitions at `places`; returns scalars on the device, without waiting."""
        return self._update(places, *noise)


def _read_and_learn(functions: Functions, places: Tensor, *noise: Tensor) -> Metrics:
    return functions.learn(functions.read(places), *noise)


def _learn_from(functions: Functions, *batch_and_noise: Tensor) -> Metrics:
    parts = len(Batch._fields)
    return functions.learn(Batch(*batch_and_noise[:parts]), *batch_and_noise[parts:])


def _is_captured(mode: Compile, learners: Iterable[Learner], device: torch.device) -> bool:
    if mode == "off" or not has_graphs(device):
        return False
    for learner in learners:
        if learner.method.acts_in_updates or not is_adam(learner.optimizer):
            notice(f"{learner.method.name} takes part in every update: updates are no CUDA graph")
            return False
    return True


def has_graphs(device: torch.device) -> bool:
    """Whether work for `device` can be captured."""
    return device.type == "cuda"


def _captured_update(update: Callable[..., Metrics], device: torch.device) -> Callable[..., Metrics]:
    """`update` as a CUDA graph; its scalars are one tensor, copied because the next replay overwrites it."""
    names: list[str] = []

    def packed(*inputs: Tensor) -> Tensor:
        metrics = update(*inputs)
        names[:] = metrics
        return torch.stack(list(metrics.values()))

    graph = Captured(packed, device)
    return lambda *inputs: dict(zip(names, graph(*inputs).clone().unbind(), strict=True))


class Compiled(Generic[P, R]):
    """A function through torch.compile; as it is, with a notice, from the moment on when that fails."""

    def __init__(self, function: Callable[P, R]) -> None:
        self._plain = function
        # Every injection adds a head, for which the losses are compiled anew. Beyond its limit (8) torch goes
        # on without compiling, so that a run that is interrupted, and compiles again, would end otherwise.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit
        self._call: Callable[P, R] = torch.compile(function, dynamic=False)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return self._call(*args, **kwargs)
        except Exception as error:  # whatever a compiler raises
            if self._call is self._plain:
                raise
            result = self._plain(*args, **kwargs)  # a mistake of the function's own is raised here
            notice(f"torch.compile failed ({_first_line(error)}): going on without")
            self._call = self._plain
            return result


class Captured:
    """A function of tensors that, after the first few calls, is replayed as one CUDA graph.

    The first are made as they are, on the stream of the capture; nothing is computed twice. A graph reads and
    writes weights and optimiser state at fixed addresses, so it lasts for as long as these do. Its result is
    overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._function, self._device = function, device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._result: Tensor

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not self._inputs:
            # Held from the first call on: compiled losses would be compiled anew for other strides than those
            # that they have met, and that cannot be done during a capture.
            self._inputs = tuple(torch.empty(x.shape, dtype=x.dtype, device=self._device) for x in inputs)
        for held, new in zip(self._inputs, inputs, strict=True):
            held.copy_(staged(new, self._device), non_blocking=True)
        if self._graph is None and self._calls >= CALLS_BEFORE_CAPTURE and not self._capture():
            self._calls = -(2**62)  # it failed: no further attempt
        if self._graph is None:
            self._calls += 1
            return self._directly()
        self._graph.replay()
        return self._result

    def _directly(self) -> Tensor:
        callers = torch.cuda.current_stream(self._device)  # of this device, which need not be the current one
        self._stream.wait_stream(callers)
        with torch.cuda.stream(self._stream):
            result = self._function(*self._inputs)
        callers.wait_stream(self._stream)
        return result

    def _capture(self) -> bool:
        """Record the graph, which computes nothing yet; says so where that fails, and returns whether."""
        graph = torch.cuda.CUDAGraph()
        callers = torch.cuda.current_stream(self._device)
        try:
            with (
                _no_garbage_collection(),
                torch.cuda.device(self._device),
                torch.cuda.graph(graph, stream=self._stream),
            ):
                self._result = self._function(*self._inputs)
        except Exception as error:  # whatever refuses to be captured
            torch.cuda.synchronize(self._device)
            torch.cuda.set_stream(callers)  # a capture that is cut short stays on its own
            notice(f"the CUDA graph failed ({_first_line(error)}): going on without")
            return False
        self._graph = graph
        return True


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What is garbage goes before; a graph or a block of memory that is freed in a capture would end it."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def is_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is torch's Adam or AdamW and fused: all of its state on the device, one kernel per step."""
    is_one = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
    return is_one and all(group["fused"] for group in optimizer.param_groups)


def notice(text: str) -> None:
    """Say on stderr how updates are made, where that is not what was asked for."""
    print(f"compile: {text}", file=sys.stderr)


def _first_line(error: BaseException) -> str:
    lines: list[Any] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

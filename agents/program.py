"""An update as one program: its losses compiled, and on a GPU the whole of it captured as a CUDA graph."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from fire_rl.agents.learner import Learner
from fire_rl.agents.replay import Batch

Compile = Literal["auto", "on", "off"]
Precision = Literal["tf32", "float32"]
Metrics = dict[str, Tensor]  # scalars that stay on the device until they are logged
Learn = Callable[..., Metrics]  # of a batch and what noise the agent draws beside it
P = ParamSpec("P")
R = TypeVar("R")

DEFAULT = "FIRE_RL_COMPILE"  # environment variable: what `auto` means, for whole test suites and clusters
_WARM_UP = 3  # updates before a capture, in which libraries choose and allocate what a graph cannot


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


def captured(learn: Learn, mode: Compile, learners: Iterable[Learner], device: torch.device) -> Learn:
    """`learn` as a CUDA graph, if `mode` (resolved) says so, on a GPU.

    Not where a method does something in every update: that is Python, which a graph does not repeat.
    """
    if mode == "off" or device.type != "cuda":
        return learn
    for learner in learners:
        if learner.method.acts_in_updates or not is_adam(learner.optimizer):
            notice(f"{learner.method.name} takes part in every update: updates are no CUDA graph")
            return learn
    return Captured(learn)


class Compiled(Generic[P, R]):
    """A function through torch.compile; as it is, with a notice, from the moment on when that fails."""

    def __init__(self, function: Callable[P, R]) -> None:
        self._plain = function
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
    """An update that, after the first few, is replayed as one CUDA graph.

    The first are made as they are, on the stream of the capture; nothing is computed twice. A graph reads and
    writes weights and optimiser state at fixed addresses, so it lasts for as long as these do.
    """

    def __init__(self, learn: Learn) -> None:
        self._learn = learn
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._metrics: Metrics = {}

    def __call__(self, batch: Batch, *noise: Tensor) -> Metrics:
        inputs = (*batch, *noise)
        if not self._inputs:
            # Held from the first call on: compiled losses would be compiled anew for other strides than those
            # that they have met, and that cannot be done during a capture.
            self._inputs = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs)
        for held, new in zip(self._inputs, inputs, strict=True):
            held.copy_(new)
        if self._graph is None and self._calls >= _WARM_UP and not self._capture():
            self._calls = -(2**62)  # it failed: no further attempt
        if self._graph is None:
            self._calls += 1
            return self._directly()
        self._graph.replay()
        return {name: value.clone() for name, value in self._metrics.items()}

    def _directly(self) -> Metrics:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            metrics = self._learn_from_held()
        torch.cuda.current_stream().wait_stream(self._stream)
        return metrics

    def _learn_from_held(self) -> Metrics:
        parts = len(Batch._fields)
        return self._learn(Batch(*self._inputs[:parts]), *self._inputs[parts:])

    def _capture(self) -> bool:
        """Record the graph, which computes nothing yet; says so where that fails, and returns whether."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._metrics = self._learn_from_held()
        except Exception as error:  # whatever refuses to be captured
            torch.cuda.synchronize()
            notice(f"the CUDA graph failed ({_first_line(error)}): going on without")
            return False
        self._graph = graph
        return True


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

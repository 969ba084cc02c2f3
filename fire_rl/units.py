"""Hidden units: which layer computes them, which layers read them, and how to recycle some of them.

The one place that knows how a unit's outputs are laid out in the columns of the layers that read it:
conv → conv, conv → flatten → linear (channel c is the columns [c·HW, (c+1)·HW)), linear → linear, ensembles
with a leading axis of members, CReLU's second copy, norms in between.

A module says how its children are connected by an attribute `wiring`: `series`, `residual` (in series, then
added to the module's input) or `parallel` (all read the same input). `nn.Sequential` is a series, and so is
a module with the children `encoder` and `head`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fire_rl.layers import CReLU
from fire_rl.measures import ACTIVATIONS

StepPolicy = Literal["keep", "zero"]

_IS_OUTPUT = "its outputs are those of the network"
_TRANSPARENT = (nn.Flatten, nn.Identity, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d)
_OTHER_LAYOUT = (nn.Embedding, nn.EmbeddingBag, nn.Bilinear, nn.modules.conv._ConvTransposeNd, nn.Conv1d)


@dataclass(frozen=True)
class HiddenLayer:
    """The units between a weight layer and the layers that read them. Names are those of submodules."""

    name: str  # the layer that computes the units
    activation: str  # the module whose output the units are
    norms: tuple[str, ...]  # norm layers with affine parameters on the way
    readers: tuple[str, ...]  # the layers whose inputs the units are
    members: int  # E of an ensemble, else 1
    units: int  # per member
    copies: int  # outputs per unit: 2 behind a CReLU
    is_stacked: bool  # whether parameters have a leading axis of members

    def by_unit(self, activations: Tensor) -> Tensor:
        """Outputs of `activation` as (E, N, copies, units); N is the batch, or batch times space."""
        if activations.ndim == 4:
            activations = activations.movedim(1, -1)
        return activations.reshape(self.members, -1, self.copies, self.units)

    def incoming(self, module: nn.Module) -> Tensor:
        """The weights into each unit, (E, units, inputs); to read only, it may be a copy."""
        return weight_of(module.get_submodule(self.name)).detach().reshape(self.members, self.units, -1)

    def outgoing(self, module: nn.Module, reader: str) -> Tensor:
        """The weights of one reader, (E, outputs, copies, units, positions); to read only."""
        weight = weight_of(module.get_submodule(reader)).detach()
        outputs = weight.shape[1] if self.is_stacked else weight.shape[0]
        return weight.reshape(self.members, outputs, self.copies, self.units, -1)

    def rows_of(self, units: Tensor, tensor: Tensor) -> Tensor:
        """The entries of a weight or bias of layer `name` that belong to `units` (E, units), to broadcast."""
        chosen = units if self.is_stacked else units[0]
        return chosen.reshape(*chosen.shape, *[1] * (tensor.ndim - chosen.ndim))

    def columns_of(self, units: Tensor, weight: Tensor) -> Tensor:
        """The entries of a reader's weight that `units` (E, units) are multiplied by, to broadcast."""
        chosen = units if self.is_stacked else units[0]
        positions = weight.shape[chosen.ndim] // (self.copies * self.units)
        chosen = chosen[..., None, :, None].expand(*chosen.shape[:-1], self.copies, -1, positions)
        chosen = chosen.flatten(-3).unsqueeze(-2)
        return chosen.reshape(*chosen.shape, *[1] * (weight.ndim - chosen.ndim))

    def affine_of(self, units: Tensor, tensor: Tensor) -> Tensor:
        """The entries of a norm's weight or bias that belong to `units` (E, units)."""
        copies = tensor.numel() // units.numel()  # 1 before a CReLU, 2 behind it
        return units[:, None].expand(-1, copies, -1).reshape(tensor.shape)


@dataclass
class _Stream:
    """What flows between two layers while the walk is under way."""

    name: str
    members: int
    units: int
    is_stacked: bool
    norms: list[str] = field(default_factory=list)
    activation: str = ""
    copies: int = 1


class _Walk:
    """One pass over the modules in the order of the computation."""

    def __init__(self, root: nn.Module) -> None:
        self.found: list[HiddenLayer] = []
        self.reasons: dict[str, str] = {}  # weight layer -> why its units have no known readers
        last = self.visit("", root, None)
        if last is not None:
            self.reasons[last.name] = _IS_OUTPUT

    def visit(self, name: str, module: nn.Module, stream: _Stream | None) -> _Stream | None:
        wiring = _wiring(module)
        if wiring == "series":
            for child_name, child in _children(module):
                stream = self.visit(_join(name, child_name), child, stream)
            return stream
        if wiring == "residual":
            self._drop(stream, f"its outputs join the residual stream of {name or 'the network'}")
            inside: _Stream | None = None
            for child_name, child in _children(module):
                inside = self.visit(_join(name, child_name), child, inside)
            self._drop(inside, f"its outputs join the residual stream of {name or 'the network'}")
            return None
        if wiring == "parallel":
            children = {_join(name, n): child for n, child in _children(module)}
            if all(_weight(child) is not None for child in children.values()):
                self._close(stream, children)
                self.reasons.update(dict.fromkeys(children, _IS_OUTPUT))
            else:
                self._drop(stream, f"{name} has parallel branches of more than one layer")
            return None
        return self._leaf(name, module, stream)

    def _leaf(self, name: str, module: nn.Module, stream: _Stream | None) -> _Stream | None:
        weight = _weight(module)
        if weight is not None:
            self._close(stream, {name: module})
            if weight.ndim == 3:
                return _Stream(name, weight.shape[0], weight.shape[1], is_stacked=True)
            return _Stream(name, 1, weight.shape[0], is_stacked=False)
        if stream is None or isinstance(module, _TRANSPARENT):
            return stream
        if isinstance(module, ACTIVATIONS):
            if stream.activation:
                self._drop(stream, f"{name} is a second activation")
                return None
            stream.activation = name
            stream.copies = 2 if isinstance(module, CReLU) else 1
            return stream
        sizes = {p.numel() for p in module.parameters()}
        if "Norm" in type(module).__name__ and sizes <= {stream.members * stream.copies * stream.units}:
            stream.norms += [name] if sizes else []
            return stream
        self._drop(stream, f"what {name} ({type(module).__name__}) does to its units is not known")
        return None

    def _close(self, stream: _Stream | None, readers: Mapping[str, nn.Module]) -> None:
        if stream is None:
            return
        if not stream.activation:
            self._drop(stream, f"no activation stands between it and {', '.join(readers)}")
            return
        width = stream.copies * stream.units
        for name, reader in readers.items():
            weight = weight_of(reader)
            inputs = weight.shape[2 if weight.ndim == 3 else 1]
            if (weight.ndim == 3) != stream.is_stacked or inputs % width:
                self._drop(stream, f"{name} does not read {width} outputs of each member")
                return
        norms, names = tuple(stream.norms), tuple(readers)
        sizes = (stream.members, stream.units, stream.copies)
        self.found.append(
            HiddenLayer(stream.name, stream.activation, norms, names, *sizes, stream.is_stacked)
        )

    def _drop(self, stream: _Stream | None, reason: str) -> None:
        if stream is not None:
            self.reasons[stream.name] = reason


def hidden_layers(module: nn.Module) -> list[HiddenLayer]:
    """The hidden units of `module` whose incoming and outgoing weights are known, from input to output.

    Units of a residual stream are not among them, for no single layer reads them; nor are outputs.

    Raises:
        ValueError: there are none; says of every weight layer why.
    """
    walk = _Walk(module)
    if not walk.found:
        why = "; ".join(f"{name}: {reason}" for name, reason in walk.reasons.items())
        raise ValueError(f"{type(module).__name__} has no hidden units to recycle ({why or 'no layers'})")
    return walk.found


def output_layers(module: nn.Module) -> set[str]:
    """Names of the weight layers whose outputs are those of the network."""
    return {name for name, reason in _Walk(module).reasons.items() if reason == _IS_OUTPUT}


def weight_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """All layers with a weight of a known layout: (out, in), (out, in, *kernel) or (E, out, in)."""
    return [
        (name, child)
        for name, child in module.named_modules()
        if _weight(child) is not None and not name.startswith("injected.")
    ]


def watch(module: nn.Module, names: Sequence[str], into: dict[str, Tensor]) -> None:
    """Keep what the submodules `names` return in `into`, detached, of every pass that records gradients."""
    for name in names:
        module.get_submodule(name).register_forward_hook(_keep(name, into, detached=True))


@contextmanager
def tap(module: nn.Module, names: Sequence[str], into: dict[str, Tensor]) -> Iterator[None]:
    """Put what the submodules `names` return into `into`, graph and all, while the context lasts."""
    handles = [module.get_submodule(name).register_forward_hook(_keep(name, into)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    name: str, into: dict[str, Tensor], detached: bool = False
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if not detached:
            into[name] = output
        elif torch.is_grad_enabled():
            into[name] = output.detach()

    return hook


@torch.no_grad()
def recycle(
    module: nn.Module,
    layer: HiddenLayer,
    units: Tensor,
    twin: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    step: StepPolicy = "keep",
) -> None:
    """Start some units of `layer` over, in place and without synchronising with the device.

    Incoming weights and bias take the values of `twin`, a freshly initialised network of the same
    architecture, and so do norms on the way; outgoing weights become zero; the optimiser's moments of exactly
    these entries become zero. Everything else keeps every bit.

    Args:
        units: (E, units) bool, those to recycle.
        step: the optimiser's step count of the written tensors: `keep` it, or `zero` it where any unit is
            recycled (it is one number per tensor).
    """

    def write(path: str, choose: Callable[[Tensor, Tensor], Tensor], values: nn.Module | None) -> None:
        new = {} if values is None else dict(values.get_submodule(path).named_parameters(recurse=False))
        for name, parameter in module.get_submodule(path).named_parameters(recurse=False):
            if values is None and name != "weight":
                continue  # a reader's bias is not the unit's
            chosen = choose(units, parameter)
            parameter.copy_(torch.where(chosen, new[name] if new else 0.0, parameter))
            if optimizer is not None:
                clear_moments(optimizer, parameter, chosen, step)

    write(layer.name, layer.rows_of, twin)
    for norm in layer.norms:
        write(norm, layer.affine_of, twin)
    for reader in layer.readers:
        write(reader, layer.columns_of, None)


def clear_moments(
    optimizer: torch.optim.Optimizer, parameter: Tensor, chosen: Tensor, step: StepPolicy = "keep"
) -> None:
    """Zero the optimiser's moments of `parameter` where `chosen`, a mask that broadcasts to its shape."""
    for key, value in optimizer.state.get(parameter, {}).items():
        if not isinstance(value, Tensor):
            continue
        if value.shape == parameter.shape and key != "step":
            value.masked_fill_(chosen, 0.0)
        elif key == "step" and step == "zero":
            value.mul_(~chosen.any().to(value.device))


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a layer whose layout is known."""
    weight = _weight(module)
    assert weight is not None, f"{type(module).__name__} has no weight of a known layout"
    return weight


def _weight(module: nn.Module) -> nn.Parameter | None:
    """(out, in), (out, in, *kernel) or, of an ensemble, (E, out, in); None for all else."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None or "Norm" in type(module).__name__ or isinstance(module, _OTHER_LAYOUT):
        return None
    if weight.ndim < 2 or (isinstance(module, nn.Conv2d) and module.groups > 1):
        return None
    return weight


def _wiring(module: nn.Module) -> str:
    if isinstance(module, nn.Sequential) or {"encoder", "head"} <= dict(module.named_children()).keys():
        return "series"
    wiring = getattr(module, "wiring", "")
    return wiring if isinstance(wiring, str) else ""


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Children in the order in which they are called; injected heads are frozen and none of ours."""
    return ((name, child) for name, child in module.named_children() if name != "injected")


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name

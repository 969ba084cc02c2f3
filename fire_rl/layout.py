"""How each weight tensor of a module is cut into matrices. The one place that knows.

Every cut is a view: writing into it writes into the parameter, and it applies to gradients, optimiser moments
and the target network's copy just as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.utils import parametrize

Scale = Literal["muon", "one"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ATTENTION_WEIGHTS = {"in_proj_weight": 3, "q_proj_weight": 1, "k_proj_weight": 1, "v_proj_weight": 1}


@dataclass(frozen=True)
class WeightMatrices:
    """One weight tensor seen as matrices that map inputs to outputs: y = W x."""

    name: str  # as in `named_parameters()`; of tied weights the first name
    parameter: nn.Parameter
    view: Callable[[Tensor], Tensor]  # any tensor of the parameter's shape -> its view (..., d_out, d_in)
    scale: float  # what FIRE multiplies the nearest isometry by

    def matrices(self) -> Tensor:
        """The parameter as (..., d_out, d_in), sharing its memory."""
        return self.view(self.parameter)


def weight_matrices(
    module: nn.Module, *, scale: Scale = "muon", splits: Mapping[str, int] | None = None
) -> list[WeightMatrices]:
    """All weights of `module` that are matrices, each parameter once, in the order of `modules()`.

    Linear (out, in): one matrix. Convolutions: one per group and kernel position. `nn.MultiheadAttention`:
    the query, key and value blocks of rows, each alone. Ensembles, that is any other module with a `weight`
    (E, out, in): one per member. Biases, norm layers, embeddings and `nn.Bilinear` have none.

    Args:
        module: any module; its parameters are not changed.
        scale: `muon`: sqrt(d_out / d_in) / kernel positions, which maps RMS-1 inputs to RMS ≤ 1 outputs
            (d_in and d_out of one group); `one`: 1.
        splits: for Linear layers that fuse several maps, parameter name -> number of equal blocks of rows,
            such as {"attn.c_attn.weight": 3}.

    Raises:
        ValueError: `scale` is unknown, or `splits` names no Linear weight or does not divide its rows.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale {scale!r} is none of {', '.join(get_args(Scale))}")
    splits = dict(splits or {})
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found: dict[int, WeightMatrices] = {}
    for child in module.modules():
        for parameter, view, positions in _cuts(child):
            if id(parameter) in found:
                continue
            name = names[id(parameter)]
            if isinstance(child, nn.Linear) and name in splits:
                view = partial(_row_blocks, blocks=_divisor(name, len(parameter), splits.pop(name)))
            d_out, d_in = view(parameter).shape[-2:]
            factor = math.sqrt(d_out / d_in) / positions if scale == "muon" else 1.0
            found[id(parameter)] = WeightMatrices(name, parameter, view, factor)
    if splits:
        raise ValueError(f"splits: no Linear weight of this module is called {', '.join(splits)}")
    return list(found.values())


def computed_weights(module: nn.Module) -> list[str]:
    """Names of weights that would be cut into matrices but are computed from other tensors.

    That is what `torch.nn.utils.parametrize`, weight_norm, spectral_norm and pruning do: writing into such a
    weight has no lasting effect.
    """
    computed = []
    for path, child in module.named_modules():
        if not _has_no_matrices(child):
            for attribute in ("weight", *_ATTENTION_WEIGHTS):
                plain = vars(child).get(attribute)  # where the older hooks leave the computed tensor
                is_hooked = isinstance(plain, Tensor) and plain.ndim >= 2
                if is_hooked or parametrize.is_parametrized(child, attribute):
                    computed.append(f"{path}.{attribute}".lstrip("."))
    return computed


def unknown_weights(module: nn.Module) -> dict[str, str]:
    """Parameters that may be matrices but whose layout we do not know: name -> class of their module."""
    known = {id(weights.parameter) for weights in weight_matrices(module)}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]: type(child).__name__
        for child in module.modules()
        if not _has_no_matrices(child)
        for attribute, parameter in child.named_parameters(recurse=False)
        if parameter.ndim >= 2 and "bias" not in attribute and id(parameter) not in known
    }


def _cuts(child: nn.Module) -> Iterator[tuple[nn.Parameter, Callable[[Tensor], Tensor], int]]:
    """(parameter, view, kernel positions) of the weights that belong to `child` itself."""
    own = dict(child.named_parameters(recurse=False))
    if isinstance(child, nn.MultiheadAttention):
        for name, blocks in _ATTENTION_WEIGHTS.items():
            if name in own:
                yield own[name], partial(_row_blocks, blocks=blocks), 1
        return
    weight = own.get("weight")
    if weight is None or _has_no_matrices(child):
        return
    if isinstance(child, nn.Linear):
        yield weight, partial(_row_blocks, blocks=1), 1
    elif isinstance(child, _CONVOLUTIONS):
        yield weight, partial(_kernel_positions, groups=child.groups), math.prod(child.kernel_size)
    elif isinstance(child, _TRANSPOSED_CONVOLUTIONS):
        view = partial(_transposed_kernel_positions, groups=child.groups)
        yield weight, view, math.prod(child.kernel_size)
    elif weight.ndim == 3:
        yield weight, _as_it_is, 1


def _has_no_matrices(child: nn.Module) -> bool:
    # Norm layers may have weights of any shape and come from anywhere, hence by name.
    return isinstance(child, (nn.Embedding, nn.EmbeddingBag, nn.Bilinear)) or "Norm" in type(child).__name__


def _row_blocks(weight: Tensor, blocks: int) -> Tensor:
    return weight.view(blocks, -1, weight.shape[1])


def _kernel_positions(weight: Tensor, groups: int) -> Tensor:
    """(out, in / groups, *kernel) -> (groups, *kernel, out / groups, in / groups)."""
    return weight.view(groups, -1, *weight.shape[1:]).movedim((1, 2), (-2, -1))


def _transposed_kernel_positions(weight: Tensor, groups: int) -> Tensor:
    """(in, out / groups, *kernel) -> (groups, *kernel, out / groups, in / groups)."""
    return weight.view(groups, -1, *weight.shape[1:]).movedim((2, 1), (-2, -1))


def _as_it_is(weight: Tensor) -> Tensor:
    return weight


def _divisor(name: str, rows: int, blocks: int) -> int:
    if blocks < 1 or rows % blocks:
        raise ValueError(f"splits: the {rows} rows of {name} cannot be cut into {blocks} equal blocks")
    return blocks

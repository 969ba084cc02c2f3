"""Weights of many shapes projected in few batches."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from fire_rl.layout import WeightMatrices
from fire_rl.orthogonal import SOLVERS, finite_isometries

EXTRA_OPERATIONS = 2e9
"""Float32 operations per step of Newton–Schulz that a GPU does in the time in which the host launches the two
products of a step (about 50 µs, measured on an H200): for less than that a batch is saved by padding."""


def project_together(group: list[WeightMatrices], solver: SOLVERS, steps: int | None) -> None:
    """Replace finite weights of one dtype on one device by `scale` times their isometries, in few batches."""
    stacks = [_stack(weights) for weights in group]
    is_padded = _launching_costs(stacks[0].device) and solver != "exact"
    for batch in batches([stack.shape for stack in stacks], EXTRA_OPERATIONS if is_padded else 0.0):
        _project([group[i] for i in batch], [stacks[i] for i in batch], solver, steps)


def _launching_costs(device: torch.device) -> bool:
    return device.type == "cuda"


def batches(shapes: Sequence[Sequence[int]], extra_operations: float) -> list[list[int]]:
    """Which stacks (n, d_out, d_in) to project together: lists of their indices.

    Those of one shape in any case. Larger batches are padded with zeros to the longest and the widest matrix,
    upright; so a stack joins a batch if that costs less than `extra_operations` more per projection step.
    """
    of_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, (_, *shape) in enumerate(shapes):
        of_shape[tuple(shape)].append(index)
    found: list[list[int]] = []
    for alike in sorted(of_shape.values(), key=lambda group: -math.prod(shapes[group[0]][1:])):
        for batch in found:
            joined = _operations([shapes[i] for i in batch + alike])
            apart = _operations([shapes[i] for i in batch]) + _operations([shapes[i] for i in alike])
            if joined - apart < extra_operations:
                batch += alike
                break
        else:
            found.append(alike)
    return found


def _operations(shapes: Sequence[Sequence[int]]) -> float:
    """Floating-point operations of a cubic step on stacks that are padded to one shape."""
    longest, widest = max(max(shape[1:]) for shape in shapes), max(min(shape[1:]) for shape in shapes)
    return 4.0 * widest**2 * longest * sum(shape[0] for shape in shapes)


def _project(group: list[WeightMatrices], stacks: list[Tensor], solver: SOLVERS, steps: int | None) -> None:
    """Project the matrices of several weights in one batch, and write them back.

    Zeros around a matrix add singular values of zero, which odd polynomials leave at zero: padding changes
    nothing. For `exact`, which completes what is rank-deficient, there must be none.
    """
    are_alike = len({stack.shape[1:] for stack in stacks}) == 1
    turned = [not are_alike and stack.shape[2] > stack.shape[1] for stack in stacks]
    upright = [stack.mT if turn else stack for turn, stack in zip(turned, stacks, strict=True)]
    rows, cols = (max(stack.shape[axis] for stack in upright) for axis in (1, 2))
    lengths = [len(stack) for stack in stacks]
    # In float32 at least, so that low-precision weights are rounded once, after the scale.
    dtype = torch.promote_types(stacks[0].dtype, torch.float32)
    batch = stacks[0].new_zeros(sum(lengths), rows, cols, dtype=dtype)
    for part, stack in zip(torch.split(batch, lengths), upright, strict=True):
        part[:, : stack.shape[1], : stack.shape[2]] = stack
    parts = torch.split(finite_isometries(batch, solver, steps).to(dtype), lengths)
    for weights, part, stack, turn in zip(group, parts, upright, turned, strict=True):
        isometry = part[:, : stack.shape[1], : stack.shape[2]]
        view = weights.matrices()
        torch.mul((isometry.mT if turn else isometry).reshape(view.shape), weights.scale, out=view)


def _stack(weights: WeightMatrices) -> Tensor:
    """The matrices of a weight, (n, d_out, d_in)."""
    matrices = weights.matrices()
    return matrices.reshape(-1, *matrices.shape[-2:])

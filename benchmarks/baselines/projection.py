"""FIRE as one writes it first: one matrix after the other, ten Newton–Schulz steps each."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def fire_by_loop(module: nn.Module, steps: int = 10) -> None:
    """Project Linear layers, convolutions per kernel position, and stacked (E, out, in) weights in place."""
    for layer in module.modules():
        weight = layer._parameters.get("weight")
        if weight is None:
            continue
        if weight.ndim == 2:
            weight.copy_(_project(weight, 1, steps))
        elif weight.ndim == 3:
            for member in weight:
                member.copy_(_project(member, 1, steps))
        elif weight.ndim == 4:
            height, width = weight.shape[2:]
            for y, x in itertools.product(range(height), range(width)):
                weight[:, :, y, x] = _project(weight[:, :, y, x], height * width, steps)


def _project(w: Tensor, positions: int, steps: int) -> Tensor:
    d_out, d_in = w.shape
    x: Tensor = w.T if d_in > d_out else w
    x = x / torch.linalg.matrix_norm(x)
    for _ in range(steps):
        x = 1.5 * x - 0.5 * x @ (x.T @ x)
    x = math.sqrt(d_out / d_in) / positions * x
    return x.T if d_in > d_out else x

"""Layers that methods put into a network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CReLU(nn.ReLU):
    """[relu(x), relu(−x)] along the axis of units: (B, d) -> (B, 2 d), (B, C, H, W) -> (B, 2 C, H, W).

    Of an ensemble (E, B, d) -> (E, B, 2 d). Shang et al., ICML 2016; ‖CReLU(x)‖ = ‖x‖.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], 1 if x.ndim == 4 else -1).relu()


class EnsembleLayerNorm(nn.Module):
    """E layer norms side by side: (E, B, d) -> (E, B, d)."""

    def __init__(self, members: int, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:], eps=self.eps), self.weight)

"""From the host to a device without waiting for what the device is busy with.

A plain copy to a GPU waits until all that was asked of it before is done. One from pinned memory does not;
that memory is reserved by torch until it has been read.
"""

from __future__ import annotations

import torch
from torch import Tensor


def send(x: Tensor, device: torch.device) -> Tensor:
    """`x`, from the host or `device`, on `device`. The host may change its `x` at once."""
    return staged(x, device).to(device, non_blocking=True)


def staged(x: Tensor, device: torch.device) -> Tensor:
    """`x`, as a copy in pinned memory if it is on the host and bound for a GPU."""
    return x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x

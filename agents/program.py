"""One update as one program: torch.compile for its losses, a CUDA graph for the whole of it."""

from __future__ import annotations

from typing import Literal

Compile = Literal["auto", "on", "off"]

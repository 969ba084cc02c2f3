"""Which parameters a method acts on: the words `all`, `encoder`, `head`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

Scope = Literal["all", "encoder", "head"]


def parameters_in(module: nn.Module, scope: Scope) -> Iterator[tuple[str, Tensor]]:
    """The named parameters of `module` in `scope`; the frozen copies of plasticity injection never count."""
    for name, parameter in module.named_parameters():
        part = name.split(".", 1)[0]
        if part != "injected" and scope in ("all", part):
            yield name, parameter

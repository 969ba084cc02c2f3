"""Plasticity injection: a new trainable head whose output starts at exactly zero.

Nikishin et al., "Deep Reinforcement Learning with Plasticity Injection", NeurIPS 2023, arXiv:2305.15555:
Q(s) = h_θ(z) + (h_a(z) − h_b(z)), z = encoder(s); θ and b are frozen, a is trainable, a = b = φ at injection.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fire_rl.method import Learner, OptimizerPolicy, ResetMethod, TargetPolicy, register
from fire_rl.methods.full_reset import Draw, initial_weights


@register("plasticity-injection")
@dataclass
class PlasticityInjection(ResetMethod):
    """Freeze the head and add a new one that starts at zero output (Nikishin et al., NeurIPS 2023).

    The trainable head keeps its parameter objects and takes the values φ, so the optimiser goes on with the
    same tensors; frozen copies of θ and φ join the network's `injected` list. It may be repeated.
    """

    draw: Draw = "rewind"
    """Where φ comes from: the head's initial weights (`rewind`, the FIRE reference) or a `fresh` draw."""
    target: TargetPolicy = "same"
    optimizer: OptimizerPolicy = "recreate"

    def __post_init__(self) -> None:
        if self.target != "same":
            raise ValueError(
                "plasticity-injection changes the architecture of the target too: target must be same"
            )

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        head, injected = _parts(module)
        new = initial_weights(learner, self.draw, generator)
        frozen = _frozen_copy(head)
        for name, parameter in head.named_parameters():
            parameter.copy_(new[f"head.{name}"])
        injected.append(nn.ModuleList([frozen, _frozen_copy(head)]))


def read_out(head: nn.Module, injected: nn.ModuleList, features: Tensor) -> Tensor:
    """Output of `head` on `features` with all injections: h_θ + (h_a − h_b), innermost first.

    The difference is formed before the sum, so that an injection changes the output by exactly 0.
    """
    output: Tensor = head(features)
    for pair in reversed(list(injected)):
        frozen, cancel = pair.children()
        output = frozen(features) + (output - cancel(features))
    return output


def rebuild_injections(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Add the frozen heads that `state` holds and `module` lacks, so that the state can be loaded.

    Raises ValueError when `module` has more injections than `state`.
    """
    saved = {int(name.split(".")[1]) for name in state if name.startswith("injected.")}
    there = getattr(module, "injected", None)
    present = len(there) if isinstance(there, nn.ModuleList) else 0
    if present > len(saved):
        raise ValueError(f"the network has {present} injected heads, the saved state only {len(saved)}")
    for _ in range(len(saved) - present):
        head, injected = _parts(module)
        injected.append(nn.ModuleList([_frozen_copy(head), _frozen_copy(head)]))


def _parts(module: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    head, injected = getattr(module, "head", None), getattr(module, "injected", None)
    if not isinstance(head, nn.Module) or not isinstance(injected, nn.ModuleList):
        raise ValueError(
            f"plasticity-injection needs a network with children `head` and `injected`; "
            f"{type(module).__name__} has {', '.join(dict(module.named_children())) or 'none'}"
        )
    return head, injected


def _frozen_copy(head: nn.Module) -> nn.Module:
    return copy.deepcopy(head).requires_grad_(False)

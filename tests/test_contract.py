"""Every rule of the contract is noticed when a method breaks it, and named; what keeps it passes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fire_rl import method as registry
from fire_rl.launch.cli import main
from fire_rl.launch.contract import breaches
from fire_rl.method import Learner, ResetMethod


class Broken(ResetMethod):
    """Scales all weights down, as it should; subclasses break one thing more."""

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        for parameter in module.parameters():
            parameter.mul_(0.9)


class RebindsModule(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        module.head = learner.fresh(generator).get_submodule("head")


class RebindsData(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        for parameter in module.parameters():
            parameter.data = parameter.data * 0.9


class ChangesShapes(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        for parameter in module.parameters():
            parameter.data = torch.zeros(2, 2)


class LeavesNan(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        next(module.parameters()).div_(0.0).sub_(np.inf)


class NewOptimiser(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        super().apply(module, learner, generator)
        learner.optimizer = torch.optim.Adam([p.clone() for p in module.parameters()])


class ClearsState(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        super().apply(module, learner, generator)
        learner.optimizer.state.clear()


class Freezes(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        super().apply(module, learner, generator)
        for group in learner.optimizer.param_groups:
            group["lr"] = group["weight_decay"] = 0.0


class ForgetsTarget(Broken):
    def at_event(self, learner: Learner, generator: torch.Generator) -> list[str]:
        self.apply(learner.online, learner, generator)
        return [name for name, _ in learner.online.named_parameters()]


class DrawsFromTorch(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        for parameter in module.parameters():
            nn.init.normal_(parameter)


class DrawsFromNumpy(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        scale = np.random.rand()  # noqa: NPY002
        next(module.parameters()).mul_(scale)


class DrawsFromRandom(Broken):
    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        next(learner.online.parameters()).mul_(1 - 0.001 * random.random())


class DrawsFromItself(Broken):
    rng = np.random.default_rng(0)

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        next(module.parameters()).mul_(self.rng.random())


class Forgetful(Broken):
    """Counts updates, acts on the count, and does not save it."""

    count = 0

    def after_update(self, learner: Learner, activations: Mapping[str, Tensor]) -> None:
        self.count += 1
        next(learner.online.parameters()).mul_(1 - 1e-4 * self.count)


class Raises(Broken):
    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        raise IndexError("as asked")


CASES = [
    (RebindsModule, "rebinds a parameter"),
    (RebindsData, "rebinds a parameter"),
    (ChangesShapes, "changes shapes"),
    (LeavesNan, "leaves NaN"),
    (NewOptimiser, "breaks the optimiser"),
    (ClearsState, "breaks the optimiser"),
    (Freezes, "breaks the optimiser"),
    (ForgetsTarget, "forgets the target"),
    (DrawsFromTorch, "draws from a global generator"),
    (DrawsFromNumpy, "draws from a global generator"),
    (DrawsFromRandom, "draws from a global generator"),
    (DrawsFromItself, "is not reproducible"),
    (Forgetful, "does not resume"),
    (Raises, "fails"),
]


@pytest.mark.parametrize(("broken", "rule"), CASES)
def test_what_is_broken_is_named(broken: type[ResetMethod], rule: str) -> None:
    found = breaches(lambda kind: broken(), "dqn")
    assert rule in {breach.rule for breach in found}, list(map(str, found))


def test_a_failure_names_file_and_line() -> None:
    (breach,) = breaches(lambda kind: Raises(), "dqn")
    assert f"{Path(__file__).name}:" in breach.detail and "as asked" in breach.detail


@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_what_breaks_nothing_passes(kind: str) -> None:
    assert breaches(lambda kind: Broken(), kind) == []


@pytest.fixture
def registered() -> Iterator[None]:
    for name, cls in (("broken-one", RebindsData), ("sound-one", Broken)):
        registry.register(name)(dataclass(cls))
    yield
    for name in ("broken-one", "sound-one"):
        del registry._REGISTRY[name]


def test_the_command(registered: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", "sound-one", "--agents", "dqn"]) == 0
    assert "keeps the contract" in capsys.readouterr().out
    assert main(["check-method", "broken-one", "--agents", "dqn"]) == 1
    said = capsys.readouterr().out
    assert "BREAKS" in said and "rebinds a parameter: q." in said
    assert main(["check-method", "sound-on"]) == 2
    assert "sound-one" in capsys.readouterr().err

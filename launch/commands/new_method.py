"""`fire-rl new-method`: a file with a reset method to start from, and its test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import tyro

METHOD = '''"""@NAME@: say here what it does, with the paper and the equation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fire_rl.method import Learner, ResetMethod, register


@register("@NAME@")
@dataclass
class @CLASS@(ResetMethod):
    """One line for `fire-rl methods`."""

    # Every field is an option: --method.keep 0.5 on the command line, and in a suite's file
    #     method = {name = "@NAME@", keep = 0.5}
    # Inherited ones say what becomes of the rest at a reset: target, optimizer, temperature.
    keep: float = 0.5
    """Fraction of the trained weights that stays, between 0 and 1."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.keep <= 1.0:
            raise ValueError(f"keep must lie between 0 and 1, not {self.keep}")

    def apply(self, module: nn.Module, learner: Learner, generator: torch.Generator) -> None:
        """What happens at a reset, without gradients: here, weights move towards freshly drawn ones.

        `module` is the network (`learner.online`), or its target with the option --method.target same. Write
        in place, as `mul_` and `copy_` do, so that the optimiser and the target keep their tensors, and draw
        from `generator` only. `learner.initial` holds the weights of step 0 by name, `learner.fresh` draws a
        new twin of the network. Networks have the children `encoder` and `head`.
        """
        fresh = dict(learner.fresh(generator).named_parameters())
        for name, parameter in module.named_parameters():
            if name in fresh:  # what plasticity injection adds is not
                parameter.mul_(self.keep).add_(fresh[name], alpha=1.0 - self.keep)

    # To act in every update instead, derive from ContinuousMethod and override one of
    #     penalty(self, learner) -> Tensor | None                  a term of the loss
    #     after_backward(self, learner)                            gradients are there
    #     after_update(self, learner, activations)                 the optimiser has stepped
    #     make_optimizer(self, learner, default) -> Optimizer      another optimiser
    #     build(self, network, generator)                          another architecture
    # and state_dict / load_state_dict if the method remembers anything from one update to the next.
'''

TEST = '''"""Tests of @NAME@: pytest @TEST@"""

from pathlib import Path

import pytest
import torch

from fire_rl.launch.config import default_method
from fire_rl.launch.contract import KINDS, breaches
from fire_rl.launch.small_agents import make_agent
from fire_rl.plugins import load_plugins

load_plugins([Path(__file__).with_name("@FILE@")])


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_the_reset_contract(kind: str) -> None:
    assert breaches(lambda kind: default_method(kind.partition("-")[0], "@NAME@", "paper"), kind) == []


def test_it_does_what_it_says() -> None:
    """Replace this by a computation of your own, independent of the method's."""
    method = default_method("dqn", "@NAME@", "paper")
    learner = make_agent("dqn").q
    before = {name: p.detach().clone() for name, p in learner.online.named_parameters()}
    touched = method.reset(learner, torch.Generator().manual_seed(0)).touched
    assert "encoder.0.weight" in touched
    assert not torch.equal(learner.online.get_parameter("encoder.0.weight"), before["encoder.0.weight"])


def test_it_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="keep"):
        type(default_method("dqn", "@NAME@", "paper"))(keep=2.0)
'''


@dataclass(frozen=True)
class Options:
    """Write a reset method that runs as it is, and its test; docs/write-a-method.md goes on from there."""

    name: tyro.conf.Positional[str]
    """What the method shall be called, such as my-method."""
    folder: Path = Path(".")
    """Where the two files go."""


def main(argv: list[str]) -> int:
    """Write NAME.py and test_NAME.py, and say what to do with them.

    Raises:
        ValueError: for a name that cannot be one or is taken, or when a file is there already.
    """
    options = tyro.cli(Options, args=argv, prog="fire-rl new-method")
    method, test = write(options.name, options.folder)
    print(f"wrote {method} and {test}; now try")
    print(f"  fire-rl check-method {options.name} --plugin {method}")
    print(f"  fire-rl probe none fire {options.name} --plugin {method}")
    print(f"  fire-rl bench dev --plugin {method} --methods none,fire,{options.name}")
    print(f"  pytest {test}")
    return 0


def write(name: str, folder: Path) -> tuple[Path, Path]:
    """Write the method's file and its test into `folder`, which is made if it is not there."""
    from fire_rl.method import method_names

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"a method's name is lower-case words joined by hyphens (my-method), not {name!r}")
    if name in method_names():
        raise ValueError(f"there is a method called {name} already: choose another name")
    method = folder / f"{name.replace('-', '_')}.py"
    test = folder / f"test_{method.name}"
    for path in (method, test):
        if path.exists():
            raise ValueError(f"{path} is there already: choose another name or --folder")
    folder.mkdir(parents=True, exist_ok=True)
    words = {
        "@NAME@": name,
        "@CLASS@": "".join(word.capitalize() for word in name.split("-")),
        "@FILE@": method.name,
        "@TEST@": test.name,
    }
    for path, text in ((method, METHOD), (test, TEST)):
        for mark, word in words.items():
            text = text.replace(mark, word)
        path.write_text(text)
    return method, test

"""The reset contract (docs/reset-contract.md) as a check: what a method breaks, in words."""

from __future__ import annotations

import copy
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fire_rl.launch.small_agents import experience, make_agent
from fire_rl.method import ResetMethod

KINDS = ("dqn", "dqn-pixels", "sac")
Rule = Literal[
    "fails",
    "rebinds a parameter",
    "changes shapes",
    "leaves NaN",
    "breaks the optimiser",
    "forgets the target",
    "draws from a global generator",
    "disturbs training",
    "is not reproducible",
    "does not resume",
]
Make = Callable[[str], ResetMethod]


@dataclass(frozen=True)
class Breach:
    """One rule of the contract that a method breaks on one agent."""

    rule: Rule
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


def breaches(make: Make, kind: str) -> list[Breach]:
    """All rules that a method breaks on a small agent of `kind`; empty if it keeps the contract.

    Args:
        make: builds the method with its options for an agent of a kind.
        kind: dqn (an MLP), dqn-pixels (the Nature CNN) or sac.

    Raises:
        ValueError: when the method does not fit the agent's networks, saying why.
    """
    make_agent(kind, method=make(kind))
    try:
        agent = trained(kind, make(kind))
    except Exception as error:
        return [Breach("fails", f"in training, {describe(error)}")]
    found = check_reset(agent, agent.learners[next(iter(agent.learners))].method)
    if not found:
        found = [*check_repeat(make, kind), *check_resume(make, kind)]
    return [*check_globals_in_training(make, kind), *found]


def trained(kind: str, method: ResetMethod) -> Any:
    """An agent that has learnt a little, under `method` from the start."""
    agent = make_agent(kind, method=method)
    experience(agent, 40 if kind != "dqn-pixels" else 20, np.random.default_rng(1))
    return agent


def check_reset(agent: Any, method: ResetMethod) -> list[Breach]:
    """Reset `agent`, let it learn on, and compare with what was before."""
    before = _Before(agent)
    found: list[Breach] = []
    rng = torch.Generator().manual_seed(3)
    touched: dict[str, list[str]] = {}
    batch = agent.sample(64, np.random.default_rng(4))
    try:
        report = agent.reset(method, rng, batch)
        touched = {name: one.touched for name, one in report.learners.items()}
    except Exception as error:
        found.append(Breach("fails", f"at the reset, {describe(error)}"))
    found += before.parameter_breaches(agent)
    found += before.disturbances(agent)
    if found and any(breach.rule in ("fails", "rebinds a parameter", "changes shapes") for breach in found):
        # A broken report or network says nothing about the rest, and what it says first is the cause.
        specific = [breach for breach in found if breach.rule != "fails"]
        return specific or found
    for name, learner in agent.learners.items():
        found += before.optimizer_breaches(name, learner, method, touched[name])
        found += before.target_breaches(name, learner, method)
    return found + check_learning(agent)


def check_learning(agent: Any) -> list[Breach]:
    """Whether every network of `agent` still changes when it learns, and stays finite."""
    weights = {name: _flat(learner.online) for name, learner in agent.learners.items()}
    try:
        experience(agent, 10, np.random.default_rng(5))
    except Exception as error:
        return [Breach("fails", f"in the updates after a reset, {describe(error)}")]
    return [
        Breach("breaks the optimiser", f"{name} does not learn any more after a reset")
        for name, learner in agent.learners.items()
        if torch.equal(weights[name], _flat(learner.online))
    ]


def check_repeat(make: Make, kind: str) -> list[Breach]:
    """Whether the same generator gives the same reset."""
    results = []
    for _ in range(2):
        method = make(kind)
        agent = trained(kind, method)
        agent.reset(method, torch.Generator().manual_seed(3), agent.sample(8, np.random.default_rng(0)))
        results.append(_weights(agent))
    return [
        Breach("is not reproducible", f"{name} differs between two resets with the same generator")
        for name in _first_difference(*results)
    ]


def check_resume(make: Make, kind: str) -> list[Breach]:
    """Whether training goes on bit for bit from the state after a reset."""
    method, other = make(kind), make(kind)
    first = trained(kind, method)
    first.reset(method, torch.Generator().manual_seed(3), first.sample(8, np.random.default_rng(0)))
    second = make_agent(kind, seed=99, method=other)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    for agent in (first, second):
        experience(agent, 10, np.random.default_rng(6))
    return [
        Breach("does not resume", f"{name} goes on differently from a checkpoint: is all in state_dict()?")
        for name in _first_difference(_weights(first), _weights(second))
    ]


def check_globals_in_training(make: Make, kind: str) -> list[Breach]:
    """Whether the global generators stand still while an agent is built and learns under the method."""
    before = _global_generators()
    try:
        experience(make_agent(kind, method=make(kind)), 15, np.random.default_rng(1))
    except Exception as error:
        return [Breach("fails", f"in training, {describe(error)}")]
    return list(_moved_generators(before, "in training"))


class _Before:
    """An agent as it was before a reset."""

    def __init__(self, agent: Any) -> None:
        learners = agent.learners.items()
        self.parameters = {n: dict(l.online.named_parameters()) for n, l in learners}
        self.addresses = {n: {k: p.data_ptr() for k, p in of.items()} for n, of in self.parameters.items()}
        self.shapes = {n: {k: p.shape for k, p in of.items()} for n, of in self.parameters.items()}
        self.moments = {
            n: {id(p): copy.copy(state) for p, state in l.optimizer.state.items()} for n, l in learners
        }
        self.values: dict[str, dict[str, Any]] = {
            n: copy.deepcopy(
                {
                    "online": dict(l.online.state_dict()),
                    "target": {} if l.target is None else dict(l.target.state_dict()),
                    "optimizer": list(l.optimizer.state.values()),
                }
            )
            for n, l in learners
        }
        self.streams = _streams(agent)
        self.memory = _memory(agent)
        self.generators = _global_generators()

    def parameter_breaches(self, agent: Any) -> Iterator[Breach]:
        for n, learner in agent.learners.items():
            now = dict(learner.online.named_parameters())
            for key, parameter in self.parameters[n].items():
                if key not in now:
                    yield Breach("rebinds a parameter", f"{n}.{key} is gone")
                elif now[key].shape != self.shapes[n][key]:
                    was, is_now = tuple(self.shapes[n][key]), tuple(now[key].shape)
                    yield Breach("changes shapes", f"{n}.{key} was {was} and is {is_now}")
                elif now[key] is not parameter or parameter.data_ptr() != self.addresses[n][key]:
                    yield Breach(
                        "rebinds a parameter",
                        f"{n}.{key} is another tensor, which the optimiser does not know: "
                        "write into the old one with copy_()",
                    )
            modules = {"online network": learner.online, "target network": learner.target}
            for where, module in modules.items():
                for key, value in {} if module is None else module.state_dict().items():
                    if value.is_floating_point() and not value.isfinite().all():
                        yield Breach("leaves NaN", f"{key} of {n}'s {where} is not finite")

    def disturbances(self, agent: Any) -> Iterator[Breach]:
        yield from _moved_generators(self.generators, "at the reset")
        for key, value in _streams(agent).items():
            if value != self.streams[key]:
                yield Breach("disturbs training", f"the agent's {key} has moved")
        if _memory(agent) != self.memory:
            yield Breach("disturbs training", "the replay memory has changed")

    def optimizer_breaches(
        self, n: str, learner: Any, method: ResetMethod, touched: list[str]
    ) -> Iterator[Breach]:
        names = {id(parameter): name for name, parameter in learner.online.named_parameters()}
        stepped = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
        for key, parameter in self.parameters[n].items():
            if parameter.requires_grad and id(parameter) not in stepped:
                yield Breach("breaks the optimiser", f"{n}.{key} is not among the parameters that it steps")
        own_event = type(method).at_event is not ResetMethod.at_event
        states = {id(p): state for p, state in learner.optimizer.state.items()}
        old_values = dict(zip(self.moments[n], self.values[n]["optimizer"], strict=True))
        for one, old in self.moments[n].items():
            for key, tensor in old.items():
                if not isinstance(tensor, Tensor):
                    continue
                where = f"{key} of {n}.{names.get(one, '?')}"
                new = states.get(one, {}).get(key)
                if new is None or new.data_ptr() != tensor.data_ptr() or new.shape != tensor.shape:
                    yield Breach("breaks the optimiser", f"{where} was replaced: write into it in place")
                    continue
                kept, cleared = new == old_values[one][key], new == 0
                keeps = {"keep": True, "clear": key == "step", "touched": names.get(one) not in touched}
                is_right = kept if keeps.get(method.optimizer, False) else cleared
                if own_event or (method.optimizer == "keep" and kept.any()):
                    is_right = kept | cleared  # recycling clears the entries of the units that start over
                if not is_right.all():
                    yield Breach("breaks the optimiser", f"{where} is not what {method.optimizer!r} says")

    def target_breaches(self, n: str, learner: Any, method: ResetMethod) -> Iterator[Breach]:
        if learner.target is None or type(method).at_event is not ResetMethod.at_event:
            # Methods with an event of their own say for themselves what becomes of the target.
            if learner.target is not None and method.target == "copy":
                yield from self._not_copied(n, learner)
            return
        online, target = learner.online.state_dict(), learner.target.state_dict()
        old = self.values[n]
        if online.keys() != target.keys():
            yield Breach("forgets the target", f"the target of {n} has other tensors than the network")
            return
        changed = [k for k, v in old["online"].items() if not torch.equal(v, online[k])]
        if method.target == "copy":
            yield from self._not_copied(n, learner)
        # New tensors are a treatment too; and of an early target, what is rewound may be as it was.
        is_old = target.keys() == old["target"].keys()
        is_old = is_old and all(torch.equal(old["target"][k], target[k]) for k in changed)
        if method.target == "same" and changed and is_old:
            yield Breach("forgets the target", f"the target of {n} was left alone, not treated the same")
        for key, value in target.items():
            if method.target == "keep" and not torch.equal(value, old["target"][key]):
                yield Breach("forgets the target", f"{key} of {n}'s target changed, but the option says keep")
            if method.target == "touched" and key in old["online"]:
                expected = online[key] if key in changed else old["target"][key]
                if not torch.equal(value, expected):
                    yield Breach("forgets the target", f"{key} of {n}'s target is not what `touched` says")

    def _not_copied(self, n: str, learner: Any) -> Iterator[Breach]:
        online, target = learner.online.state_dict(), learner.target.state_dict()
        for key in online:
            if key not in target or not torch.equal(online[key], target[key]):
                yield Breach("forgets the target", f"{key} of {n}'s target is no copy of the network's")
                return


def describe(error: Exception) -> str:
    """An error as a sentence with the deepest file and line of it that is not torch's."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {type(error).__name__}: {error}"


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def _weights(agent: Any) -> dict[str, dict[str, Tensor]]:
    return {
        f"{n}'s {part}": {k: v.clone() for k, v in module.state_dict().items()}
        for n, learner in agent.learners.items()
        for part, module in (("network", learner.online), ("target", learner.target))
        if module is not None
    }


def _first_difference(one: dict[str, dict[str, Tensor]], two: dict[str, dict[str, Tensor]]) -> Iterator[str]:
    for name, weights in one.items():
        if weights.keys() != two[name].keys() or not all(
            torch.equal(v, two[name][k]) for k, v in weights.items()
        ):
            yield name
            return


def _streams(agent: Any) -> dict[str, str]:
    return {key: repr(value) for key, value in agent.state_dict().items() if key.endswith("rng")}


def _memory(agent: Any) -> list[Any]:
    return [
        (
            chunk.place,
            chunk.writes,
            {name: array.cpu().numpy().tobytes() for name, array in chunk.read().items()},
        )
        for chunk in agent.memory.state_dict()["chunks"]
    ]


def _global_generators() -> dict[str, str]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    return {
        "torch": str(torch.get_rng_state().tolist()),
        "numpy": str(numpy_state[1].tolist()) + str(numpy_state[2]),
        "random": repr(random.getstate()),
    }


def _moved_generators(before: dict[str, str], when: str) -> Iterator[Breach]:
    after = _global_generators()
    for name, state in before.items():
        if after[name] != state:
            detail = f"that of {name} has moved {when}: draw from the generator that the method is given"
            yield Breach("draws from a global generator", detail)

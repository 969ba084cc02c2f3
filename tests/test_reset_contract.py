"""What must hold after any reset, for every method on every agent (docs/reset-contract.md)."""

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fire_rl.agents import AGENTS
from fire_rl.launch.checkpoint import load_checkpoint, save_checkpoint
from fire_rl.launch.contract import check_reset, trained
from fire_rl.launch.reports import event_row
from fire_rl.method import ResetMethod, method_class, method_names
from fire_rl.units import hidden_layers
from tests.agents_for_tests import CPU, experience, make_agent, quick_method

KINDS = ("dqn", "dqn-pixels", "sac") if "sac" in AGENTS else ("dqn", "dqn-pixels")
CASES = [
    (kind, method, preset)
    for kind in KINDS
    for method in method_names()
    for preset in (("paper", "harmonised") if method_class(method).default_schedule else ("paper",))
]


VECTORS = ("dqn", "sac")  # where what is tested does not depend on convolutions, which take most of the time


def numpy_state() -> Any:
    """State of NumPy's global generator, which nothing may move."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[1].copy()


def snapshot(agent: Any) -> dict[str, Any]:
    return copy.deepcopy(
        {
            name: {
                "online": dict(learner.online.state_dict()),
                "target": {} if learner.target is None else dict(learner.target.state_dict()),
                "optimizer": learner.optimizer.state_dict(),
            }
            for name, learner in agent.learners.items()
        }
    )


@pytest.mark.parametrize(("kind", "name", "preset"), CASES)
def test_contract(kind: str, name: str, preset: str) -> None:
    method = quick_method(kind, name, preset)
    assert check_reset(trained(kind, method), method) == []


@pytest.mark.parametrize(("kind", "name"), [(k, m) for k in VECTORS for m in method_names()])
def test_the_event_record_is_complete(kind: str, name: str) -> None:
    method = quick_method(kind, name)
    agent = trained(kind, method)
    rng = torch.Generator().manual_seed(3)
    report = agent.reset(method, rng, agent.sample(64, np.random.default_rng(4)))
    row, tables = event_row({"agent_steps": 1, "env_steps": 1, "updates": 1}, name, method, report)
    assert row["options"]["name"] == name
    for n in agent.learners:
        for key in ("dormant_ratio", "feature_rank"):
            assert np.isfinite(row["before"][f"{n}/{key}"]) and np.isfinite(row["after"][f"{n}/{key}"])
    assert report.seconds > 0
    names = {(r["learner"], r["name"]) for r in tables["projection"]}
    assert all(np.isfinite([r["sfe"], r["dfi_before"], r["dfi_after"]]).all() for r in tables["projection"])
    assert {n for n, _ in names} == set(agent.learners)


@pytest.mark.parametrize(("kind", "name"), [(k, m) for k in VECTORS for m in method_names()])
def test_the_same_generator_gives_the_same_reset(kind: str, name: str) -> None:
    states = []
    for _ in range(2):
        method = quick_method(kind, name)
        agent = trained(kind, method)
        agent.reset(method, torch.Generator().manual_seed(3), agent.sample(8, np.random.default_rng(0)))
        states.append(snapshot(agent))
    for n in states[0]:
        for part in ("online", "target"):
            one, two = states[0][n][part], states[1][n][part]
            assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def through_a_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint on the disk makes of a method's state."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder), 1, {"method": state})
        read: dict[str, Any] = load_checkpoint(path, CPU)["method"]
    return read


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("name", method_names())
def test_the_state_after_a_reset_goes_on_bit_for_bit(kind: str, name: str) -> None:
    method, other = quick_method(kind, name), quick_method(kind, name)
    first = trained(kind, method)
    first.reset(method, torch.Generator().manual_seed(3), first.sample(8, np.random.default_rng(0)))
    second = make_agent(kind, seed=99, method=other)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(through_a_checkpoint(method.state_dict()))
    for agent in (first, second):
        experience(agent, 10, np.random.default_rng(6))
    one, two = snapshot(first), snapshot(second)
    for n in one:
        for part in ("online", "target"):
            assert one[n][part].keys() == two[n][part].keys()
            assert all(torch.equal(one[n][part][k], two[n][part][k]) for k in one[n][part])


CONTINUOUS = [name for name in method_names() if not method_class(name).acts_only_at_events]


@pytest.mark.parametrize(("kind", "name"), [(k, m) for k in KINDS for m in CONTINUOUS])
def test_what_acts_in_training_keeps_the_contract_there(kind: str, name: str) -> None:
    """In every update too: parameters stay in place, the global generators stand still, all is finite."""
    agent, plain = make_agent(kind, method=quick_method(kind, name)), make_agent(kind)
    objects = {n: dict(l.online.named_parameters()) for n, l in agent.learners.items()}
    addresses = {n: {k: p.data_ptr() for k, p in objects[n].items()} for n in objects}
    for each in (agent, plain):  # dead units, so that there is something to recycle
        for learner in each.learners.values():
            layer = hidden_layers(learner.online)[0]
            with torch.no_grad():
                learner.online.get_parameter(f"{layer.name}.bias")[..., :2] = -1e3
    torch_global, numpy_global = torch.get_rng_state(), numpy_state()
    for each in (agent, plain):
        experience(each, 18, np.random.default_rng(1))
    assert torch.equal(torch_global, torch.get_rng_state())
    assert np.array_equal(numpy_global, numpy_state())
    one, two = (
        torch.cat([p.detach().flatten() for l in each.learners.values() for p in l.online.parameters()])
        for each in (agent, plain)
    )
    assert one.shape != two.shape or not torch.equal(one, two), f"{name} changes nothing"
    for n, learner in agent.learners.items():
        now = dict(learner.online.named_parameters())
        assert now.keys() == objects[n].keys()
        for key, parameter in now.items():
            assert parameter is objects[n][key] and parameter.data_ptr() == addresses[n][key]
            assert torch.isfinite(parameter).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_method_training_is_the_paper_s(kind: str) -> None:
    """Bit for bit the update without hooks, written down again here."""
    agent, plain = make_agent(kind), make_agent(kind)
    for learner in plain.learners.values():
        learner.descend = partial(plain_descent, learner)
    for each in (agent, plain):
        experience(each, 25, np.random.default_rng(1))
    one, two = snapshot(agent), snapshot(plain)
    for n in one:
        for part in ("online", "target"):
            assert all(torch.equal(one[n][part][k], two[n][part][k]) for k in one[n][part])


def plain_descent(learner: Any, loss: torch.Tensor) -> None:
    parameters = list(learner.online.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient.contiguous()  # as the parameter; fused Adam pairs them by memory
    learner.optimizer.step()


@pytest.mark.parametrize("name", [n for n in method_names() if method_class(n).acts_only_at_events])
def test_what_acts_at_events_has_no_hook_in_training(name: str) -> None:
    """So that a run with it can share its beginning with a run without it."""
    for hook in ("build", "make_optimizer", "penalty", "after_backward", "after_update"):
        assert getattr(method_class(name), hook) is getattr(ResetMethod, hook)


COMPOSITIONS = (
    "fire+layer-norm",
    "crelu+layer-norm+continual-backprop",
    "muon+redo+l2-init",
    "upgd+self-normalized-resets+spectral-regularization",
    "shrink-perturb+hare-tortoise",
)


@pytest.mark.parametrize("kind", ("dqn", "sac"))
@pytest.mark.parametrize("names", COMPOSITIONS)
def test_compositions_learn_reset_and_go_on_bit_for_bit(kind: str, names: str) -> None:
    def together() -> ResetMethod:
        parts = {name.replace("-", "_"): quick_method(kind, name) for name in names.split("+")}
        return method_class(names)(**parts)  # type: ignore[arg-type]

    method, other = together(), together()
    first = trained(kind, method)
    first.reset(method, torch.Generator().manual_seed(3), first.sample(8, np.random.default_rng(0)))
    second = make_agent(kind, seed=99, method=other)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(through_a_checkpoint(method.state_dict()))
    for agent in (first, second):
        experience(agent, 10, np.random.default_rng(6))
    one, two = snapshot(first), snapshot(second)
    for n in one:
        for part in ("online", "target"):
            assert all(torch.isfinite(value).all() for value in one[n][part].values())
            assert all(torch.equal(one[n][part][k], two[n][part][k]) for k in one[n][part])

"""What must hold after any reset, for every method on every agent (docs/reset-contract.md)."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from fire_rl.agents import AGENTS
from fire_rl.agents.replay import ReplayMemory
from fire_rl.launch.config import default_config
from fire_rl.launch.reports import event_row
from fire_rl.method import ResetMethod, method_names
from tests.agents_for_tests import experience, make_agent

KINDS = ("dqn", "dqn-pixels", "sac") if "sac" in AGENTS else ("dqn", "dqn-pixels")
CASES = [
    (kind, method, preset)
    for kind in KINDS
    for method in method_names()
    for preset in ("paper", "harmonised")
]


def make_method(kind: str, method: str, preset: str) -> ResetMethod:
    return default_config(kind.split("-")[0], "control/CartPole-v1", method, preset).method


def trained(kind: str) -> Any:
    agent = make_agent(kind)
    experience(agent, 40 if kind != "dqn-pixels" else 20, np.random.default_rng(1))
    return agent


def numpy_state() -> Any:
    """State of NumPy's global generator, which nothing may move."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[1].copy()


def contents(memory: ReplayMemory) -> list[Any]:
    return [
        (chunk.place, chunk.writes, {name: array.numpy().tobytes() for name, array in chunk.read().items()})
        for chunk in memory.state_dict()["chunks"]
    ]


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
    agent, method = trained(kind), make_method(kind, name, preset)
    before = snapshot(agent)
    objects = {n: dict(l.online.named_parameters()) for n, l in agent.learners.items()}
    addresses = {n: {k: p.data_ptr() for k, p in objects[n].items()} for n in objects}
    moments = {
        n: [t.data_ptr() for s in l.optimizer.state.values() for t in s.values()]
        for n, l in agent.learners.items()
    }
    streams = {k: v for k, v in agent.state_dict().items() if k.endswith("rng")}
    streams = copy.deepcopy(streams)
    torch_global, numpy_global = torch.get_rng_state(), numpy_state()
    memory = contents(agent.memory)

    rng = torch.Generator().manual_seed(3)
    report = agent.reset(method, rng, agent.sample(64, np.random.default_rng(4)))

    for n, learner in agent.learners.items():
        now = dict(learner.online.named_parameters())
        for key, parameter in objects[n].items():
            assert now[key] is parameter, f"{n}.{key} is another object"
            assert parameter.data_ptr() == addresses[n][key], f"{n}.{key} moved"
            assert torch.isfinite(parameter).all()
        assert moments[n] == [t.data_ptr() for s in learner.optimizer.state.values() for t in s.values()]
        assert_optimizer(learner, before[n]["optimizer"], method)
        if learner.target is not None:
            assert_target(learner, before[n], method)

    # Training's own random streams, the global ones and the memory have not moved.
    for key, value in streams.items():
        assert repr(agent.state_dict()[key]) == repr(value), f"{key} moved"
    assert torch.equal(torch_global, torch.get_rng_state())
    assert np.array_equal(numpy_global, numpy_state())
    assert contents(agent.memory) == memory

    # The event record is complete.
    row, tables = event_row({"agent_steps": 1, "env_steps": 1, "updates": 1}, name, method, report)
    assert row["options"]["name"] == name
    for n in agent.learners:
        for key in ("dormant_ratio", "feature_rank"):
            assert np.isfinite(row["before"][f"{n}/{key}"]) and np.isfinite(row["after"][f"{n}/{key}"])
    assert report.seconds > 0
    names = {(r["learner"], r["name"]) for r in tables["projection"]}
    assert all(np.isfinite([r["sfe"], r["dfi_before"], r["dfi_after"]]).all() for r in tables["projection"])
    assert {n for n, _ in names} == set(agent.learners)

    # The optimiser still steps the parameters, and what may learn does.
    weights = {n: {k: p.clone() for k, p in objects[n].items()} for n in objects}
    experience(agent, 10, np.random.default_rng(5))
    for n in objects:
        assert any(not torch.equal(weights[n][k], p) for k, p in objects[n].items()), f"{n} does not learn"


def assert_optimizer(learner: Any, before: dict[str, Any], method: ResetMethod) -> None:
    for index, (parameter, state) in enumerate(learner.optimizer.state.items()):
        old = before["state"][index]
        for key, value in state.items():
            if key != "step":
                assert value.shape == parameter.shape
            if method.optimizer == "keep" or (method.optimizer == "clear" and key == "step"):
                assert torch.equal(value, old[key])
            else:
                assert not value.any()


def assert_target(learner: Any, before: dict[str, Any], method: ResetMethod) -> None:
    online, target = learner.online.state_dict(), learner.target.state_dict()
    assert online.keys() == target.keys()
    for key, value in target.items():
        if method.target == "copy":
            assert torch.equal(value, online[key])
        elif method.target == "keep":
            assert torch.equal(value, before["target"][key])
        elif method.target == "touched" and key in before["online"]:
            changed = not torch.equal(online[key], before["online"][key])
            assert torch.equal(value, online[key] if changed else before["target"][key])


@pytest.mark.parametrize(("kind", "name"), [(k, m) for k in KINDS for m in method_names()])
def test_the_same_generator_gives_the_same_reset(kind: str, name: str) -> None:
    states = []
    for _ in range(2):
        agent, method = trained(kind), make_method(kind, name, "paper")
        agent.reset(method, torch.Generator().manual_seed(3), agent.sample(8, np.random.default_rng(0)))
        states.append(snapshot(agent))
    for n in states[0]:
        for part in ("online", "target"):
            one, two = states[0][n][part], states[1][n][part]
            assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", method_names())
def test_the_state_after_a_reset_goes_on_bit_for_bit(kind: str, name: str) -> None:
    first = trained(kind)
    method = make_method(kind, name, "paper")
    first.reset(method, torch.Generator().manual_seed(3), first.sample(8, np.random.default_rng(0)))
    second = make_agent(kind, seed=99)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for agent in (first, second):
        experience(agent, 10, np.random.default_rng(6))
    one, two = snapshot(first), snapshot(second)
    for n in one:
        for part in ("online", "target"):
            assert one[n][part].keys() == two[n][part].keys()
            assert all(torch.equal(one[n][part][k], two[n][part][k]) for k in one[n][part])

"""Agents that learn side by side are what they would be alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fire_rl.agents import program, stacking
from fire_rl.agents.stack import Stack
from fire_rl.launch import small_agents
from fire_rl.launch.config import default_method
from fire_rl.launch.small_agents import make_agent
from fire_rl.method import ResetMethod
from tests.graph_for_tests import act_out

KINDS = ["dqn", "dqn-pixels", "sac"]
SEEDS = [3, 4, 5]
EVENTS = ["fire", "plasticity-injection", "sr-dqn", "redo"]
HOOKS = ["l2-init", "weight-clipping", "hare-tortoise", "upgd", "muon", "layer-norm", "continual-backprop"]


def method(kind: str, name: str) -> ResetMethod:
    return default_method(kind.split("-")[0], name, "paper")


class World:
    """What happens to one agent: random, but the same whatever the agent does."""

    def __init__(self, agent: Any, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.pixels = agent.memory.layout.stack > 1
        self.observation = self.look()

    def look(self) -> Any:
        if self.pixels:
            return self.rng.integers(0, 256, (2, 4, 84, 84)).astype(np.uint8)
        return self.rng.normal(size=(2, 5)).astype(np.float32)

    def outcome(self) -> tuple[Any, ...]:
        self.observation = self.look()
        ended = self.rng.random(2) < 0.05
        return self.rng.normal(size=2), ended, np.zeros(2, bool), self.observation


def live(agents: list[Any], worlds: list[World], steps: int, mode: program.Compile) -> list[dict[str, float]]:
    """Let all act and learn for some steps in lockstep; returns the last scalars of each."""
    stack = Stack(agents, mode)
    last: list[dict[str, Any]] = []
    for _ in range(steps):
        observations = [world.observation for world in worlds]
        for agent, observed, action in zip(agents, observations, stack.act(observations), strict=True):
            agent.begin(observed, action)
        for _ in range(agents[0].updates_due()):
            last = stack.update()
        for agent, world in zip(agents, worlds, strict=True):
            agent.observe(*world.outcome())
    return [{name: float(value) for name, value in of.items()} for of in last]


def weights(agent: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, learner in agent.learners.items():
        for role, network in (("online", learner.online), ("target", learner.target)):
            if network is not None:
                found |= {f"{name} {role} {k}": v.clone() for k, v in network.state_dict().items()}
    return found


def assert_close(one: Any, other: Any, tolerance: float) -> None:
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=0)


@pytest.fixture
def batched_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batching without torch.compile, which has a test of its own and takes seconds to start."""
    monkeypatch.setattr(program, "Compiled", lambda function: function)


def reset(agent: Any, seed: int) -> None:
    batch = agent.sample(64, np.random.default_rng(seed))
    agent.reset(agent.policy.method, torch.Generator().manual_seed(seed), batch)


def story(kind: str, name: str, seeds: list[int], mode: program.Compile, steps: int) -> list[Any]:
    """Agents that have learnt, been reset and learnt on."""
    agents = [make_agent(kind, seed, method(kind, name)) for seed in seeds]
    for agent in agents if kind == "dqn-pixels" else ():
        # As in the paper: with a tiny epsilon, what is only rounding of a gradient takes a full step.
        agent.q.optimizer.param_groups[0]["eps"] = 1.5e-4
    worlds = [World(agent, seed) for agent, seed in zip(agents, seeds, strict=True)]
    live(agents, worlds, 12 + steps, mode)
    for agent, seed in zip(agents, seeds, strict=True):
        reset(agent, seed)
    live(agents, worlds, steps, mode)
    return agents


@pytest.mark.parametrize("kind", KINDS)
def test_in_turn_each_is_bit_for_bit_what_it_is_alone(kind: str) -> None:
    together = story(kind, "fire", SEEDS, "off", 6)
    for seed, agent in zip(SEEDS, together, strict=True):
        assert_close(story(kind, "fire", [seed], "off", 6)[0], agent, 0.0)


@pytest.mark.usefixtures("batched_only")
@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k in KINDS for n in EVENTS + HOOKS if k != "dqn-pixels" or n in EVENTS[:3]]
)
def test_batched_each_is_what_it_is_alone_up_to_rounding(kind: str, name: str) -> None:
    together = story(kind, name, SEEDS, "on", 6)
    for seed, agent in zip(SEEDS, together, strict=True):
        assert_close(story(kind, name, [seed], "off", 6)[0], agent, 5e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_a_stacks_step_is_in_the_operations_that_a_graph_repeats(
    kind: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = act_out(monkeypatch)
    captured = story(kind, "fire", SEEDS, "on", 6)
    assert "compile:" not in capfd.readouterr().err
    assert len(graphs) == 4 and all(graph.replays for graph in graphs)
    monkeypatch.setattr(program, "has_graphs", lambda device: False)
    for one, other in zip(story(kind, "fire", SEEDS, "on", 6), captured, strict=True):
        assert_close(one, other, 0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_each_is_what_it_is_alone_up_to_rounding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_agents, "DEVICE", torch.device("cuda"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    together = story(kind, "fire", SEEDS, "on", 6)
    for seed, agent in zip(SEEDS, together, strict=True):
        assert_close(story(kind, "fire", [seed], "off", 6)[0], agent, 5e-5)


@pytest.mark.usefixtures("batched_only")
@pytest.mark.parametrize("kind", KINDS)
def test_stacked_weights_are_aligned_as_if_each_were_alone(kind: str) -> None:
    for agent in story(kind, "none", SEEDS, "on", 6):
        for learner in agent.learners.values():
            assert all(parameter.data_ptr() % 16 == 0 for parameter in learner.parameters)


@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_an_agent_may_leave_a_stack_and_go_on_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights have moved since it was alone before: what was captured then must be captured anew."""
    act_out(monkeypatch)
    (first, *others) = agents = [make_agent(kind, seed) for seed in SEEDS]
    world = World(first, 0)
    for agent in agents:
        agent.compile = "on"
    live([first], [world], 16, "on")
    live(agents[1:], [World(agent, 1) for agent in others], 16, "on")
    live(agents, [world, World(others[0], 1), World(others[1], 2)], 8, "on")
    live([first], [world], 8, "on")

    alone, same_world = make_agent(kind, SEEDS[0]), World(first, 0)
    live([alone], [same_world], 32, "off")
    assert_close(alone, first, 5e-5)


@pytest.mark.usefixtures("batched_only")
def test_convolutions_of_a_stack_on_a_gpu_are_products_of_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "_is_on_gpu", lambda network: True)
    together = story("dqn-pixels", "plasticity-injection", SEEDS, "on", 6)
    for seed, agent in zip(SEEDS, together, strict=True):
        assert_close(story("dqn-pixels", "plasticity-injection", [seed], "off", 6)[0], agent, 5e-5)


@pytest.mark.usefixtures("batched_only")
@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_parameters_stay_the_same_objects_and_optimisers_see_them(kind: str) -> None:
    agents = [make_agent(kind, seed) for seed in SEEDS]
    before = [[id(p) for learner in a.learners.values() for p in learner.online.parameters()] for a in agents]
    live(agents, [World(agent, 0) for agent in agents], 20, "on")
    after = [[id(p) for learner in a.learners.values() for p in learner.online.parameters()] for a in agents]
    assert before == after
    for agent in agents:
        for learner in agent.learners.values():
            steps = {float(learner.optimizer.state[p]["step"]) for p in learner.parameters}
            assert steps == {agent.updates}


@pytest.mark.usefixtures("batched_only")
@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_a_member_that_is_not_finite_leaves_the_others_alone(kind: str) -> None:
    def run(poison: Callable[[Any], None]) -> list[Any]:
        agents = [make_agent(kind, seed) for seed in SEEDS]
        worlds = [World(agent, 0) for agent in agents]
        live(agents, worlds, 14, "on")
        poison(agents[1])
        live(agents, worlds, 6, "on")
        return agents

    def poison(agent: Any) -> None:
        with torch.no_grad():
            next(agent.policy.online.parameters()).fill_(torch.nan)

    healthy, mixed = run(lambda agent: None), run(poison)
    assert all(v.isnan().any() for k, v in weights(mixed[1]).items() if "online" in k)
    for i in (0, 2):
        assert_close(healthy[i], mixed[i], 0.0)

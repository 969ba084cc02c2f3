"""An update as one program is the update as it is written, up to rounding."""

import functools
import gc
import shutil
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from fire_rl.agents import program
from fire_rl.agents.dqn import DQN, DQNConfig
from fire_rl.agents.learner import NO_METHOD
from fire_rl.agents.sac import SAC
from fire_rl.launch.small_agents import SPACES, experience, make_agent
from fire_rl.method import ResetMethod, make_method
from tests.graph_for_tests import act_out

TOLERANCE = 2e-5
has_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler"
)
SEEN = {
    "dqn": np.ones((2, 5), np.float32),
    "dqn-pixels": np.full((2, 4, 84, 84), 200, np.uint8),
    "sac": np.ones((2, 5), np.float32),
}
has_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def built(kind: str, mode: program.Compile, device: str = "cpu", method: ResetMethod | None = None) -> Any:
    """A small agent whose updates are made in this way."""
    config, seed, place = make_agent(kind).config, np.random.SeedSequence(0), torch.device(device)
    if kind == "sac":
        return SAC(*SPACES[kind], 2, config, seed, place, 500, method or NO_METHOD, mode)
    agent = DQN(*SPACES[kind], 2, config, seed, place, method or NO_METHOD, mode)
    if kind == "dqn-pixels":
        # As in the paper: with a tiny epsilon, what is only rounding of a gradient takes a full step.
        agent.q.optimizer.param_groups[0]["eps"] = 1.5e-4
    return agent


def story(agent: Any) -> Any:
    """Learns, is reset, learns on. Only DQN's reset adds a layer, since SAC takes long to compile anew."""
    rng = np.random.default_rng(0)
    experience(agent, 18, rng)
    method = make_method("fire" if isinstance(agent, SAC) else "plasticity-injection", target="same")
    agent.reset(method, torch.Generator().manual_seed(2), agent.sample(64, np.random.default_rng(1)))
    experience(agent, 8, rng)
    return agent


def assert_close(one: Any, other: Any) -> None:
    for name, learner in one.learners.items():
        for key, value in learner.online.state_dict().items():
            found = other.learners[name].online.state_dict()[key]
            torch.testing.assert_close(found.cpu(), value.cpu(), atol=TOLERANCE, rtol=0)


@has_compiler
@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_compiled_updates_are_those_as_written_through_resets(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    compiled = story(built(kind, "on"))
    assert "compile:" not in capfd.readouterr().err
    assert_close(story(built(kind, "off")), compiled)


@has_gpu
@pytest.mark.parametrize("kind", ["dqn", "dqn-pixels", "sac"])
def test_captured_steps_are_those_as_written_through_resets(
    kind: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = set()
    replay = torch.cuda.CUDAGraph.replay

    def noted(graph: torch.cuda.CUDAGraph) -> None:
        replayed.add(graph)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", noted)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    captured = story(built(kind, "on", "cuda"))
    assert len(replayed) == 4  # decisions and updates, before and after the reset
    assert "compile:" not in capfd.readouterr().err
    assert_close(story(built(kind, "off", "cuda")), captured)


@has_gpu
@pytest.mark.parametrize("kind", ["dqn", "dqn-pixels", "sac"])
def test_learning_does_not_wait_for_the_gpu(kind: str) -> None:
    agent, seen, no = built(kind, "on", "cuda"), SEEN[kind], np.zeros(2, bool)
    experience(agent, 18, np.random.default_rng(0))
    action = agent.act(seen)
    torch.cuda.set_sync_debug_mode("error")
    try:
        agent.begin(seen, action)
        updates = [agent.update() for _ in range(agent.updates_due())]
        agent.observe(np.zeros(2), no, no, seen)
        assert updates
        with pytest.raises(RuntimeError, match="synchroniz"):
            float(updates[0]["q_mean"])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", ["dqn", "dqn-pixels", "sac"])
def test_all_of_a_step_is_in_the_operations_that_a_graph_repeats(
    kind: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = act_out(monkeypatch)
    captured = story(built(kind, "on"))
    assert "compile:" not in capfd.readouterr().err
    assert len(graphs) == 4 and all(graph.replays > 3 for graph in graphs)
    written = story(built(kind, "off"))
    assert captured.updates == written.updates and np.array_equal(
        captured.act(SEEN[kind]), written.act(SEEN[kind])
    )
    for name, learner in written.learners.items():
        for one, other in zip(
            learner.online.parameters(), captured.learners[name].online.parameters(), strict=True
        ):
            assert torch.equal(one, other)


def test_a_program_goes_at_once_when_weights_are_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its graphs: left to the garbage collector, they would go during the capture of others."""
    act_out(monkeypatch)
    agent = built("dqn", "on")
    experience(agent, 18, np.random.default_rng(0))
    old = weakref.ref(agent.program)
    gc.disable()
    try:
        agent.changed()
        assert old() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_where_compiling_fails_the_run_goes_on_without_it_and_says_so(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(function: Any, **_: Any) -> Any:
        def call(*_: Any) -> Any:
            raise RuntimeError("no compiler\nand a long explanation")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    agent = story(built(kind, "on"))
    said = capsys.readouterr().err
    assert "torch.compile failed (RuntimeError: no compiler): going on without" in said
    plain = story(built(kind, "off"))
    for name, learner in plain.learners.items():
        for one, other in zip(
            learner.online.parameters(), agent.learners[name].online.parameters(), strict=True
        ):
            assert torch.equal(one, other)


def test_all_variants_of_a_function_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the ninth, for which torch by default would go on without: each injection makes one more."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled = program.Compiled(lambda x, heads: x * heads)
    graphs = counters["stats"]["unique_graphs"]
    variants = range(2, 12)
    for heads in (*variants, *variants):
        assert compiled(torch.ones(1), heads) == heads
    assert counters["stats"]["unique_graphs"] - graphs == len(variants)


def test_a_mistake_in_a_loss_is_not_taken_for_a_failure_of_the_compiler() -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("wrong by itself")

    with pytest.raises(ArithmeticError, match="wrong by itself"):
        program.Compiled(loss)(torch.ones(1))


def test_a_method_that_looks_at_activations_is_not_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    method = make_method("continual-backprop")
    experience(built("dqn", "on", method=method), 14, np.random.default_rng(0))
    assert "continual-backprop looks at activations" in capsys.readouterr().err


def test_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(program.DEFAULT, raising=False)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [program.resolve("auto", device) for device in (cpu, gpu)] == ["off", "on"]
    assert program.resolve("on", cpu) == "on" and program.resolve("off", gpu) == "off"
    monkeypatch.setenv(program.DEFAULT, "on")
    assert program.resolve("auto", cpu) == "on" and program.resolve("off", cpu) == "off"
    monkeypatch.setenv(program.DEFAULT, "fast")
    with pytest.raises(ValueError, match="FIRE_RL_COMPILE is auto, on or off, not 'fast'"):
        DQN(*SPACES["dqn"], 1, DQNConfig(replay_capacity=100), np.random.SeedSequence(0), cpu)

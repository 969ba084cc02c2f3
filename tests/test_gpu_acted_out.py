"""What runs on a GPU, on a GPU that is acted out: nothing mixes devices, and nothing waits that need not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fire_rl.launch import cli, contract, small_agents
from fire_rl.launch.config import default_method
from fire_rl.launch.small_agents import experience, make_agent
from fire_rl.method import method_names
from fire_rl.results.store import load_run
from tests.gpu_for_tests import GPU, OnGpu, acted_out
from tests.graph_for_tests import act_out
from tests.runs_for_tests import RUNS, assert_same_run, run
from tests.test_program import SEEN
from tests.test_resume import stop_at
from tests.test_stack import KINDS, SEEDS, assert_close, story
from tests.test_stacked_runs import CARTPOLE, stacked

PIXELS = {**RUNS["dqn-ale"], "method": "fire"}
HUMANOID = {**RUNS["sac-h1"], "method": "fire", "measure_every": 60}


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(small_agents, "DEVICE", GPU)
    with acted_out(monkeypatch):
        yield


def test_tensors_of_two_devices_do_not_mix() -> None:
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="same device"):
        here + there
    with pytest.raises(RuntimeError, match="same device"):
        torch.stack([there.sum(), here.sum()])
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there.device, here.device.type, (there * 2).cpu().tolist()) == (GPU, "cpu", [2.0] * 3)


@pytest.mark.parametrize("settings", [CARTPOLE, HUMANOID, PIXELS], ids=lambda settings: settings["env"])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    settings = {**settings, "device": "cuda", "compile": "off"}
    whole = run(tmp_path / "whole", settings)
    with monkeypatch.context() as patch:
        stop_at(54, patch)
        run(tmp_path / "cut", settings, code=138)
    assert_same_run(run(tmp_path / "cut", settings), whole)
    assert load_run(whole).config["device"] == "cuda"


def test_branches_of_a_stack_go_on_from_trunks(tmp_path: Path) -> None:
    trunk, whole = str(tmp_path / "trunks" / "s{seed}"), tmp_path / "whole"
    stacked(tmp_path, method="none", run_dir=trunk, stop_at=50, device="cuda", compile="on")
    branches = stacked(tmp_path, fork_from=trunk, device="cuda", compile="on")
    for one, other in zip(branches, stacked(whole, device="cuda", compile="on"), strict=True):
        assert_same_run(one, other)


def test_a_recorded_run_is_evaluated_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run(tmp_path, CARTPOLE, device="cuda")
    assert cli.main(["eval", str(path), "--episodes", "1", "--device", "cuda", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert cli.main(["measure", str(path), "--device", "cuda"]) == 0


@pytest.mark.parametrize("name", method_names())
def test_methods_keep_the_reset_contract(name: str) -> None:
    def make(kind: str) -> Any:
        return default_method(kind, name, "paper")

    assert contract.breaches(make, "dqn") == []


@pytest.mark.parametrize("storage", ["device", "host"])
@pytest.mark.parametrize("kind", KINDS)
def test_learning_waits_for_nothing(kind: str, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(small_agents.SMALL[kind.split("-")[0]], "replay_storage", storage)
    act_out(monkeypatch)
    agent, seen, no = make_agent(kind), SEEN[kind], np.zeros(2, bool)
    assert agent.memory.storage_device.type == ("cpu" if storage == "host" else "cuda")
    experience(agent, 18, np.random.default_rng(0))
    action = agent.act(seen)
    monkeypatch.setattr(OnGpu, "waiting_is_an_error", True)
    agent.begin(seen, action)
    updates = [agent.update() for _ in range(agent.updates_due())]
    agent.observe(np.zeros(2), no, no, seen)
    with pytest.raises(RuntimeError, match="synchronizing"):
        float(updates[0]["q_mean"])


@pytest.mark.parametrize(
    ("kind", "storage"), [("dqn", "device"), ("dqn-pixels", "device"), ("sac", "device"), ("sac", "host")]
)
def test_members_of_a_stack_are_what_they_are_alone_up_to_rounding(
    kind: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(small_agents.SMALL[kind.split("-")[0]], "replay_storage", storage)
    graphs = act_out(monkeypatch)
    together = story(kind, "fire", SEEDS, "on", 6)
    assert len(graphs) == 4 and all(graph.replays for graph in graphs)
    for seed, agent in zip(SEEDS, together, strict=True):
        assert_close(story(kind, "fire", [seed], "off", 6)[0], agent, 5e-5)

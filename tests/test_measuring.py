"""Measures of whole agents: complete, repeatable, without a trace; in the record and in its figures."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fire_rl.agents.measuring import measure, spectra
from fire_rl.launch.config import located, make_config
from fire_rl.launch.train import train
from fire_rl.measures import probe, spectrum
from fire_rl.results.reset_figures import MEASURES, plot_measures, plot_spectra
from fire_rl.results.store import load_run
from tests.agents_for_tests import experience, make_agent

SETTINGS: dict[str, Any] = {
    "agent": {
        **{"name": "dqn", "learning_starts": 100, "hidden": [16, 16], "replay_capacity": 1_000},
        **{"batch_size": 16},
    },
    **{"env": "control/CartPole-v1", "agent_steps": 400, "log_every": 50, "probe_size": 64},
    **{"wandb": "disabled", "threads": 1},
}
KINDS = {"dqn": {"q"}, "dqn-pixels": {"q"}, "sac": {"actor", "critic"}}


def run(out: Path, **changes: Any) -> Path:
    config = located(make_config({**SETTINGS, "out": out, **changes}))
    assert train(config) == 0
    return config.path


def trained(kind: str) -> Any:
    agent = make_agent(kind)
    experience(agent, 15 if kind == "dqn-pixels" else 40, np.random.default_rng(0))
    return agent


@pytest.mark.parametrize("kind", KINDS)
def test_all_measures_of_both_agents_leave_no_trace(kind: str) -> None:
    agent = trained(kind)
    before = copy.deepcopy({k: v for k, v in agent.state_dict().items() if k != "memory"})
    global_state = torch.get_rng_state()
    small = {"batch_size": 16, "curvature_steps": 2, "refit_steps": 2}
    first = measure(agent, np.random.default_rng(1), **small)
    again = measure(agent, np.random.default_rng(1), **small)

    assert first == again
    after = {k: v for k, v in agent.state_dict().items() if k != "memory"}
    assert repr(after) == repr(before)
    for name, learner in agent.learners.items():
        saved = before[name]["online"]
        assert all(torch.equal(v, saved[k]) for k, v in learner.online.state_dict().items())
    assert torch.equal(torch.get_rng_state(), global_state)
    names = {*MEASURES, "distance_from_initial", "sfe_from_initial"}  # figures show one distance
    assert first.keys() == {f"{learner}/{name}" for learner in KINDS[kind] for name in names}
    assert all(math.isfinite(value) for value in first.values())


def test_sac_is_measured_on_normalised_observations() -> None:
    agent = trained("sac")
    batch = agent.memory.sample(64, np.random.default_rng(1))
    raw = probe(agent.actor.online, (batch.observation,))
    normalised = probe(agent.actor.online, (agent.normalizer.normalize(batch.observation),))
    rng = np.random.default_rng(1)
    rng.integers(2**62)  # what `measure` draws first
    expected = probe(agent.actor.online, (agent.sample(64, rng).observation,))
    measured = measure(agent, np.random.default_rng(1), 64, curvature_steps=0)
    assert measured["actor/feature_norm"] == expected["feature_norm"]
    assert normalised["feature_norm"] != raw["feature_norm"]


def test_spectrum_of_many_matrices() -> None:
    w = torch.stack([torch.diag(torch.arange(1.0, 101)), torch.diag(torch.arange(101.0, 201))])
    values = spectrum(w)
    assert len(values) == 64 and values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(200) and values[-1] == pytest.approx(1)
    assert spectrum(torch.diag(torch.tensor([1.0, 3.0, 2.0]))) == pytest.approx([3, 2, 1])


def test_spectra_name_every_weight_of_every_learner() -> None:
    agent = trained("sac")
    expected = {
        (name, key)
        for name, learner in agent.learners.items()
        for key, p in learner.online.named_parameters()
        if key.endswith("weight") and "norm" not in key
    }
    found = spectra(agent)
    assert found.keys() == expected
    stack = agent.critic.online.get_parameter("head.weight").detach()
    assert found["critic", "head.weight"] == pytest.approx(
        sorted((float(w.norm()) for w in stack), reverse=True)
    )


def test_measuring_does_not_change_training(tmp_path: Path) -> None:
    without = run(tmp_path / "a", method="fire")
    with_it = run(tmp_path / "b", method="fire", measure_every=60)
    for stream in ("train", "episodes", "events"):
        rows = (without / f"{stream}.jsonl").read_bytes()
        assert rows and rows == (with_it / f"{stream}.jsonl").read_bytes()
    assert not (without / "measures.jsonl").read_bytes()


def test_measures_are_taken_at_the_cadence_and_around_resets(tmp_path: Path) -> None:
    path = run(tmp_path, method="full-reset", measure_every=100, reset_at=[200, 0.75])
    rows = load_run(path).rows("measures")
    assert [(row["agent_steps"], row["moment"]) for row in rows] == [
        *((200, "before_reset"), (200, "after_reset")),  # nothing has been learnt before step 100
        *((300, "before_reset"), (300, "after_reset"), (400, "scheduled")),
    ]
    before, after = rows[0], rows[1]
    assert before["q/relative_distance_from_initial"] > 0
    assert after["q/relative_distance_from_initial"] == 0  # DQN's full reset rewinds


def test_the_first_reset_records_spectra_and_the_figures_take_all(tmp_path: Path) -> None:
    path = run(tmp_path, method="fire", measure_every=100, reset_at=[200, 0.75])
    first, second = load_run(path).rows("events")
    assert "spectra" not in second
    rows = {row["name"]: row for row in first["spectra"]}
    assert rows.keys() == {"encoder.0.weight", "encoder.2.weight", "head.0.weight"}
    projected, initial = rows["encoder.2.weight"], rows["head.0.weight"]
    assert np.ptp(projected["after"]) < np.ptp(projected["before"])
    assert initial["after"] != initial["before"]

    image = plot_measures([load_run(path)], tmp_path / "measures.png")
    assert image is not None and plot_spectra([load_run(path)], tmp_path / "spectra.png") is not None
    drawn = (tmp_path / "measures.csv").read_text()
    assert all(f"q/{name}" in drawn for name in MEASURES if name != "refit_error")
    row = load_run(path).rows("measures")[0]
    assert json.dumps(row["q/dormant_ratio"]) in drawn

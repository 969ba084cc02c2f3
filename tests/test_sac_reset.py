"""What the reset methods do to SAC, as in the FIRE reference (table 1.4 of the specification)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fire_rl.agents.sac import PAPER
from fire_rl.method import ResetMethod, make_method, reset_optimizer
from tests.sac_for_tests import assert_same_state, probe_batch, trained, weights


def paper(name: str) -> ResetMethod:
    """The method with the reference's options."""
    return make_method(name, **PAPER[name])


def after_newton_schulz(w: Any) -> Any:
    """FIRE's projection by an SVD: ten cubic steps act on the singular values alone."""
    u, sigma, vt = np.linalg.svd(w, full_matrices=False)
    x = sigma / np.linalg.norm(w)
    for _ in range(10):
        x = 1.5 * x - 0.5 * x**3
    return math.sqrt(w.shape[0] / w.shape[1]) * (u * x) @ vt


def test_fire_projects_every_linear_weight_and_nothing_else() -> None:
    agent = trained()
    before = {name: weights(learner.online) for name, learner in agent.learners.items()}
    agent.reset(paper("fire"), torch.Generator(), probe_batch(agent))
    for name, learner in agent.learners.items():
        for key, tensor in weights(learner.online).items():
            if "norm" in key or key.endswith("bias"):
                assert torch.equal(tensor, before[name][key]), key
                continue
            shape = (-1, *tensor.shape[-2:])  # a matrix, or a stack of one per critic
            new, old = tensor.view(shape).double().numpy(), before[name][key].view(shape).double().numpy()
            for matrix, w in zip(new, old, strict=True):
                np.testing.assert_allclose(matrix, after_newton_schulz(w), atol=2e-5, err_msg=key)
    assert_same_state(weights(agent.critic.target), weights(agent.critic.online))


def test_fire_restarts_optimisers_and_temperature_and_keeps_the_rest() -> None:
    agent, control = trained(), trained()
    assert float(agent.temperature.log_alpha.detach()) != pytest.approx(math.log(0.01), abs=1e-4)
    report = agent.reset(paper("fire"), torch.Generator(), probe_batch(agent))
    assert float(agent.temperature.log_alpha.detach()) == pytest.approx(math.log(0.01), abs=1e-6)
    assert report.agent["temperature_after"] == pytest.approx(0.01)
    assert report.agent["temperature_before"] == pytest.approx(
        float(control.temperature.log_alpha.detach().exp())
    )
    assert_same_state(agent.normalizer.state_dict(), control.normalizer.state_dict())
    assert len(agent.memory) == len(control.memory)
    for name in ("exploration_rng", "replay_rng", "noise_rng", "agent_steps", "updates"):
        assert_same_state(agent.state_dict()[name], control.state_dict()[name])
    optimizers = [learner.optimizer for learner in agent.learners.values()] + [agent.temperature.optimizer]
    for optimizer in optimizers:
        for state in optimizer.state.values():
            assert not any(tensor.any() for tensor in state.values())


@pytest.mark.parametrize("make_optimizer", ["actor", "temperature"])
def test_recreated_optimiser_steps_as_a_new_one(make_optimizer: str) -> None:
    """Bit for bit: a state of zeros is what a newly built optimiser begins with."""
    agent = trained()
    used = agent.actor.optimizer if make_optimizer == "actor" else agent.temperature.optimizer
    (group,) = used.param_groups
    twins = [parameter.detach().clone().requires_grad_() for parameter in group["params"]]
    options = {
        key: value for key, value in group.items() if key in ("lr", "betas", "eps", "weight_decay", "fused")
    }
    new = type(used)(twins, **options)
    reset_optimizer(used, "recreate")
    for step in range(3):
        for old, twin in zip(group["params"], twins, strict=True):
            old.grad = torch.randn(old.shape, generator=torch.Generator().manual_seed(step))
            twin.grad = old.grad.clone()
        used.step()
        new.step()
        for old, twin in zip(group["params"], twins, strict=True):
            assert torch.equal(old, twin)


def test_an_injection_changes_no_output_and_keeps_the_temperature() -> None:
    agent = trained()
    batch = probe_batch(agent)
    before = [agent.actor.online(batch.observation), agent.critic.online(batch.observation, batch.action)]
    assert agent.critic.target is not None
    before.append(agent.critic.target(batch.observation, batch.action))
    alpha = agent.temperature.log_alpha.detach().clone()
    report = agent.reset(paper("plasticity-injection"), torch.Generator(), batch)
    after = [agent.actor.online(batch.observation), agent.critic.online(batch.observation, batch.action)]
    after.append(agent.critic.target(batch.observation, batch.action))
    for one, two in zip(before, after, strict=True):
        assert (one - two).abs().max() <= 1e-6
    assert max(report.output_change.values()) <= 1e-6
    assert torch.equal(agent.temperature.log_alpha, alpha)


def test_after_an_injection_encoder_and_new_head_learn_and_frozen_heads_do_not() -> None:
    agent = trained()
    agent.reset(
        paper("plasticity-injection"),
        torch.Generator(),
        probe_batch(agent),
    )
    before = {name: weights(learner.online) for name, learner in agent.learners.items()}
    for _ in range(3):
        agent.update()
    for name, learner in agent.learners.items():
        for key, parameter in learner.online.named_parameters():
            frozen = key.startswith("injected.")
            assert parameter.requires_grad != frozen
            assert (parameter.grad is None) == frozen
            assert torch.equal(parameter, before[name][key]) == frozen, key
    # The new heads have the gradients of their own layer alone, given what the sum does with their outputs.
    batch = probe_batch(agent)
    network = agent.critic.online
    q = network(batch.observation, batch.action)
    (dq,) = torch.autograd.grad(q.square().sum(), q, retain_graph=True)
    (got,) = torch.autograd.grad(q.square().sum(), network.get_parameter("head.weight"))
    features = network.get_submodule("encoder")(batch.observation, batch.action)
    torch.testing.assert_close(got, torch.einsum("eb,ebd->ed", dq, features)[:, None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["full-reset", "shrink-perturb", "sr-dqn"])
def test_presets_of_the_reference(name: str) -> None:
    """0.2 old + 0.8 initial on every parameter; the rewind is to the run's own initial weights."""
    agent = trained()
    before = {n: weights(learner.online) for n, learner in agent.learners.items()}
    agent.reset(paper(name), torch.Generator(), probe_batch(agent))
    for n, learner in agent.learners.items():
        for key, tensor in weights(learner.online).items():
            shrunk = name == "shrink-perturb" or (name == "sr-dqn" and key.startswith("encoder."))
            keep = 0.2 if shrunk else 0.0
            expected = keep * before[n][key].double() + (1.0 - keep) * learner.initial[key].double()
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
    assert_same_state(weights(agent.critic.target), weights(agent.critic.online))
    assert float(agent.temperature.log_alpha.detach()) == pytest.approx(math.log(0.01), abs=1e-6)

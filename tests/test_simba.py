"""SimBa's networks: values, shapes and initial weights, against NumPy and SciPy in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fire_rl.agents.networks import Network
from fire_rl.agents.simba import (
    Body,
    EnsembleLinear,
    MlpBody,
    SimbaBody,
    critic_ensemble,
    gaussian_actor,
    squashed_gaussian,
)
from fire_rl.layers import EnsembleLayerNorm
from fire_rl.layout import weight_matrices

OBS, ACT = 7, 3
BODIES: list[Body] = [SimbaBody(width=16, blocks=2), MlpBody(hidden=(16, 12))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def both(body: Body, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """An actor and a pair of critics."""
    return gaussian_actor(OBS, ACT, body)(generator(seed)), critic_ensemble(OBS, ACT, body)(generator(seed))


def randomise_(network: nn.Module) -> nn.Module:
    """Weights without structure, so that no bias, scale or order of layers can be forgotten."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator(parameter.numel())))
    return network


def forward(weights: dict[str, Any], x: Any, body: Body) -> Any:
    """Features of one network in NumPy; `weights` are those of a single member."""

    def linear(name: str, x: Any) -> Any:
        return x @ weights[f"encoder.{name}.weight"].T + weights[f"encoder.{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        centred = x - x.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
        scale, shift = weights[f"encoder.{name}.weight"], weights[f"encoder.{name}.bias"]
        return scaled * scale.ravel() + shift.ravel()

    if isinstance(body, MlpBody):
        for i in range(len(body.hidden)):
            x = np.maximum(linear(f"linear{i}", x), 0.0)
        return x
    x = linear("input", x)
    for i in range(body.blocks):
        inside = np.maximum(linear(f"block{i}.up", norm(f"block{i}.norm", x)), 0.0)
        x = x + linear(f"block{i}.down", inside)
    return norm("norm", x)


@pytest.mark.parametrize("body", BODIES)
def test_actor_equals_numpy(body: Body) -> None:
    actor = randomise_(gaussian_actor(OBS, ACT, body)(generator()))
    x = torch.randn(5, OBS, generator=generator(1))
    w = {k: v.double().numpy() for k, v in actor.state_dict().items()}
    z = forward(w, x.double().numpy(), body)
    expected = [z @ w[f"head.{k}.weight"].T + w[f"head.{k}.bias"] for k in ("mean", "log_std")]
    np.testing.assert_allclose(actor(x).detach(), np.concatenate(expected, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("body", BODIES)
def test_critic_ensemble_equals_two_numpy_critics(body: Body) -> None:
    critic = randomise_(critic_ensemble(OBS, ACT, body)(generator()))
    obs, act = torch.randn(5, OBS, generator=generator(1)), torch.randn(5, ACT, generator=generator(2))
    q = critic(obs, act)
    assert q.shape == (2, 5)
    x = np.concatenate([obs.double().numpy(), act.double().numpy()], 1)
    for member in range(2):
        w = {k: v.double().numpy()[member] for k, v in critic.state_dict().items()}
        expected = forward(w, x, body) @ w["head.weight"].T + w["head.bias"]
        np.testing.assert_allclose(q[member].detach(), expected[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("body", BODIES)
def test_gradients_of_a_stack_are_those_of_its_members(body: Body) -> None:
    pair = randomise_(critic_ensemble(OBS, ACT, body)(generator()))
    obs, act = torch.randn(5, OBS, generator=generator(1)), torch.randn(5, ACT, generator=generator(2))
    (pair(obs, act)[1].square().sum()).backward()
    single = critic_ensemble(OBS, ACT, body, members=1)(generator())
    single.load_state_dict({k: v[1:] for k, v in pair.state_dict().items()})
    single(obs, act).square().sum().backward()
    for one, two in zip(single.parameters(), pair.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        torch.testing.assert_close(two.grad[1:], one.grad, rtol=1e-4, atol=1e-4)
        assert not two.grad[0].any()
        assert two.grad.is_contiguous()  # else every step copies all gradients into the weights' layout


@pytest.mark.parametrize("body", BODIES)
def test_members_are_drawn_like_single_networks(body: Body) -> None:
    pair, rng = critic_ensemble(OBS, ACT, body)(generator(3)), generator(3)
    first, second = (critic_ensemble(OBS, ACT, body, members=1)(rng) for _ in range(2))
    for name, stacked in pair.state_dict().items():
        assert torch.equal(stacked, torch.cat([first.state_dict()[name], second.state_dict()[name]]))
    assert not torch.equal(*pair.state_dict()["head.weight"])


def assert_isometry(matrix: Any, gain: float) -> None:
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    np.testing.assert_allclose(small @ small.T, gain**2 * np.eye(len(small)), atol=1e-5)


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_simba_initial_weights(role: str) -> None:
    body = SimbaBody(width=64, blocks=2)
    build = gaussian_actor(OBS, ACT, body) if role == "actor" else critic_ensemble(OBS, ACT, body)
    network = build(generator(5))
    inside = 0
    for name, parameter in network.named_parameters():
        values = parameter.detach().double().numpy()
        if name.endswith("bias"):
            assert not values.any()
        elif "norm" in name:
            assert (values == 1.0).all()
        elif ".block" in name:
            inside += 1
            for matrix in values if values.ndim == 3 else values[None]:
                std = math.sqrt(2.0 / matrix.shape[1])
                assert matrix.std() == pytest.approx(std, rel=0.03)
                sigma = std / 0.87962566103423978
                assert np.abs(matrix).max() <= 2.0 * sigma * (1 + 1e-6)
                reference = stats.truncnorm(-2, 2, scale=sigma)
                assert stats.kstest(matrix.ravel()[::7], reference.cdf).pvalue > 1e-3
        else:
            for matrix in values if values.ndim == 3 else values[None]:
                assert_isometry(matrix, 1.0)
    assert inside == 4


def test_mlp_initial_weights() -> None:
    for network in both(MlpBody(hidden=(16, 12))):
        for name, parameter in network.named_parameters():
            values = parameter.detach().double().numpy()
            if name.endswith("bias"):
                assert not values.any()
            else:
                for matrix in values if values.ndim == 3 else values[None]:
                    assert_isometry(matrix, math.sqrt(2.0) if name.startswith("encoder.") else 1.0)


def test_sizes_of_the_paper() -> None:
    actor = gaussian_actor(51, 19, SimbaBody(128, 1))(generator())
    critic = critic_ensemble(51, 19, SimbaBody(512, 2))(generator())
    assert (
        sum(p.numel() for p in actor.parameters())
        == 51 * 128 + 128 + 2 * 128 * 512 + 640 + 4 * 128 + 38 * 129
    )
    block = 2 * 512 * 2048 + 2048 + 512 + 2 * 512
    assert sum(p.numel() for p in critic.parameters()) == 2 * (71 * 512 + 2 * block + 2 * 512 + 513)


@pytest.mark.parametrize("body", BODIES)
def test_weight_matrices_are_the_linear_weights_and_nothing_else(body: Body) -> None:
    """What a projection may touch: every Dense kernel of the reference, no bias and no layer norm."""
    for network in both(body):
        linear = [
            f"{name}.weight"
            for name, m in network.named_modules()
            if isinstance(m, (nn.Linear, EnsembleLinear))
        ]
        assert [weights.name for weights in weight_matrices(network)] == linear


def test_squashed_gaussian_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    output, noise = 1.5 * rng.standard_normal((64, 6)), rng.standard_normal((64, 3))
    mean, raw = output[:, :3], output[:, 3:]
    std = np.exp(-10.0 + 6.0 * (1.0 + np.tanh(raw)))
    x = mean + std * noise
    density = stats.norm.logpdf(x, mean, std) - np.log1p(-(np.tanh(x) ** 2))
    action, log_prob = squashed_gaussian(torch.from_numpy(output), torch.from_numpy(noise))
    np.testing.assert_allclose(action, np.tanh(x), rtol=1e-12)
    fine = np.abs(x).max(1) < 5  # beyond, the textbook formula above loses its digits
    assert fine.mean() > 0.5
    np.testing.assert_allclose(log_prob.numpy()[fine], density.sum(1)[fine], rtol=1e-8)


def test_squashed_gaussian_is_a_density() -> None:
    """exp(log π) integrates to one over (−1, 1)."""
    noise = torch.linspace(-8.0, 8.0, 200_001, dtype=torch.float64)[:, None]
    output = torch.tensor([[0.3, 0.6]], dtype=torch.float64).expand(len(noise), 2)
    action, log_prob = squashed_gaussian(output, noise)
    assert torch.trapezoid(log_prob.exp(), action[:, 0]).item() == pytest.approx(1.0, abs=1e-6)


def test_squashed_gaussian_survives_extremes() -> None:
    output = torch.tensor([[40.0, 30.0], [-40.0, -30.0], [0.0, 0.0]], requires_grad=True)
    action, log_prob = squashed_gaussian(output, torch.ones(3, 1))
    assert action.abs().max() <= 1.0 and log_prob.isfinite().all()
    (gradient,) = torch.autograd.grad(action.sum() + log_prob.sum(), output)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("body", BODIES)
def test_same_seed_same_weights_and_no_global_draw(body: Body) -> None:
    before = torch.get_rng_state()
    networks, again = both(body, seed=4), both(body, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    for one, two in zip(networks, again, strict=True):
        assert isinstance(one, Network)
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(a, b)


def test_norm_layers_start_as_identity_after_normalisation() -> None:
    x = torch.randn(2, 4, 9, generator=generator())
    expected = torch.stack([nn.LayerNorm(9, eps=1e-6)(member) for member in x])
    torch.testing.assert_close(EnsembleLayerNorm(2, 9)(x), expected)

"""Measures against their definitions in numpy, known values, and a probe that leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fire_rl.agents.networks import nature_cnn
from fire_rl.measures import (
    deviation_from_isometry,
    dormant_ratio,
    dormant_scores,
    effective_rank,
    feature_rank,
    isometry_measures,
    probe,
    squared_frobenius_error,
    srank,
    stable_rank,
)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def isometry(rows: int, cols: int) -> Tensor:
    """(rows, cols) with orthonormal columns, float64."""
    q: Tensor = torch.linalg.qr(gaussian(rows, cols).double())[0]
    return q


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**16), st.floats(0.1, 3))
def test_deviations_against_their_definitions(rows: int, cols: int, seed: int, scale: float) -> None:
    w = gaussian(3, rows, cols, seed=seed)
    measured = isometry_measures(w, scale)
    literal = deviation_from_isometry(w)
    for i, m in enumerate(w.double().numpy()):
        gram = m.T @ m if rows >= cols else m @ m.T
        eye, c = np.eye(len(gram)), np.trace(gram) / len(gram)
        assert float(literal[i]) == pytest.approx(np.square(m.T @ m - np.eye(cols)).sum(), rel=1e-9)
        assert float(measured["dfi_raw"][i]) == float(literal[i])
        assert float(measured["dfi"][i]) == pytest.approx(
            np.square(gram / scale**2 - eye).sum(), rel=1e-9, abs=1e-9
        )
        assert float(measured["dfi_shape"][i]) == pytest.approx(
            np.square(gram / c - eye).sum(), rel=1e-9, abs=1e-9
        )
        sigma = np.linalg.svd(m, compute_uv=False)
        assert float(measured["sigma_max"][i]) == pytest.approx(sigma.max(), rel=1e-9)
        assert float(measured["sigma_min"][i]) == pytest.approx(sigma.min(), abs=1e-7 * sigma.max())


def test_isometries_do_not_deviate() -> None:
    assert deviation_from_isometry(isometry(9, 4)) < 1e-25
    assert float(deviation_from_isometry(isometry(9, 4).mT)) == pytest.approx(9 - 4)
    measured = isometry_measures(2.5 * isometry(9, 4).mT, scale=2.5)
    assert measured["dfi"] < 1e-25 and measured["dfi_shape"] < 1e-25


def test_the_shape_alone_does_not_know_the_size() -> None:
    w = gaussian(7, 5).double()
    shape = isometry_measures(w)["dfi_shape"]
    torch.testing.assert_close(isometry_measures(1e-9 * w)["dfi_shape"], shape)
    torch.testing.assert_close(isometry_measures(1e9 * w)["dfi_shape"], shape)


def test_matrices_that_are_not_finite_do_not_spoil_the_others() -> None:
    w = gaussian(2, 4, 3)
    w[0, 1, 1] = math.nan
    dfi = deviation_from_isometry(w)
    assert math.isnan(dfi[0]) and float(dfi[1]) == pytest.approx(float(deviation_from_isometry(w[1])))


def test_squared_frobenius_error_of_each_matrix() -> None:
    new, old = gaussian(2, 3, 4, 5), gaussian(2, 3, 4, 5, seed=1)
    errors = squared_frobenius_error(new, old)
    assert errors.shape == (2, 3) and errors.dtype == torch.float64
    expected = np.square(new[1, 2].double().numpy() - old[1, 2].double().numpy()).sum()
    assert float(errors[1, 2]) == pytest.approx(expected, rel=1e-12)
    half = torch.full((1, 1), 300.0, dtype=torch.float16)  # whose square overflows in float16
    assert float(squared_frobenius_error(half, -half)) == 360_000


def test_dormant_units_of_a_layer_made_by_hand() -> None:
    # Mean |activation| 0, 0.1, 1, 2.9 and 1: the layer's mean is 1, so these are the scores.
    h = torch.tensor([[0.0, -0.2, 1.0, 2.9, 0.5], [0.0, 0.0, 1.0, -2.9, 1.5]], dtype=torch.float64)
    expected = torch.tensor([0, 0.1, 1, 2.9, 1], dtype=torch.float64)
    torch.testing.assert_close(dormant_scores(h), expected, atol=1e-8, rtol=0)
    assert float(dormant_ratio(h, 0.0)) == pytest.approx(1 / 5)  # inclusive
    assert float(dormant_ratio(h, 0.05)) == pytest.approx(1 / 5)
    assert float(dormant_ratio(h, 0.11)) == pytest.approx(2 / 5)
    assert float(dormant_ratio(torch.zeros(4, 3), 0.0)) == 1.0
    both = dormant_ratio(torch.stack([h, torch.zeros_like(h)]), 0.05)
    torch.testing.assert_close(both, torch.tensor([0.2, 1.0], dtype=torch.float64))


def test_ranks_of_known_features() -> None:
    orthonormal = isometry(200, 50)
    assert float(effective_rank(orthonormal)) == pytest.approx(50)
    assert float(srank(orthonormal)) == math.ceil(0.99 * 50)
    assert float(srank(isometry(300, 100))) == 99
    assert float(stable_rank(orthonormal)) == pytest.approx(50)
    one = gaussian(200, 1) @ gaussian(1, 50)
    assert float(effective_rank(one)) == pytest.approx(1, abs=1e-4)
    assert float(srank(one)) == 1 and float(stable_rank(one)) == pytest.approx(1, abs=1e-9)
    zero = torch.zeros(20, 5)
    assert [float(rank(zero)) for rank in (feature_rank, effective_rank, srank, stable_rank)] == [0, 0, 0, 0]


def test_feature_rank_counts_what_is_above_the_threshold() -> None:
    sigma = torch.tensor([3.0, 1.0, 0.0101, 0.0099, 1e-5], dtype=torch.float64)
    features = math.sqrt(400) * isometry(400, 5) * sigma
    assert float(feature_rank(features)) == 3
    assert float(feature_rank(features, eps=2.0)) == 1
    batch = torch.stack([features, 100 * features])
    torch.testing.assert_close(feature_rank(batch), torch.tensor([3.0, 4.0], dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 2**16))
def test_ranks_against_numpy(rows: int, cols: int, seed: int) -> None:
    features = torch.relu(gaussian(rows, cols, seed=seed) - 0.5)
    sigma = np.linalg.svd(features.double().numpy(), compute_uv=False)
    if sigma[0] == 0:
        return
    p = sigma[sigma > 1e-6 * sigma[0]] / sigma.sum()
    assert float(effective_rank(features)) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-4)
    assert float(stable_rank(features)) == pytest.approx(np.square(sigma).sum() / sigma[0] ** 2, rel=1e-9)
    share = np.cumsum(sigma) / sigma.sum()
    assert float(srank(features, delta=0.1)) == np.argmax(share >= 0.9 - 1e-12) + 1
    assert float(feature_rank(features, eps=0.05)) == (sigma > 0.05 * math.sqrt(rows)).sum()


class StackedLinear(nn.Module):
    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(gaussian(members, outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT


class Net(nn.Module):
    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head, self.injected = encoder, head, nn.ModuleList()

    def forward(self, *inputs: Tensor) -> Tensor:
        features = self.encoder(*inputs)
        output: Tensor = self.head(features)
        for extra in self.injected:
            output = output + extra(features)
        return output


def score_by_hand(activations: Tensor) -> Tensor:
    size = activations.abs().double().mean(0)
    return size / size.mean()


def test_probe_of_the_dqn_network_equals_the_pass_by_hand() -> None:
    """Convolutions scored over batch and space, features before the last layer of the head."""
    network = nature_cnn(4, 6)(torch.Generator().manual_seed(3))
    pixels = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8)
    x = pixels.float() / 255
    scores = []
    with torch.no_grad():
        for name in ("encoder.1", "encoder.3", "encoder.5"):
            x = torch.relu(network.get_submodule(name)(x))
            scores.append(score_by_hand(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])))
        features = torch.relu(network.get_submodule("head.0")(x.flatten(1)))
        scores.append(score_by_hand(features))
    measured = probe(network, (pixels,), tau=0.3)
    units = torch.cat(scores)
    assert len(units) == 32 + 64 + 64 + 512
    assert measured["dormant_ratio"] == pytest.approx(float((units <= 0.3).double().mean()))
    assert 0 < measured["dormant_ratio"] < 1
    assert measured["feature_rank"] == float(feature_rank(features))
    assert measured["effective_rank"] == pytest.approx(float(effective_rank(features)), rel=1e-6)
    assert measured["srank"] == float(srank(features))


def test_probe_takes_the_members_of_an_ensemble_apart() -> None:
    critic = Net(nn.Sequential(StackedLinear(2, 5, 6), nn.ReLU()), nn.Sequential(StackedLinear(2, 6, 1)))
    with torch.no_grad():
        critic.get_parameter("encoder.0.weight")[1, 1:] = 0  # one live unit of six in the second critic
    x = gaussian(64, 5)
    measured = probe(critic, (x,), tau=0.0)
    features = torch.relu(torch.stack([x @ w.mT for w in critic.get_parameter("encoder.0.weight").detach()]))
    assert measured["dormant_ratio"] == pytest.approx(5 / 12)
    assert measured["feature_rank"] == (float(feature_rank(features[0])) + 1) / 2
    assert measured["effective_rank"] == pytest.approx((float(effective_rank(features[0])) + 1) / 2, rel=1e-6)


def test_probe_of_in_place_activations_and_of_plain_modules() -> None:
    def build(inplace: bool) -> nn.Module:
        layers = (nn.Linear(4, 8), nn.ReLU(inplace), nn.Linear(8, 8), nn.ReLU(inplace), nn.Linear(8, 2))
        network = nn.Sequential(*layers)
        for seed, parameter in enumerate(network.parameters()):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
        return network

    x = gaussian(50, 4)
    assert probe(build(True), (x,)) == probe(build(False), (x,))
    assert math.isnan(probe(nn.Sequential(nn.Linear(4, 2)), (x,))["dormant_ratio"])


class Overwrites(Net):
    """Uses the memory of its features again."""

    def forward(self, *inputs: Tensor) -> Tensor:
        features = self.encoder(*inputs)
        output: Tensor = self.head(features)
        features.zero_()
        return output


def test_probe_sees_the_features_as_they_were_used() -> None:
    network = Overwrites(nn.Linear(4, 3), nn.Linear(3, 2))
    assert probe(network, (gaussian(50, 4),))["srank"] > 0


def test_probe_leaves_injected_heads_out() -> None:
    network = Net(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    )
    x = gaussian(50, 4)
    before = probe(network, (x,))
    network.injected.append(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert probe(network, (x,)) == before


class Draws(nn.Module):
    """Draws from the global generator, as noisy networks do; fails on request."""

    fails = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("as asked")
        return x + torch.randn_like(x)


@pytest.mark.parametrize("fails", [False, True])
def test_probe_leaves_no_trace(fails: bool) -> None:
    draws = Draws()
    encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), draws)
    network = Net(encoder, nn.Sequential(nn.Linear(8, 2)))
    network.train()
    encoder[3].eval()
    network(gaussian(16, 4)).sum().backward()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    modes = [child.training for child in network.modules()]
    generator = torch.get_rng_state()
    draws.fails = fails

    if fails:
        with pytest.raises(RuntimeError, match="as asked"):
            probe(network, (gaussian(16, 4, seed=1),))
    else:
        probe(network, (gaussian(16, 4, seed=1),))

    assert torch.equal(torch.get_rng_state(), generator)
    assert [child.training for child in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert len(grads) == 6
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.equal(parameter.grad, grads[name])
        assert parameter.requires_grad
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in network.modules())


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Net(nn.Linear(4, 2), nn.ReLU()), "no weight layer"),
        (lambda: _Bypass(), "the head did not run"),
        (lambda: Net(_Infinite(), nn.Linear(4, 2)), "not finite"),
    ],
)
def test_probe_says_what_it_misses(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe(build(), (gaussian(3, 4),))


class _Bypass(Net):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 2), nn.Linear(2, 1))

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.encoder(*inputs)
        return output


class _Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0

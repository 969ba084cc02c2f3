"""Measures that need gradients or training: against closed forms, and without a trace."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fire_rl.agents.networks import mlp, nature_cnn
from fire_rl.measures import dot_product, features_of, isometry_measures, probe, zero_activation_ratio
from fire_rl.plasticity import (
    gradient_measures,
    gradient_scores,
    learner_measures,
    refit_error,
    top_hessian_eigenvalue,
    weight_measures,
)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0, hidden: tuple[int, ...] = (16, 12)) -> nn.Module:
    return mlp(5, 3, hidden)(torch.Generator().manual_seed(seed))


def mse(module: nn.Module, rows: int = 40) -> Callable[[], Tensor]:
    x, y = gaussian(rows, 5), gaussian(rows, 3, seed=1)
    return lambda: (module(x) - y).square().mean()


def test_zero_activation_ratio_of_a_layer_made_by_hand() -> None:
    units = torch.tensor([[0.0, 2.0, 0.0, 1e-9], [0.0, -2.0, 1.0, 0.0]])
    assert zero_activation_ratio(units) == 0.5  # the second would cancel if means were of signed values


def test_probe_counts_silent_units_and_measures_features() -> None:
    module, x = network(), gaussian(300, 5)
    with torch.no_grad():
        module.get_parameter("encoder.0.bias")[:4] = -100.0  # four of sixteen never fire
    measured = probe(module, (x,))
    hidden = torch.relu(module.get_submodule("encoder.0")(x))
    features = torch.relu(module.get_submodule("encoder.2")(hidden)).detach()
    dead = int((hidden == 0).all(0).sum()) + int((features == 0).all(0).sum())
    assert dead >= 4 and measured["zero_activation_ratio"] == pytest.approx(dead / 28)
    assert measured["feature_norm"] == pytest.approx(float(features.norm(dim=1).mean()), rel=1e-6)
    sigma = torch.linalg.svdvals(features.double())
    assert measured["stable_rank"] == pytest.approx(float((sigma**2).sum() / sigma[0] ** 2), rel=1e-6)


def test_dot_product_is_of_features_not_of_outputs() -> None:
    module, x, y = network(), gaussian(50, 5), gaussian(50, 5, seed=1)
    one, two = (module.get_submodule("encoder")(z).detach() for z in (x, y))
    assert dot_product(module, (x,), (y,)) == pytest.approx(float((one * two).sum(1).mean()), rel=1e-6)
    assert torch.equal(features_of(module, (x,)), one)


def test_weight_measures() -> None:
    module = network()
    initial = {name: value.clone() for name, value in module.state_dict().items()}
    assert weight_measures(module, initial)["distance_from_initial"] == 0
    with torch.no_grad():
        module.get_parameter("encoder.0.weight").add_(0.5)
        module.get_parameter("head.0.bias").add_(2.0)
    measured = weight_measures(module, initial)
    size = math.sqrt(sum(float(value.double().square().sum()) for value in initial.values()))
    assert measured["sfe_from_initial"] == pytest.approx(80 * 0.25)
    assert measured["distance_from_initial"] == pytest.approx(math.sqrt(80 * 0.25 + 3 * 4))
    assert measured["relative_distance_from_initial"] == pytest.approx(math.sqrt(32) / size)
    assert measured["weight_norm"] == pytest.approx(
        math.sqrt(sum(float(p.detach().double().square().sum()) for p in module.parameters()))
    )
    dfi = 0.0
    for name in ("encoder.0", "encoder.2", "head.0"):
        w = module.get_parameter(f"{name}.weight").detach()
        dfi += float(isometry_measures(w, math.sqrt(w.shape[0] / w.shape[1]))["dfi"])
    assert measured["dfi"] == pytest.approx(dfi)


def test_gradient_scores_do_not_depend_on_the_loss_scale_and_survive_dead_layers() -> None:
    gradients = torch.tensor([[1.0, 0.0, -3.0], [-1.0, 0.0, 1.0]])
    assert torch.allclose(gradient_scores(gradients), torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64))
    assert torch.equal(gradient_scores(1e-12 * gradients), gradient_scores(1e-12 * gradients * 2))
    assert torch.equal(gradient_scores(torch.zeros(4, 3)), torch.zeros(3, dtype=torch.float64))


def test_gradient_measures_against_backward() -> None:
    module = network()
    with torch.no_grad():
        module.get_parameter("encoder.0.bias")[:4] = -100.0  # dead units take no gradient through ReLU …
        module.get_parameter("head.0.weight")[:, :3] = 0.0  # … and these three no gradient from the head
    loss = mse(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    measured = gradient_measures(module, loss, optimizer)

    loss().backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
    size = weight_measures(module, module.state_dict())["weight_norm"]
    assert measured["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert measured["update_ratio"] == pytest.approx(0.1 * norm / size, rel=1e-4)
    ratios = [
        (float(gradients[name].norm() / p.detach().norm()), p.numel())
        for name, p in module.named_parameters()
        if p.detach().any()
    ]
    expected = sum(ratio * n for ratio, n in ratios) / sum(n for _, n in ratios)
    assert measured["effective_learning_rate"] == pytest.approx(expected, rel=1e-5)


def test_gradient_dormancy_is_of_the_units() -> None:
    module = network()
    with torch.no_grad():
        module.get_parameter("head.0.weight")[:, :3] = 0.0  # alive, but nothing depends on them
        module.get_parameter("encoder.0.bias")[:4] = -100.0  # dead
    assert gradient_measures(module, mse(module))["gradient_dormant_ratio"] == pytest.approx(7 / 28)


def test_gradient_dormancy_with_in_place_activations() -> None:
    def build(inplace: bool) -> nn.Module:
        layers = (nn.Linear(5, 16), nn.ReLU(inplace), nn.Linear(16, 12), nn.ReLU(inplace), nn.Linear(12, 3))
        module = nn.Sequential(*layers)
        flat = gaussian(sum(p.numel() for p in module.parameters()))
        nn.utils.vector_to_parameters(flat, module.parameters())
        return module

    one, two = (gradient_measures(m, mse(m), tau=0.3) for m in (build(True), build(False)))
    assert one == two and one["gradient_dormant_ratio"] > 0


def test_update_ratio_is_that_of_adam_and_steps_a_copy() -> None:
    module = network()
    loss = mse(module)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    measured = gradient_measures(module, loss, optimizer)["update_ratio"]
    assert not optimizer.state
    before = [p.detach().clone() for p in module.parameters()]
    optimizer.zero_grad()
    loss().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    change = sum(
        float((p.detach() - old).double().square().sum())
        for p, old in zip(module.parameters(), before, strict=True)
    )
    size = sum(float(old.double().square().sum()) for old in before)
    assert measured == pytest.approx(math.sqrt(change / size), rel=1e-5)


class Quadratic(nn.Module):
    """½ θᵀAθ with known eigenvalues."""

    def __init__(self, eigenvalues: Tensor) -> None:
        super().__init__()
        n = len(eigenvalues)
        basis, _ = torch.linalg.qr(gaussian(n, n, seed=3).double())
        self.a = basis @ torch.diag(eigenvalues.double()) @ basis.mT
        self.theta = nn.Parameter(gaussian(n, seed=4).double())

    def loss(self) -> Tensor:
        value: Tensor = 0.5 * self.theta @ self.a @ self.theta
        return value


@pytest.mark.parametrize(
    "eigenvalues",
    [
        torch.linspace(0.1, 7.0, 30),
        torch.cat([-torch.linspace(1, 20, 20), torch.tensor([5.0])]),  # the largest, not the longest
        torch.full((6,), 2.5),
        torch.zeros(4),
        -torch.ones(3),
    ],
)
def test_hessian_of_a_quadratic(eigenvalues: Tensor) -> None:
    module = Quadratic(eigenvalues)
    value = top_hessian_eigenvalue(module, module.loss)
    assert value == pytest.approx(float(eigenvalues.max()), rel=2e-2, abs=1e-9)


def test_hessian_against_the_whole_matrix() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = gaussian(30, 5).double(), gaussian(30, 3, seed=1).double()
    shapes = {name: p.shape for name, p in module.named_parameters()}

    def by_vector(flat: Tensor) -> Tensor:
        parts, at = {}, 0
        for name, shape in shapes.items():
            parts[name] = flat[at : at + shape.numel()].view(shape)
            at += shape.numel()
        output: Tensor = torch.func.functional_call(module, parts, (x,))
        return (output - y).square().mean()

    flat = gaussian(sum(shape.numel() for shape in shapes.values())).double()
    nn.utils.vector_to_parameters(flat, module.parameters())
    hessian: Any = torch.autograd.functional.hessian(by_vector, flat)  # type: ignore[no-untyped-call]
    expected = float(torch.linalg.eigvalsh(hessian)[-1])
    value = top_hessian_eigenvalue(module, lambda: (module(x) - y).square().mean(), 50, 1e-6)
    assert value == pytest.approx(expected, rel=1e-4)


def test_hessian_of_a_linear_loss_is_zero() -> None:
    module = nn.Linear(3, 1)
    assert top_hessian_eigenvalue(module, lambda: module(gaussian(4, 3)).sum()) == 0.0


def test_refit_error_tells_a_plastic_network_from_a_dead_one() -> None:
    x = gaussian(32, 5)
    plastic, dead = network(hidden=(64, 64)), network(hidden=(64, 64))
    with torch.no_grad():
        dead.get_parameter("encoder.2.bias").fill_(-100.0)
    errors = [refit_error(m, (x,), torch.Generator().manual_seed(0), 300) for m in (plastic, dead)]
    assert errors[0] < 0.1 and errors[1] > 0.8
    assert refit_error(plastic, (x,), torch.Generator().manual_seed(0), 0) == pytest.approx(1)


@pytest.mark.parametrize("build", [network, lambda: nature_cnn(2, 3)(torch.Generator().manual_seed(0))])
def test_measuring_leaves_no_trace(build: Callable[[], nn.Module]) -> None:
    module = build()
    pixels = not isinstance(module.get_submodule("encoder.0"), nn.Linear)
    x = (gaussian(6, 2, 84, 84) * 50).abs().to(torch.uint8) if pixels else gaussian(60, 5)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)

    def loss() -> Tensor:
        value: Tensor = module(x).square().mean() + 0 * torch.rand(())  # a loss may draw globally, too
        return value

    loss().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    initial = {name: value + 0.01 for name, value in module.state_dict().items()}
    state = copy.deepcopy((module.state_dict(), optimizer.state_dict(), initial))
    grads = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    generator = torch.get_rng_state()

    measured = learner_measures(module, initial, optimizer, (x,), loss, curvature_steps=3, refit_steps=2)

    assert all(math.isfinite(value) for value in measured.values())
    assert {"update_ratio", "hessian_eigenvalue", "refit_error", "dfi", "srank"} <= measured.keys()
    after = (module.state_dict(), optimizer.state_dict(), initial)
    torch.testing.assert_close(after, state, rtol=0, atol=0)
    for parameter, gradient in zip(module.parameters(), grads, strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad, gradient)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())

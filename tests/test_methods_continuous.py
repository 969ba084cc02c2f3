"""Invariants of regularisers, projections, optimisers and architecture, against independent accounts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fire_rl.layers import CReLU
from fire_rl.method import make_method
from fire_rl.methods.dash import shrink_factor
from fire_rl.methods.muon import MuonAndAdam
from fire_rl.methods.upgd import UpgdOptimizer
from fire_rl.units import hidden_layers, output_layers, tap, weight_layers, weight_of
from tests.agents_for_tests import make_agent
from tests.test_methods_units import learn, learner_of, loss_of, reset

G = torch.Generator().manual_seed(0)


def test_l2_init_adds_the_gradient_of_its_distance() -> None:
    method: Any = make_method("l2-init", strength=0.05)
    learner, plain = learner_of(method), learner_of()
    assert method.distance(learner) == 0
    with torch.no_grad():
        for one, two in zip(learner.online.parameters(), plain.online.parameters(), strict=True):
            one.add_(0.1 * torch.randn(one.shape, generator=G))
            two.copy_(one)
    total = loss_of(plain)
    for name, p in plain.online.named_parameters():
        total = total + 0.05 * (p - plain.initial[name]).square().sum()
    expected = torch.autograd.grad(total, list(plain.online.parameters()))
    learner.descend(loss_of(learner))
    for parameter, gradient in zip(learner.online.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_dash_shrinks_by_the_cosine_and_keeps_directions() -> None:
    w = torch.randn(6, 9, generator=G)
    assert torch.equal(shrink_factor(w, 3 * w, 0.3), torch.ones(6, 1))
    torch.testing.assert_close(shrink_factor(w, -w, 0.3), torch.full((6, 1), 0.3))
    torch.testing.assert_close(shrink_factor(w, torch.zeros_like(w), 0.3), torch.full((6, 1), 0.3))
    conv = torch.randn(4, 3, 5, 5, generator=G)
    direction = conv + torch.randn(conv.shape, generator=G)
    factor = shrink_factor(conv, direction, 0.1)
    cosine = nn.functional.cosine_similarity(conv.flatten(2), direction.flatten(2), dim=-1)
    torch.testing.assert_close(factor[..., 0, 0], cosine.clamp(0.1, 1.0))
    learner = learner_of()
    before = {n: p.detach().clone() for n, p in learner.online.named_parameters()}
    gradient = dict(zip(before, torch.autograd.grad(loss_of(learner), learner.parameters), strict=True))
    reset(make_method("dash", batches=3, rows=64), learner)
    for name, p in learner.online.named_parameters():
        if name.endswith("weight"):
            cosine = nn.functional.cosine_similarity(-gradient[name], before[name], dim=-1)
            expected = before[name] * cosine.clamp(0.3, 1.0)[:, None]
            torch.testing.assert_close(p.detach(), expected, atol=1e-6, rtol=1e-4)


def test_parseval_vanishes_at_scaled_isometries_and_has_its_gradient() -> None:
    method: Any = make_method("parseval", gain=1.5)
    for shape in ((4, 9), (9, 4), (5, 5)):
        w = 1.5 * nn.init.orthogonal_(torch.empty(shape), generator=G)
        assert method.deviation(w) < 1e-9
    rows: Any = make_method("parseval", gain=1.5, side="rows")
    w = 1.5 * nn.init.orthogonal_(torch.empty(9, 4), generator=G)
    assert float(rows.deviation(w)) == pytest.approx(1.5**4 * (9 - 4), rel=1e-5)
    w = torch.randn(4, 9, generator=G, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(method.deviation(w), w)
    expected = 4 * (w @ w.T - 1.5**2 * torch.eye(4)) @ w
    torch.testing.assert_close(gradient, expected.detach())
    learner = learner_of(make_method("parseval", strength=0.1))
    learn(learner, 300)
    plain = learner_of()
    learn(plain, 300)
    unit: Any = make_method("parseval")
    deviations = [float(unit.deviation(l.online.get_parameter("encoder.0.weight"))) for l in (learner, plain)]
    assert deviations[0] < 0.5 * deviations[1]


def test_the_spectral_norm_estimate_is_right_after_warming_up() -> None:
    method: Any = make_method("spectral-regularization")
    agent = make_agent("sac", method=method)
    for learner in agent.learners.values():
        for _ in range(200):
            penalty = method.penalty(learner)
        expected = 0.0
        for name, layer in weight_layers(learner.online):
            w = weight_of(layer).detach()
            sigma = torch.linalg.svdvals((w if w.ndim == 3 else w[None]).double())[:, 0]
            estimate = method.spectral_norm(learner.name, name, w)
            torch.testing.assert_close(estimate.double(), sigma, rtol=0.01, atol=0)
            expected += float((sigma**2 - 1).square().sum())
        assert float(penalty) == pytest.approx(1e-4 * expected, rel=0.05)


def test_clipping_bounds_hold_after_every_update() -> None:
    method: Any = make_method("weight-clipping", kappa=0.7)
    learner = learner_of(method)
    bounds = {
        name: 0.7 * 3**0.5 * float(learner.initial[f"{name}.weight"].square().mean()) ** 0.5
        for name, _ in weight_layers(learner.online)
    }
    for _ in range(5):
        learn(learner, 1)
        for name, layer in weight_layers(learner.online):
            for p in layer.parameters():
                assert float(p.detach().abs().max()) <= bounds[name] * (1 + 1e-6)


@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_projection_keeps_norms_and_what_the_network_computes(kind: str) -> None:
    method: Any = make_method("normalize-and-project", eps=1e-12)
    agent = make_agent(kind, method=method)
    for learner in agent.learners.values():
        normed = {layer.name for layer in hidden_layers(learner.online)}
        inputs: tuple[Tensor, ...] = (torch.randn(6, 5, generator=G),)
        inputs += (torch.randn(6, 2, generator=G),) if learner.name == "critic" else ()
        before = learner.online(*inputs).detach()
        with torch.no_grad():
            for name, layer in weight_layers(learner.online):
                if name in normed:  # a norm follows: the scale does not matter, biases are still zero
                    weight_of(layer).mul_(3.7)
            method.after_update(learner, {})
        torch.testing.assert_close(learner.online(*inputs), before, atol=1e-5, rtol=1e-4)
        for name, layer in weight_layers(learner.online):
            norm = weight_of(layer).norm()
            assert float(norm) == pytest.approx(float(learner.initial[f"{name}.weight"].norm()), rel=1e-6)


@pytest.mark.parametrize("kind", ["dqn", "dqn-pixels", "sac"])
def test_layer_norm_standardises_what_activations_see(kind: str) -> None:
    for learner in make_agent(kind, method=make_method("layer-norm")).learners.values():
        seen: dict[str, Tensor] = {}
        layers = hidden_layers(learner.online)
        assert all(len(layer.norms) == 1 for layer in layers)
        observation = torch.randn(6, 5, generator=G)
        if kind == "dqn-pixels":
            observation = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8, generator=G)
        inputs: tuple[Tensor, ...] = (observation,)
        inputs += (torch.randn(6, 2, generator=G),) if learner.name == "critic" else ()
        with tap(learner.online, [layer.norms[0] for layer in layers], seen):
            learner.online(*inputs)
        for layer in layers:
            x = seen[layer.norms[0]]
            x = x.flatten(1) if x.ndim == 4 else x
            torch.testing.assert_close(x.mean(-1), torch.zeros(x.shape[:-1]), atol=1e-5, rtol=0)
            torch.testing.assert_close(x.var(-1, correction=0), torch.ones(x.shape[:-1]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("kind", ["dqn", "dqn-pixels", "sac"])
def test_crelu_halves_the_units_and_not_what_is_read(kind: str) -> None:
    plain, with_crelu = make_agent(kind), make_agent(kind, method=make_method("crelu"))
    for name, learner in with_crelu.learners.items():
        pairs = list(
            zip(hidden_layers(plain.learners[name].online), hidden_layers(learner.online), strict=True)
        )
        for old, new in pairs:
            assert (new.units, new.copies) == (old.units // 2, 2)
            assert isinstance(learner.online.get_submodule(new.activation), CReLU)
        sizes = [sum(p.numel() for p in l.online.parameters()) for l in (plain.learners[name], learner)]
        assert sizes[1] < sizes[0]


def test_hare_and_tortoise() -> None:
    method: Any = make_method("hare-tortoise", momentum=0.9, period=5)
    learner = learner_of(method)
    tortoise = {n: p.detach().clone() for n, p in learner.online.named_parameters()}
    for _ in range(4):
        learn(learner, 1)
        for n, p in learner.online.named_parameters():
            tortoise[n] = 0.9 * tortoise[n] + 0.1 * p.detach()
    assert not torch.allclose(learner.online.get_parameter("head.0.weight"), tortoise["head.0.weight"])
    for n, value in tortoise.items():
        torch.testing.assert_close(method._tortoise["q"][n], value)
    learn(learner, 1)
    for n, p in learner.online.named_parameters():
        assert torch.equal(p, method._tortoise["q"][n]), "the hare has returned"
    assert all(not v.any() for s in learner.optimizer.state.values() for v in s.values())


@pytest.mark.parametrize("kind", ["dqn", "dqn-pixels", "sac"])
def test_muon_steps_hidden_weights_by_nearly_isometric_matrices(kind: str) -> None:
    agent = make_agent(kind, method=make_method("muon", momentum=0.0, learning_rate=0.1, weight_decay=0.0))
    for learner in agent.learners.values():
        optimizer = learner.optimizer
        assert isinstance(optimizer, MuonAndAdam)
        outputs = output_layers(learner.online)
        hidden = {n: weight_of(l) for n, l in weight_layers(learner.online) if n not in outputs}
        assert {id(w) for w in hidden.values()} == {id(w) for w in optimizer.hidden}
        for p in learner.online.parameters():
            p.grad = torch.randn(p.shape, generator=G)
        for w in hidden.values():  # well-conditioned gradients
            gradient: Any = w.grad
            for matrix in gradient if w.ndim == 3 else gradient.flatten(1)[None]:
                nn.init.orthogonal_(matrix, generator=G).add_(
                    torch.randn(matrix.shape, generator=G), alpha=0.3 / max(matrix.shape) ** 0.5
                )
        before = {n: w.detach().clone() for n, w in hidden.items()}
        optimizer.step()
        for n, w in hidden.items():
            step = before[n] - w.detach()
            matrices = step if step.ndim == 3 else step.flatten(1)[None]
            scale = 0.1 * max(1.0, matrices.shape[1] / matrices.shape[2]) ** 0.5
            sigma = torch.linalg.svdvals(matrices) / scale
            assert (sigma > 0.6).all() and (sigma < 1.25).all()
        for p, state in optimizer.state.items():
            assert set(state) == ({"momentum_buffer"} if id(p) in map(id, hidden.values()) else ADAM)


ADAM = {"step", "exp_avg", "exp_avg_sq"}


def upgd(parameters: list[Tensor], **options: Any) -> UpgdOptimizer:
    settings: dict[str, Any] = {
        "lr": 0.1,
        "weight_decay": 0.0,
        "betas": None,
        "eps": 1e-8,
        "utility_decay": 0.9,
    }
    settings |= {"noise": 0.0, "factor": 2.0, **options}
    return UpgdOptimizer(parameters, torch.Generator(), **settings)


def test_upgd_without_useful_weights_is_gradient_descent_at_half_the_factor() -> None:
    w = nn.Parameter(torch.zeros(5))  # θ = 0: every utility is 0, and 0 / 0 counts as a half
    w.grad = torch.arange(5.0)
    upgd([w]).step()
    torch.testing.assert_close(w.detach(), -0.1 * 2.0 * 0.5 * torch.arange(5.0))


def test_upgd_protects_the_useful_and_follows_its_equation() -> None:
    values, gradient = torch.randn(40, generator=G), torch.randn(40, generator=G)
    w = nn.Parameter(values.clone())
    optimizer = upgd([w], weight_decay=0.01)
    u, expected = torch.zeros(40, dtype=torch.float64), values.double()
    for t in range(1, 4):
        w.grad = gradient.clone()
        u = 0.9 * u + 0.1 * (-gradient.double() * expected)
        s = torch.sigmoid(u / (1 - 0.9**t) / u.max())
        expected = (1 - 0.1 * 0.01) * expected - 2.0 * 0.1 * gradient.double() * (1 - s)
        optimizer.step()
    torch.testing.assert_close(w.detach().double(), expected, atol=1e-5, rtol=1e-4)
    assert optimizer.state[w]["utility"].shape == w.shape


def test_upgd_does_not_climb_when_no_weight_is_useful() -> None:
    w = nn.Parameter(torch.ones(3))
    w.grad = torch.ones(3)  # −g θ < 0 everywhere: the sign of the quotient must not flip
    upgd([w]).step()
    assert (w.detach() < 1.0).all() and torch.isfinite(w).all()


def test_scheduled_presets() -> None:
    theta0 = learner_of().initial
    for name, keep in (("sr-spr", 0.8), ("bbf", 0.5)):
        learner = learner_of()
        with torch.no_grad():
            for p in learner.online.parameters():
                p.fill_(1.0)
        reset(make_method(name, draw="rewind"), learner)
        for key, p in learner.online.named_parameters():
            kept = keep if key.startswith("encoder.") else 0.0
            torch.testing.assert_close(p.detach(), kept + (1 - kept) * theta0[key])
    learner = learner_of()
    learn(learner, 3)
    before = {n: p.detach().clone() for n, p in learner.online.named_parameters()}
    reset(make_method("primacy-reset"), learner)
    for key, p in learner.online.named_parameters():
        assert torch.equal(p, before[key]) == (not key.startswith("head."))
        assert bool(learner.optimizer.state[p]["exp_avg"].any()) == (not key.startswith("head."))
    reset(make_method("bro"), learner)
    assert all(torch.equal(p, theta0[k]) for k, p in learner.online.named_parameters())

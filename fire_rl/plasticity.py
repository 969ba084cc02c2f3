"""Measures of plasticity that need a loss, a reference point, or training; none of them changes anything.

`learner_measures` takes all of them, and those of `fire_rl.measures`, of one learner.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fire_rl.layout import weight_matrices
from fire_rl.measures import (
    activation_modules,
    isometry_measures,
    probe,
    same_generators,
    squared_frobenius_error,
    units_last,
)

Loss = Callable[[], Tensor]


def weight_measures(module: nn.Module, initial: Mapping[str, Tensor]) -> dict[str, float]:
    """Size of the weights, their distance from those of step 0, and how isometric they are.

    Args:
        initial: state_dict at step 0; parameters that are not in it (injected later) are left out.

    Returns:
        `weight_norm` = ‖θ‖; `distance_from_initial` = ‖θ − θ₀‖ and `relative_distance_from_initial`, that
        over ‖θ₀‖ (Lyle et al., ICML 2023); `dfi` and `sfe_from_initial`, sums over all weight matrices.
    """
    own = {name: p.detach().double() for name, p in module.named_parameters() if name in initial}
    start = {name: initial[name].to(p.device).double() for name, p in own.items()}
    distance = _norm([own[name] - start[name] for name in own])
    matrices = [weights for weights in weight_matrices(module) if weights.name in initial]
    dfi = sum(float(isometry_measures(w.matrices().detach(), w.scale)["dfi"].sum()) for w in matrices)
    return {
        "weight_norm": _norm(own.values()),
        "distance_from_initial": distance,
        "relative_distance_from_initial": distance / max(_norm(start.values()), 1e-12),
        "dfi": dfi,
        "sfe_from_initial": sum(
            float(squared_frobenius_error(w.matrices().detach(), w.view(start[w.name])).sum())
            for w in matrices
        ),
    }


def gradient_measures(
    module: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer | None = None, tau: float = 0.01
) -> dict[str, float]:
    """What one gradient says about plasticity.

    Args:
        module: the network; `.grad` of its parameters stays as it is.
        loss: computes the loss with its graph, calling `module`.
        optimizer: of the module; a copy of it takes one step on a copy of the parameters.
        tau: threshold of gradient dormancy.

    Returns:
        `gradient_norm` = ‖∇L‖. `effective_learning_rate`: ‖g_l‖/‖w_l‖ of each tensor, averaged with its
        number of entries as weight, without tensors that are zero (Lyle et al., NeurIPS 2024).
        `gradient_dormant_ratio`: fraction of units with E|∂L/∂h_i| at most `tau` of the mean of their layer
        and member (GraMa, Liu et al., NeurIPS 2025), h_i taken before the nonlinearity, as the gradient of
        the incoming weights sees it: a dead ReLU has none. NaN without activation modules.
        `update_ratio` = ‖θ_{t+1} − θ_t‖/‖θ_t‖ if there is an optimiser: the faithful one for Adam.
    """
    units: dict[str, Tensor] = {}

    def tap(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not inputs[0].requires_grad:
                return None
            units[name] = inputs[0]
            return (inputs[0].clone(),)  # an in-place activation would overwrite it

        return hook

    handles = [child.register_forward_pre_hook(tap(name)) for name, child in activation_modules(module)]
    parameters = [p for p in module.parameters() if p.requires_grad]
    try:
        with same_generators(tuple(parameters)), torch.enable_grad():
            value = loss()
    finally:
        for handle in handles:
            handle.remove()
    wanted = [*parameters, *units.values()]
    gradients = torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True)
    of_parameters, of_units = gradients[: len(parameters)], gradients[len(parameters) :]
    rates, sizes = [], []
    for parameter, gradient in zip(parameters, of_parameters, strict=True):
        if (size := float(parameter.detach().double().norm())) > 1e-12:
            rates.append(float(gradient.double().norm()) / size * parameter.numel())
            sizes.append(parameter.numel())
    scores = [gradient_scores(units_last(gradient)).flatten() for gradient in of_units]
    result = {
        "gradient_norm": _norm(of_parameters),
        "effective_learning_rate": sum(rates) / max(sum(sizes), 1),
        "gradient_dormant_ratio": float((torch.cat(scores) <= tau).double().mean()) if scores else math.nan,
    }
    if optimizer is not None:
        result["update_ratio"] = _update_ratio(parameters, of_parameters, optimizer)
    return result


def gradient_scores(gradients: Tensor) -> Tensor:
    """Score of each unit, E|∂L/∂h_i| over the mean of its layer: (..., n, units) -> (..., units).

    GraMa: Liu et al., "Measure gradients, not activations!", NeurIPS 2025. It has no constant in the
    denominator, so that it does not depend on the scale of the loss; a layer without gradient scores zero.
    """
    size = gradients.detach().abs().mean(-2, dtype=torch.float64)
    mean = size.mean(-1, keepdim=True)
    return size / torch.where(mean > 0, mean, 1)


def _update_ratio(
    parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> float:
    # In one deepcopy, so that the copied optimiser steps the copied parameters.
    twins, twin_optimizer = copy.deepcopy((list(parameters), optimizer))
    for twin, gradient in zip(twins, gradients, strict=True):
        twin.grad = gradient.detach().clone()
    with same_generators(tuple(parameters)):
        twin_optimizer.step()
    change = [(twin - p).detach() for twin, p in zip(twins, parameters, strict=True)]
    return _norm(change) / max(_norm([p.detach() for p in parameters]), 1e-12)


def top_hessian_eigenvalue(
    module: nn.Module, loss: Loss, max_steps: int = 50, tolerance: float = 1e-3
) -> float:
    """Largest eigenvalue of the Hessian of `loss` over the parameters of `module`.

    Lanczos' three-term recurrence on Hessian–vector products: without reorthogonalisation the extreme Ritz
    value still converges, at the memory of three gradients. The first vector is fixed, so that measurements
    compare.

    Args:
        loss: computes the loss with its graph, once, on a fixed batch and with its targets detached.
        max_steps: Hessian–vector products at most; ends when the value moves by less than `tolerance` of it.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    with same_generators(tuple(parameters)), torch.enable_grad():
        gradients = torch.autograd.grad(
            loss(), parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    if not flat.requires_grad:  # the loss is linear
        return 0.0
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(len(flat), generator=generator).to(flat)
    vector, before = vector / vector.norm(), torch.zeros_like(vector)
    diagonal: list[float] = []
    beside: list[float] = []
    value = math.inf
    for _ in range(min(max_steps, len(flat))):
        parts = torch.autograd.grad(
            flat, parameters, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        product = torch.cat([part.flatten() for part in parts]).detach()
        diagonal.append(float(product.double() @ vector.double()))
        product -= diagonal[-1] * vector
        if beside:
            product -= beside[-1] * before
        band = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        ritz = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + band + band.mT
        last, value = value, float(torch.linalg.eigvalsh(ritz)[-1])
        size = float(product.double().norm())
        scale = float(ritz.abs().max())
        if abs(value - last) <= tolerance * abs(value) or size <= 1e-6 * scale or size == 0.0:
            break
        beside.append(size)
        before, vector = vector, product / size
    return value


def refit_error(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    generator: torch.Generator,
    steps: int = 1_000,
    learning_rate: float = 1e-3,
) -> float:
    """What is left of the loss when a copy of the network has learnt new targets: the direct test.

    The targets are the network's own outputs plus standard normal noise, so that the loss starts at about 1
    whatever the scale of the outputs (in the spirit of Lyle et al., ICML 2023); full-batch Adam.

    Args:
        generator: on the CPU, of the targets.

    Returns:
        Mean squared error at the end over that at the start: 0 is perfectly plastic.
    """
    twin = copy.deepcopy(module)
    parameters = [p for p in twin.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    with same_generators(inputs), torch.enable_grad():
        output = twin(*inputs).detach()
        noise = torch.randn(output.shape, generator=generator).to(output)
        for _ in range(steps):
            loss = (twin(*inputs) - output - noise).square().mean()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss, inputs=parameters)
            optimizer.step()
        with torch.no_grad():
            left = (twin(*inputs) - output - noise).square().mean()
    return float(left / noise.square().mean())


def learner_measures(
    module: nn.Module,
    initial: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None,
    inputs: tuple[Tensor, ...],
    loss: Loss,
    *,
    curvature_steps: int = 20,
    curvature_loss: Loss | None = None,
    refit_steps: int = 0,
) -> dict[str, float]:
    """All measures of one network.

    Args:
        inputs: the probe batch, normalised as in training; more rows than features.
        loss: the network's own loss with its graph, targets detached.
        curvature_steps: Hessian–vector products at most; 0 leaves `hessian_eigenvalue` out.
        curvature_loss: the loss whose Hessian it is (a smaller batch, say); default `loss`.
        refit_steps: steps of `refit_error` on the first 256 rows; 0 leaves it out.
    """
    measures = {
        **probe(module, inputs),
        **weight_measures(module, initial),
        **gradient_measures(module, loss, optimizer),
    }
    if curvature_steps:
        smooth = curvature_loss or loss
        measures["hessian_eigenvalue"] = top_hessian_eigenvalue(module, smooth, curvature_steps)
    if refit_steps:
        few = tuple(x[:256] for x in inputs)
        seed = torch.Generator().manual_seed(0)  # the same targets at every measurement
        measures["refit_error"] = refit_error(module, few, seed, refit_steps)
    return measures


def _norm(tensors: Iterable[Tensor]) -> float:
    squares = [float(t.double().square().sum()) for t in tensors]
    return math.sqrt(sum(squares))

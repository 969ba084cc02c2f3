"""Measures of weights (SFE, DfI) and of plasticity (dormant units, ranks of features).

All of them are computed in float64 and are batched over leading dimensions; none changes its input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def squared_frobenius_error(new: Tensor, old: Tensor) -> Tensor:
    """SFE = ‖new − old‖²_F of each pair of matrices (Han et al., FIRE): (..., m, n) twice -> (...)."""
    return (new.double() - old.double()).square().sum((-2, -1))


def deviation_from_isometry(w: Tensor) -> Tensor:
    """DfI = ‖WᵀW − I‖²_F of each matrix, literally as in FIRE: (..., d_out, d_in) -> (...).

    A wide matrix cannot reach zero: d_in − d_out remains. The factor that FIRE multiplies by counts as well.
    """
    return isometry_measures(w)["dfi_raw"]


def isometry_measures(w: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
    """How far each matrix is from an isometry: (..., d_out, d_in) -> (...) each.

    With G the Gram matrix of the smaller side, r × r:
    `dfi_raw`: ‖WᵀW − I‖²_F; `dfi`: ‖G/scale² − I‖²_F, zero iff W is `scale` times an isometry; `dfi_shape`:
    ‖G/c − I‖²_F with c = tr(G)/r, zero iff all singular values are equal (r for a zero matrix);
    `sigma_max`, `sigma_min`: the extreme singular values. NaN where W is not finite.
    """
    squares = _squared_singular_values(w)
    mean_square = squares.mean(-1, keepdim=True)

    def from_one(values: Tensor) -> Tensor:
        return (values - 1).square().sum(-1)

    return {
        "dfi_raw": from_one(squares) + max(w.shape[-1] - w.shape[-2], 0),
        "dfi": from_one(squares / scale**2),
        "dfi_shape": from_one(squares / torch.where(mean_square == 0, 1, mean_square)),
        "sigma_max": squares[..., -1].sqrt(),
        "sigma_min": squares[..., 0].sqrt(),
    }


def _squared_singular_values(w: Tensor) -> Tensor:
    """Ascending, (..., m, n) -> (..., min(m, n)); NaN for matrices that are not finite.

    Eigenvalues of the smaller Gram matrix in float64: many times faster than an SVD, with an error of about
    1e-8 σ_max in the singular values.
    """
    w = w.double()
    gram = w.mT @ w if w.shape[-2] >= w.shape[-1] else w @ w.mT
    is_finite = gram.isfinite().all(-1).all(-1)
    squares = torch.linalg.eigvalsh(torch.where(is_finite[..., None, None], gram, 0)).clamp_min(0)
    return torch.where(is_finite[..., None], squares, torch.nan)


def spectrum(w: Tensor, at_most: int = 64) -> list[float]:
    """Singular values of all matrices of w (..., m, n) together, descending.

    Of more than `at_most` those at evenly spaced ranks, the largest and the smallest among them.
    """
    values = _squared_singular_values(w.detach()).sqrt().flatten().sort(descending=True).values
    if len(values) > at_most:
        values = values[torch.linspace(0, len(values) - 1, at_most, device=values.device).round().long()]
    return [float(value) for value in values.cpu()]


def dormant_scores(activations: Tensor) -> Tensor:
    """Score of each unit, its mean |activation| over that of its layer: (..., n, units) -> (..., units).

    Sokar et al., "The Dormant Neuron Phenomenon in Deep RL", ICML 2023, eq. 1, with their 1e-9.
    """
    size = activations.detach().abs().mean(-2, dtype=torch.float64)
    return size / (size.mean(-1, keepdim=True) + 1e-9)


def dormant_ratio(activations: Tensor, tau: float) -> Tensor:
    """Fraction of units whose score is at most `tau`: (..., n, units) -> (...) in [0, 1]."""
    return (dormant_scores(activations) <= tau).double().mean(-1)


def zero_activation_ratio(activations: Tensor) -> Tensor:
    """Fraction of units whose mean |activation| is at most 1e-8: (..., n, units) -> (...) in [0, 1].

    Units that never fire, whatever the others of their layer do (Abbas et al., CoLLAs 2023).
    """
    return (activations.detach().abs().mean(-2, dtype=torch.float64) <= 1e-8).double().mean(-1)


def feature_rank(features: Tensor, eps: float = 0.01) -> Tensor:
    """Number of singular values of features/√n above `eps`: (..., n, d) -> (...). Lyle et al., ICLR 2022."""
    threshold = eps * math.sqrt(features.shape[-2])
    return (_feature_spectrum(features) > threshold).double().sum(-1)


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values: (..., n, d) -> (...). Roy & Vetterli, 2007.

    Zero for features that are all zero.
    """
    spectrum = _feature_spectrum(features)
    total = spectrum.sum(-1, keepdim=True)
    entropy: Tensor = torch.special.entr(spectrum / torch.where(total > 0, total, 1)).sum(-1)
    return torch.where(total[..., 0] > 0, entropy.exp(), 0)


def srank(features: Tensor, delta: float = 0.01) -> Tensor:
    """Fewest singular values with 1 − delta of their sum: (..., n, d) -> (...). Kumar et al., ICLR 2021."""
    spectrum = _feature_spectrum(features).flip(-1)
    total = spectrum.sum(-1, keepdim=True)
    is_short = spectrum.cumsum(-1) < (1 - delta) * total * (1 - 1e-12)  # rounding must not add one
    return torch.where(total[..., 0] > 0, is_short.double().sum(-1) + 1, 0)


def stable_rank(features: Tensor) -> Tensor:
    """‖A‖²_F / σ_max²: (..., n, d) -> (...); zero for a zero matrix."""
    squares = _feature_spectrum(features).square()
    largest = squares[..., -1]
    ratio: Tensor = squares.sum(-1) / torch.where(largest > 0, largest, 1)
    return ratio


def _feature_spectrum(features: Tensor) -> Tensor:
    """Singular values, ascending, where those that are rounding noise of the Gram matrix are zero."""
    spectrum = _squared_singular_values(features.detach()).sqrt()
    noise = (torch.finfo(torch.float64).eps * max(features.shape[-2:])) ** 0.5 * spectrum[..., -1:]
    return torch.where(spectrum > noise, spectrum, 0)


ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardswish, nn.Hardtanh),
)


def probe(module: nn.Module, inputs: tuple[Tensor, ...], tau: float = 0.1) -> dict[str, float]:
    """Plasticity of a network on a fixed batch, by one forward pass that leaves no trace.

    Activations are the outputs of all activation modules outside `injected`: (B, units); (B, channels, H, W),
    scored over batch and space; or (E, B, units) of an ensemble, each member apart. Features are the input of
    the last weight layer of `module.head` (of the module itself if it has no head); ranks and norms are means
    over members. The pass runs in evaluation mode.

    Args:
        module: the network. Its parameters, gradients, buffers, modes and hooks stay as they are.
        inputs: what the network is called with, as in training. Ranks want more rows than features.
        tau: dormancy threshold.

    Returns:
        `dormant_ratio`, `zero_activation_ratio` (of all units of all layers, in [0, 1]; NaN without
        activation modules), `feature_rank`, `effective_rank`, `srank`, `stable_rank`, `feature_norm`.

    Raises:
        ValueError: no weight layer took part, or its input is not finite.
    """
    scores: list[Tensor] = []
    silent: list[Tensor] = []

    def tap_units(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        activations = units_last(output)
        scores.append(dormant_scores(activations).flatten())
        silent.append((zero_activation_ratio(activations) * activations.shape[-1]).flatten())

    handles = [child.register_forward_hook(tap_units) for _, child in activation_modules(module)]
    try:
        features = features_of(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    units = torch.cat(scores) if scores else torch.empty(0)
    zeros = float(torch.cat(silent).sum()) / len(units) if scores else math.nan
    return {
        "dormant_ratio": float((units <= tau).double().mean()),
        "zero_activation_ratio": zeros,
        "feature_rank": float(feature_rank(features).mean()),
        "effective_rank": float(effective_rank(features).mean()),
        "srank": float(srank(features).mean()),
        "stable_rank": float(stable_rank(features).mean()),
        "feature_norm": float(features.double().norm(dim=-1).mean()),
    }


def features_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Input of the last weight layer of `module.head` (of `module` without one): (..., B, d), (E, B, d).

    One pass in evaluation mode without gradients, which leaves no trace.

    Raises:
        ValueError: no weight layer took part, or its input is not finite.
    """
    features: list[Tensor] = []

    def tap(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features.append(inputs[0].detach().clone())  # an in-place activation might overwrite it

    handle = _last_weight_layer(getattr(module, "head", module)).register_forward_pre_hook(tap)
    try:
        with evaluation_mode(module), same_generators(inputs), torch.no_grad():
            module(*inputs)
    finally:
        handle.remove()
    if not features or not features[-1].isfinite().all():
        raise ValueError("probe: the features are not finite" if features else "probe: the head did not run")
    return features[-1]


def dot_product(module: nn.Module, inputs: tuple[Tensor, ...], next_inputs: tuple[Tensor, ...]) -> float:
    """Mean of φ(s, a)·φ(s′, a′) over batch and members: Kumar et al., DR3, ICLR 2022.

    Args:
        inputs, next_inputs: (s, a) and (s′, a′) of the same transitions, a′ of the policy.
    """
    pairs = features_of(module, inputs).double() * features_of(module, next_inputs).double()
    return float(pairs.sum(-1).mean())


def activation_modules(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The activation modules outside `injected`, by name: their outputs are the units."""
    return [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, ACTIVATIONS) and not name.startswith("injected.")
    ]


def units_last(activations: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C); all else stays."""
    return activations.movedim(1, -1).flatten(0, -2) if activations.ndim == 4 else activations


def _last_weight_layer(module: nn.Module) -> nn.Module:
    layers = [
        child for child in module.modules() if any(p.ndim >= 2 for p in child.parameters(recurse=False))
    ]
    if not layers:
        raise ValueError("probe: the network's head has no weight layer whose input could be its features")
    return layers[-1]


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """No dropout, no running statistics; then every submodule gets its own mode back."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


@contextmanager
def same_generators(inputs: tuple[Tensor, ...]) -> Iterator[None]:
    """Noisy networks may draw: the global generators are put back."""
    with torch.random.fork_rng(devices=[x.device for x in inputs if x.is_cuda]):
        yield

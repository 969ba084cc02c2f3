"""The nearest isometry of a matrix: its polar factor, exactly or by Newton–Schulz iterations.

For W = U S Vᵀ the isometry closest to W in Frobenius norm is U Vᵀ (orthogonal Procrustes; Han et al., "FIRE",
ICLR 2026). An iteration with an odd polynomial p maps U S Vᵀ to U p(S) Vᵀ, so it needs matrix products only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

SOLVERS = Literal["newton-schulz", "polar-express", "exact"]

DEFAULT_STEPS = {"newton-schulz": 10, "polar-express": 20}
"""Ten cubic steps are the paper's choice for RL. Twenty of Polar Express bring every singular value above
1e-6 ‖W‖_F to 1, which is as far as float32 can tell directions apart."""

# Amsel, Persson, Musco, Gower, "The Polar Express", arXiv:2505.16932: the best odd quintics, step by step,
# for singular values in [1e-3, 1]; the last triple repeats. All others are relaxed by 1.01 against rounding.
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
_RELAXATION = 1.01

_GRAM_MAX_CONDITION = 1e5  # the float64 Gram route errs by about 2e-16 cond²; beyond this we pay for the SVD


def nearest_isometry(w: Tensor, solver: SOLVERS = "newton-schulz", steps: int | None = None) -> Tensor:
    """The isometry nearest to each matrix of a batch; wide matrices get orthonormal rows, others columns.

    Args:
        w: (..., m, n), any floating dtype and memory layout. bfloat16 and float16 are computed in float32,
            with TF32 and autocast off.
        solver: `newton-schulz`: k steps of X ← 1.5 X − 0.5 X XᵀX from X = W/‖W‖_F, as in the paper. With few
            steps this is soft: small singular values stay below 1 (of a square Gaussian matrix, many).
            `polar-express`: quintic steps that converge in float32. `exact`: the polar factor in float64; a
            rank-deficient matrix is completed to an isometry.
        steps: number of iterations; default: see `DEFAULT_STEPS`. `exact` ignores it.

    Returns:
        A new tensor (..., m, n) of the dtype of `w`. All-zero matrices stay zero.

    Raises:
        ValueError: `w` is no floating-point matrix or not finite, or the solver or steps are unknown.
    """
    check_solver(solver, steps)
    if w.ndim < 2 or not w.is_floating_point():
        raise ValueError(f"expected floating-point matrices (..., m, n), not {w.dtype} {tuple(w.shape)}")
    if w.numel() == 0:
        return w.clone()

    if not w.isfinite().all():
        raise ValueError("the weights contain NaN or infinity: they have no nearest isometry")
    return finite_isometries(w.reshape(-1, *w.shape[-2:]), solver, steps).reshape(w.shape).to(w.dtype)


def check_solver(solver: str, steps: int | None) -> None:
    """Raise ValueError for an unknown solver or an impossible number of steps."""
    if solver not in get_args(SOLVERS):
        raise ValueError(f"solver {solver!r} is none of {', '.join(get_args(SOLVERS))}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")


def finite_isometries(w: Tensor, solver: SOLVERS, steps: int | None) -> Tensor:
    """`nearest_isometry` of checked matrices (b, m, n), in the precision of the computation.

    Nothing waits for a GPU, unless the solver is `exact`.
    """
    x = w.to(torch.float64 if solver == "exact" else torch.promote_types(w.dtype, torch.float32))
    is_wide = x.shape[-1] > x.shape[-2]
    if is_wide:
        x = x.mT
    # So that no square in a norm or a Gram matrix can under- or overflow.
    x = _divide(x, x.abs().amax((-2, -1), keepdim=True))
    with _full_precision(x.device):
        if solver == "newton-schulz":
            x = _newton_schulz(x, steps or DEFAULT_STEPS[solver])
        elif solver == "polar-express":
            x = _polar_express(x, steps or DEFAULT_STEPS[solver])
        else:
            x = _exact(x)
    return x.mT if is_wide else x


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    x = _divide(x, torch.linalg.matrix_norm(x, keepdim=True))
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    for _ in range(steps):
        x = x @ torch.baddbmm(identity, x.mT, x, beta=1.5, alpha=-0.5)
    return x


def _polar_express(x: Tensor, steps: int) -> Tensor:
    x = _divide(x, _RELAXATION * torch.linalg.matrix_norm(x, keepdim=True))
    last = len(_POLAR_EXPRESS) - 1
    for step in range(steps):
        a, b, c = _POLAR_EXPRESS[min(step, last)]
        if step < last:
            a, b, c = a / _RELAXATION, b / _RELAXATION**3, c / _RELAXATION**5
        gram = x.mT @ x
        x = torch.baddbmm(x, x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), beta=a)
    return x


def _exact(x: Tensor) -> Tensor:
    """Polar factors of tall float64 matrices (b, m, n): X (XᵀX)^(-1/2), by SVD where that is too inexact."""
    squares, v = torch.linalg.eigh(x.mT @ x)  # squared singular values, ascending
    is_good = squares[:, 0] * _GRAM_MAX_CONDITION**2 > squares[:, -1]
    is_bad = ~is_good & (squares[:, -1] > 0)
    q = torch.zeros_like(x)
    if is_good.any():
        v = v[is_good]
        q[is_good] = x[is_good] @ ((v * squares[is_good, None].rsqrt()) @ v.mT)
    if is_bad.any():
        u, _, vh = torch.linalg.svd(x[is_bad], full_matrices=False)
        q[is_bad] = u @ vh
    return q


def _divide(x: Tensor, size: Tensor) -> Tensor:
    """x / size, and zero where the size is zero: the smallest normal number divides zeros as well as any."""
    return x / size.clamp_min(torch.finfo(x.dtype).tiny)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Run float32 products in float32: neither TF32 nor bfloat16, whatever the caller's settings."""
    with torch.autocast(device.type, enabled=False):
        if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch < 2.9
            legacy = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(legacy)
            return
        backends = [getattr(torch.backends, name).matmul for name in ("cuda", "mkldnn")]
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision

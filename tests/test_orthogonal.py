"""The nearest isometry against float64 singular value decompositions, and properties of the polar factor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fire_rl.measures import deviation_from_isometry, squared_frobenius_error
from fire_rl.orthogonal import SOLVERS, nearest_isometry

Array = npt.NDArray[np.float64]
SHAPES = [(5, 5), (32, 4), (4, 32), (64, 64), (1, 7), (7, 1), (1, 1), (9, 512), (130, 51)]
SOLVER_NAMES: list[SOLVERS] = ["newton-schulz", "polar-express", "exact"]


def polar_by_svd(w: Tensor) -> Array:
    u, _, vh = np.linalg.svd(w.double().numpy(), full_matrices=False)
    return np.asarray(u @ vh)


def with_spectrum(sigma: Array, rows: int, cols: int, seed: int) -> tuple[Array, Array, Array]:
    """U (rows, r) and V (cols, r) orthonormal, and W = U diag(sigma) Vᵀ, in float64."""
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.standard_normal((rows, len(sigma))))
    v, _ = np.linalg.qr(rng.standard_normal((cols, len(sigma))))
    return u, v, (u * sigma) @ v.T


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_is_the_polar_factor(shape: tuple[int, int]) -> None:
    w = gaussian(3, *shape, dtype=torch.float32)
    q = nearest_isometry(w, "exact")
    assert q.dtype == torch.float32
    np.testing.assert_allclose(q.numpy(), polar_by_svd(w), atol=2e-6)


@pytest.mark.parametrize("shape", [(40, 40), (90, 30), (30, 90)])
@pytest.mark.parametrize("condition", [1e2, 1e4, 0.9e5, 1.1e5, 1e8, 1e12])
def test_exact_on_ill_conditioned_weights(shape: tuple[int, int], condition: float) -> None:
    """Both routes: eigenvectors of the Gram matrix up to condition 1e5, the SVD beyond."""
    u, v, w = with_spectrum(np.geomspace(1, 1 / condition, min(shape)), *shape, seed=1)
    q = nearest_isometry(torch.from_numpy(w), "exact").numpy()
    # Rounding W moves its polar factor by eps · condition; the Gram route errs by eps · condition².
    error = 1e-15 * (condition**2 if condition < 1e5 else condition)
    np.testing.assert_allclose(q, u @ v.T, atol=10 * error + 1e-13)
    q_gram = q @ q.T if shape[0] < shape[1] else q.T @ q
    np.testing.assert_allclose(q_gram, np.eye(len(q_gram)), atol=1e-5)


@pytest.mark.parametrize("name, steps", [("newton-schulz", 40), ("polar-express", None)])
@pytest.mark.parametrize("shape", [(40, 40), (90, 30), (30, 90)])
@pytest.mark.parametrize("condition", [3.0, 1e2, 1e3])
def test_iterations_converge_to_the_polar_factor(
    name: SOLVERS, steps: int | None, shape: tuple[int, int], condition: float
) -> None:
    u, v, w = with_spectrum(np.geomspace(1, 1 / condition, min(shape)), *shape, seed=2)
    in_double = nearest_isometry(torch.from_numpy(w), name, steps).numpy()
    np.testing.assert_allclose(in_double, u @ v.T, atol=1e-9)
    in_single = nearest_isometry(torch.from_numpy(w).float(), name, steps).numpy()
    np.testing.assert_allclose(in_single, u @ v.T, atol=1e-6 * condition)


def test_polar_express_lifts_all_singular_values_above_a_thousandth_in_eight_steps() -> None:
    """What its coefficients were made for (arXiv:2505.16932); cubic steps need more than twenty."""
    sigma = np.geomspace(1, 2e-3, 30)
    sigma /= np.linalg.norm(sigma)
    assert 1e-3 < sigma.min() < 1.2e-3
    u, v, w = with_spectrum(sigma, 50, 30, seed=3)
    eight = nearest_isometry(torch.from_numpy(w), "polar-express", 8).numpy()
    assert np.abs(eight - u @ v.T).max() < 1e-3
    soft = nearest_isometry(torch.from_numpy(w), "newton-schulz", 8).numpy()
    assert np.linalg.svd(soft)[1].min() < 0.1


def test_polar_express_is_relaxed_against_rounding() -> None:
    """First step on a 1 × 1 matrix: the paper's first quintic at 1 / 1.01²."""
    x = 1 / 1.01**2
    expected = 8.28721201814563 * x - 23.595886519098837 * x**3 + 17.300387312530933 * x**5
    one = torch.tensor([[5.0]], dtype=torch.float64)
    assert float(nearest_isometry(one, "polar-express", 1)) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 24),
    cols=st.integers(1, 24),
    log_condition=st.floats(0, 6),
    steps=st.integers(1, 30),
    seed=st.integers(0, 2**16),
)
def test_newton_schulz_is_the_cubic_map_on_singular_values(
    rows: int, cols: int, log_condition: float, steps: int, seed: int
) -> None:
    sigma = np.geomspace(1, 10**-log_condition, min(rows, cols))
    u, v, w = with_spectrum(sigma, rows, cols, seed)
    expected = sigma / np.linalg.norm(sigma)
    for _ in range(steps):
        expected = 1.5 * expected - 0.5 * expected**3
    q = nearest_isometry(torch.from_numpy(w), "newton-schulz", steps).numpy()
    np.testing.assert_allclose(q, (u * expected) @ v.T, atol=1e-9)


matrices = st.builds(
    lambda rows, cols, log_condition, seed: torch.from_numpy(
        with_spectrum(np.geomspace(1, 10**-log_condition, min(rows, cols)), rows, cols, seed)[2]
    ),
    rows=st.integers(1, 20),
    cols=st.integers(1, 20),
    log_condition=st.floats(0, 4),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=50, deadline=None)
@given(matrices)
def test_exact_is_idempotent(w: Tensor) -> None:
    q = nearest_isometry(w, "exact")
    torch.testing.assert_close(nearest_isometry(q, "exact"), q, atol=1e-5, rtol=0)


def test_ten_newton_schulz_steps_are_not_idempotent_on_square_gaussians() -> None:
    """The paper's solver is soft: a second application still moves a 64 × 64 matrix by more than a tenth."""
    once = nearest_isometry(gaussian(9, 64, 64))
    twice = nearest_isometry(once)
    moved = (twice - once).square().sum().sqrt() / once.square().sum().sqrt()
    assert 0.1 < moved < 0.25


@settings(max_examples=50, deadline=None)
@given(matrices, st.integers(0, 2**16))
def test_exact_is_the_nearest_isometry(w: Tensor, seed: int) -> None:
    other = torch.from_numpy(polar_by_svd(gaussian(*w.shape, seed=seed)))
    q = nearest_isometry(w, "exact")
    assert squared_frobenius_error(q, w) <= squared_frobenius_error(other, w) + 1e-9


@settings(max_examples=50, deadline=None)
@given(matrices, st.sampled_from(SOLVER_NAMES), st.floats(-35, 35))
def test_scale_invariance(w: Tensor, name: SOLVERS, log_scale: float) -> None:
    """Also where the squares of float32 weights under- or overflow."""
    w = w.float()
    scaled = w * 10**log_scale
    # From what float32 keeps of the scaled weights; convergent float32 steps magnify its rounding.
    expected = nearest_isometry(scaled.double() / 10**log_scale, name).float()
    atol = 3e-3 if name == "polar-express" else 1e-5
    torch.testing.assert_close(nearest_isometry(scaled, name), expected, atol=atol, rtol=0)


@settings(max_examples=50, deadline=None)
@given(matrices, st.sampled_from(SOLVER_NAMES), st.integers(0, 2**16))
def test_orthogonal_equivariance_and_transposition(w: Tensor, name: SOLVERS, seed: int) -> None:
    p = torch.linalg.qr(gaussian(w.shape[0], w.shape[0], seed=seed)).Q
    r = torch.linalg.qr(gaussian(w.shape[1], w.shape[1], seed=seed + 1)).Q
    q = nearest_isometry(w, name)
    torch.testing.assert_close(nearest_isometry(p @ w @ r, name), p @ q @ r, atol=1e-6, rtol=0)
    torch.testing.assert_close(nearest_isometry(w.mT, name), q.mT, atol=1e-6, rtol=0)


def test_rank_deficient_matrices() -> None:
    """`exact` completes to an isometry that agrees with W on its row space; iterations leave zeros."""
    w = gaussian(6, 2) @ gaussian(2, 4, seed=1)
    exact = nearest_isometry(w, "exact")
    assert deviation_from_isometry(exact) < 1e-20
    u, _, vh = torch.linalg.svd(w)
    torch.testing.assert_close(exact @ vh[:2].mT, u[:, :2])
    soft = nearest_isometry(w, "newton-schulz", 30)
    torch.testing.assert_close(soft, u[:, :2] @ vh[:2])
    assert float(deviation_from_isometry(soft)) == pytest.approx(2.0)


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_zero_slices_stay_zero_and_spoil_no_other(name: SOLVERS) -> None:
    w = gaussian(3, 6, 4)
    w[1] = 0
    q = nearest_isometry(w, name)
    assert torch.equal(q[1], torch.zeros(6, 4, dtype=torch.float64))
    torch.testing.assert_close(q[[0, 2]], nearest_isometry(w[[0, 2]], name))


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_any_batch_and_memory_layout(name: SOLVERS) -> None:
    w = gaussian(4, 6, 5, 3).permute(2, 0, 3, 1)  # (5, 4, 3, 6), not contiguous
    untouched = w.clone()
    q = nearest_isometry(w, name)
    assert q.shape == w.shape and torch.equal(w, untouched)
    for i in range(5):
        for j in range(4):
            torch.testing.assert_close(q[i, j], nearest_isometry(w[i, j].contiguous(), name))
    assert nearest_isometry(w[:0], name).shape == (0, 4, 3, 6)


@pytest.mark.parametrize("name", SOLVER_NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_weights_are_computed_in_float32(name: SOLVERS, dtype: torch.dtype) -> None:
    w = gaussian(2, 24, 16, dtype=dtype)
    q = nearest_isometry(w, name)
    assert q.dtype == dtype
    assert torch.equal(q, nearest_isometry(w.float(), name).to(dtype))


def test_precision_of_products_is_full_and_the_settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, bool]] = []
    product = torch.baddbmm

    def spy(*args: Any, **options: Any) -> Any:
        cuda, cpu = (getattr(torch.backends, name).matmul.fp32_precision for name in ("cuda", "mkldnn"))
        seen.append((cuda, cpu, torch.is_autocast_enabled("cpu")))
        return product(*args, **options)

    w = gaussian(40, 30, dtype=torch.float32)
    expected = nearest_isometry(w)
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "baddbmm", spy)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            q = nearest_isometry(w)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {("ieee", "ieee", False)} and len(seen) == 10
    assert torch.equal(q, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(bad: float) -> None:
    w = gaussian(2, 3, 3)
    w[1, 2, 0] = bad
    for name in SOLVER_NAMES:
        with pytest.raises(ValueError, match="NaN or infinity"):
            nearest_isometry(w, name)


def test_bad_arguments() -> None:
    w = gaussian(3, 3)
    unknown: Any = "newton"
    with pytest.raises(ValueError, match="'newton' is none of newton-schulz, polar-express, exact"):
        nearest_isometry(w, unknown)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        nearest_isometry(w, steps=0)
    with pytest.raises(ValueError, match="floating-point matrices"):
        nearest_isometry(torch.zeros(3, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="floating-point matrices"):
        nearest_isometry(torch.zeros(3))

"""Running moments equal those of the pooled sample, in place."""

from __future__ import annotations

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fire_rl.agents.normalizer import ObservationNormalizer

CPU = torch.device("cpu")
PRIOR = 1e-4  # weight of mean 0 and variance 1 before any observation, as in the SimBa reference


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=20),
    offset=st.sampled_from([0.0, -3.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_split_gives_the_pooled_moments(sizes: list[int], offset: float, seed: int) -> None:
    x = offset + np.random.default_rng(seed).standard_normal((sum(sizes), 3)) * [1.0, 1e-3, 50.0]
    normalizer = ObservationNormalizer(3, CPU)
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        normalizer.update(torch.from_numpy(part))
    total = PRIOR + len(x)
    mean = x.sum(0) / total
    variance = (PRIOR * (1.0 + mean**2) + ((x - mean) ** 2).sum(0)) / total
    np.testing.assert_allclose(normalizer.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(normalizer.variance, variance, rtol=1e-9)
    np.testing.assert_allclose(normalizer.count, total, rtol=1e-12)
    expected = (x - mean) / np.sqrt(variance + 1e-8)
    got = normalizer.normalize(torch.from_numpy(x))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_float32_observations_far_from_zero_lose_nothing() -> None:
    """A mean of 1e4 with a spread of 0.1 would drown in float32 sums of squares."""
    x = (1e4 + 0.1 * np.random.default_rng(0).standard_normal((5_000, 1))).astype(np.float32)
    normalizer = ObservationNormalizer(1, CPU)
    for row in x:
        normalizer.update(torch.from_numpy(row[None]))
    pooled = x.astype(np.float64)
    np.testing.assert_allclose(normalizer.mean, pooled.sum(0) / (PRIOR + len(x)), rtol=1e-12)
    scaled = normalizer.normalize(torch.from_numpy(x)).double().numpy()
    # The prior (mean 0 with weight 1e-4) widens the variance by 1e-4 · 1e8 / 5000 = 2.
    expected = (pooled - normalizer.mean.numpy()) / np.sqrt(0.1**2 + 2.0)
    np.testing.assert_allclose(scaled, expected, atol=2e-3)


def test_before_any_observation_nothing_changes() -> None:
    x = torch.tensor([[1.5, -2.0]])
    torch.testing.assert_close(ObservationNormalizer(2, CPU).normalize(x), x)


def test_a_constant_coordinate_stays_finite() -> None:
    normalizer = ObservationNormalizer(1, CPU)
    for _ in range(100):
        normalizer.update(torch.zeros(1, 1))
    assert normalizer.normalize(torch.zeros(1, 1)).item() == 0.0
    assert normalizer.normalize(torch.ones(1, 1)).isfinite().all()


def test_state_is_restored_in_place() -> None:
    rng = np.random.default_rng(1)
    first, second = ObservationNormalizer(4, CPU), ObservationNormalizer(4, CPU)
    first.update(torch.from_numpy(rng.standard_normal((10, 4))))
    addresses = [tensor.data_ptr() for tensor in second.state_dict().values()]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    more = torch.from_numpy(rng.standard_normal((3, 4)))
    first.update(more)
    second.update(more)
    assert addresses == [tensor.data_ptr() for tensor in second.state_dict().values()]
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])

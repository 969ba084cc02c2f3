"""Statistics over seeds and tasks, vectorised: estimates, and intervals by the bootstrap.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021.
Every random draw comes from a generator with a fixed seed: the same records give the same numbers.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Band = Literal["bootstrap", "t", "se", "sd"]
BANDS: dict[Band, str] = {
    "bootstrap": "95% bootstrap interval of the mean",
    "t": "95% t-interval of the mean",
    "se": "one standard error",
    "sd": "one standard deviation",
}
MIN_SEEDS = 3  # below, a spread over seeds says nothing


def seed_band(values: Floats, kind: Band = "bootstrap", repetitions: int = 2_000) -> tuple[Floats, Floats]:
    """Lower and upper edge of the band around the mean over seeds.

    Args:
        values: (seeds, points); NaN where a seed has no value.
        kind: see `BANDS`.
        repetitions: of the bootstrap.

    Returns:
        Two arrays (points,); NaN where fewer than `MIN_SEEDS` seeds have a value.
    """
    if kind not in get_args(Band):
        raise ValueError(f"band {kind!r} is none of {', '.join(get_args(Band))}")
    count = np.isfinite(values).sum(axis=0)
    enough = count >= MIN_SEEDS
    lower, upper = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    if not enough.any():
        return lower, upper
    shown, n = values[:, enough], count[enough]
    if kind == "bootstrap":
        rng = np.random.default_rng(0)
        draws = rng.integers(0, len(values), (repetitions, len(values)))
        # How often each seed was drawn, so that the resampled means are one matrix product.
        weights = (draws[:, :, None] == np.arange(len(values))).sum(axis=1).astype(np.float64)
        present = np.isfinite(shown)
        with np.errstate(invalid="ignore"):  # a resample may consist of absent seeds only
            means = (weights @ np.where(present, shown, 0.0)) / (weights @ present)
        lower[enough], upper[enough] = np.nanquantile(means, [0.025, 0.975], axis=0)
        return lower, upper
    mean, sd = np.nanmean(shown, axis=0), np.nanstd(shown, axis=0, ddof=1)
    half = {"sd": sd, "se": sd / np.sqrt(n), "t": _t_quantile(n - 1) * sd / np.sqrt(n)}[kind]
    lower[enough], upper[enough] = mean - half, mean + half
    return lower, upper


# The 97.5% quantiles of Student's t for 1, 2, … 30 degrees of freedom.
_T975 = """
12.7062 4.3027 3.1824 2.7764 2.5706 2.4469 2.3646 2.3060 2.2622 2.2281 2.2010 2.1788 2.1604 2.1448 2.1314
2.1199 2.1098 2.1009 2.0930 2.0860 2.0796 2.0739 2.0687 2.0639 2.0595 2.0555 2.0518 2.0484 2.0452 2.0423
"""


def _t_quantile(degrees: NDArray[np.int64]) -> Floats:
    """The 97.5% quantile of Student's t: the table, then its expansion around the normal distribution."""
    table = np.array(_T975.split(), dtype=np.float64)
    z = 1.959964
    expansion = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    result: Floats = np.where(degrees <= 30, table[np.minimum(degrees, 30) - 1], expansion)
    return result

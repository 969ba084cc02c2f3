"""Statistics over seeds and tasks, vectorised: estimates, and intervals by the bootstrap.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021.
Every random draw comes from a generator with a fixed seed: the same records give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = Sequence[Floats]  # one array (..., seeds) per task; tasks may have different numbers of seeds
Statistic = Callable[[Scores], Floats]  # -> (...)
Band = Literal["bootstrap", "t", "se", "sd"]
BANDS: dict[Band, str] = {
    "bootstrap": "95% bootstrap interval of the mean",
    "t": "95% t-interval of the mean",
    "se": "one standard error",
    "sd": "one standard deviation",
}
MIN_SEEDS = 3  # below, a spread over seeds says nothing


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95% interval."""

    value: float
    lower: float
    upper: float
    seeds: int  # of the task that has fewest

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.lower:.4g}, {self.upper:.4g}]"


def mean(scores: Scores) -> Floats:
    """Mean over tasks of the mean over seeds."""
    result: Floats = np.mean([of_task.mean(axis=-1) for of_task in scores], axis=0)
    return result


def median(scores: Scores) -> Floats:
    """Median over tasks of the mean over seeds."""
    result: Floats = np.median([of_task.mean(axis=-1) for of_task in scores], axis=0)
    return result


def iqm(scores: Scores) -> Floats:
    """Interquartile mean: the mean of the middle half of all scores, whatever their task."""
    pooled = np.concatenate(scores, axis=-1)
    size = pooled.shape[-1]
    cut = size // 4
    pooled = np.partition(pooled, (cut, size - cut - 1), axis=-1)
    result: Floats = pooled[..., cut : size - cut].mean(axis=-1)
    return result


def optimality_gap(scores: Scores, target: float = 1.0) -> Floats:
    """How far scores stay below `target` on average; more than the target earns nothing."""
    return target - mean([np.minimum(of_task, target) for of_task in scores])


def interval(statistic: Statistic, scores: Scores, repetitions: int = 50_000) -> Estimate:
    """`statistic` of `scores` (each (seeds,)) with its percentile bootstrap interval.

    Stratified: each resample draws as many seeds of each task as there are, with replacement.

    Raises:
        ValueError: when a task has no score.
    """
    scores = [np.asarray(of_task, dtype=np.float64) for of_task in scores]
    fewest = min((of_task.size for of_task in scores), default=0)
    if fewest == 0:
        raise ValueError("every task needs at least one score")
    rng = np.random.default_rng(0)
    draws = [
        statistic([of_task[rng.integers(0, of_task.size, (size, of_task.size))] for of_task in scores])
        for size in _chunks(repetitions, sum(of_task.size for of_task in scores))
    ]
    lower, upper = np.quantile(np.concatenate(draws), [0.025, 0.975])
    return Estimate(float(statistic(scores)), float(lower), float(upper), fewest)


def probability_of_improvement(ours: Scores, theirs: Scores, repetitions: int = 10_000) -> Estimate:
    """Probability that a run of ours beats one of theirs on the same task, averaged over tasks.

    On one task this is Mann and Whitney's U divided by the number of pairs; a tie counts half.

    Raises:
        ValueError: when the numbers of tasks differ, or a task has no score.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} tasks cannot be compared with {len(theirs)}")
    if not ours or min(of_task.size for of_task in (*ours, *theirs)) == 0:
        raise ValueError("every task needs at least one score on either side")
    rng = np.random.default_rng(0)
    values, resampled = [], np.zeros(repetitions)
    for x, y in zip(ours, theirs, strict=True):
        wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)  # (seeds of ours, seeds of theirs)
        values.append(wins.mean())
        # A resample is how often each seed was drawn: its mean over pairs is a bilinear form.
        x_counts = rng.multinomial(x.size, np.full(x.size, 1 / x.size), repetitions)
        y_counts = rng.multinomial(y.size, np.full(y.size, 1 / y.size), repetitions)
        resampled += np.einsum("bi,ij,bj->b", x_counts, wins, y_counts, optimize=True) / wins.size
    lower, upper = np.quantile(resampled / len(ours), [0.025, 0.975])
    fewest = min(of_task.size for of_task in (*ours, *theirs))
    return Estimate(float(np.mean(values)), float(lower), float(upper), fewest)


def performance_profile(
    scores: Scores, thresholds: Floats, repetitions: int = 2_000
) -> tuple[Floats, Floats, Floats]:
    """Fraction of runs that score more than each threshold, averaged over tasks, with its pointwise interval.

    Returns:
        Value, lower and upper edge, each (thresholds,).
    """
    rng = np.random.default_rng(0)
    values, resampled = np.zeros(thresholds.size), np.zeros((repetitions, thresholds.size))
    for of_task in scores:
        above = (of_task[:, None] > thresholds).astype(np.float64)
        counts = rng.multinomial(of_task.size, np.full(of_task.size, 1 / of_task.size), repetitions)
        values += above.mean(axis=0) / len(scores)
        resampled += counts @ above / (of_task.size * len(scores))
    lower, upper = np.quantile(resampled, [0.025, 0.975], axis=0)
    return values, lower, upper


def area_after(x: Floats, y: Floats, start: float) -> float:
    """Mean height of the curve (x, y) from `start` to its end; NaN if it has fewer than two points there."""
    after = x >= start
    if after.sum() < 2:
        return float("nan")
    return float(np.trapezoid(y[after], x[after]) / np.ptp(x[after]))


def steps_to_recover(x: Floats, y: Floats, reset: float, before: float) -> float:
    """Steps from `reset` until the curve (x, y) is back at `before`, its value before the reset.

    Infinite if it never is, NaN if the curve ends before the reset.
    """
    after = x > reset
    if not after.any():
        return float("nan")
    back = x[after & (y >= before)]
    return float(back[0] - reset) if back.size else float("inf")


def _chunks(repetitions: int, size: int) -> list[int]:
    """Repetitions in portions whose resamples of `size` scores stay within the processor's cache."""
    portion = max(1, 500_000 // size)
    return [min(portion, repetitions - done) for done in range(0, repetitions, portion)]


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

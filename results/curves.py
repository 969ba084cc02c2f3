"""From the rows of runs to curves over agent steps or env steps, and to their means over seeds."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fire_rl.results.statistics import Band, Floats, seed_band
from fire_rl.results.store import Run

Clock = Literal["agent_steps", "env_steps"]
Returns = Literal["training", "evaluation"]


@dataclass(frozen=True)
class Curve:
    """Values of one run at ascending points of a clock, both (points,) and finite."""

    x: Floats
    y: Floats


@dataclass(frozen=True)
class MeanCurve:
    """Mean over seeds at the points where at least one of them has a value; all arrays are (points,)."""

    x: Floats
    mean: Floats
    lower: Floats  # NaN where fewer than three seeds have a value
    upper: Floats
    seeds: Floats  # how many have a value


def reset_steps(run: Run, clock: Clock = "agent_steps") -> Floats:
    """When resets fired, (resets,)."""
    return np.array([row[clock] for row in run.rows("events") if clock in row], dtype=np.float64)


def curve(run: Run, returns: Returns, clock: Clock, bin_width: int, start: float = 0.0) -> Curve:
    """The return of `run` over `clock` from `start` on: evaluations, or training episodes in bins.

    A point of a training curve at k·`bin_width` is the mean over the episodes that ended less than half a
    bin from there; a reset splits the bin that it falls into.
    """
    columns = run.columns("eval" if returns == "evaluation" else "episodes", [clock, "return"])
    x, y = columns[clock], columns["return"]
    finite = np.isfinite(x) & np.isfinite(y)
    if returns == "training":
        # An episode that ended at the very step of a reset was recorded before it.
        shown = finite & (x > start)
        return _binned(x[shown], y[shown], bin_width, np.array([start, *reset_steps(run, clock)]))
    shown = finite & (x >= start)
    x, y = x[shown], y[shown]
    # At a reset the agent is evaluated before and after it: the curve goes on with what came after.
    last = np.append(np.diff(x) > 0, True)[: x.size]
    return Curve(x[last], y[last])


def _binned(x: Floats, y: Floats, width: int, splits: Floats) -> Curve:
    """Means of `y` in bins around the multiples of `width`; no bin reaches over one of `splits`."""
    edges = np.array([-np.inf, *np.sort(splits), np.inf])
    piece = np.searchsorted(edges, x, side="left") - 1  # edges[piece] < x <= edges[piece + 1]
    keys, index = np.unique(np.stack([piece, np.round(x / width)]), axis=1, return_inverse=True)
    count = np.bincount(index.ravel(), minlength=keys.shape[1])
    mean = np.bincount(index.ravel(), weights=y, minlength=keys.shape[1]) / count
    piece = keys[0].astype(np.int64)
    # The parts of a bin that a reset cuts in two are drawn on their sides of it.
    return Curve(np.clip(keys[1] * width, edges[piece], edges[piece + 1] - 1), mean)


def mean_curve(curves: Sequence[Curve], band: Band) -> MeanCurve:
    """Mean and band over `curves`, at every point that any of them has; others are interpolated within
    the range that they cover."""
    curves = [one for one in curves if one.x.size]
    x = np.unique(np.concatenate([one.x for one in curves])) if curves else np.empty(0)
    values = np.full((len(curves), x.size), np.nan)
    for row, one in zip(values, curves, strict=True):
        inside = (x >= one.x[0]) & (x <= one.x[-1])
        row[inside] = np.interp(x[inside], one.x, one.y)
    seeds = np.isfinite(values).sum(axis=0).astype(np.float64)
    covered = seeds > 0
    x, values, seeds = x[covered], values[:, covered], seeds[covered]
    mean = np.nansum(values, axis=0) / seeds
    return MeanCurve(x, mean, *seed_band(values, band), seeds)


def round_bin_width(last_step: float) -> int:
    """About a fiftieth of `last_step`, as 1, 2 or 5 times a power of ten."""
    target = max(last_step / 50, 1.0)
    power = 10.0 ** np.floor(np.log10(target))
    return int(power * max(factor for factor in (1, 2, 5) if factor * power <= target))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """Write a table beside its figure; numbers with ten digits, nothing for NaN."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_text(value) for value in row])
    return path


def _text(value: object) -> object:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.10g}"
    return value

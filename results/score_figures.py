"""Normalised scores over tasks: intervals of the usual statistics, and performance profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from fire_rl.results import style
from fire_rl.results.curves import write_csv
from fire_rl.results.outcomes import Outcome, scores_by_task
from fire_rl.results.scores import REFERENCES, normalised
from fire_rl.results.statistics import (
    Floats,
    Statistic,
    interval,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
)

STATISTICS: dict[str, Statistic] = {
    "Median": median,
    "IQM": iqm,
    "Mean": mean,
    "Optimality gap": optimality_gap,
}


def normalised_scores(found: Sequence[Outcome]) -> tuple[dict[str, list[Floats]], list[str]]:
    """Normalised final scores of every method, one array (seeds,) per task, and what was left out.

    Only tasks with reference scores count, and of a method only if it has been run on all of them.
    """
    tasks = sorted({(one.run.agent, one.run.env) for one in found})
    known = [task for task in tasks if task[1] in REFERENCES]
    remarks = [
        f"{env}: no reference scores, not in the aggregates" for _, env in tasks if env not in REFERENCES
    ]
    scores = {}
    for method in sorted({one.run.method for one in found}):
        of_tasks = scores_by_task(found, method, known)
        if known and all(of_task.size for of_task in of_tasks):
            scores[method] = [
                normalised(env, of_task) for (_, env), of_task in zip(known, of_tasks, strict=True)
            ]
        elif known:
            remarks.append(f"{method}: not run on all {len(known)} tasks, not in the aggregates")
    return scores, remarks


def plot_aggregates(
    scores: dict[str, list[Floats]], path: Path, palette: style.Palette = "paper", also: Sequence[str] = ()
) -> Path:
    """Median, IQM, mean and optimality gap of every method with their 95% intervals; returns `path`.

    Args:
        scores: see `normalised_scores`.
        path: image to write; a CSV is written beside it.
        palette: colours.
        also: further formats.
    """
    look = style.looks(list(scores), set(), palette)
    names = list(look)[::-1]  # the first method of the legend on top
    rows: list[list[object]] = []
    with matplotlib.rc_context(style.RC | {"axes.grid.axis": "x"}):
        figure, axes = style.grid(len(STATISTICS), len(STATISTICS), (3.2, 0.6 + 0.42 * len(names)))
        for column, (axis, (title, statistic)) in enumerate(zip(axes, STATISTICS.items(), strict=True)):
            for height, name in enumerate(names):
                estimate = interval(statistic, scores[name])
                rows.append([title, name, estimate.value, estimate.lower, estimate.upper, estimate.seeds])
                axis.barh(
                    height,
                    estimate.upper - estimate.lower,
                    left=estimate.lower,
                    height=0.62,
                    color=look[name].color,
                    alpha=0.75,
                )
                axis.plot([estimate.value] * 2, [height - 0.31, height + 0.31], color="black", linewidth=2)
            axis.set_title(title)
            axis.set_ylim(-0.6, len(names) - 0.4)
            axis.set_yticks(range(len(names)), [look[name].label for name in names] if column == 0 else [])
            axis.locator_params(axis="x", nbins=4)
            axis.use_sticky_edges = False
            axis.margins(x=0.1)
        figure.subplots_adjust(wspace=0.14)
        tasks = len(next(iter(scores.values())))
        style.caption(
            figure, axes, f"Normalised scores on {tasks} tasks; bars: 95% stratified bootstrap interval."
        )
        style.save(figure, path, also)
    write_csv(path.with_suffix(".csv"), ["statistic", "method", "value", "lower", "upper", "seeds"], rows)
    return path


def plot_profiles(
    scores: dict[str, list[Floats]], path: Path, palette: style.Palette = "paper", also: Sequence[str] = ()
) -> Path:
    """Fraction of runs above every score, per method with a 95% band; arguments as `plot_aggregates`."""
    look = style.looks(list(scores), set(), palette)
    every = np.concatenate([of_task for of_method in scores.values() for of_task in of_method])
    thresholds = np.linspace(min(0.0, float(every.min())), float(every.max()), 101)
    rows: list[list[object]] = []
    with matplotlib.rc_context(style.RC):
        figure, axes = style.grid(1, 1, (6.0, 3.2))
        for name, one in look.items():
            value, lower, upper = performance_profile(scores[name], thresholds)
            axes[0].plot(thresholds, value, color=one.color, zorder=3)
            axes[0].fill_between(
                thresholds, lower, upper, color=one.color, alpha=style.BAND_ALPHA, linewidth=1
            )
            rows += [[name, *point] for point in zip(thresholds, value, lower, upper, strict=True)]
        axes[0].set_xlabel("Normalised score")
        axes[0].set_ylabel("Fraction of runs above")
        axes[0].set_ylim(0, 1.02)
        style.legend(figure, axes, look.values())
        style.caption(figure, axes, "Shaded: pointwise 95% stratified bootstrap interval.")
        style.save(figure, path, also)
    write_csv(path.with_suffix(".csv"), ["method", "score", "fraction_above", "lower", "upper"], rows)
    return path

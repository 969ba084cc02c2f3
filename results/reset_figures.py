"""What resets did to the networks: stability against plasticity, measures over time, singular values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from fire_rl.results import style
from fire_rl.results.curves import write_csv
from fire_rl.results.store import Run

MARKERS = "osD^vP*Xph<>"
FLOOR = 1e-4  # of the logarithmic axes of the plane
MEASURES = {
    "dormant_ratio": "Dormant units",
    "zero_activation_ratio": "Silent units",
    "gradient_dormant_ratio": "Units without gradient",
    "feature_rank": "Feature rank",
    "effective_rank": "Effective rank",
    "srank": "srank (99%)",
    "stable_rank": "Stable rank",
    "feature_norm": "Feature norm",
    "dot_product": "φ(s, a)·φ(s′, a′)",
    "weight_norm": "Weight norm",
    "relative_distance_from_initial": "‖θ − θ₀‖ / ‖θ₀‖",
    "dfi": "DfI",
    "gradient_norm": "Gradient norm",
    "effective_learning_rate": "Effective learning rate",
    "update_ratio": "‖Δθ‖ / ‖θ‖",
    "hessian_eigenvalue": "Top Hessian eigenvalue",
    "refit_error": "Refit error",
}


def plot_plane(
    runs: Sequence[Run], path: Path, palette: style.Palette = "paper", also: Sequence[str] = ()
) -> Path | None:
    """The stability–plasticity plane: relative SFE against DfI after the reset, per method and layer.

    To the left, weights stayed close to what they were (stability); below, they are close to FIRE's scaled
    isometries (plasticity). DfI is per singular value, so that layers compare; hollow: before the reset.
    Points are geometric means over seeds and resets.

    Returns:
        `path`, or None if no run has recorded a projection.
    """
    points: dict[tuple[str, str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for run in runs:
        for row in _tables(run, "projection"):
            count = row["matrices"] * min(row["rows"], row["cols"])
            values = (row["sfe_rel"], row["dfi_before"] / count, row["dfi_after"] / count)
            if all(value is not None for value in values):
                points[run.method, row["learner"], row["name"]].append(values)
    if not points:
        return None
    learners = sorted({learner for _, learner, _ in points})
    look = style.looks([method for method, _, _ in points], {run.agent for run in runs}, palette)
    rows: list[list[object]] = []
    with matplotlib.rc_context(style.RC):
        figure, axes = style.grid(len(learners), 3, (6.0, 4.2))
        for axis, learner in zip(axes, learners, strict=True):
            layers = list(dict.fromkeys(layer for _, of, layer in points if of == learner))
            for (method, of, layer), of_layer in points.items():
                if of != learner:
                    continue
                sfe, before, after = np.exp(np.log(np.maximum(of_layer, FLOOR)).mean(axis=0))
                rows.append([learner, layer, method, sfe, before, after, len(of_layer)])
                marker, color = MARKERS[layers.index(layer) % len(MARKERS)], look[method].color
                axis.plot(sfe, before, marker, markersize=7, markerfacecolor="none", markeredgecolor=color)
                axis.plot(sfe, after, marker, markersize=8, color=color)
                axis.plot([sfe, sfe], [before, after], color=color, linewidth=1, alpha=0.6)
            for index, layer in enumerate(layers):
                axis.plot([], [], MARKERS[index % len(MARKERS)], color="#777777", label=layer)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_title(learner)
            axis.set_xlabel("SFE / ‖W‖²  (stability: left)")
            axis.set_ylabel("DfI per singular value")
            axis.legend(fontsize=8, loc="best")
        style.legend(figure, axes, look.values())
        text = f"Hollow: before the reset, filled: after. Geometric means over seeds, cut off at {FLOOR:g}."
        style.caption(figure, axes, text)
        style.save(figure, path, also)
    header = ["learner", "tensor", "method", "sfe_rel", "dfi_before", "dfi_after", "resets"]
    write_csv(path.with_suffix(".csv"), header, rows)
    return path


def plot_measures(
    runs: Sequence[Run], path: Path, palette: style.Palette = "paper", also: Sequence[str] = ()
) -> Path | None:
    """Measures of plasticity over agent steps, mean over seeds, from the log and from the resets.

    Returns:
        `path`, or None if no run has recorded a measure.
    """
    series: dict[str, dict[str, dict[float, list[float]]]] = defaultdict(lambda: defaultdict(_lists))
    for run in runs:
        whole = run.rows("measures")  # around resets, too
        for row in (*run.rows("train"), *whole):
            for name in (key for key in row if key.rsplit("/", 1)[-1] in MEASURES):
                offset = 0.5 if row.get("moment") == "after_reset" else 0.0
                _add(series[name][run.method], row["agent_steps"] + offset, row[name])
        for row in run.rows("events") if not whole else ():
            # Half a step apart, so that a line shows the jump.
            for offset, moment in ((0.0, "before"), (0.5, "after")):
                for name, value in row.get(moment, {}).items():
                    if name.rsplit("/", 1)[-1] in MEASURES:
                        _add(series[name][run.method], row["agent_steps"] + offset, value)
    if not series:
        return None
    methods = [method for of_measure in series.values() for method in of_measure]
    look = style.looks(methods, {run.agent for run in runs}, palette)
    rows: list[list[object]] = []
    with matplotlib.rc_context(style.RC):
        figure, axes = style.grid(len(series), 4, (3.8, 2.8))
        for axis, (name, of_measure) in zip(axes, sorted(series.items()), strict=True):
            for method in [method for method in look if method in of_measure]:
                steps = sorted(of_measure[method])
                means = [float(np.mean(of_measure[method][step])) for step in steps]
                rows += [[name, method, step, value] for step, value in zip(steps, means, strict=True)]
                axis.plot(steps, means, color=look[method].color, marker="o", markersize=4)
            learner, _, measure = name.rpartition("/")
            axis.set_title(f"{MEASURES[measure]}, {learner}", fontsize=12)
            steps = sorted({step for of_method in of_measure.values() for step in of_method})
            _time_axis(axis, steps)
        figure.subplots_adjust(wspace=0.35)
        style.legend(figure, axes, look.values())
        style.caption(figure, axes, "Mean over seeds; at a reset, before and after it.")
        style.save(figure, path, also)
    write_csv(path.with_suffix(".csv"), ["measure", "method", "agent_steps", "mean"], rows)
    return path


def plot_spectra(
    runs: Sequence[Run], path: Path, palette: style.Palette = "paper", also: Sequence[str] = ()
) -> Path | None:
    """Singular values before (dotted) and after the first reset of every method's first seed, per layer.

    Returns:
        `path`, or None if no run has recorded spectra.
    """
    first: dict[str, list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        tables = _tables(run, "spectra", first_only=True)
        if tables and run.method not in first:
            first[run.method] = tables
    if not first:
        return None
    layers = list(dict.fromkeys((row["learner"], row["name"]) for table in first.values() for row in table))
    look = style.looks(list(first), {run.agent for run in runs}, palette)
    rows: list[list[object]] = []
    with matplotlib.rc_context(style.RC):
        figure, axes = style.grid(len(layers), 4, (3.8, 2.8))
        for method in look:
            for row in first.get(method, []):
                axis = axes[layers.index((row["learner"], row["name"]))]
                place = np.linspace(0, 1, len(row["before"]))
                axis.plot(place, row["before"], ":", color=look[method].color)
                axis.plot(place, row["after"], color=look[method].color)
                for item in zip(place, row["before"], row["after"], strict=True):
                    rows.append([row["learner"], row["name"], method, *item])
        for axis, (learner, name) in zip(axes, layers, strict=True):
            axis.set_title(f"{learner}: {name}", fontsize=11)
            axis.set_xlabel("Rank / number")
            axis.set_yscale("log")
        figure.subplots_adjust(wspace=0.35)
        style.legend(figure, axes, look.values())
        style.caption(figure, axes, "Singular values, descending; dotted: before the reset. First seed.")
        style.save(figure, path, also)
    write_csv(path.with_suffix(".csv"), ["learner", "tensor", "method", "rank", "before", "after"], rows)
    return path


def _time_axis(axis: Axes, steps: Sequence[float]) -> None:
    if steps[-1] - steps[0] < 1:  # a single reset, and no measures in between
        axis.set_xticks(steps, ["before", "after"][: len(steps)])
        axis.set_xlabel(f"the reset at {style.short(steps[0])} agent steps")
        axis.margins(x=0.3)
        return
    axis.set_xlabel("Agent steps")
    axis.xaxis.set_major_formatter(lambda step, _: style.short(step))
    axis.locator_params(axis="x", nbins=4)


def _tables(run: Run, name: str, first_only: bool = False) -> list[Mapping[str, Any]]:
    events = run.rows("events")[: 1 if first_only else None]
    return [row for event in events for row in event.get(name, [])]


def _lists() -> defaultdict[float, list[float]]:
    return defaultdict(list)


def _add(values: dict[float, list[float]], step: float, value: float | None) -> None:
    if value is not None:
        values[step].append(value)

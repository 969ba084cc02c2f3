"""The paper's figures, drawn from the record of runs.

Every figure is written with its data as CSV beside it and the command that made it in its metadata.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fire_rl.results import style
from fire_rl.results.curves import (
    Clock,
    MeanCurve,
    Returns,
    curve,
    mean_curve,
    reset_steps,
    round_bin_width,
    write_csv,
)
from fire_rl.results.statistics import BANDS, MIN_SEEDS, Band
from fire_rl.results.store import Run


@dataclass(frozen=True)
class Panel:
    """How the runs of one agent in one environment are drawn."""

    title: str = ""  # default: the environment's name
    note: str = ""  # added to the title, such as "replay ratio 0.125"
    returns: Returns = "training"
    bin_steps: int = 0  # width of the bins of training returns in steps of the x axis; 0: about a fiftieth


@dataclass(frozen=True)
class Drawn:
    """What a panel shows: a curve per method, the resets, and what there is to say about it."""

    curves: dict[str, MeanCurve]
    resets: list[float]
    bin_steps: int  # 0 for evaluations
    remarks: list[str]


def plot_learning_curves(
    runs: Sequence[Run],
    path: str | Path,
    *,
    panels: Mapping[tuple[str, str], Panel] | None = None,
    clock: Clock = "agent_steps",
    band: Band = "bootstrap",
    palette: style.Palette = "paper",
    columns: int = 3,
) -> Path:
    """Learning curves as in the paper's Figure 4: a panel per (agent, environment), a line per method.

    A line is the mean over seeds with a shaded band, a dashed line marks a reset. Where a panel has runs
    without resets, the others begin at their first reset, as in the paper: what is before is the baseline's.

    Args:
        runs: see `fire_rl.results.store.find_runs`; runs still in progress are drawn as far as they are.
        path: image to write, PNG, PDF or SVG by its suffix; a CSV with the data is written beside it.
        panels: how the runs of an (agent, env) are drawn, in this order; others come after them.
        clock: unit of the x axis.
        band: what is shaded, see `fire_rl.results.statistics.BANDS`.
        palette: the paper's colours, or ones for colour-blind readers.
        columns: panels in a row.

    Returns:
        `path`.

    Raises:
        ValueError: when there is nothing to draw, or `path` cannot be written.
    """
    path, panels = Path(path), panels or {}
    groups: dict[tuple[str, str], list[Run]] = {key: [] for key in panels}
    for run in runs:
        groups.setdefault((run.agent, run.env), []).append(run)
    drawn = {
        key: panel_data(of_panel, panels.get(key, Panel()), clock, band)
        for key, of_panel in groups.items()
        if of_panel
    }
    drawn = {key: data for key, data in drawn.items() if data.curves}
    if not drawn:
        raise ValueError("there is nothing to draw yet: no run has finished an episode or an evaluation")
    methods = [method for data in drawn.values() for method in data.curves]
    look = style.looks(methods, {agent for agent, _ in drawn}, palette)
    with matplotlib.rc_context(style.RC):
        figure, axes = _grid(len(drawn), columns)
        for axis, ((agent, env), data) in zip(axes, drawn.items(), strict=True):
            panel = panels.get((agent, env), Panel())
            _draw(axis, data, look, clock)
            _title(axis, panel, agent if len({a for a, _ in drawn}) > 1 else "", env)
            axis.set_ylabel("Average return" if panel.returns == "evaluation" else "Training return")
        _legend(figure, axes, look)
        _caption(figure, axes, _sentences(drawn, band, clock))
        style.save(figure, path)
    for remark in (remark for data in drawn.values() for remark in data.remarks):
        style.say(remark)
    header = ["agent", "env", "method", clock, "mean", "lower", "upper", "seeds"]
    write_csv(path.with_suffix(".csv"), header, list(_rows(drawn)))
    return path


def panel_data(runs: Sequence[Run], panel: Panel, clock: Clock, band: Band) -> Drawn:
    """Compute what one panel shows."""
    by_method: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_method[run.method].append(run)
    resets = {run.path: reset_steps(run, clock) for run in runs}
    has_baseline = any(not steps.size for steps in resets.values())
    last = max((_last_step(run, clock) for run in runs), default=0.0)
    bin_steps = 0 if panel.returns == "evaluation" else panel.bin_steps or round_bin_width(last)
    curves, remarks = {}, []
    for method, of_method in by_method.items():
        each = []
        for run in of_method:
            start = float(resets[run.path][0]) if has_baseline and resets[run.path].size else 0.0
            one = curve(run, panel.returns, clock, bin_steps, start)
            if not one.x.size:
                remarks.append(f"{run.path}: no {panel.returns} returns yet")
            if bad := sum(run.unreadable.values()):
                remarks.append(f"{run.path}: {bad} unreadable rows left out")
            each.append(one)
        if any(one.x.size for one in each):
            curves[method] = mean_curve(each, band)
        ends = [one.x[-1] for one in each if one.x.size]
        if ends and min(ends) < max(ends) - max(bin_steps, 1):
            end = f"{min(ends):,.0f} {clock.replace('_', ' ')}"
            remarks.append(f"{method} in {of_method[0].env}: some seeds end at {end}")
    lines = sorted({float(step) for steps in resets.values() for step in steps})
    return Drawn(curves, lines, bin_steps, remarks)


def _last_step(run: Run, clock: Clock) -> float:
    steps = run.columns("episodes", [clock])[clock]
    return float(np.nanmax(steps, initial=0.0))


def _grid(panels: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with `panels` axes in rows of `columns`."""
    across = min(panels, columns)
    down = math.ceil(panels / across)
    figure = Figure(figsize=(style.PANEL_INCHES[0] * across, style.PANEL_INCHES[1] * down))
    axes = [figure.add_subplot(down, across, i + 1) for i in range(panels)]
    figure.subplots_adjust(wspace=0.28, hspace=0.55)
    return figure, axes


def _draw(axis: Axes, data: Drawn, look: Mapping[str, style.Look], clock: Clock) -> None:
    for method in [name for name in look if name in data.curves]:
        line, color = data.curves[method], look[method].color
        axis.plot(line.x, line.mean, color=color, zorder=3, marker="o" if line.x.size == 1 else None)
        axis.fill_between(line.x, line.lower, line.upper, color=color, alpha=style.BAND_ALPHA, linewidth=1)
    for step in data.resets:
        axis.axvline(step, **style.RESET_LINE)
    axis.set_xlim(0, max(line.x[-1] for line in data.curves.values()) or 1)
    axis.xaxis.set_major_formatter(lambda step, _: _short(step))
    axis.set_xlabel("Agent steps" if clock == "agent_steps" else "Env steps")


def _short(steps: float) -> str:
    """15000 as 15k, 1250000 as 1.25M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{letter}"
    return f"{steps:g}"


def _title(axis: Axes, panel: Panel, agent: str, env: str) -> None:
    title = panel.title or " ".join(part for part in (agent.upper(), env.split("/")[-1]) if part)
    axis.set_title(f"{title} ({panel.note})" if panel.note else title)


def _legend(figure: Figure, axes: Sequence[Axes], look: Mapping[str, style.Look]) -> None:
    handles = [Line2D([], [], color=one.color, label=one.label) for one in look.values()]
    top = max(axis.get_position().y1 for axis in axes)
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, top + 0.32 / figure.get_figheight()),
        ncol=min(len(handles), 5 if len({axis.get_position().x0 for axis in axes}) > 1 else 2),
    )


def _caption(figure: Figure, axes: Sequence[Axes], sentences: str) -> None:
    bottom = min(axis.get_position().y0 for axis in axes)
    figure.text(
        0.5,
        bottom - 0.62 / figure.get_figheight(),
        sentences,
        ha="center",
        va="top",
        fontsize=9,
        color="#555555",
    )


def _sentences(drawn: Mapping[tuple[str, str], Drawn], band: Band, clock: Clock) -> str:
    """What the reader of the figure must know: the band, the seeds, the bins."""
    seeds = [int(line.seeds.max()) for data in drawn.values() for line in data.curves.values()]
    fewest, most = min(seeds), max(seeds)
    sentences = [f"Mean over {most if fewest == most else f'{fewest} to {most}'} seed{'s' * (most > 1)}"]
    if most >= MIN_SEEDS:
        sentences[0] += f", shaded: {BANDS[band]}"
    if fewest < MIN_SEEDS:
        sentences.append(f"no band below {MIN_SEEDS} seeds")
    bins = sorted({data.bin_steps for data in drawn.values() if data.bin_steps})
    if bins:
        unit = clock.replace("_", " ")
        sentences.append(f"training returns in bins of {' and '.join(f'{b:,}' for b in bins)} {unit}")
    return "; ".join(sentences) + "."


def _rows(drawn: Mapping[tuple[str, str], Drawn]) -> Iterator[list[object]]:
    for (agent, env), data in drawn.items():
        for method, line in data.curves.items():
            for point in zip(line.x, line.mean, line.lower, line.upper, line.seeds, strict=True):
                yield [agent, env, method, *point]

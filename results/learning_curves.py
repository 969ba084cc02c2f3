"""Learning curves: the paper's Figure 4, from the record of runs or from the paper's own data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes

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
from fire_rl.results.published import FIGURES, PaperFigure, paper_curves, published
from fire_rl.results.statistics import BANDS, MIN_SEEDS, Band
from fire_rl.results.store import Run

Overlay = Literal["paper"] | None


@dataclass(frozen=True)
class Panel:
    """How the runs of one agent in one environment are drawn."""

    title: str = ""  # default: the environment's name
    note: str = ""  # added to the title, such as "replay ratio 0.125"
    returns: Returns = "training"
    bin_steps: int = 0  # width of the bins of training returns in steps of the x axis; 0: about a fiftieth


Key = tuple[str, str]  # (agent, env)


@dataclass(frozen=True)
class Drawn:
    """What a panel shows: a curve per method, the resets, and what there is to say about it."""

    panel: Panel
    curves: dict[str, MeanCurve]
    resets: list[float]
    bin_steps: int  # 0 for evaluations
    published: dict[str, MeanCurve]  # the paper's curves, drawn dotted
    remarks: list[str]


def plot_learning_curves(
    runs: Sequence[Run],
    path: str | Path,
    *,
    panels: Mapping[Key, Panel] | None = None,
    clock: Clock = "agent_steps",
    band: Band = "bootstrap",
    palette: style.Palette = "paper",
    overlay: Overlay = None,
    columns: int = 3,
    also: Sequence[str] = (),
    on_remark: Callable[[str], None] = style.say,
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
        overlay: "paper" adds the paper's own curves, dotted, where it has any.
        columns: panels in a row, at most.
        also: further formats to write beside `path`.
        on_remark: is told what is left out; default: a line on stderr.

    Returns:
        `path`.

    Raises:
        ValueError: when there is nothing to draw, or `path` cannot be written.
    """
    drawn = {
        key: panel_data(of_panel, panel_of(key, of_panel, panels), clock, band, overlay)
        for key, of_panel in grouped(runs, panels).items()
    }
    drawn = {key: data for key, data in drawn.items() if data.curves}
    if not drawn:
        raise ValueError("there is nothing to draw yet: no run has finished an episode or an evaluation")
    for remark in (remark for data in drawn.values() for remark in data.remarks):
        on_remark(remark)
    return draw_panels(drawn, Path(path), clock, palette, caption(drawn, band, clock), columns, also)


def plot_paper(figure: PaperFigure, path: str | Path, palette: style.Palette = "paper") -> Path:
    """Draw the paper's Figure 4a or 4b from its digitised data, in our style; returns `path`."""
    clock = FIGURES[figure][3]
    drawn = {}
    for key, curves in paper_curves(figure, clock).items():
        panel = Panel(returns="training" if figure == "4a" else "evaluation")
        reset = min(line.x[0] for method, line in curves.items() if method != "none")
        drawn[key] = Drawn(panel, dict(curves), [float(reset)], 0, {}, [])
    text = f"Han et al., ICLR 2026, Figure {figure}, redrawn from data read off its image."
    return draw_panels(drawn, Path(path), clock, palette, text, columns=3)


def grouped(runs: Sequence[Run], panels: Mapping[Key, Panel] | None) -> dict[Key, list[Run]]:
    """The runs of each (agent, env), those of `panels` first and in their order."""
    groups: dict[Key, list[Run]] = {key: [] for key in panels or {}}
    for run in runs:
        groups.setdefault((run.agent, run.env), []).append(run)
    return {key: of_panel for key, of_panel in groups.items() if of_panel}


def panel_of(key: Key, runs: Sequence[Run], panels: Mapping[Key, Panel] | None) -> Panel:
    """The panel of `key`; by default training returns on Atari as in the paper, else evaluations if any."""
    if panels and key in panels:
        return panels[key]
    evaluated = any(run.columns("eval", ["return"])["return"].size > 1 for run in runs)
    return Panel(returns="evaluation" if evaluated and not key[1].startswith("atari/") else "training")


def panel_data(runs: Sequence[Run], panel: Panel, clock: Clock, band: Band, overlay: Overlay = None) -> Drawn:
    """Compute what one panel shows."""
    by_method: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_method[run.method].append(run)
    resets = {run.path: reset_steps(run, clock) for run in runs}
    has_baseline = any(not steps.size for steps in resets.values())
    bin_steps = bin_width(runs, panel, clock)
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
    paper = published(runs[0].agent, runs[0].env, clock) if overlay == "paper" else {}
    if overlay == "paper" and not paper:
        remarks.append(f"the paper has no curves of {runs[0].agent} in {runs[0].env}")
    paper = {method: line for method, line in paper.items() if method in curves}
    lines = sorted({float(step) for steps in resets.values() for step in steps})
    return Drawn(panel, curves, lines, bin_steps, paper, remarks)


def bin_width(runs: Sequence[Run], panel: Panel, clock: Clock) -> int:
    """Width of the bins of training returns; 0 for evaluations."""
    if panel.returns == "evaluation":
        return 0
    return panel.bin_steps or round_bin_width(max((_last_step(run, clock) for run in runs), default=0.0))


def _last_step(run: Run, clock: Clock) -> float:
    steps = run.columns("episodes", [clock])[clock]
    return float(np.nanmax(steps, initial=0.0))


def draw_panels(
    drawn: Mapping[Key, Drawn],
    path: Path,
    clock: Clock,
    palette: style.Palette,
    text: str,
    columns: int,
    also: Sequence[str] = (),
) -> Path:
    """Draw the panels with one legend on top and `text` below, write image and CSV, return `path`."""
    agents = {agent for agent, _ in drawn}
    look = style.looks([method for data in drawn.values() for method in data.curves], agents, palette)
    with matplotlib.rc_context(style.RC):
        figure, axes = style.grid(len(drawn), columns)
        for axis, ((agent, env), data) in zip(axes, drawn.items(), strict=True):
            _draw(axis, data, look, clock)
            _title(axis, data.panel, agent if len(agents) > 1 else "", env)
            axis.set_ylabel("Average return" if data.panel.returns == "evaluation" else "Training return")
        style.legend(figure, axes, look.values())
        style.caption(figure, axes, text)
        style.save(figure, path, also)
    header = ["agent", "env", "method", "source", clock, "mean", "lower", "upper", "seeds"]
    write_csv(path.with_suffix(".csv"), header, list(_rows(drawn)))
    return path


def _draw(axis: Axes, data: Drawn, look: Mapping[str, style.Look], clock: Clock) -> None:
    for method in [name for name in look if name in data.curves]:
        line, color = data.curves[method], look[method].color
        axis.plot(line.x, line.mean, color=color, zorder=3, marker="o" if line.x.size == 1 else None)
        axis.fill_between(line.x, line.lower, line.upper, color=color, alpha=style.BAND_ALPHA, linewidth=1)
    for method, line in data.published.items():
        axis.plot(line.x, line.mean, color=look[method].color, linestyle=":", linewidth=1.6, zorder=3.5)
    for step in data.resets:
        axis.axvline(step, **style.RESET_LINE)
    axis.set_xlim(0, max(line.x[-1] for line in (*data.curves.values(), *data.published.values())) or 1)
    axis.xaxis.set_major_formatter(lambda step, _: style.short(step))
    axis.set_xlabel("Agent steps" if clock == "agent_steps" else "Env steps")


def _title(axis: Axes, panel: Panel, agent: str, env: str) -> None:
    title = panel.title or " ".join(part for part in (agent.upper(), env.split("/")[-1]) if part)
    axis.set_title(f"{title} ({panel.note})" if panel.note else title)


def caption(drawn: Mapping[Key, Drawn], band: Band, clock: Clock) -> str:
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
    if any(data.published for data in drawn.values()):
        sentences.append("dotted: the paper's curves, read off its figure")
    return "; ".join(sentences) + "."


def _rows(drawn: Mapping[Key, Drawn]) -> Iterator[list[object]]:
    for (agent, env), data in drawn.items():
        for source, curves in (("runs", data.curves), ("paper", data.published)):
            for method, line in curves.items():
                for point in zip(line.x, line.mean, line.lower, line.upper, line.seeds, strict=True):
                    yield [agent, env, method, source, *point]

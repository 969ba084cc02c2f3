"""What each run came to, in three numbers, and what each method came to over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fire_rl.results.curves import Clock, curve, reset_steps
from fire_rl.results.learning_curves import Key, Panel, bin_width, grouped, panel_of
from fire_rl.results.statistics import (
    Estimate,
    Floats,
    area_after,
    interval,
    mean,
    probability_of_improvement,
    steps_to_recover,
)
from fire_rl.results.store import Run

Measure = Literal["final", "area"]
FINAL_PART = 0.1  # of the run: five of the vertices of the paper's curves


@dataclass(frozen=True)
class Outcome:
    """One run in numbers."""

    run: Run
    final: float  # mean return over the last tenth of the run
    area: float  # mean return from the reset to the end; NaN without a reset in its panel
    recovery: float  # steps from the reset until the return is back; inf: never, NaN: no reset


@dataclass(frozen=True)
class Summary:
    """One method in one panel over its seeds, with 95% bootstrap intervals."""

    agent: str
    env: str
    method: str
    final: Estimate
    area: Estimate | None  # None where the panel has no reset
    recovery: float  # median over seeds; inf: at most half of them are back by the end; NaN: no reset
    better: Estimate | None  # probability that a run of it ends higher than one without resets


def outcomes(
    runs: Sequence[Run],
    panels: Mapping[Key, Panel] | None = None,
    clock: Clock = "agent_steps",
) -> tuple[list[Outcome], list[str]]:
    """The outcome of every run that has come as far as the longest of its panel, and who was left out."""
    found, left_out = [], []
    for key, of_panel in grouped(runs, panels).items():
        panel = panel_of(key, of_panel, panels)
        width = bin_width(of_panel, panel, clock)
        lines = [curve(run, panel.returns, clock, width) for run in of_panel]
        end = max((line.x[-1] for line in lines if line.x.size), default=0.0)
        resets = {run.path: reset_steps(run, clock) for run in of_panel}
        first = [steps[0] for steps in resets.values() if steps.size]
        for run, line in zip(of_panel, lines, strict=True):
            if not line.x.size or line.x[-1] < (1 - FINAL_PART / 2) * end:
                reached = line.x[-1] if line.x.size else 0
                left_out.append(
                    f"{run.path}: left out of the tables, it has come to {reached:,.0f} of {end:,.0f}"
                )
                continue
            own = resets[run.path]
            # A run without resets is measured from where the others of its panel are.
            reset = float(own[0] if own.size else np.median(first) if first else np.nan)
            after = curve(run, panel.returns, clock, width, reset if own.size else 0.0)
            before = value_before(run, panel, clock, width, reset)
            found.append(
                Outcome(
                    run,
                    final=float(line.y[line.x > (1 - FINAL_PART) * end].mean()),
                    area=area_after(after.x, after.y, reset),
                    recovery=steps_to_recover(after.x, after.y, reset, before) if own.size else np.nan,
                )
            )
    return found, left_out


def value_before(run: Run, panel: Panel, clock: Clock, width: int, reset: float) -> float:
    """The return right before `reset`: the last evaluation, or the mean over the last bin of episodes."""
    if panel.returns == "evaluation":
        rows = [
            row
            for row in run.rows("eval")
            if row[clock] < reset or (row[clock] == reset and row.get("moment") == "before_reset")
        ]
        return float(rows[-1]["return"]) if rows else np.nan
    columns = run.columns("episodes", [clock, "return"])
    inside = (columns[clock] > reset - width) & (columns[clock] <= reset)
    return float(columns["return"][inside].mean()) if inside.any() else np.nan


def summaries(found: Sequence[Outcome]) -> list[Summary]:
    """One row per (agent, env, method), methods in the order of their names, "none" first."""
    cells: dict[tuple[str, str, str], list[Outcome]] = {}
    for one in found:
        cells.setdefault((one.run.agent, one.run.env, one.run.method), []).append(one)
    rows = []
    for (agent, env, method), of_cell in sorted(cells.items(), key=lambda cell: _order(cell[0])):
        final = np.array([one.final for one in of_cell])
        area = np.array([one.area for one in of_cell])
        baseline = np.array([one.final for one in cells.get((agent, env, "none"), [])])
        recovery = [one.recovery for one in of_cell]
        compare = method != "none" and baseline.size
        rows.append(
            Summary(
                agent,
                env,
                method,
                interval(mean, [final]),
                interval(mean, [area]) if np.isfinite(area).all() else None,
                float(np.median(recovery)) if not np.isnan(recovery).any() else np.nan,
                probability_of_improvement([final], [baseline]) if compare else None,
            )
        )
    return rows


def _order(cell: tuple[str, str, str]) -> tuple[str, str, bool, str]:
    agent, env, method = cell
    return agent, env, method != "none", method


def scores_by_task(
    found: Sequence[Outcome], method: str, tasks: Sequence[Key], measure: Measure = "final"
) -> list[Floats]:
    """The scores of `method`, one array (seeds,) per (agent, env) of `tasks`."""
    return [
        np.array(
            [
                getattr(one, measure)
                for one in found
                if (one.run.agent, one.run.env) == task and one.run.method == method
            ]
        )
        for task in tasks
    ]

"""The paper's own curves (Figure 4), to be drawn beside ours; provenance in `results/paper/README.md`."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from fire_rl.results.curves import Clock, MeanCurve

PaperFigure = Literal["4a", "4b"]
FOLDER = Path(__file__).parent / "paper"

# File, agent, family of environments, clock of its x axis, env steps per agent step.
FIGURES: dict[PaperFigure, tuple[str, str, str, Clock, int]] = {
    "4a": ("fig4a.csv", "dqn", "atari", "agent_steps", 4),
    "4b": ("fig4b.csv", "sac", "humanoid", "env_steps", 2),
}
METHODS = {
    "FIRE": "fire",
    "Shrink Perturb": "shrink-perturb",
    "Plasticity Injection": "plasticity-injection",
    "Reset": "full-reset",
    "SAC": "none",
    "DQN (stage 1)": "none",
    "DQN (resumed)": "none",
}


@cache
def paper_curves(figure: PaperFigure, clock: Clock) -> dict[tuple[str, str], dict[str, MeanCurve]]:
    """The curves of one figure: (agent, env) -> method -> curve over `clock`. `seeds` is NaN: not stated."""
    file, agent, family, own_clock, repeat = FIGURES[figure]
    factor = {("agent_steps", "env_steps"): repeat, ("env_steps", "agent_steps"): 1 / repeat}.get(
        (own_clock, clock), 1
    )
    points: dict[tuple[str, str], dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    with (FOLDER / file).open() as lines:
        for row in csv.DictReader(lines):
            point = tuple(float(row[key] or "nan") for key in ("env_step", "mean_return", "lo", "hi"))
            task = row["task"].removesuffix("-v0")
            points[agent, f"{family}/{task}"][METHODS[row["method"]]].append(point)
    curves: dict[tuple[str, str], dict[str, MeanCurve]] = {}
    for key, methods in points.items():
        curves[key] = {}
        for method, values in methods.items():
            # The baseline's two parts share a vertex at the reset: sorting is stable, the first part's stays.
            x, mean, lower, upper = np.array(sorted(values, key=lambda point: point[0])).T
            first = np.append(True, np.diff(x) > 0)
            curves[key][method] = MeanCurve(
                factor * x[first], mean[first], lower[first], upper[first], np.full(first.sum(), np.nan)
            )
    return curves


def published(agent: str, env: str, clock: Clock) -> dict[str, MeanCurve]:
    """The paper's curves of `agent` in `env` by method; none where the paper has no such panel."""
    for figure in FIGURES:
        panels = paper_curves(figure, clock)
        if (agent, env) in panels:
            return panels[agent, env]
    return {}

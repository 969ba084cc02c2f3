"""Two records side by side: before and after a change, or ours and someone else's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fire_rl.results.outcomes import Measure, Outcome, outcomes
from fire_rl.results.statistics import Estimate, Floats, Scores, interval, probability_of_improvement
from fire_rl.results.store import find_runs


@dataclass(frozen=True)
class Difference:
    """What B has over A in one (agent, env, method)."""

    agent: str
    env: str
    method: str
    a: float  # mean over seeds
    b: float
    difference: Estimate  # b − a, with its 95% bootstrap interval
    better: Estimate  # probability that a run of B beats one of A

    def __str__(self) -> str:
        what = f"{self.agent} {self.env} {self.method}: {self.a:.4g} -> {self.b:.4g}"
        return f"{what}, difference {self.difference}, P(B > A) {self.better}, {self.difference.seeds} seeds"


def compare(
    a: str | Path,
    b: str | Path,
    measure: Measure = "final",
    on_remark: Callable[[str], None] = print,
) -> list[Difference]:
    """Compare what the records below `a` and `b` have in common.

    Args:
        a: directory of runs.
        b: directory of runs.
        measure: "final", the mean return over the last tenth; or "area", the mean return after the reset.
        on_remark: is told what only one of them has, and which runs are left out.

    Raises:
        ValueError: when one of them holds no run, or they have nothing in common.
    """
    sides = []
    for root in (a, b):
        found, left_out = outcomes(find_runs(root, on_remark))
        for remark in left_out:
            on_remark(remark)
        sides.append(_cells(found, measure))
    common = [cell for cell in sides[0] if cell in sides[1]]
    for root, own, other in ((a, sides[0], sides[1]), (b, sides[1], sides[0])):
        for agent, env, method in sorted(own.keys() - other.keys()):
            on_remark(f"only in {root}: {agent} {env} {method}")
    if not common:
        raise ValueError(f"{a} and {b} have no agent, environment and method in common")
    return [_difference(cell, sides[0][cell], sides[1][cell]) for cell in common]


def _cells(found: Sequence[Outcome], measure: Measure) -> dict[tuple[str, str, str], Floats]:
    cells: dict[tuple[str, str, str], list[float]] = {}
    for one in found:
        cells.setdefault((one.run.agent, one.run.env, one.run.method), []).append(getattr(one, measure))
    return {cell: np.array(values) for cell, values in cells.items() if np.isfinite(values).all()}


def _difference(cell: tuple[str, str, str], a: Floats, b: Floats) -> Difference:
    def of_means(scores: Scores) -> Floats:
        difference: Floats = scores[1].mean(axis=-1) - scores[0].mean(axis=-1)
        return difference

    better = probability_of_improvement([b], [a])
    return Difference(*cell, float(a.mean()), float(b.mean()), interval(of_means, [a, b]), better)

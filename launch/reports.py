"""A reset as rows of the record; the keys are those of `fire_rl.results.store.EVENT_KEYS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fire_rl.agents import ResetReport
from fire_rl.agents.measuring import Spectra
from fire_rl.method import ResetMethod


def event_row(
    clock: Mapping[str, int], label: str, method: ResetMethod, report: ResetReport
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The row of one reset, and its tables: `projection`, one row per learner and weight tensor."""
    row = {
        **clock,
        "method": label,
        "options": {"name": method.name, **method.options()},
        "before": _by_learner(report.before),
        "after": _by_learner(report.after),
        "output_change": dict(report.output_change),
        "agent": dict(report.agent),
        "sfe": sum(r.weights.sfe for r in report.learners.values()),
        "dfi_before": sum(r.weights.dfi_before for r in report.learners.values()),
        "dfi_after": sum(r.weights.dfi_after for r in report.learners.values()),
    }
    projection = [
        {"learner": name, **tensor} for name, r in report.learners.items() for tensor in r.weights.rows()
    ]
    return row, {"projection": projection}


def spectra_rows(before: Spectra, after: Spectra) -> list[dict[str, Any]]:
    """The table `spectra`: singular values of every weight tensor before and after a reset."""
    return [
        {"learner": learner, "name": name, "before": values, "after": after[learner, name]}
        for (learner, name), values in before.items()
        if (learner, name) in after
    ]


def _by_learner(measures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{learner}/{key}": value for learner, of in measures.items() for key, value in of.items()}

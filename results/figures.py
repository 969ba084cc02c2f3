"""The figures of a record, one function for all and one per figure.

Every figure is written with its data as CSV beside it and the command that made it in its metadata.
"""

from __future__ import annotations

from fire_rl.results.learning_curves import Panel, plot_learning_curves, plot_paper

__all__ = ["Panel", "plot_learning_curves", "plot_paper"]

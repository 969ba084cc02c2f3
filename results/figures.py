"""The figures of a record: one function for all, and one per figure.

Every figure is written with its data as CSV beside it and the command that made it in its metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fire_rl.results import style
from fire_rl.results.curves import Clock
from fire_rl.results.learning_curves import Key, Overlay, Panel, grouped, plot_learning_curves, plot_paper
from fire_rl.results.outcomes import outcomes
from fire_rl.results.reset_figures import plot_measures, plot_plane, plot_spectra
from fire_rl.results.score_figures import normalised_scores, plot_aggregates, plot_profiles
from fire_rl.results.statistics import Band
from fire_rl.results.store import find_runs

__all__ = ["Panel", "plot_directory", "plot_learning_curves", "plot_paper"]


def plot_directory(
    root: str | Path,
    out: str | Path | None = None,
    *,
    formats: Sequence[str] = ("png",),
    overlay: Overlay = None,
    panels: Mapping[Key, Panel] | None = None,
    clock: Clock = "agent_steps",
    band: Band = "bootstrap",
    palette: style.Palette = "paper",
    on_remark: Callable[[str], None] = style.say,
) -> list[Path]:
    """Draw every figure that the runs below `root` have the data for.

    Args:
        root: directory of runs.
        out: where the images go; default: `root`/figures.
        formats: "png", "pdf", "svg"; one file each.
        overlay: "paper" draws the paper's curves too.
        panels: how the runs of an (agent, env) are drawn.
        clock: unit of the x axis of learning curves.
        band: what is shaded around learning curves.
        palette: the paper's colours, or ones for colour-blind readers.
        on_remark: is told what is left out; default: a line on stderr.

    Returns:
        The images.

    Raises:
        ValueError: when `root` holds no run, nothing can be drawn, or `out` cannot be written.
    """
    folder = Path(out) if out is not None else Path(root) / "figures"
    runs = find_runs(root, on_remark)
    suffix, *also = formats
    images: list[Path | None] = [
        plot_learning_curves(
            runs,
            folder / f"learning_curves.{suffix}",
            panels=panels,
            clock=clock,
            band=band,
            palette=palette,
            overlay=overlay,
            also=also,
            on_remark=on_remark,
        )
    ]
    found, left_out = outcomes(runs, panels, clock)
    for agent in sorted({run.agent for run in runs}):
        scores, remarks = normalised_scores([one for one in found if one.run.agent == agent])
        left_out += remarks
        if scores:
            images.append(plot_aggregates(scores, folder / f"aggregates_{agent}.{suffix}", palette, also))
            images.append(plot_profiles(scores, folder / f"profiles_{agent}.{suffix}", palette, also))
    for (agent, env), of_panel in grouped(runs, panels).items():
        for plot, name in ((plot_plane, "plane"), (plot_measures, "measures"), (plot_spectra, "spectra")):
            image = folder / f"{name}_{agent}_{env.replace('/', '_')}.{suffix}"
            images.append(plot(of_panel, image, palette, also))
    for remark in left_out:
        on_remark(remark)
    return [image.with_suffix(f".{one}") for image in images if image is not None for one in formats]

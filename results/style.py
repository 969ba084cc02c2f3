"""How figures look: the paper's Figure 4, and a palette that colour-blind readers can tell apart."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fire_rl.results.provenance import command_line

Palette = Literal["paper", "colorblind"]

RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#cccccc",
    "axes.formatter.limits": (-3, 5),
    "axes.grid": True,
    "axes.labelsize": 12,
    "axes.linewidth": 2.0,
    "axes.titlesize": 14,
    "figure.dpi": 110,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "grid.color": "#cccccc",
    "grid.linewidth": 1.6,
    "legend.fontsize": 14,
    "lines.linewidth": 2.0,
    "pdf.fonttype": 42,  # embedded as TrueType: the text of a PDF can be searched and edited
    "savefig.bbox": "tight",
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "svg.hashsalt": "fire-rl",  # else ids in SVG files are drawn at random
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
RESET_LINE: dict[str, Any] = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 2.0, "zorder": 4}
PANEL_INCHES = (5.0, 2.8)
BAND_ALPHA = 0.15

# Names as in the paper's legend, and its colours, sampled from its figure.
KNOWN: dict[str, tuple[str, str]] = {
    "fire": ("FIRE", "#df6060"),
    "shrink-perturb": ("Shrink & Perturb", "#f4c969"),
    "plasticity-injection": ("Plasticity Injection", "#e87bdc"),
    "full-reset": ("Reset", "#999694"),
    "none": ("", "#88adf4"),
}
# For every other method, in the order of their names.
OTHER = ("#55a868", "#8c6bb1", "#c0804d", "#2f9c95", "#b5bd3f", "#5b6b9e", "#d17aa0", "#7a5a3a")
# Okabe and Ito's palette, without its yellow, which is too light for lines on white.
COLORBLIND = ("#d55e00", "#e69f00", "#cc79a7", "#000000", "#0072b2", "#009e73", "#56b4e9")


@dataclass(frozen=True)
class Look:
    """Label and colour of a method in every panel of a figure."""

    label: str
    color: str


def looks(methods: list[str], agents: set[str], palette: Palette = "paper") -> dict[str, Look]:
    """The look of every method, in the order of the legend: as the paper's, then others by name.

    Labels name the agent ("DQN + FIRE") if the figure shows one agent only.
    """
    agent = next(iter(agents)).upper() if len(agents) == 1 else ""
    ordered = [name for name in KNOWN if name in methods] + sorted(set(methods) - KNOWN.keys())
    colors = {name: color for name, (_, color) in KNOWN.items()}
    others = [name for name in ordered if name not in KNOWN]
    colors |= {name: OTHER[i % len(OTHER)] for i, name in enumerate(others)}
    if palette == "colorblind":
        fixed = dict(zip(KNOWN, COLORBLIND, strict=False))
        rest = COLORBLIND[len(KNOWN) :]
        colors = fixed | {name: rest[i % len(rest)] for i, name in enumerate(others)}
    return {name: Look(_label(name, agent), colors[name]) for name in ordered}


def _label(method: str, agent: str) -> str:
    name = KNOWN[method][0] if method in KNOWN else method
    return " + ".join(part for part in (agent, name) if part) or "No reset"


def grid(panels: int, columns: int, inches: tuple[float, float] = PANEL_INCHES) -> tuple[Figure, list[Axes]]:
    """A figure with `panels` axes of `inches` in rows of at most `columns`; four make a square."""
    across = 2 if panels == 4 else min(panels, columns)
    down = math.ceil(panels / across)
    figure = Figure(figsize=(inches[0] * across, inches[1] * down))
    axes = [figure.add_subplot(down, across, i + 1) for i in range(panels)]
    figure.subplots_adjust(wspace=0.28, hspace=0.55)
    return figure, axes


def legend(figure: Figure, axes: Sequence[Axes], entries: Iterable[Look]) -> None:
    """One legend for all panels, above them."""
    handles = [Line2D([], [], color=one.color, label=one.label) for one in entries]
    top = max(axis.get_position().y1 for axis in axes)
    several = len({axis.get_position().x0 for axis in axes}) > 1
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, top + 0.32 / figure.get_figheight()),
        ncol=min(len(handles), 5 if several else 2),
    )


def caption(figure: Figure, axes: Sequence[Axes], text: str) -> None:
    """What the reader must know, below the panels."""
    y = min(axis.get_position().y0 for axis in axes) - 0.62 / figure.get_figheight()
    width = int(16 * figure.get_figwidth())  # characters of the size below that fit
    lines = "\n".join(textwrap.wrap(text, width))
    figure.text(0.5, y, lines, ha="center", va="top", fontsize=9, color="#555555")


def short(steps: float) -> str:
    """15000 as 15k, 1250000 as 1.25M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{letter}"
    return f"{steps:g}"


def save(figure: Figure, path: Path, also: Sequence[str] = ()) -> None:
    """Write `figure` as PNG, PDF or SVG with the command that made it; the same figure, the same bytes.

    Args:
        figure: what to write.
        path: the image; its suffix is its format.
        also: further formats to write beside it ("pdf", "svg").

    Raises:
        ValueError: for another suffix, or a place that cannot be written.
    """
    command, version = command_line(), f"fire-rl {metadata.version('fire-rl')}"
    facts: dict[str, dict[str, str | None]] = {
        ".png": {"Software": version, "Comment": command},
        ".pdf": {"Creator": version, "Subject": command, "CreationDate": None},
        ".svg": {"Creator": version, "Description": command, "Date": None},
    }
    for image in (path, *(path.with_suffix(f".{suffix}") for suffix in also)):
        if image.suffix not in facts:
            raise ValueError(f"figures are drawn as {', '.join(facts)}, not {image.suffix or image.name!r}")
        try:
            image.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(image, metadata=facts[image.suffix])
        except OSError as error:
            raise ValueError(f"cannot write the figure {image} ({error.strerror})") from error


def say(message: str) -> None:
    """Tell the user what a figure leaves out."""
    print(message, file=sys.stderr)

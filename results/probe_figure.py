"""The figure of the supervised test of plasticity: how well each task of a stream was learnt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fire_rl.results import style
from fire_rl.results.curves import write_csv


def plot_probe(
    rows: Sequence[Mapping[str, Any]],
    chance: float,
    path: Path,
    palette: style.Palette = "paper",
    also: Sequence[str] = (),
) -> Path:
    """Accuracy at the end of each task, a panel per network and a line per method (mean over seeds).

    Args:
        rows: with the keys network, method, seed, task, accuracy, dormant_ratio.
        chance: accuracy of guessing, drawn as a dotted line.
        path: the image; the numbers go to a .csv beside it.
    """
    accuracy: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for row in rows:
        accuracy[row["network"], row["method"], row["task"]].append(row["accuracy"])
    networks = list(dict.fromkeys(network for network, _, _ in accuracy))
    look = style.looks(list(dict.fromkeys(method for _, method, _ in accuracy)), set(), palette)
    with matplotlib.rc_context(style.RC):
        figure, axes = style.grid(len(networks), 2, (5.0, 3.2))
        for axis, network in zip(axes, networks, strict=True):
            for method, one in look.items():
                tasks = [task for of, by, task in accuracy if (of, by) == (network, method)]
                means = [float(np.mean(accuracy[network, method, task])) for task in tasks]
                axis.plot(tasks, means, color=one.color)
            axis.axhline(chance, color="#777777", linestyle=":", linewidth=1.5)
            axis.set_title(network.upper())
            axis.set_ylim(0, 1.03)
            axis.set_xlabel("Task")
            axis.set_ylabel("Accuracy")
        style.legend(figure, axes, look.values())
        text = "Accuracy on the task's images at its end. All tasks are equally hard; dotted: guessing."
        style.caption(figure, axes, text)
        style.save(figure, path, also)
    header = ["network", "method", "seed", "task", "accuracy", "dormant_ratio"]
    write_csv(path.with_suffix(".csv"), header, [[row[key] for key in header] for row in rows])
    return path

"""One HTML file to read and to send: it opens offline, without a server, and asks nobody for anything."""

from __future__ import annotations

import base64
import html
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from string import Template
from typing import Any

from fire_rl.results import style
from fire_rl.results.curves import Clock, MeanCurve
from fire_rl.results.figures import plot_directory
from fire_rl.results.learning_curves import Drawn, Key, Panel, caption, grouped, panel_data, panel_of
from fire_rl.results.outcomes import FINAL_PART, Summary, outcomes, summaries
from fire_rl.results.provenance import command_line
from fire_rl.results.published import published
from fire_rl.results.statistics import Estimate
from fire_rl.results.store import Run, find_runs

FOLDER = Path(__file__).parent


def write_report(
    root: str | Path,
    out: str | Path | None = None,
    *,
    panels: Mapping[Key, Panel] | None = None,
    clock: Clock = "agent_steps",
) -> Path:
    """Write the report on the runs below `root`.

    Learning curves can be hovered over and methods hidden if plotly is installed (`pip install plotly`, 5 MB
    of the page); else they are pictures.

    Args:
        root: directory of runs.
        out: the HTML file; default: `root`/report.html.
        panels: how the runs of an (agent, env) are drawn.
        clock: unit of the x axes.

    Returns:
        The file.

    Raises:
        ValueError: when `root` holds no run, nothing can be drawn, or the file cannot be written.
    """
    path = Path(out) if out is not None else Path(root) / "report.html"
    problems: list[str] = []
    runs = find_runs(root, problems.append)
    drawn = {
        key: panel_data(of_panel, panel_of(key, of_panel, panels), clock, "bootstrap", "paper")
        for key, of_panel in grouped(runs, panels).items()
    }
    found, left_out = outcomes(runs, panels, clock)
    rows = summaries(found)
    remarks = [remark for data in drawn.values() for remark in data.remarks if "the paper has" not in remark]
    problems += [*_unfinished(runs), *_missing(runs), *remarks, *left_out]
    with tempfile.TemporaryDirectory() as folder:
        images = plot_directory(root, folder, formats=("svg",), panels=panels, clock=clock, on_remark=_ignore)
        pictures = {image.stem: _picture(image) for image in images}
    drawn = {key: data for key, data in drawn.items() if data.curves}
    curves, scripts = _curves(drawn, clock, pictures.pop("learning_curves"))
    page = Template((FOLDER / "report.html").read_text()).substitute(
        title=html.escape(f"FIRE-RL: {Path(root).resolve().name}"),
        summary=html.escape(_summary(runs)),
        curves=curves,
        caption=html.escape(caption(drawn, "bootstrap", clock)),
        tables="".join(_table(key, [row for row in rows if (row.agent, row.env) == key]) for key in drawn),
        comparison=_list("<h2>Beside the paper</h2>", _beside_paper(rows, runs)),
        figures="".join(pictures.values()) or "<p>None: no reset has been recorded.</p>",
        problems=_list("", problems) or "<p>None.</p>",
        configurations="".join(_configuration(runs_of) for runs_of in grouped(runs, None).values()),
        version=f"fire-rl {metadata.version('fire-rl')}",
        command=html.escape(command_line()),
        scripts=scripts,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
    except OSError as error:
        raise ValueError(f"cannot write the report {path} ({error.strerror})") from error
    return path


def _curves(drawn: Mapping[Key, Drawn], clock: Clock, picture: str) -> tuple[str, str]:
    """The learning curves and the scripts that they need: interactive with plotly, else the picture."""
    try:
        plotly: str = import_module("plotly.offline").get_plotlyjs()
    except ImportError:
        return picture, ""
    look = style.looks([m for data in drawn.values() for m in data.curves], {agent for agent, _ in drawn})
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{html.escape(method)}">'
        f'<span class="dot" style="background:{one.color}"></span>{html.escape(one.label)}</label>'
        for method, one in look.items()
    )
    panels = [
        {
            "title": data.panel.title or f"{agent.upper()}, {env.split('/')[-1]}",
            "x": clock.replace("_", " ").capitalize(),
            "y": "Average return" if data.panel.returns == "evaluation" else "Training return",
            "resets": data.resets,
            "lines": [
                _line(method, line, look[method], is_published)
                for curves, is_published in ((data.curves, False), (data.published, True))
                for method, line in curves.items()
            ],
        }
        for (agent, env), data in drawn.items()
    ]
    divs = "".join(f'<div class="panel" id="panel{i}"></div>' for i in range(len(panels)))
    content = json.dumps(panels, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    scripts = (
        f'<script type="application/json" id="panels">{content}</script><script>{plotly}</script>'
        f"<script>{(FOLDER / 'report_curves.js').read_text()}</script>"
    )
    return f'<div class="methods">{boxes}</div><div class="panels">{divs}</div>', scripts


def _line(method: str, line: MeanCurve, look: style.Look, is_published: bool) -> dict[str, Any]:
    def numbers(values: Sequence[float]) -> list[float | None]:
        return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]

    return {
        "method": method,
        "label": look.label + (" (paper)" if is_published else ""),
        "color": look.color,
        "published": is_published,
        "x": numbers(line.x.tolist()),
        "mean": numbers(line.mean.tolist()),
        # The paper's bands would bury ours.
        "lower": [] if is_published else numbers(line.lower.tolist()),
        "upper": [] if is_published else numbers(line.upper.tolist()),
    }


def _table(key: Key, rows: Sequence[Summary]) -> str:
    head = "".join(
        f"<th>{name}</th>" for name in ("Method", "Seeds", "Final", "After reset", "Recovery", "Better")
    )
    body = "".join(
        f"<tr><td>{html.escape(row.method)}</td><td>{row.final.seeds}</td><td>{_estimate(row.final)}</td>"
        f"<td>{_estimate(row.area)}</td><td>{_steps(row.recovery)}</td><td>{_estimate(row.better)}</td></tr>"
        for row in rows
    )
    few = any(row.final.seeds < 3 for row in rows)
    note = '<p class="soft">Fewer than three seeds: intervals over seeds say nothing here.</p>' if few else ""
    title = html.escape(f"{key[0].upper()}, {key[1]}")
    return f'<h3>{title}</h3><div class="wide"><table><tr>{head}</tr>{body}</table></div>{note}'


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    digits = 0 if abs(estimate.value) >= 100 else 1 if abs(estimate.value) >= 10 else 2
    value, lower, upper = (f"{x:,.{digits}f}" for x in (estimate.value, estimate.lower, estimate.upper))
    return value if estimate.seeds < 3 else f"{value} [{lower}, {upper}]"


def _steps(steps: float) -> str:
    return "–" if math.isnan(steps) else "not by the end" if math.isinf(steps) else f"{steps:,.0f}"


def _beside_paper(rows: Sequence[Summary], runs: Sequence[Run]) -> list[str]:
    """Sentences on what has a counterpart in the paper's Figure 4; with lengths, for ours may be shorter."""
    sentences = []
    for row in rows:
        ours = max(r.status.agent_steps for r in runs if (r.agent, r.env) == (row.agent, row.env))
        line = published(row.agent, row.env, "agent_steps").get(row.method)
        if line is not None:
            theirs = line.mean[line.x > (1 - FINAL_PART) * line.x[-1]].mean()
            name = style.KNOWN[row.method][0] or "no reset"
            sentences.append(
                f"{name} on {row.env.split('/')[1]}: ours {_estimate(row.final)} "
                f"({row.final.seeds} seeds, {ours:,} agent steps), paper {theirs:,.0f} "
                f"({line.x[-1]:,.0f} agent steps; last tenth of its curve, read off the figure)"
            )
    return sentences


def _summary(runs: Sequence[Run]) -> str:
    counts = {state: sum(run.status.state == state for run in runs) for state in ("finished", "failed")}
    dates = sorted(str(run.record.get("created", ""))[:10] for run in runs)
    what = {"environments": {run.env for run in runs}, "methods": {run.method for run in runs}}
    numbers = ", ".join(
        f"{len(names)} {kind if len(names) > 1 else kind[:-1]}" for kind, names in what.items()
    )
    seeds = len({run.seed for run in runs})
    return (
        f"{len(runs)} runs ({counts['finished']} finished, {counts['failed']} failed): {numbers}, "
        f"{seeds} seed{'s' * (seeds > 1)}; recorded {dates[0]} to {dates[-1]}."
    )


def _unfinished(runs: Sequence[Run]) -> list[str]:
    return [
        f"{run.path}: {run.status.state} at agent step {run.status.agent_steps:,} of "
        f"{run.status.total_agent_steps:,}" + (f" ({run.status.message})" if run.status.message else "")
        for run in runs
        if run.status.state != "finished"
    ]


def _missing(runs: Sequence[Run]) -> list[str]:
    """Combinations of method and seed that other methods or seeds of the same environment have."""
    missing = []
    for (agent, env), of_panel in grouped(runs, None).items():
        there = {(run.method, run.seed) for run in of_panel}
        methods, seeds = ({pair[i] for pair in there} for i in (0, 1))
        for method in sorted(map(str, methods)):
            absent = [str(seed) for seed in sorted(seeds, key=int) if (method, seed) not in there]
            if absent:
                missing.append(f"{agent} {env} {method}: no run with seed {', '.join(absent)}")
    return missing


def _configuration(runs: Sequence[Run]) -> str:
    """The first run of every method in full, and on what machines and versions all of them ran."""
    blocks = []
    for method in dict.fromkeys(run.method for run in runs):
        run = next(run for run in runs if run.method == method)
        text = html.escape(f"{run.record.get('command', '')}\n{json.dumps(run.config, indent=1)}")
        blocks.append(f"<details><summary>{html.escape(method)}</summary><pre>{text}</pre></details>")
    facts = {
        json.dumps({key: run.record.get(key) for key in ("versions", "hardware")}, indent=1) for run in runs
    }
    machines = "".join(f"<pre>{html.escape(fact)}</pre>" for fact in sorted(facts))
    blocks.append(f"<details><summary>versions and hardware</summary>{machines}</details>")
    return f"<h3>{html.escape(f'{runs[0].agent.upper()}, {runs[0].env}')}</h3>" + "".join(blocks)


def _list(title: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"{title}<ul>{items}</ul>" if items else ""


def _picture(image: Path) -> str:
    """An SVG as an image of its own, so that ids and styles of several do not meet."""
    data = base64.b64encode(image.read_bytes()).decode()
    return f'<p><img alt="{html.escape(image.stem)}" src="data:image/svg+xml;base64,{data}"></p>'


def _ignore(remark: str) -> None:
    """The report lists what is left out itself."""

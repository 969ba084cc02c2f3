"""Figures: what is drawn equals what was recorded, the same records give the same bytes."""

from __future__ import annotations

import csv
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fire_rl.results.curves import curve, mean_curve, round_bin_width
from fire_rl.results.figures import Panel, plot_directory, plot_learning_curves, plot_paper
from fire_rl.results.outcomes import outcomes, summaries
from fire_rl.results.published import FOLDER
from fire_rl.results.store import RunDirectory, find_runs, load_run, run_path
from fire_rl.results.style import looks

TOTAL, RESET = 1_000, 500


def record(
    out: Path,
    method: str = "none",
    seed: int = 1,
    env: str = "control/CartPole-v1",
    total: int = TOTAL,
    value: Callable[[int], float] = float,
) -> Path:
    """A run with an episode every 10 agent steps and an evaluation every 100, returns given by `value`."""
    path = run_path(out, "dqn", env, method, seed)
    with RunDirectory(path) as run:
        run.create({"agent": "dqn", "env": env, "method": {"name": method}, "seed": seed})
        for step in range(0, total + 1, 10):
            clock = {"agent_steps": step, "env_steps": 4 * step, "updates": step}
            if step > 0:
                run.append("episodes", {**clock, "return": value(step), "length_agent_steps": 10})
            if step % 100 == 0:
                run.append("eval", {**clock, "return": value(step), "returns": [value(step)]})
            if step == RESET and method != "none":
                run.append("events", {**clock, "method": method, "options": {}})
                run.append("eval", {**clock, "return": 0.0, "returns": [0.0]})
        run.write_status(state="finished")
    return path


def ramp(slope: float) -> Callable[[int], float]:
    return lambda step: slope * step


def constant(value: float) -> Callable[[int], float]:
    return lambda step: value


def table(image: Path) -> list[dict[str, str]]:
    with image.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file))


def column(rows: Sequence[dict[str, str]], key: str) -> list[float]:
    return [float(row[key] or "nan") for row in rows]


def test_training_returns_are_means_over_bins_that_no_reset_is_mixed_into(tmp_path: Path) -> None:
    run = load_run(record(tmp_path, "fire", value=lambda step: 10.0 if step <= RESET else -5.0))
    line = curve(run, "training", "agent_steps", bin_width=400)
    np.testing.assert_array_equal(line.x, [0, 400, 500, 800])
    np.testing.assert_array_equal(line.y, [10, 10, -5, -5])
    # Against a direct computation, on a ramp.
    run = load_run(record(tmp_path, seed=2))
    line = curve(run, "training", "agent_steps", bin_width=200)
    steps = np.arange(10, TOTAL + 1, 10)
    expected = [steps[np.round(steps / 200) == vertex].mean() for vertex in range(6)]
    np.testing.assert_allclose(line.y, expected)
    np.testing.assert_array_equal(line.x, np.arange(6) * 200)
    np.testing.assert_array_equal(curve(run, "training", "env_steps", 800).x, 4 * line.x)


def test_an_evaluation_curve_goes_on_with_what_came_after_the_reset(tmp_path: Path) -> None:
    line = curve(load_run(record(tmp_path, "fire")), "evaluation", "agent_steps", 0)
    np.testing.assert_array_equal(line.x, np.arange(0, 1001, 100))
    assert line.y[5] == 0
    np.testing.assert_array_equal(np.delete(line.y, 5), np.delete(line.x, 5))


def test_the_data_beside_the_figure_are_means_over_seeds(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        record(tmp_path / "runs", seed=seed, value=ramp(seed))
        record(tmp_path / "runs", "fire", seed=seed, value=constant(100.0 * seed))
    panels = {("dqn", "control/CartPole-v1"): Panel(returns="evaluation")}
    image = plot_learning_curves(find_runs(tmp_path / "runs"), tmp_path / "f.png", panels=panels, band="sd")
    rows = [row for row in table(image) if row["method"] == "none"]
    steps = np.arange(0, 1001, 100)
    np.testing.assert_array_equal(column(rows, "agent_steps"), steps)
    np.testing.assert_allclose(column(rows, "mean"), 2 * steps)
    np.testing.assert_allclose(column(rows, "upper"), 3 * steps)  # the deviation of (1, 2, 3) is 1
    np.testing.assert_allclose(column(rows, "lower"), steps)
    assert set(column(rows, "seeds")) == {3}
    fire = [row for row in table(image) if row["method"] == "fire"]
    assert column(fire, "agent_steps") == [500, 600, 700, 800, 900, 1000]  # drawn from its reset on
    assert column(fire, "mean") == [0, 200, 200, 200, 200, 200]


def test_without_a_baseline_methods_are_drawn_from_the_start(tmp_path: Path) -> None:
    record(tmp_path, "fire")
    image = plot_learning_curves(find_runs(tmp_path), tmp_path / "f.png")
    assert column(table(image), "agent_steps")[0] == 0


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_same_records_same_bytes(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/fire-rl", "plot", "some runs"])
    for seed in (1, 2, 3):
        record(tmp_path / "runs", seed=seed, value=ramp(seed))
        record(tmp_path / "runs", "fire", seed=seed)
    images = [plot_learning_curves(find_runs(tmp_path / "runs"), tmp_path / f"{i}{suffix}") for i in range(2)]
    assert images[0].read_bytes() == images[1].read_bytes()
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()
    assert b"fire-rl plot 'some runs'" in images[0].read_bytes().replace(b"&apos;", b"'")
    record(tmp_path / "runs", "full-reset")
    other = plot_learning_curves(find_runs(tmp_path / "runs"), tmp_path / f"other{suffix}")
    assert other.read_bytes() != images[0].read_bytes()


def test_one_seed_different_lengths_nan_rows_and_missing_methods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "runs", seed=1)
    record(tmp_path / "runs", seed=2, total=400)
    record(tmp_path / "runs", "fire", value=lambda step: float("nan") if step % 200 == 0 else 1.0)
    record(tmp_path / "runs", "full-reset", total=0)  # has just started
    record(tmp_path / "runs", env="atari/Asterix")
    broken = run_path(tmp_path / "runs", "dqn", "control/CartPole-v1", "none", 1) / "episodes.jsonl"
    broken.write_bytes(b"garbage\n" + broken.read_bytes() + b'{"torn')
    panels = {("dqn", "control/CartPole-v1"): Panel(returns="training")}
    image = plot_learning_curves(find_runs(tmp_path / "runs"), tmp_path / "f.png", panels=panels)
    rows = table(image)
    assert {(row["env"], row["method"]) for row in rows} == {
        ("control/CartPole-v1", "none"),
        ("control/CartPole-v1", "fire"),
        ("atari/Asterix", "none"),
    }
    seeds = {row["agent_steps"]: row["seeds"] for row in rows if row["env"] != "atari/Asterix"}
    assert seeds["400"] == "2"
    assert seeds["1000"] == "1"
    assert all(np.isnan(column(rows, "lower")))
    said = capsys.readouterr().err
    assert "full-reset/s1: no training returns yet" in said
    assert "none/s1: 1 unreadable rows left out" in said
    assert "none in control/CartPole-v1: some seeds end at 400 agent steps" in said
    width, height = struct.unpack(">II", image.read_bytes()[16:24])
    assert width > 1000
    assert height > 300


def test_nothing_to_draw_and_wrong_names_are_said_in_one_sentence(tmp_path: Path) -> None:
    record(tmp_path / "runs", env="atari/Asterix", total=0)
    runs = find_runs(tmp_path / "runs")
    with pytest.raises(ValueError, match="nothing to draw yet"):
        plot_learning_curves(runs, tmp_path / "f.png")
    record(tmp_path / "runs", seed=2)
    runs = find_runs(tmp_path / "runs")
    with pytest.raises(ValueError, match=r"drawn as \.png, \.pdf, \.svg, not '\.jpg'"):
        plot_learning_curves(runs, tmp_path / "f.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write the figure"):
        plot_learning_curves(runs, tmp_path / "file" / "f.png")


@pytest.mark.parametrize(("figure", "clock"), [("4a", "agent_steps"), ("4b", "env_steps")])
def test_the_papers_figures_are_redrawn_from_its_data(tmp_path: Path, figure: Any, clock: str) -> None:
    rows = table(plot_paper(figure, tmp_path / "paper.png"))
    with (FOLDER / f"fig{figure}.csv").open() as file:
        published = list(csv.DictReader(file))
    fire = [row for row in rows if row["method"] == "fire"]
    expected = [row for row in published if row["method"] == "FIRE"]
    assert column(fire, clock) == column(expected, "env_step")
    assert column(fire, "mean") == column(expected, "mean_return")
    np.testing.assert_array_equal(column(fire, "upper"), column(expected, "hi"))
    baseline = [row for row in rows if row["method"] == "none"]
    assert len(baseline) == 3 * 51  # both parts, the vertex that they share once


def test_the_papers_curves_lie_over_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "runs", env="atari/Asterix")
    record(tmp_path / "runs")
    image = plot_learning_curves(
        find_runs(tmp_path / "runs"), tmp_path / "f.png", overlay="paper", clock="env_steps"
    )
    paper = [row for row in table(image) if row["source"] == "paper"]
    assert {(row["env"], row["method"]) for row in paper} == {("atari/Asterix", "none")}
    assert column(paper, "env_steps")[-1] == 4 * 2_500_000
    assert column(paper, "mean")[-1] == 1269.9
    assert "the paper has no curves of dqn in control/CartPole-v1" in capsys.readouterr().err


def test_mean_curve_interpolates_inside_and_never_outside() -> None:
    from fire_rl.results.curves import Curve

    long = Curve(np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))
    short = Curve(np.array([5.0, 10.0]), np.array([100.0, 100.0]))
    mean = mean_curve([long, short, Curve(np.empty(0), np.empty(0))], "sd")
    np.testing.assert_array_equal(mean.x, [0, 5, 10, 20])
    np.testing.assert_array_equal(mean.mean, [0, 52.5, 55, 20])
    np.testing.assert_array_equal(mean.seeds, [1, 2, 2, 1])


def test_bin_widths_are_round() -> None:
    widths = [round_bin_width(last) for last in (0, 40, 50, 999, 1_000, 2_499_999, 2_500_001)]
    assert widths == [1, 1, 1, 10, 20, 20_000, 50_000]


def test_every_method_has_a_colour_of_its_own() -> None:
    names = ["none", "fire", "full-reset", "shrink-perturb", "plasticity-injection", "dash", "sr-dqn"]
    for palette in ("paper", "colorblind"):
        arguments: Any = (names, {"dqn"}, palette)
        look = looks(*arguments)
        assert list(look)[:5] == ["fire", "shrink-perturb", "plasticity-injection", "full-reset", "none"]
        assert len({one.color for one in look.values()}) == len(names)
    assert look["fire"].label == "DQN + FIRE"
    assert look["none"].label == "DQN"
    assert looks(names, {"dqn", "sac"})["none"].label == "No reset"


def record_reset(path: Path, sfe_rel: float, dfi_after: float) -> None:
    """Replace the events of a run by one with a projection, measures and spectra."""
    layer = {"learner": "q", "name": "encoder.0.weight"}
    facts = {"matrices": 2, "rows": 4, "cols": 3, "sfe": 1.0, "sfe_rel": sfe_rel}
    (path / "events.jsonl").unlink()
    with RunDirectory(path) as run:
        run.append(
            "events",
            {
                "agent_steps": RESET,
                "env_steps": 4 * RESET,
                "projection": [{**layer, **facts, "dfi_before": 12.0, "dfi_after": dfi_after}],
                "before": {"q/dormant_ratio": 0.5, "q/other": 1.0},
                "after": {"q/dormant_ratio": 0.25},
                "spectra": [{**layer, "before": [2.0, 1.0], "after": [1.0, 1.0]}],
            },
        )


def test_every_figure_of_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for env, random, human in [("atari/Asterix", 210.0, 8503.3), ("atari/BeamRider", 363.9, 16926.5)]:
        for seed in (1, 2, 3):
            record(runs, env=env, seed=seed, value=constant(random))
            path = record(
                runs, "fire", env=env, seed=seed, value=constant(random + seed / 2 * (human - random))
            )
            record_reset(path, sfe_rel=10.0 ** (seed - 2), dfi_after=6.0)
    record(runs, "dash", env="atari/Asterix")
    record(runs, env="control/CartPole-v1", value=constant(1.0))
    images = plot_directory(runs, tmp_path / "out", formats=("png", "svg"))
    stems = [image.stem for image in images if image.suffix == ".png"]
    assert sorted(stems) == [
        "aggregates_dqn",
        "learning_curves",
        "measures_dqn_atari_Asterix",
        "measures_dqn_atari_BeamRider",
        "plane_dqn_atari_Asterix",
        "plane_dqn_atari_BeamRider",
        "profiles_dqn",
        "spectra_dqn_atari_Asterix",
        "spectra_dqn_atari_BeamRider",
    ]
    assert len(images) == 2 * len(stems)
    assert all(image.stat().st_size > 5_000 and image.with_suffix(".csv").exists() for image in images)
    said = capsys.readouterr().err
    assert "control/CartPole-v1: no reference scores" in said
    assert "dash: not run on all 2 tasks" in said

    rows = {(row["statistic"], row["method"]): row for row in table(tmp_path / "out" / "aggregates_dqn.png")}
    assert float(rows["IQM", "fire"]["value"]) == pytest.approx(1)  # scores 0.5, 1, 1.5, twice
    assert float(rows["Optimality gap", "none"]["value"]) == pytest.approx(1)
    assert float(rows["Optimality gap", "fire"]["value"]) == pytest.approx(1 / 6)
    (plane,) = table(tmp_path / "out" / "plane_dqn_atari_Asterix.png")
    assert float(plane["sfe_rel"]) == pytest.approx(1)  # geometric mean of 0.1, 1, 10
    assert (plane["dfi_before"], plane["dfi_after"], plane["resets"]) == ("2", "1", "3")
    measures = table(tmp_path / "out" / "measures_dqn_atari_Asterix.png")
    assert [(row["measure"], row["mean"]) for row in measures] == [
        ("q/dormant_ratio", "0.5"),
        ("q/dormant_ratio", "0.25"),
    ]
    profile = [row for row in table(tmp_path / "out" / "profiles_dqn.png") if row["method"] == "fire"]
    above = {round(float(row["score"]), 3): float(row["fraction_above"]) for row in profile}
    assert (above[0.0], above[0.6], above[1.2], above[1.5]) == pytest.approx((1, 2 / 3, 1 / 3, 0))


def test_outcomes_of_runs_are_what_was_recorded(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        record(tmp_path, seed=seed, value=constant(100.0))
        record(tmp_path, "fire", seed=seed, value=lambda step: 80.0 if step <= RESET else (step - RESET) / 2)
    record(tmp_path, "full-reset", total=800)
    found, left_out = outcomes(find_runs(tmp_path))
    assert len(found) == 6
    assert left_out == [f"{tmp_path}/dqn/control/CartPole-v1/full-reset/s1: left out of the tables, "
                        "it has come to 800 of 1,000"]  # fmt: skip
    none, fire = summaries(found)
    assert (none.method, fire.method) == ("none", "fire")
    assert (none.final.value, fire.final.value) == (100, 250)  # the last tenth: the evaluation at 1,000
    assert none.area is not None
    assert fire.area is not None
    assert (none.area.value, fire.area.value) == (100, 125)
    assert fire.recovery == 200  # 80 before, 100 at 700
    assert np.isnan(none.recovery)
    assert none.better is None
    assert fire.better is not None
    assert fire.better.value == 1

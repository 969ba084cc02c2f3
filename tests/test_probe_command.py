"""The supervised test of plasticity shows the loss, and the cure, and gives every method the same tasks."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from fire_rl.launch.cli import main
from fire_rl.launch.probe import NetworkName, Setting, fits

SHORT = Setting(tasks=3, images=32, updates=5, batch_size=16)


@pytest.mark.parametrize(("method", "is_cure"), [("none", False), ("fire", True), ("full-reset", True)])
def test_the_loss_of_plasticity_and_its_cure_are_plainly_visible(method: str, is_cure: bool) -> None:
    found = list(fits(method, "mlp", Setting()))
    assert [fit.task for fit in found] == list(range(1, 33))
    first, last = ([fit.accuracy for fit in part] for part in (found[:4], found[-4:]))
    assert min(first) > 0.95
    assert (min(last) > 0.95) if is_cure else (max(last) < 0.3)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_methods_differ_from_the_second_task_on(network: NetworkName) -> None:
    one, other = (list(fits(method, network, SHORT)) for method in ("none", "full-reset"))
    assert (one[0].accuracy, one[0].dormant_ratio) == (other[0].accuracy, other[0].dormant_ratio)
    assert one[1:] != [replace(fit, method="none") for fit in other[1:]]
    assert one == list(fits("none", network, SHORT))
    assert one != list(fits("none", network, replace(SHORT, seed=1)))


def test_the_command_draws_a_figure_with_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "fit.png"
    words = ["--tasks", "2", "--images", "16", "--updates", "2", "--seeds", "2", "--out", str(image)]
    assert main(["probe", "none", "fire", *words]) == 0
    assert "fire" in capsys.readouterr().out
    assert image.stat().st_size > 5_000
    with image.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 2  # networks, methods, seeds, tasks
    expected = next(iter(fits("fire", "cnn", Setting(tasks=2, images=16, updates=2, seed=1))))
    (row,) = [
        r for r in rows if (r["network"], r["method"], r["seed"], r["task"]) == ("cnn", "fire", "1", "1")
    ]
    assert float(row["accuracy"]) == pytest.approx(expected.accuracy)


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "fire", "ful-reset"]) == 2
    assert "full-reset" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["probe", "--tasks", "0"])
    assert "--tasks" in capsys.readouterr().err

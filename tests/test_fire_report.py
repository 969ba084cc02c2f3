"""What FIRE reports of a projection, against the definitions, and known numbers of the paper's networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from fire_rl.fire import ProjectionReport, compare_weights, fire_
from tests.test_fire import Ensemble

Array = npt.NDArray[np.float64]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def xavier(*shape: int) -> Tensor:
    return nn.init.xavier_uniform_(torch.empty(shape))


def orthogonal(rows: int, cols: int) -> Tensor:
    return nn.init.orthogonal_(torch.empty(rows, cols))


def he(rows: int, cols: int) -> Tensor:
    return nn.init.kaiming_normal_(torch.empty(rows, cols))


# Layer: weights at initialisation, their norm, the norm after exact FIRE, relative error of ten steps.
KNOWN: dict[str, tuple[Callable[[], Tensor], float, float, float]] = {
    "conv1": (lambda: xavier(32, 4, 8, 8), 2.68, 0.7071, 3e-7),
    "conv2": (lambda: xavier(64, 32, 4, 4), 6.50, 2.0, 4e-5),
    "conv3": (lambda: xavier(64, 64, 3, 3), 8.02, 2.6667, 1.9e-1),
    "fc1": (lambda: xavier(512, 3136), 29.7, 9.1429, 1.5e-2),
    "fc2": (lambda: xavier(9, 512), 4.22, 0.3977, 5e-7),
    "actor in": (lambda: orthogonal(128, 51), 7.14, 11.314, 6e-7),
    "actor W1": (lambda: he(512, 128), 32.0, 22.63, 2e-4),
    "actor W2": (lambda: he(128, 512), 16.0, 5.657, 2e-4),
    "actor head": (lambda: orthogonal(19, 128), 4.36, 1.679, 4e-7),
    "critic in": (lambda: orthogonal(512, 70), 8.37, 22.63, 7e-7),
    "critic W1": (lambda: he(2048, 512), 64.0, 45.25, 2.6e-2),
    "critic W2": (lambda: he(512, 2048), 32.0, 11.31, 2.6e-2),
    "critic head": (lambda: orthogonal(1, 512), 1.0, 0.0442, 2e-7),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_numbers_of_the_papers_networks(name: str) -> None:
    draw, norm, norm_after, error = KNOWN[name]
    w = draw()
    outputs, inputs = w.shape[:2]
    layer = nn.Conv2d(inputs, outputs, w.shape[2]) if w.ndim == 4 else nn.Linear(inputs, outputs)
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        weight.copy_(w)
    soft = copy.deepcopy(layer)
    fire_(layer, solver="exact")
    fire_(soft)
    assert float(w.norm()) == pytest.approx(norm, rel=0.02)
    assert float(weight.detach().norm()) == pytest.approx(norm_after, rel=5e-4)
    distance = (soft.get_parameter("weight") - weight).detach().norm() / weight.detach().norm()
    if error > 1e-2:
        assert float(distance) == pytest.approx(error, rel=0.2)
    else:
        assert float(distance) < 3 * error + 1e-6  # rounding of ten float32 steps


def svd_measures(w: Array, scale: float) -> dict[str, float]:
    """The report's measures of matrices (n, d_out, d_in), from their definitions."""
    small = [m @ m.T if m.shape[0] < m.shape[1] else m.T @ m for m in w]
    eye = np.eye(len(small[0]))
    sigma = np.linalg.svd(w, compute_uv=False)
    return {
        "dfi_raw": sum(float(np.square(m.T @ m - np.eye(m.shape[1])).sum()) for m in w),
        "dfi": sum(float(np.square(g / scale**2 - eye).sum()) for g in small),
        "dfi_shape": sum(float(np.square(g * len(g) / np.trace(g) - eye).sum()) for g in small),
        "sigma_max": float(sigma.max()),
        "sigma_min": float(sigma.min()),
    }


def test_report_against_the_definitions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 2), nn.Linear(12, 5), Ensemble(2, 4, 9))
    cut: dict[str, tuple[Callable[[Array], Array], float]] = {
        "0.weight": (lambda w: w.reshape(8, 3, 4).transpose(2, 0, 1), math.sqrt(8 / 3) / 4),
        "1.weight": (lambda w: w[None], math.sqrt(5 / 12)),
        "2.weight": (lambda w: w, math.sqrt(9 / 4)),
    }
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = fire_(model, steps=3)
    rows = report.rows()
    assert [row["name"] for row in rows] == list(cut)
    for row, tensor in zip(rows, report.tensors, strict=True):
        view, scale = cut[tensor.name]
        old = view(before[tensor.name].double().numpy())
        new = view(model.get_parameter(tensor.name).detach().double().numpy())
        assert (tensor.matrices, tensor.rows, tensor.cols) == new.shape
        assert tensor.singular_values == new.shape[0] * min(new.shape[1:])
        for when, w in (("before", old), ("after", new)):
            for key, value in svd_measures(w, scale).items():
                assert row[f"{key}_{when}"] == pytest.approx(value, rel=1e-9, abs=1e-12), (key, when)
        assert tensor.sfe == row["sfe"] == pytest.approx(float(np.square(new - old).sum()), rel=1e-9)
        assert tensor.sfe_rel == pytest.approx(tensor.sfe / float(np.square(old).sum()), rel=1e-9)
    assert report.sfe == pytest.approx(sum(tensor.sfe for tensor in report.tensors))
    assert report.dfi_before == pytest.approx(sum(tensor.before.dfi for tensor in report.tensors))
    assert report.dfi_after == pytest.approx(sum(tensor.after.dfi for tensor in report.tensors))
    assert report.dfi_after < report.dfi_before and report.seconds > 0


@pytest.mark.parametrize("shape", [(512, 128), (128, 512), (128, 51)])
def test_errors_of_exact_fire_in_closed_form(shape: tuple[int, int]) -> None:
    """SFE = Σ(σ − s)² = ‖W‖² − 2 s ‖W‖_* + s² r; literal DfI = r (s² − 1)² + max(d_in − d_out, 0)."""
    layer = nn.Linear(shape[1], shape[0])
    sigma = torch.linalg.svdvals(layer.weight.detach().double())
    scale, rank = math.sqrt(shape[0] / shape[1]), min(shape)
    report = fire_(layer, solver="exact")
    assert report.sfe == pytest.approx(float((sigma - scale).square().sum()), rel=1e-5)
    closed = sigma.square().sum() - 2 * scale * sigma.sum() + scale**2 * rank
    assert report.sfe == pytest.approx(float(closed), rel=1e-5)
    after = report.tensors[0].after
    assert after.dfi_raw == pytest.approx(
        {512: 1152, 128: 456 if shape[1] == 512 else 116}[shape[0]], rel=0.01
    )
    assert after.dfi_raw == pytest.approx(rank * (scale**2 - 1) ** 2 + max(shape[1] - shape[0], 0), rel=1e-5)
    assert after.dfi < 1e-8 and after.dfi_shape < 1e-8


def test_scale_one_is_what_its_report_is_relative_to() -> None:
    layer = nn.Conv2d(4, 8, 3)
    report = fire_(layer, solver="exact", scale="one")
    assert report.dfi_after < 1e-8
    assert report.tensors[0].after.sigma_max == pytest.approx(1, abs=1e-6)


def test_compare_weights_reports_any_change() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not name.startswith("2")}
    unchanged = compare_weights(before, model)
    assert [tensor.name for tensor in unchanged.tensors] == ["0.weight", "1.weight"]
    assert unchanged.sfe == 0 and all(tensor.before == tensor.after for tensor in unchanged.tensors)
    with torch.no_grad():
        model[0].get_parameter("weight").mul_(0.5)
        model[1].get_parameter("weight").zero_()
    halved, zeroed = compare_weights(before, model).tensors
    assert halved.sfe_rel == pytest.approx(0.25)
    assert halved.after.dfi_shape == pytest.approx(halved.before.dfi_shape)
    assert halved.after.sigma_max == pytest.approx(halved.before.sigma_max / 2)
    assert zeroed.sfe_rel == pytest.approx(1) and zeroed.after.dfi == zeroed.after.dfi_shape == 3
    from_zero = compare_weights(
        {"1.weight": torch.zeros(3, 3), "0.weight": before["0.weight"] * math.nan}, model
    )
    assert math.isnan(from_zero.tensors[0].before.dfi) and from_zero.tensors[1].sfe_rel == 0


def test_empty_selection_gives_an_empty_report() -> None:
    report = fire_(nn.Linear(3, 3), select=lambda name, parameter: False)
    assert isinstance(report, ProjectionReport)
    assert report.tensors == [] and report.sfe == 0 and report.rows() == []

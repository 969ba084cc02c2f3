"""FIRE's projection of every kind of module against plain loops over single matrices, and its report."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import fire_rl.batches
from fire_rl.fire import ProjectionReport, compare_weights, fire_
from fire_rl.layout import weight_matrices
from fire_rl.orthogonal import finite_isometries, nearest_isometry

Array = npt.NDArray[np.float64]


class Ensemble(nn.Module):
    """Stacked linear maps (E, out, in)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, outputs, inputs))
        self.bias = nn.Parameter(torch.randn(members, outputs))


class StackedRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 1, 6))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def polar(w: Array) -> Array:
    u, _, vh = np.linalg.svd(w, full_matrices=False)
    return np.asarray(u @ vh)


def muon_polar(w: Array, positions: int = 1) -> Array:
    return math.sqrt(w.shape[0] / w.shape[1]) / positions * polar(w)


def project_linear(layer: nn.Linear, w: Array) -> Array:
    return muon_polar(w)


def project_convolution(layer: Any, w: Array) -> Array:
    new = np.empty_like(w)
    out = w.shape[0] // layer.groups
    positions = list(np.ndindex(*w.shape[2:]))
    for group in range(layer.groups):
        rows = slice(group * out, (group + 1) * out)
        for position in positions:
            new[(rows, slice(None), *position)] = muon_polar(
                w[(rows, slice(None), *position)], len(positions)
            )
    return new


def project_transposed(layer: Any, w: Array) -> Array:
    """Stored as (in, out / groups, *kernel): the map of a group and position is the slice transposed."""
    new = np.empty_like(w)
    inputs = w.shape[0] // layer.groups
    positions = list(np.ndindex(*w.shape[2:]))
    for group in range(layer.groups):
        rows = slice(group * inputs, (group + 1) * inputs)
        for position in positions:
            slice_ = w[(rows, slice(None), *position)]
            new[(rows, slice(None), *position)] = muon_polar(slice_.T, len(positions)).T
    return new


def project_members(layer: nn.Module, w: Array) -> Array:
    return np.stack([muon_polar(member) for member in w])


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Array], Array]]] = {
    "linear wide": (lambda: nn.Linear(11, 5), project_linear),
    "linear tall": (lambda: nn.Linear(5, 11), project_linear),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), project_convolution),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2)), project_convolution),
    "conv2d channels last": (lambda: _channels_last(nn.Conv2d(4, 6, 3)), project_convolution),
    "conv3d": (lambda: nn.Conv3d(2, 5, (2, 3, 2)), project_convolution),
    "grouped": (lambda: nn.Conv2d(6, 9, 2, groups=3), project_convolution),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), project_convolution),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3), project_transposed),
    "transposed 2d": (lambda: nn.ConvTranspose2d(6, 4, (3, 2)), project_transposed),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 5, 2), project_transposed),
    "transposed grouped": (lambda: nn.ConvTranspose2d(6, 9, 2, groups=3), project_transposed),
    "ensemble": (lambda: Ensemble(3, 7, 4), project_members),
}


def _channels_last(layer: nn.Conv2d) -> nn.Module:
    layer.weight = nn.Parameter(layer.weight.detach().contiguous(memory_format=torch.channels_last))
    return layer


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_equals_a_loop_over_its_matrices(kind: str) -> None:
    build, loop = KINDS[kind]
    layer = build()
    weight = layer.get_parameter("weight")
    old, old_bias, address = (
        weight.detach().double().numpy(),
        layer.get_parameter("bias").clone(),
        weight.data_ptr(),
    )
    expected = loop(layer, old.copy())
    fire_(layer, solver="exact")
    np.testing.assert_allclose(weight.detach().numpy(), expected, atol=1e-6)
    assert layer.get_parameter("weight") is weight and weight.data_ptr() == address
    assert torch.equal(layer.get_parameter("bias"), old_bias)


@pytest.mark.parametrize("kdim", [None, 10])
def test_attention_projects_query_key_and_value_alone(kdim: int | None) -> None:
    attention = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=kdim, add_bias_kv=True)
    old = {name: p.detach().double().numpy().copy() for name, p in attention.named_parameters()}
    fire_(attention, solver="exact")
    expected = dict(old)
    if kdim is None:
        expected["in_proj_weight"] = np.concatenate([polar(w) for w in np.split(old["in_proj_weight"], 3)])
    else:
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            expected[name] = muon_polar(old[name])
    expected["out_proj.weight"] = polar(old["out_proj.weight"])
    for name, parameter in attention.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], atol=1e-6, err_msg=name)


def test_fused_linear_layers_split_by_rows() -> None:
    model = nn.ModuleDict({"c_attn": nn.Linear(6, 18), "c_proj": nn.Linear(6, 6)})
    old = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    report = fire_(model, solver="exact", scale="one", splits={"c_attn.weight": 3})
    new = model.get_parameter("c_attn.weight").detach().numpy()
    np.testing.assert_allclose(
        new, np.concatenate([polar(w) for w in np.split(old["c_attn.weight"], 3)]), atol=1e-6
    )
    assert [(t.matrices, t.rows, t.cols) for t in report.tensors] == [(3, 6, 6), (1, 6, 6)]
    assert report.dfi_after < 1e-9
    with pytest.raises(ValueError, match="no Linear weight of this module is called c_atn"):
        fire_(model, splits={"c_atn.weight": 3})
    with pytest.raises(ValueError, match=r"18 rows of c_attn\.weight cannot be cut into 4"):
        fire_(model, splits={"c_attn.weight": 4})


@pytest.mark.parametrize("outputs", [3, 12])
def test_the_map_itself_is_the_scaled_isometry(outputs: int) -> None:
    """Orientation, from the outside: the Jacobian of layers that act on vectors."""
    layers = {
        nn.Linear(6, outputs): (6,),
        nn.Conv2d(6, outputs, 1): (6, 1, 1),
        nn.ConvTranspose2d(6, outputs, 1): (6, 1, 1),
    }
    for layer, shape in layers.items():
        fire_(layer, solver="exact")
        basis = torch.eye(6).view(6, *shape)
        jacobian = (layer(basis) - layer(torch.zeros(1, *shape))).flatten(1).T
        sigma = torch.linalg.svdvals(jacobian.detach())
        torch.testing.assert_close(sigma, torch.full_like(sigma, math.sqrt(outputs / 6)))


def test_newton_schulz_on_a_network_is_the_cubic_map() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    old = copy.deepcopy(model)
    fire_(model, steps=7)
    for index, positions in ((0, 9), (3, 1)):
        new, before = (m[index].get_parameter("weight").detach().double() for m in (model, old))
        new, before = (w.flatten(2).permute(2, 0, 1) if w.ndim == 4 else w[None] for w in (new, before))
        for w, w_old in zip(new.numpy(), before.numpy(), strict=True):
            u, sigma, vh = np.linalg.svd(w_old, full_matrices=False)
            sigma = sigma / np.linalg.norm(sigma)
            for _ in range(7):
                sigma = 1.5 * sigma - 0.5 * sigma**3
            scale = math.sqrt(w.shape[0] / w.shape[1]) / positions
            np.testing.assert_allclose(w, scale * (u * sigma) @ vh, atol=1e-6)


def test_biases_norms_embeddings_and_unselected_weights_stay_bit_for_bit() -> None:
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(9, 4),
            "conv": nn.Conv2d(4, 4, 3),
            "batch_norm": nn.BatchNorm2d(4),
            "layer_norm": nn.LayerNorm([2, 3, 4]),
            "stacked_norm": StackedRMSNorm(),
            "bilinear": nn.Bilinear(3, 4, 5),
            "kept": nn.Linear(4, 4),
        }
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = fire_(model, select=lambda name, parameter: not name.startswith("kept"))
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["conv.weight"] == [tensor.name for tensor in report.tensors]
    assert report.skipped == {}


def test_what_we_cannot_cut_is_left_alone_and_listed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 5))
    report = fire_(model)
    assert [tensor.name for tensor in report.tensors] == ["0.weight"]
    assert set(report.skipped) == {"1.weight_ih_l0", "1.weight_hh_l0"}
    assert "LSTM" in report.skipped["1.weight_hh_l0"]


def test_tied_weights_are_projected_once() -> None:
    model = nn.ModuleDict(
        {"wte": nn.Embedding(20, 6), "a": nn.Linear(6, 6), "b": nn.Linear(6, 6), "head": nn.Linear(6, 20)}
    )
    model["b"].weight = model["a"].weight
    model["head"].weight = model["wte"].weight
    w = model.get_parameter("a.weight").detach().clone()
    table = model.get_parameter("wte.weight").detach().clone()
    report = fire_(model)
    assert [tensor.name for tensor in report.tensors] == ["a.weight", "wte.weight"]
    torch.testing.assert_close(model.get_parameter("b.weight").detach(), nearest_isometry(w))
    projected = math.sqrt(20 / 6) * nearest_isometry(table)
    torch.testing.assert_close(model.get_parameter("wte.weight").detach(), projected)


def test_frozen_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    before = model[0].get_parameter("weight").clone()
    report = fire_(model)
    assert report.skipped == {"0.weight": "frozen"} and [t.name for t in report.tensors] == ["1.weight"]
    assert torch.equal(model[0].get_parameter("weight"), before)
    with pytest.raises(ValueError, match=r"0\.weight is frozen"):
        fire_(model, frozen="error")
    assert [t.name for t in fire_(model, frozen="project").tensors] == ["0.weight", "1.weight"]
    assert not torch.equal(model[0].get_parameter("weight"), before)
    assert not model[0].get_parameter("weight").requires_grad


random_pruning: Any = prune.random_unstructured  # untyped
COMPUTED: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm hook": lambda layer: _quiet(nn.utils.weight_norm, layer),
    "spectral_norm hook": lambda layer: nn.utils.spectral_norm(layer),
    "pruning": lambda layer: random_pruning(layer, "weight", 0.5),
}


def _quiet(function: Callable[[nn.Module], object], layer: nn.Module) -> object:
    with pytest.warns(FutureWarning):
        return function(layer)


@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.parametrize("build", [lambda: nn.Linear(4, 4), lambda: Ensemble(2, 4, 4)])
def test_computed_weights_are_refused_and_nothing_is_written(
    kind: str, build: Callable[[], nn.Module]
) -> None:
    model = nn.ModuleDict({"first": nn.Linear(4, 4), "second": build()})
    COMPUTED[kind](model["second"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"^second\.weight is computed from other tensors"):
        fire_(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_weights_are_named_and_nothing_is_written(bad: float) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = model[0].get_parameter("weight").clone()
    with torch.no_grad():
        model[1].get_parameter("weight")[1, 1] = bad
    with pytest.raises(ValueError, match=r"^1\.weight contains NaN or infinity"):
        fire_(model)
    assert torch.equal(model[0].get_parameter("weight"), before)


def test_of_weights_that_are_not_finite_the_first_is_named_whatever_their_dtypes() -> None:
    layers = [nn.Linear(3, 3, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.float32)]
    with torch.no_grad():
        for layer in layers[1:]:
            layer.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"^1\.weight contains NaN or infinity"):
        fire_(nn.Sequential(*layers))


def test_bad_options() -> None:
    wrong: Any = "wrong"
    for options in ({"scale": wrong}, {"frozen": wrong}, {"solver": wrong}):
        with pytest.raises(ValueError, match="'wrong' is none of"):
            fire_(nn.Linear(2, 2), **options)


def test_one_call_per_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers, groups and kernel positions with matrices of one shape share one batch."""
    batches: list[tuple[int, ...]] = []

    def spy(w: Tensor, *options: Any) -> Tensor:
        batches.append(tuple(w.shape))
        return finite_isometries(w, *options)

    monkeypatch.setattr(fire_rl.batches, "finite_isometries", spy)
    conv, grouped = nn.Conv2d(8, 4, 3), nn.Conv1d(16, 8, 5, groups=2)
    fire_(nn.Sequential(nn.Linear(8, 4), conv, Ensemble(2, 8, 4), grouped, nn.Linear(4, 8)))
    assert sorted(batches) == [(1, 8, 4), (1 + 9 + 2 + 10, 4, 8)]


def test_low_precision_weights_are_rounded_once() -> None:
    layer = nn.Linear(24, 40).to(torch.bfloat16)
    old = layer.weight.detach().clone()
    report = fire_(layer, solver="exact")
    expected = math.sqrt(40 / 24) * nearest_isometry(old.double(), "exact")
    assert layer.weight.dtype == torch.bfloat16
    # The factor goes through float32, which may tip a rare rounding to the neighbouring bfloat16.
    torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=2**-8, atol=0)
    assert report.tensors[0].after.dfi < 1e-3


def test_the_optimiser_goes_on_with_the_same_tensors() -> None:
    layer = nn.Linear(5, 3)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for project in (True, False):
        if project:
            fire_(layer)
        before = layer.weight.detach().clone()
        layer(torch.ones(2, 5)).square().sum().backward()
        optimizer.step()
        assert not torch.equal(layer.weight, before)
    assert layer.weight.requires_grad and layer.weight.is_leaf


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


def test_exact_projection_is_idempotent_on_modules() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 6, 3), Ensemble(2, 5, 5))
    fire_(model, solver="exact")
    assert fire_(model, solver="exact").sfe < 1e-10


def test_layout_applies_to_gradients_and_writes_through() -> None:
    """What optimisers and regularisers will reuse: a view of any tensor of the parameter's shape."""
    layer = nn.Conv2d(3, 4, 2, groups=1)
    layer(torch.randn(1, 3, 5, 5)).sum().backward()
    (weights,) = weight_matrices(layer)
    gradient = layer.weight.grad
    assert gradient is not None
    matrices = weights.view(gradient)
    assert matrices.shape == (1, 2, 2, 4, 3)
    assert torch.equal(matrices[0, 1, 0], gradient[:, :, 1, 0])
    matrices.zero_()
    assert float(gradient.abs().max()) == 0


def test_empty_selection_gives_an_empty_report() -> None:
    report = fire_(nn.Linear(3, 3), select=lambda name, parameter: False)
    assert isinstance(report, ProjectionReport)
    assert report.tensors == [] and report.sfe == 0 and report.rows() == []

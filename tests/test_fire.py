"""FIRE's projection of every kind of module against plain loops over single matrices."""

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
from fire_rl.fire import fire_
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

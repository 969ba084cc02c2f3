"""FIRE's projection of a whole module, and the report on what any change of weights did to its matrices.

Han et al., "FIRE: Frobenius-Isometry Reinitialization", ICLR 2026, arXiv:2602.08040.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fire_rl import measures
from fire_rl.batches import project_together
from fire_rl.layout import Scale, WeightMatrices, computed_weights, unknown_weights, weight_matrices
from fire_rl.orthogonal import SOLVERS, check_solver

Frozen = Literal["skip", "error", "project"]
Select = Callable[[str, nn.Parameter], bool]


@dataclass(frozen=True)
class Isometry:
    """How far one weight tensor is from an isometry; DfIs are sums over its matrices (see `measures`)."""

    dfi_raw: float  # ‖WᵀW − I‖²_F
    dfi: float  # of W over FIRE's scale, on the smaller side
    dfi_shape: float  # of W over its RMS singular value, on the smaller side
    sigma_max: float
    sigma_min: float


@dataclass(frozen=True)
class TensorReport:
    """What happened to one weight tensor, cut into `matrices` of rows × cols."""

    name: str
    matrices: int
    rows: int
    cols: int
    sfe: float  # ‖W_after − W_before‖²_F
    sfe_rel: float  # the same over ‖W_before‖²_F
    before: Isometry
    after: Isometry

    @property
    def singular_values(self) -> int:
        """Number of singular values of all matrices: what to divide a DfI by to compare layers."""
        return self.matrices * min(self.rows, self.cols)


@dataclass(frozen=True)
class ProjectionReport:
    """What a change of weights did to every weight matrix of a module."""

    tensors: list[TensorReport]
    skipped: dict[str, str] = field(default_factory=dict)  # selected weights left alone: name -> why
    seconds: float = 0.0  # of the projection itself, without this report

    @property
    def sfe(self) -> float:
        """Squared Frobenius error of all tensors."""
        return sum(tensor.sfe for tensor in self.tensors)

    @property
    def dfi_before(self) -> float:
        """Deviation from FIRE's scaled isometries of all tensors before the change."""
        return sum(tensor.before.dfi for tensor in self.tensors)

    @property
    def dfi_after(self) -> float:
        """Deviation from FIRE's scaled isometries of all tensors after the change."""
        return sum(tensor.after.dfi for tensor in self.tensors)

    def rows(self) -> list[dict[str, float | str]]:
        """One flat row per tensor for tables: `dfi_before`, `sigma_max_after`, …"""
        return [
            {
                **{key: value for key, value in vars(tensor).items() if key not in ("before", "after")},
                **{f"{key}_before": value for key, value in asdict(tensor.before).items()},
                **{f"{key}_after": value for key, value in asdict(tensor.after).items()},
            }
            for tensor in self.tensors
        ]


@torch.no_grad()
def fire_(
    module: nn.Module,
    *,
    solver: SOLVERS = "newton-schulz",
    steps: int | None = None,
    scale: Scale = "muon",
    select: Select | None = None,
    frozen: Frozen = "skip",
    splits: Mapping[str, int] | None = None,
) -> ProjectionReport:
    """Replace every weight matrix of `module` by `scale` times its nearest isometry, in place.

    Which tensors are cut into which matrices: see `layout.weight_matrices`. Biases, norm layers and
    embeddings stay as they are (an embedding tied to a Linear weight changes with it).

    Args:
        module: any module.
        solver, steps: see `nearest_isometry`. Default: the paper's ten cubic Newton–Schulz steps.
        scale: `muon`: sqrt(d_out / d_in) / kernel positions, as in the paper; `one`: 1.
        select: (name as in `named_parameters()`, parameter) -> whether to project it; default: all.
        frozen: what to do with a selected weight that takes no gradients: `skip` it and list it in the
            report, `error`, or `project` it like any other (target networks).
        splits: Linear layers that fuse several maps, name -> number of row blocks: {"attn.c_attn.weight": 3}.

    Raises:
        ValueError: naming the weight that is not finite, is computed from other tensors (parametrisations,
            weight_norm, …) or is frozen. Nothing has been written then.
    """
    if frozen not in get_args(Frozen):
        raise ValueError(f"frozen {frozen!r} is none of {', '.join(get_args(Frozen))}")
    check_solver(solver, steps)
    for name in computed_weights(module):
        raise ValueError(
            f"{name} is computed from other tensors (parametrisation, weight_norm, spectral_norm, pruning): "
            f"make it a plain parameter first, or call fire_ on the other submodules"
        )
    chosen, skipped = _choose(module, weight_matrices(module, scale=scale, splits=splits), select, frozen)
    _check_finite(chosen)
    before = {weights.name: weights.parameter.clone() for weights in chosen}

    started = _now(chosen)
    for group in _alike(chosen):
        project_together(group, solver, steps)
    seconds = _now(chosen) - started

    report = compare_weights(before, module, scale=scale, splits=splits)
    return replace(report, skipped=skipped, seconds=seconds)


@torch.no_grad()
def compare_weights(
    before: Mapping[str, Tensor],
    module: nn.Module,
    *,
    scale: Scale = "muon",
    splits: Mapping[str, int] | None = None,
) -> ProjectionReport:
    """Report on any change of weights.

    Args:
        before: parameter name -> its values before the change. Matrices with other names are left out.
        module: the module after the change.
        scale, splits: as for `fire_`; `scale` is what the `dfi`s are relative to.
    """
    tensors = []
    for weights in weight_matrices(module, scale=scale, splits=splits):
        if weights.name in before:
            old, new = weights.view(before[weights.name]), weights.matrices()
            old, new = old.flatten(0, -3), new.flatten(0, -3)
            sfe = float(measures.squared_frobenius_error(new, old).sum())
            size = float(old.double().square().sum())
            old_isometry = _isometry(old, weights.scale)
            tensors.append(
                TensorReport(
                    name=weights.name,
                    matrices=len(new),
                    rows=new.shape[1],
                    cols=new.shape[2],
                    sfe=sfe,
                    sfe_rel=sfe / size if size > 0 else (math.inf if sfe > 0 else 0.0),
                    before=old_isometry,
                    after=_isometry(new, weights.scale) if sfe != 0 else old_isometry,
                )
            )
    return ProjectionReport(tensors)


def _choose(
    module: nn.Module, candidates: list[WeightMatrices], select: Select | None, frozen: Frozen
) -> tuple[list[WeightMatrices], dict[str, str]]:
    """Which weights to project, and which of the selected ones are left alone and why."""
    parameters = dict(module.named_parameters())
    skipped = {
        name: f"the layout of {kind} weights is not known"
        for name, kind in unknown_weights(module).items()
        if select is None or select(name, parameters[name])
    }
    chosen = []
    for weights in candidates:
        if select is not None and not select(weights.name, weights.parameter):
            continue
        if weights.parameter.requires_grad or frozen == "project":
            chosen.append(weights)
        elif frozen == "skip":
            skipped[weights.name] = "frozen"
        else:
            raise ValueError(
                f"{weights.name} is frozen (requires_grad is False): deselect it, or pass frozen='skip'"
            )
    return chosen, skipped


def _check_finite(chosen: list[WeightMatrices]) -> None:
    """Raise ValueError naming the first weight that is not finite; waits for every device once."""
    on_device: dict[torch.device, list[Tensor]] = defaultdict(list)
    for weights in chosen:
        on_device[weights.parameter.device].append(weights.parameter.isfinite().all())
    if all([torch.stack(are_finite).all() for are_finite in on_device.values()]):
        return
    for weights in chosen:
        if not weights.parameter.isfinite().all():
            raise ValueError(f"{weights.name} contains NaN or infinity: it cannot be projected")


def _alike(chosen: list[WeightMatrices]) -> list[list[WeightMatrices]]:
    """Weights of one dtype on one device."""
    groups: dict[object, list[WeightMatrices]] = defaultdict(list)
    for weights in chosen:
        groups[weights.parameter.dtype, weights.parameter.device].append(weights)
    return list(groups.values())


def _isometry(w: Tensor, scale: float) -> Isometry:
    """Measure matrices (n, d_out, d_in) together."""
    each = measures.isometry_measures(w, scale)
    return Isometry(
        dfi_raw=float(each["dfi_raw"].sum()),
        dfi=float(each["dfi"].sum()),
        dfi_shape=float(each["dfi_shape"].sum()),
        sigma_max=float(each["sigma_max"].max()),
        sigma_min=float(each["sigma_min"].min()),
    )


def _now(weights: list[WeightMatrices]) -> float:
    """Seconds on the wall clock, after the devices have finished what was asked of them."""
    for device in {weight.parameter.device for weight in weights}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter()

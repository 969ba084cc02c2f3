"""Weights of different shapes are projected together where that saves more than it costs."""

from __future__ import annotations

import copy
import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from benchmarks.projection import CASES
from fire_rl import batches, fire_
from fire_rl.batches import EXTRA_OPERATIONS
from fire_rl.orthogonal import SOLVERS, finite_isometries

SIZES = st.integers(1, 9)
SHAPES = st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=1, max_size=6)


def padding(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Batch on the CPU as on a GPU from now on; returns the shapes of the batches."""
    found: list[tuple[int, ...]] = []

    def spy(w: Tensor, *options: Any) -> Tensor:
        found.append(tuple(w.shape))
        return finite_isometries(w, *options)

    monkeypatch.setattr(batches, "_launching_costs", lambda device: True)
    monkeypatch.setattr(batches, "finite_isometries", spy)
    return found


class Stacks(nn.Module):
    """Weights (members, out, in)."""

    def __init__(self, shapes: list[tuple[int, int, int]]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for i, shape in enumerate(shapes):
            layer = nn.Module()
            layer.weight = nn.Parameter(torch.randn(shape, generator=generator))
            self.add_module(str(i), layer)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from(["newton-schulz", "polar-express"]))
def test_padding_changes_nothing(shapes: list[tuple[int, int, int]], solver: SOLVERS) -> None:
    apart = Stacks(shapes)
    together = copy.deepcopy(apart)
    fire_(apart, solver=solver)
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = padding(monkeypatch)
        fire_(together, solver=solver)
    assert len(found) == 1  # such small ones all go into one
    for one, other in zip(apart.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)  # of entries up to 3


def test_exact_is_never_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It completes what is rank-deficient, as a padded matrix is."""
    found = padding(monkeypatch)
    fire_(Stacks([(1, 4, 3), (2, 3, 5), (1, 4, 3)]), solver="exact")
    assert sorted(found) == [(2, 3, 5), (2, 4, 3)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Nature CNN, 3 convolutions", [(89, 64, 64)]),
        ("Nature CNN, all 5 layers", [(1, 512, 3136), (90, 512, 64)]),
        ("SimBa actor", [(4, 512, 128)]),
        ("SimBa twin critics", [(4, 512, 70), (8, 2048, 512)]),
    ],
)
def test_batches_of_the_papers_networks(
    name: str, expected: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = padding(monkeypatch)
    fire_(CASES[name](), steps=1)
    assert sorted(found) == expected


@given(SHAPES)
def test_every_stack_is_in_one_batch_and_only_equal_shapes_share_one_for_free(
    shapes: list[tuple[int, int, int]],
) -> None:
    for extra in (0.0, 1e3, math.inf):
        found = batches.batches(shapes, extra)
        assert sorted(i for batch in found for i in batch) == list(range(len(shapes)))
    assert len(found) == 1
    apart = batches.batches(shapes, 0.0)
    assert len(apart) == len({shape[1:] for shape in shapes})
    assert all(len({shapes[i][1:] for i in batch}) == 1 for batch in apart)


def test_a_batch_is_not_padded_where_that_costs_more_than_launches() -> None:
    assert batches.batches([(1, 512, 3136), (64, 32, 4)], EXTRA_OPERATIONS) == [[0], [1]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_projects_as_a_cpu_does(name: str) -> None:
    here = CASES[name]()
    there = copy.deepcopy(here).to("cuda")
    fire_(here)
    fire_(there)
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(one, other.cpu(), atol=1e-5, rtol=0)

"""Invariants of the methods that recycle hidden units: redo, regrama, continual backprop, SNR."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fire_rl.agents.learner import NO_METHOD, Learner
from fire_rl.agents.networks import mlp
from fire_rl.method import ResetMethod, make_method
from fire_rl.units import HiddenLayer, hidden_layers

ROWS = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))


def learner_of(method: ResetMethod | None = None, hidden: tuple[int, ...] = (12, 10)) -> Learner:
    """A small MLP with a regression loss on fixed rows."""
    learner = Learner(
        "q",
        mlp(5, 3, hidden),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        torch.Generator().manual_seed(1),
        torch.device("cpu"),
        with_target=True,
        method=NO_METHOD if method is None else method,
    )
    learner.lend(lambda rows, rng: (ROWS,), lambda rows, rng: loss_of(learner))
    return learner


def loss_of(learner: Learner) -> Tensor:
    y: Tensor = (learner.online(ROWS) - ROWS[:, :3]).square().mean()
    return y


def kill(learner: Learner, layer: HiddenLayer, units: list[int]) -> None:
    """Give units a bias so low that they never fire."""
    with torch.no_grad():
        learner.online.get_parameter(f"{layer.name}.bias")[units] = -1e3


def reset(method: ResetMethod, learner: Learner) -> None:
    method.reset(learner, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["redo", "regrama"])
def test_dead_units_and_only_they_are_recycled_without_a_change_of_output(name: str) -> None:
    method = make_method(name, tau=0.0)
    learner = learner_of()
    first, second = hidden_layers(learner.online)
    kill(learner, first, [2, 7])
    kill(learner, second, [0])
    before = {k: p.detach().clone() for k, p in learner.online.named_parameters()}
    output = learner.online(ROWS).detach()
    reset(method, learner)
    torch.testing.assert_close(learner.online(ROWS), output, atol=1e-6, rtol=0)
    now = dict(learner.online.named_parameters())
    for layer, dead in ((first, [2, 7]), (second, [0])):
        # A row of the second layer also changes where it reads a recycled unit of the first.
        columns = [2, 7] if layer is second else []
        kept = [i for i in range(before[f"{layer.name}.weight"].shape[1]) if i not in columns]
        rows = (now[f"{layer.name}.weight"] != before[f"{layer.name}.weight"])[:, kept].any(1)
        assert rows.nonzero().flatten().tolist() == dead
        assert not now[f"{layer.name}.bias"][dead].any()
        assert not now[f"{layer.readers[0]}.weight"][:, dead].any()


def test_redo_counts_units_at_the_threshold_and_survives_a_dead_layer() -> None:
    method: Any = make_method("redo")
    learner = learner_of()
    layers = hidden_layers(learner.online)
    seen = torch.relu(learner.online.get_submodule("encoder.0")(ROWS)).detach().double().abs().mean(0)
    scores = method.scores(learner, layers, torch.Generator())
    torch.testing.assert_close(scores["encoder.0"][0], seen / (seen.mean() + 1e-9), atol=1e-6, rtol=1e-5)
    tau = float(scores["encoder.0"].min())
    before = learner.online.get_parameter("encoder.0.weight").detach().clone()
    reset(make_method("redo", tau=tau), learner)
    changed = (learner.online.get_parameter("encoder.0.weight") != before).any(1)
    assert changed[int(scores["encoder.0"].argmin())], "a score of exactly tau is dormant"
    kill(learner, layers[0], list(range(12)))
    reset(make_method("redo", tau=0.0), learner)
    assert torch.isfinite(learner.online(ROWS)).all()
    assert (learner.online.get_parameter("encoder.0.bias") == 0).all(), "all of a dead layer is recycled"


@pytest.mark.parametrize("gradient", ["units", "weights"])
def test_gradient_scores_do_not_depend_on_the_scale_of_the_loss(gradient: str) -> None:
    method: Any = make_method("regrama", gradient=gradient)
    learner = learner_of()
    layers = hidden_layers(learner.online)
    kill(learner, layers[0], [4])
    scores = method.scores(learner, layers, torch.Generator())
    learner.lend(lambda rows, rng: (ROWS,), lambda rows, rng: 1e3 * loss_of(learner))
    scaled = method.scores(learner, layers, torch.Generator())
    for name in scores:
        torch.testing.assert_close(scores[name], scaled[name], rtol=1e-4, atol=1e-6)
    if gradient == "weights":
        assert scores["encoder.0"][0, 4] == 0
    h = torch.relu(learner.online.get_submodule("encoder.0")(ROWS)).detach().requires_grad_()
    rest = torch.nn.Sequential(*list(learner.online.get_submodule("encoder").children())[2:])
    loss = (learner.online.get_submodule("head")(rest(h)) - ROWS[:, :3]).square().mean()
    g = torch.autograd.grad(loss, h)[0].double().abs().mean(0)
    if gradient == "units":
        torch.testing.assert_close(scores["encoder.0"][0], g / g.mean(), rtol=1e-4, atol=1e-6)


def learn(learner: Learner, updates: int) -> None:
    for _ in range(updates):
        learner.descend(loss_of(learner))


def test_continual_backprop_replaces_at_its_rate_and_never_the_young() -> None:
    method: Any = make_method("continual-backprop", rate=0.01, maturity=20, decay=0.9)
    learner = learner_of(method)
    learn(learner, 20)
    assert method.replaced["q"] == 0, "nothing is mature yet"
    births: dict[str, list[Tensor]] = {"encoder.0": [], "encoder.2": []}
    for _ in range(400):
        learn(learner, 1)
        for name, history in births.items():
            history.append(method._units["q"][name].born.clone())
    for history in births.values():
        for before, now in itertools.pairwise(history):
            replaced = now != before
            assert ((now - before)[replaced] > 20).all(), "a unit was replaced before its maturity"
            assert not method._units["q"]["encoder.0"].utility.isnan().any()
    # 12 + 10 units at 1% per update, less those that are young: between 21/22 and 22/22 of 0.22 · 400.
    assert 400 * 0.22 * 0.7 <= method.replaced["q"] <= 400 * 0.22


def test_continual_backprop_replaces_the_least_useful_unit() -> None:
    method: Any = make_method("continual-backprop", rate=0.1, maturity=3, decay=0.5)
    learner = learner_of(method)
    layer = hidden_layers(learner.online)[0]
    kill(learner, layer, [5])
    learn(learner, 4)
    assert method._units["q"]["encoder.0"].born[0].nonzero().flatten().tolist() == [5]


def test_bias_transfer_keeps_the_mean_input_of_the_next_layer() -> None:
    method: Any = make_method("continual-backprop", bias_transfer=True, decay=0.0, maturity=1, rate=0.0)
    learner = learner_of(method)
    learn(learner, 3)
    layer = hidden_layers(learner.online)[0]
    units = method._units["q"][layer.name]
    h = torch.relu(learner.online.get_submodule("encoder.0")(ROWS)).detach()
    units.mean.copy_(h.mean(0)[None, None])
    head_in = learner.online.get_submodule("encoder.2")
    before = head_in(h).mean(0)
    with torch.no_grad():
        method._replace(learner, layer, units, 4)
        h = torch.relu(learner.online.get_submodule("encoder.0")(ROWS))
    torch.testing.assert_close(head_in(h).mean(0), before, atol=1e-5, rtol=1e-5)


def test_snr_resets_a_dead_unit_after_its_threshold_and_no_other() -> None:
    batch, start = len(ROWS), 300
    method: Any = make_method("self-normalized-resets", start=start, longest=600, period=10_000)
    learner = learner_of(method)
    kill(learner, hidden_layers(learner.online)[0], [3])
    before = learner.online.get_parameter("encoder.0.bias").detach()[3].clone()
    assert before == -1e3
    due = math.ceil(start / batch)
    for update in range(1, due + 1):
        learn(learner, 1)
        is_reset = bool(learner.online.get_parameter("encoder.0.bias")[3] > -1)
        assert is_reset == (update == due)
    fired = torch.relu(learner.online.get_submodule("encoder.0")(ROWS)).any(0)
    assert method.recycled["q"] <= 1 + int((~fired).sum()) + 10
    learn(learner, 20)
    assert torch.isfinite(learner.online(ROWS)).all()


def test_snr_thresholds_shrink_to_the_percentile_or_grow() -> None:
    method: Any = make_method("self-normalized-resets", start=640, longest=6400, percentile=0.9)
    learner = learner_of(method)
    learn(learner, 1)
    units = method._units["q"]["encoder.0"]
    assert units.threshold.unique().tolist() == [10]
    units.histogram.zero_()
    units.histogram[0, 0, 1:11] = 1  # ten intervals of 1 … 10 updates: the 90th percentile is 9
    units.histogram[0, 1, 0] = 50  # fires always: bin 0 does not count, and nothing is known
    units.histogram[0, 2, 40] = 5  # silences longer than the threshold
    method._adapt(units)
    assert units.threshold[0, :3].tolist() == [9, 20, 20]
    assert not units.histogram.any()
    for _ in range(10):
        method._adapt(units)
    assert units.threshold.max() == 100, "never longer than the longest, 6400 / 64"


@pytest.mark.parametrize("name", ["redo", "continual-backprop", "self-normalized-resets"])
def test_a_network_without_hidden_units_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"no hidden units to recycle \(head\.0: its outputs are those"):
        learner_of(make_method(name), hidden=())

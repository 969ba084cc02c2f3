"""Which unit feeds which, and what recycling does to exactly them."""

import pytest
import torch
from torch import Tensor, nn

from fire_rl.layers import CReLU, EnsembleLayerNorm
from fire_rl.units import hidden_layers, output_layers, recycle
from tests.agents_for_tests import make_agent


class Net(nn.Module):
    """Encoder and head, as learners have them."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.encoder(x))
        return y


def conv_net(seed: int, crelu: bool = False) -> Net:
    """conv (3 channels) → conv (4) → flatten (4 · 2 · 3) → linear (5) → linear (2), on (1, 4, 5) images."""
    torch.manual_seed(seed)
    k, act = (2, CReLU) if crelu else (1, nn.ReLU)
    encoder = nn.Sequential(
        nn.Conv2d(1, 3, 2), act(), nn.Conv2d(3 * k, 4, 2), act(), nn.Flatten(), nn.Linear(4 * k * 6, 5), act()
    )
    return Net(encoder, nn.Linear(5 * k, 2))


IMAGES = torch.randn(7, 1, 4, 5, generator=torch.Generator().manual_seed(0))


def mask(layer_units: int, chosen: list[int], members: int = 1) -> Tensor:
    units = torch.zeros(members, layer_units, dtype=torch.bool)
    units[:, chosen] = True
    return units


def ablated(net: nn.Module, activation: str, units: Tensor, *inputs: Tensor) -> Tensor:
    """Output of `net` with the outputs of some units forced to zero, both copies of a CReLU."""

    def silence(_m: nn.Module, _i: tuple[Tensor, ...], h: Tensor) -> Tensor:
        axis = 1 if h.ndim == 4 else -1
        copies = h.shape[axis] // units.shape[-1]
        live = (~units).to(h.dtype).repeat(1, copies)  # (E, copies · units)
        if h.ndim == 4:
            return h * live[0][None, :, None, None]
        return h * (live[:, None, :] if h.ndim == 3 else live[0])

    handle = net.get_submodule(activation).register_forward_hook(silence)
    with torch.no_grad():
        y: Tensor = net(*inputs)
    handle.remove()
    return y


@pytest.mark.parametrize("crelu", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_recycled_network_is_the_ablated_one(index: int, crelu: bool) -> None:
    """Outgoing zero: the new incoming weights cannot be seen, so the output is that without the units."""
    net, twin = conv_net(1, crelu), conv_net(2, crelu)
    layer = hidden_layers(net)[index]
    units = mask(layer.units, [1, 2])
    expected = ablated(net, layer.activation, units, IMAGES)
    assert not torch.allclose(expected, net(IMAGES), atol=1e-3)
    recycle(net, layer, units, twin)
    torch.testing.assert_close(net(IMAGES), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["dqn", "dqn-pixels", "sac"])
def test_ablation_equality_in_our_networks(kind: str) -> None:
    for learner in make_agent(kind).learners.values():
        generator = torch.Generator().manual_seed(5)
        rows = {"dqn": (6, 5), "dqn-pixels": (2, 4, 84, 84), "sac": (6, 5)}[kind]
        observation = torch.rand(rows, generator=generator)
        if kind == "dqn-pixels":
            observation = (255 * observation).to(torch.uint8)
        inputs: tuple[Tensor, ...] = (observation,)
        inputs += (torch.rand((6, 2), generator=generator),) if learner.name == "critic" else ()
        for layer in hidden_layers(learner.online):
            units = torch.rand((layer.members, layer.units), generator=generator) < 0.3
            expected = ablated(learner.online, layer.activation, units, *inputs)
            recycle(learner.online, layer, units, learner.fresh(generator))
            torch.testing.assert_close(learner.online(*inputs), expected, atol=1e-5, rtol=1e-5)


def test_channels_are_blocks_of_columns_behind_a_flatten() -> None:
    """Channel c of the convolution is the columns [c · HW, (c + 1) · HW) of the linear layer, HW = 6."""
    net, twin = conv_net(1), conv_net(2)
    layer = hidden_layers(net)[1]
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    recycle(net, layer, mask(4, [2]), twin)
    after, fresh = dict(net.named_parameters()), dict(twin.named_parameters())
    columns = torch.zeros(24, dtype=torch.bool)
    columns[12:18] = True
    assert not after["encoder.5.weight"][:, columns].any()
    assert torch.equal(after["encoder.5.weight"][:, ~columns], before["encoder.5.weight"][:, ~columns])
    for part in ("weight", "bias"):
        name = f"encoder.2.{part}"
        assert torch.equal(after[name][2], fresh[name][2])
        assert torch.equal(after[name][[0, 1, 3]], before[name][[0, 1, 3]])
    untouched = set(before) - {"encoder.2.weight", "encoder.2.bias", "encoder.5.weight"}
    assert all(torch.equal(after[name], before[name]) for name in untouched)


@pytest.mark.parametrize("step", ["keep", "zero"])
def test_exactly_the_moments_of_these_entries_are_cleared(step: str) -> None:
    net, twin = conv_net(1), conv_net(2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        net(IMAGES).square().sum().backward()
        optimizer.step()
    old = {name: {k: v.clone() for k, v in optimizer.state[p].items()} for name, p in net.named_parameters()}
    recycle(net, hidden_layers(net)[1], mask(4, [2]), twin, optimizer, step)  # type: ignore[arg-type]
    for name, p in net.named_parameters():
        cleared = torch.zeros_like(p, dtype=torch.bool)
        if name.startswith("encoder.2."):
            cleared[2] = True
        elif name == "encoder.5.weight":
            cleared[:, 12:18] = True
        for key in ("exp_avg", "exp_avg_sq"):
            expected = torch.where(cleared, 0.0, old[name][key])
            assert torch.equal(optimizer.state[p][key], expected), name
        is_zeroed = step == "zero" and bool(cleared.any())
        assert optimizer.state[p]["step"] == (0 if is_zeroed else 3)


def test_norms_on_the_way_start_over_for_these_units() -> None:
    torch.manual_seed(0)
    nets = [
        Net(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU()), nn.Linear(4, 2)) for _ in range(2)
    ]
    with torch.no_grad():
        for p in nets[0].encoder[1].parameters():  # type: ignore[index]
            p.fill_(7.0)
    (layer,) = hidden_layers(nets[0])
    recycle(nets[0], layer, mask(4, [0, 3]), nets[1])
    norm = nets[0].get_submodule("encoder.1")
    assert norm.get_parameter("weight").tolist() == [1.0, 7.0, 7.0, 1.0]
    assert norm.get_parameter("bias").tolist() == [0.0, 7.0, 7.0, 0.0]


def test_members_of_an_ensemble_are_recycled_apart() -> None:
    learner = make_agent("sac").critic
    (layer,) = hidden_layers(learner.online)
    units = torch.zeros(layer.members, layer.units, dtype=torch.bool)
    units[1, 5] = True
    before = {name: p.detach().clone() for name, p in learner.online.named_parameters()}
    recycle(learner.online, layer, units, learner.fresh(torch.Generator().manual_seed(3)))
    changed = {
        name: (p != before[name]).nonzero()[:, :2].unique(dim=0).tolist()
        for name, p in learner.online.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert changed.keys() == {"encoder.block0.up.weight", "encoder.block0.down.weight"}
    assert changed["encoder.block0.up.weight"] == [[1, 5]]
    down = learner.online.get_parameter("encoder.block0.down.weight")
    assert not down[1, :, 5].any() and torch.equal(down[0], before["encoder.block0.down.weight"][0])


def test_residual_streams_and_outputs_have_no_units_to_recycle() -> None:
    learners = make_agent("sac").learners
    for name, width in (("actor", 64), ("critic", 128)):
        (layer,) = hidden_layers(learners[name].online)
        assert (layer.name, layer.units) == ("encoder.block0.up", width)
    assert output_layers(learners["actor"].online) == {"head.mean", "head.log_std"}
    assert output_layers(learners["critic"].online) == {"head"}


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 4)), "0: no activation stands between it and head"),
        (nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)), "what encoder.1 .Softmax. does to its units"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh()), "encoder.2 is a second activation"),
    ],
)
def test_a_network_without_hidden_units_says_which_layer_and_why(encoder: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        hidden_layers(Net(encoder, nn.Linear(4, 2)))


def test_crelu_keeps_the_norm_of_its_input() -> None:
    for shape, axis in (((5, 7), -1), ((2, 5, 7), -1), ((2, 3, 4, 4), 1)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        y = CReLU()(x)
        assert y.shape[axis] == 2 * x.shape[axis]
        torch.testing.assert_close(y.norm(dim=axis), x.norm(dim=axis))
    assert not CReLU()(torch.zeros(2, 3)).any()


def test_stacked_layer_norm_is_a_layer_norm_per_member() -> None:
    x = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.layer_norm(x, (5,), eps=1e-6)
    torch.testing.assert_close(EnsembleLayerNorm(2, 5)(x), expected)

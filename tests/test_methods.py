"""What each method does to the numbers, and the paper's tables row by row."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fire_rl
from fire_rl.launch.config import default_config
from fire_rl.method import ResetMethod, make_method, method_class, method_names, register
from fire_rl.methods.full_reset import FullReset
from tests.agents_for_tests import experience, make_agent

Weights = dict[str, Tensor]


def dqn() -> Any:
    """Nature DQN, trained a little, with a target that differs from the online network."""
    agent = make_agent("dqn-pixels")
    experience(agent, 20, np.random.default_rng(1))
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for p in agent.q.target.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=generator))
    return agent


def fire(agent: Any, method: ResetMethod) -> tuple[Weights, Weights, Weights, Weights, Weights]:
    """θ₀, online and target before, online and target after the reset."""
    q = agent.q
    initial = {k: v.clone() for k, v in q.initial.items()}
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (q.online, q.target)]
    agent.reset(method, torch.Generator().manual_seed(0), agent.sample(16, np.random.default_rng(0)))
    after = [dict(m.state_dict()) for m in (q.online, q.target)]
    return initial, before[0], before[1], after[0], after[1]


def paper(name: str) -> ResetMethod:
    return default_config("dqn", "atari/Asterix", name, "paper").method


def newton_schulz(w: Tensor) -> Tensor:
    """A conv kernel projected position by position: the paper's algorithm, straight and in float64."""
    out = torch.empty_like(w, dtype=torch.float64)
    o, i, kh, kw = w.shape
    for a in range(kh):
        for b in range(kw):
            x = w[:, :, a, b].double()
            x = x / x.norm()
            for _ in range(10):
                x = 1.5 * x - 0.5 * x @ x.T @ x
            out[:, :, a, b] = (o / i) ** 0.5 / (kh * kw) * x
    return out.float()


CONV = ("encoder.1", "encoder.3", "encoder.5")
LINEAR = ("head.0", "head.2")


def test_table_1_3_fire() -> None:
    theta0, online, target, new, new_target = fire(dqn(), paper("fire"))
    for layer in CONV:
        projected = newton_schulz(online[f"{layer}.weight"])
        torch.testing.assert_close(new[f"{layer}.weight"], projected, atol=1e-5, rtol=1e-4)
        assert torch.equal(new[f"{layer}.bias"], online[f"{layer}.bias"])
        assert torch.equal(new_target[f"{layer}.weight"], new[f"{layer}.weight"])
        assert torch.equal(new_target[f"{layer}.bias"], target[f"{layer}.bias"])
    for layer in LINEAR:
        for part in ("weight", "bias"):
            assert torch.equal(new[f"{layer}.{part}"], theta0[f"{layer}.{part}"])
            assert torch.equal(new_target[f"{layer}.{part}"], theta0[f"{layer}.{part}"])


def test_table_1_3_full_reset() -> None:
    theta0, _, _, new, new_target = fire(dqn(), paper("full-reset"))
    assert all(torch.equal(new[k], v) and torch.equal(new_target[k], v) for k, v in theta0.items())


@pytest.mark.parametrize("name", ["sr-dqn", "shrink-perturb"])
def test_table_1_3_sr_dqn(name: str) -> None:
    """Each network is interpolated from its own values; SR-DQN rewinds the linear layers."""
    theta0, online, target, new, new_target = fire(dqn(), paper(name))
    for old, now in ((online, new), (target, new_target)):
        for key, value in old.items():
            keep = 0.0 if name == "sr-dqn" and key.startswith("head.") else 0.2
            assert torch.equal(now[key], keep * value + (1.0 - keep) * theta0[key])


def test_table_1_3_plasticity_injection() -> None:
    agent = dqn()
    observation = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8)
    outputs = [m(observation).detach() for m in (agent.q.online, agent.q.target)]
    theta0, online, target, new, new_target = fire(agent, paper("plasticity-injection"))
    for old, now, module, output in (
        (online, new, agent.q.online, outputs[0]),
        (target, new_target, agent.q.target, outputs[1]),
    ):
        for key, value in old.items():
            if key.startswith("encoder."):
                assert torch.equal(now[key], value)
            else:
                rest = key.removeprefix("head.")
                assert torch.equal(now[key], theta0[key])
                assert torch.equal(now[f"injected.0.0.{rest}"], value)
                assert torch.equal(now[f"injected.0.1.{rest}"], theta0[key])
                assert now[f"injected.0.1.{rest}"].data_ptr() != now[key].data_ptr()
        assert torch.equal(module(observation), output), "an injection must not change the output at all"


def test_only_encoder_and_trainable_head_learn_after_an_injection() -> None:
    agent = dqn()
    agent.reset(paper("plasticity-injection"), torch.Generator(), agent.sample(16, np.random.default_rng(0)))
    before = copy.deepcopy(agent.q.online.state_dict())
    experience(agent, 2, np.random.default_rng(2))
    for key, value in agent.q.online.state_dict().items():
        changed = not torch.equal(value, before[key])
        assert changed != key.startswith("injected."), key


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("fire", "keep"),
        ("full-reset", "keep"),
        ("sr-dqn", "keep"),
        ("shrink-perturb", "keep"),
        ("plasticity-injection", "recreate"),
        ("none", "keep"),
    ],
)
def test_table_1_3_adam(name: str, policy: str) -> None:
    assert paper(name).optimizer == policy


def test_harmonised_gives_every_method_one_side_state_policy() -> None:
    for agent in ("dqn",):
        for name in set(method_names()) - {"plasticity-injection"}:
            if not method_class(name).default_schedule:
                continue  # it does not fire
            method = default_config(agent, "control/CartPole-v1", name, "harmonised").method
            assert (method.optimizer, method.target, method.temperature) == ("recreate", "copy", "init"), name


def test_a_recreated_optimiser_steps_like_a_new_one() -> None:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(2)]
    old, new = (torch.optim.Adam([p], lr=0.1, fused=True) for p in parameters)
    for _ in range(3):
        parameters[0].grad = torch.randn(4, 3)
        old.step()
    with torch.no_grad():
        parameters[1].copy_(parameters[0])
    fire_rl.method.reset_optimizer(old, "recreate")
    for _ in range(3):
        gradient = torch.randn(4, 3)
        for p, optimizer in zip(parameters, (old, new), strict=True):
            p.grad = gradient.clone()
            optimizer.step()
        assert torch.equal(*parameters)


def test_clear_keeps_the_step_count() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    fire_rl.method.reset_optimizer(optimizer, "clear")
    state = optimizer.state[parameter]
    assert state["step"] == 1 and not state["exp_avg"].any() and not state["exp_avg_sq"].any()


@pytest.mark.parametrize("scope", ["all", "head", "encoder"])
def test_full_reset_draws_afresh_in_its_scope(scope: Any) -> None:
    agent = dqn()
    theta0, online, _, new, _ = fire(agent, FullReset(draw="fresh", scope=scope))
    for key, value in new.items():
        if scope in ("all", key.split(".")[0]):
            if key.endswith("weight"):
                assert not torch.equal(value, theta0[key])
                assert value.std() == pytest.approx(float(theta0[key].std()), rel=0.2)
            else:
                assert not value.any()
        else:
            assert torch.equal(value, online[key])


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_shrink_perturb_at_its_ends(keep: float) -> None:
    theta0, online, _, new, _ = fire(dqn(), make_method("shrink-perturb", keep=keep))
    reference = online if keep == 1.0 else theta0
    assert all(torch.equal(new[k], v) for k, v in reference.items())


def test_injections_add_up() -> None:
    agent = dqn()
    observation = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8)
    for _ in range(3):
        experience(agent, 2, np.random.default_rng(2))
        output = agent.q.online(observation).detach()
        agent.reset(
            paper("plasticity-injection"), torch.Generator(), agent.sample(16, np.random.default_rng(0))
        )
        assert torch.equal(agent.q.online(observation), output)
    assert len(agent.q.online.injected) == 3


def test_unknown_names_and_options() -> None:
    with pytest.raises(ValueError, match="did you mean fire"):
        make_method("fier")
    with pytest.raises(ValueError, match="has no option 'kep'"):
        make_method("shrink-perturb", kep=0.3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_method("shrink-perturb", keep=1.2)
    with pytest.raises(ValueError, match="target must be same"):
        make_method("plasticity-injection", target="keep")


def test_one_name_two_methods_is_refused() -> None:
    with pytest.raises(ValueError, match="two reset methods are called 'fire'"):

        @register("fire")
        class Impostor(ResetMethod):
            pass


def test_injection_into_a_network_without_a_place_for_it() -> None:
    agent = dqn()
    del agent.q.online.injected
    with pytest.raises(ValueError, match="children `head` and `injected`"):
        paper("plasticity-injection").reset(agent.q, torch.Generator())


def test_every_method_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    assert [name for name in method_names() if f"| `{name}` |" not in text] == []

"""SAC: its update against NumPy in float64, its constants, exact resume, bad input."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from fire_rl.agents.replay import Batch
from fire_rl.agents.sac import PAPER, SAC, SACConfig, discount
from fire_rl.agents.sac_update import td_target
from fire_rl.method import make_method
from tests.sac_for_tests import (
    ACT,
    CPU,
    MLP,
    OBS,
    SMALL,
    assert_same_agent,
    assert_same_state,
    box,
    live,
    make,
    plain,
    probe_batch,
    trained,
    weights,
)
from tests.sac_in_numpy import AdamW, actor_gradient, critic, critic_gradient, f64, policy


def random_batch(rng: np.random.Generator, size: int = 32) -> Batch:
    def floats(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    terminated = torch.from_numpy((rng.random(size) < 0.3).astype(np.float32))
    return Batch(floats(size, OBS), floats(size, ACT).tanh(), floats(size), floats(size, OBS), terminated)


def test_updates_equal_numpy_in_float64() -> None:
    """Three updates: losses, targets, all gradients, AdamW, temperature and target network."""
    config = replace(
        MLP, learning_rate=1e-2, temperature_learning_rate=1e-2, weight_decay=0.1, temperature_init=0.3
    )
    agent = make(config)
    rng = np.random.default_rng(0)
    with torch.no_grad():  # biases and target of their own, so that nothing cancels
        for module in (agent.actor.online, agent.critic.online, agent.critic.target):
            assert module is not None
            for parameter in module.parameters():
                parameter.add_(torch.from_numpy(0.3 * rng.normal(size=parameter.shape)).float())
    a, c = f64(weights(agent.actor.online)), f64(weights(agent.critic.online))
    t, log_alpha = f64(weights(agent.critic.target)), {"": np.float64(math.log(0.3))}
    actor_adam, critic_adam, temperature_adam = AdamW(1e-2, 0.1), AdamW(1e-2, 0.1), AdamW(1e-2, 0.0)
    learn = agent.functions([agent], agent.learners, "off").learn
    for _ in range(3):
        batch = random_batch(rng)
        noise = torch.from_numpy(rng.normal(size=(2, 32, ACT)).astype(np.float32))
        metrics = learn(batch, noise)

        s, action, reward, after, terminated = (tensor.double().numpy() for tensor in batch)
        n1, n2 = noise.double().numpy()
        alpha = np.exp(log_alpha[""])
        p = policy(a, s, n1)
        actor_loss = (alpha * p["log_prob"] - critic(c, s, p["a"])[2].min(0)).mean()
        entropy = -p["log_prob"].mean()
        a = actor_adam.step(a, actor_gradient(a, c, alpha, s, n1))
        log_alpha = temperature_adam.step(log_alpha, {"": alpha * (entropy + 0.5 * ACT)})
        alpha = np.exp(log_alpha[""])
        p = policy(a, after, n2)
        value = critic(t, after, p["a"])[2].min(0) - alpha * p["log_prob"]
        goal = reward + 0.99 * (1.0 - terminated) * value
        q = critic(c, s, action)[2]
        critic_loss = ((q - goal) ** 2).mean(1).sum()
        c = critic_adam.step(c, critic_gradient(c, s, action, goal))
        t = {name: 0.995 * t[name] + 0.005 * c[name] for name in t}

        expected = {"actor_loss": actor_loss, "critic_loss": critic_loss, "q_mean": q.mean()}
        expected |= {"entropy": entropy, "temperature": alpha}
        assert set(metrics) == set(expected)
        for name, number in expected.items():
            assert float(metrics[name]) == pytest.approx(number, rel=1e-5, abs=1e-5), name
        assert float(agent.temperature.log_alpha.detach()) == pytest.approx(float(log_alpha[""]), abs=1e-5)
    for module, tensors in ((agent.actor.online, a), (agent.critic.online, c), (agent.critic.target, t)):
        assert module is not None
        for name, parameter in module.named_parameters():
            np.testing.assert_allclose(parameter.detach(), tensors[name], rtol=0, atol=1e-5, err_msg=name)


def test_td_target_ignores_the_future_only_where_the_task_ended() -> None:
    agent = make()
    batch = random_batch(np.random.default_rng(0))._replace(terminated=torch.ones(32))
    alpha, noise = torch.tensor(0.3), torch.zeros(32, ACT)
    target = agent.critic.target
    assert target is not None
    goal = td_target(agent.actor.online, target, alpha, batch, noise, agent.gamma)
    assert torch.equal(goal, batch.reward)
    alive = batch._replace(terminated=torch.zeros(32))
    assert (td_target(agent.actor.online, target, alpha, alive, noise, agent.gamma) != goal).all()


def test_update_is_a_function_of_state_batch_and_noise() -> None:
    one, two = trained(), trained()
    two.noise_rng.manual_seed(99)
    two.exploration_rng.random(10)
    batch, noise = random_batch(np.random.default_rng(5)), torch.zeros(2, 32, ACT)
    for agent in (one, two):
        agent.functions([agent], agent.learners, "off").learn(batch, noise)
    for name, learner in one.learners.items():
        for key, tensor in weights(learner.online).items():
            assert torch.equal(tensor, weights(two.learners[name].online)[key])


def test_constants_of_the_paper() -> None:
    agent = SAC(
        box(51, np.inf),
        box(19),
        1,
        replace(SACConfig(), replay_capacity=100),
        np.random.SeedSequence(0),
        CPU,
        500,
    )
    assert agent.gamma == 0.99
    assert agent.target_entropy == -9.5
    assert float(agent.temperature.log_alpha.detach().exp()) == pytest.approx(0.01)
    for learner in agent.learners.values():
        (group,) = learner.optimizer.param_groups
        assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-4, 1e-2, (0.9, 0.999))
        assert len(group["params"]) == len(list(learner.online.parameters()))
    (group,) = agent.temperature.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-4, 0)


@pytest.mark.parametrize(
    ("steps", "gamma"), [(500, 0.99), (200, 0.975), (50, 0.95), (1000, 0.995), (None, 0.995)]
)
def test_rule_of_gamma(steps: int | None, gamma: float) -> None:
    assert discount(steps) == pytest.approx(gamma, abs=1e-15)


def test_updates_begin_with_the_last_random_action() -> None:
    """The reference has made 490,002 updates after 250,000 agent steps (spec of the checkpoint)."""
    agent = make(SACConfig(replay_capacity=100), num_envs=1)
    agent.agent_steps = 4_999
    assert agent.updates_due() == 0
    agent.agent_steps = 250_000
    assert agent.updates_due() == 490_002


def test_random_phase_is_uniform_and_counts_for_the_normaliser() -> None:
    agent = make(replace(SMALL, learning_starts=10_000))
    actions = np.concatenate([agent.act(np.full((2, OBS), 3.0)) for _ in range(1_000)])
    assert actions.dtype == np.float32
    assert actions.min() < -0.99 and actions.max() > 0.99 and abs(actions.mean()) < 0.05
    assert actions.std() == pytest.approx(1 / math.sqrt(3), abs=0.02)
    np.testing.assert_allclose(agent.normalizer.mean, 3.0, atol=1e-4)


def test_evaluation_is_deterministic_and_changes_nothing() -> None:
    agent = trained()
    before = copy.deepcopy(plain(agent.state_dict()))
    observation = np.random.default_rng(0).normal(size=(7, OBS))
    first = agent.evaluate(observation, np.random.default_rng(1))
    assert first.shape == (7, ACT)
    np.testing.assert_array_equal(first, agent.evaluate(observation, np.random.default_rng(2)))
    assert_same_state(before, plain(agent.state_dict()))
    output = agent.actor.online(agent.normalizer.normalize(torch.from_numpy(observation)))
    np.testing.assert_allclose(first, np.tanh(output[:, :ACT].detach().double().numpy()), atol=1e-6)


def test_batches_are_normalised_and_the_memory_is_raw() -> None:
    agent = trained()
    raw = agent.memory.sample(50, np.random.default_rng(1))
    batch = agent.sample(50, np.random.default_rng(1))
    for field in ("observation", "next_observation"):
        assert torch.equal(getattr(batch, field), agent.normalizer.normalize(getattr(raw, field)))
    assert torch.equal(batch.reward, raw.reward)


@pytest.mark.parametrize("method", ["none", "fire", "plasticity-injection"])
def test_resume_is_exact(method: str) -> None:
    original = trained()
    original.reset(make_method(method), torch.Generator().manual_seed(1), probe_batch(original))
    live(original, 10, seed=5)
    resumed = make(seed=77)
    resumed.load_state_dict(copy.deepcopy(original.state_dict()))
    for agent in (original, resumed):
        live(agent, 20, seed=6)
    assert original.updates == resumed.updates > 100
    assert_same_agent(original, resumed)


def test_same_seed_same_run_and_other_seed_another() -> None:
    assert_same_agent(trained(seed=1), trained(seed=1))
    one, two = trained(seed=1), trained(seed=2)
    assert not torch.equal(one.actor.initial["head.mean.weight"], two.actor.initial["head.mean.weight"])


def test_global_generators_are_untouched() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - what is tested
    agent = trained()
    for method in PAPER:
        agent.reset(make_method(method, **PAPER[method]), torch.Generator(), probe_batch(agent))
    live(agent, 5)
    assert torch.equal(torch_before, torch.get_rng_state())
    for one, two in zip(numpy_before, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ((box(3), gym.spaces.Discrete(4)), "--agent dqn"),
        ((box(3), box(2, bound=2.0)), "RescaleAction"),
        ((gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), box(2)), "vector of floats"),
    ],
)
def test_wrong_spaces(spaces: tuple[gym.Space[Any], gym.Space[Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAC(*spaces, 1, SMALL, np.random.SeedSequence(0), CPU)


WRONG: dict[str, list[Any]] = {
    "tau": [0.0, 1.5],
    "gamma": [-0.1, 1.1],
    "hidden": [(), (0,)],
    "batch_size": [0],
    "learning_rate": [-1.0, math.nan],
    "weight_decay": [-1e-9],
    "temperature_init": [0.0],
    "learning_starts": [-1],
    "actor_blocks": [0],
}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_wrong_constants(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"agent.{option.replace('_', '-')}"):
        SACConfig(**{option: value})

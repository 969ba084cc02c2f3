"""DQN against its definition."""

import numpy as np
import pytest
import torch

from fire_rl.agents.dqn import DQN, DQNConfig
from fire_rl.agents.networks import nature_cnn
from tests.agents_for_tests import CPU, SPACES, experience, make_agent


def test_loss_is_the_huber_loss_of_the_one_step_error() -> None:
    agent = make_agent("dqn")
    experience(agent, 40, np.random.default_rng(0))
    for clip in (True, False):
        agent.config = DQNConfig(clip_rewards=clip)
        batch = agent.sample(64, np.random.default_rng(1))
        online = agent.q.online(batch.observation).detach().double().numpy()
        following = agent.q.target(batch.next_observation).double().numpy()
        reward, terminated = batch.reward.double().numpy(), batch.terminated.double().numpy()
        assert 0 < terminated.sum() < 64
        goal = (np.sign(reward) if clip else reward) + 0.99 * (1 - terminated) * following.max(1)
        error = np.abs(online[np.arange(64), batch.action.numpy()] - goal)
        expected = np.where(error < 1, error**2 / 2, error - 0.5).mean()
        loss, _ = agent.loss(agent.q.online, agent.q.target, batch)
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_one_update_is_one_adam_step() -> None:
    agent = make_agent("dqn")
    experience(agent, 12, np.random.default_rng(0), learn=False)
    batch = agent.sample(16, np.random.default_rng(0))
    agent.replay_rng = np.random.default_rng(0)
    loss, _ = agent.loss(agent.q.online, agent.q.target, batch)
    gradients = torch.autograd.grad(loss, list(agent.q.online.parameters()))
    before = [p.detach().clone() for p in agent.q.online.parameters()]
    agent.update()
    lr, eps = agent.config.learning_rate, agent.config.adam_epsilon
    for p, old, g in zip(agent.q.online.parameters(), before, gradients, strict=True):
        # Adam's first step: both moments, bias-corrected, are the gradient and its square.
        torch.testing.assert_close(p.detach(), old - lr * g / (g.abs() + eps), atol=1e-7, rtol=1e-5)


def test_epsilon_falls_linearly_after_the_warm_up() -> None:
    agent = DQN(*SPACES["dqn"], 1, DQNConfig(replay_capacity=100), np.random.SeedSequence(0), CPU)
    for steps, epsilon in ((0, 1), (20_000, 1), (145_000, 0.505), (270_000, 0.01), (10**6, 0.01)):
        agent.agent_steps = steps
        assert agent.epsilon == pytest.approx(epsilon)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 2.0])
def test_replay_ratio_counts_from_the_warm_up(ratio: float) -> None:
    agent = make_agent("dqn")
    agent.config = DQNConfig(learning_starts=20, replay_ratio=ratio, batch_size=16)
    experience(agent, 60, np.random.default_rng(0))
    assert agent.agent_steps == 120
    assert agent.updates == ratio * 100


def test_target_is_copied_every_period_and_only_then() -> None:
    agent = make_agent("dqn")  # a period of 50 agent steps, two environments, updates from step 20 on
    rng = np.random.default_rng(0)
    same = []
    for _ in range(80):
        experience(agent, 1, rng)
        online, target = agent.q.online.state_dict(), agent.q.target.state_dict()
        if all(torch.equal(online[k], v) for k, v in target.items()) and agent.updates:
            same.append(agent.agent_steps)
    assert same == [50, 100, 150]


def test_every_environment_draws_its_own_coin() -> None:
    agent = make_agent("dqn")
    agent.agent_steps = 10**6
    agent.config = DQNConfig(epsilon_final=0.5, replay_capacity=100)
    observation = np.ones((2, 5), np.float32)
    greedy = int(agent.q.online(torch.from_numpy(observation)).argmax(1)[0])
    actions = np.array([agent.act(observation) for _ in range(2000)])
    explored = actions != greedy
    rate = 0.5 * 2 / 3  # two of three random actions are not the greedy one
    assert explored.mean(0) == pytest.approx([rate, rate], abs=0.05)
    assert (explored[:, 0] & explored[:, 1]).mean() == pytest.approx(rate**2, abs=0.04)


def test_evaluation_changes_nothing() -> None:
    agent = make_agent("dqn")
    before = repr(agent.state_dict())
    agent.evaluate(np.zeros((7, 5), np.float32), np.random.default_rng(0))
    assert repr(agent.state_dict()) == before


def test_nature_cnn_has_its_published_size() -> None:
    network = nature_cnn(4, 18)(torch.Generator())
    shapes = [tuple(p.shape) for n, p in network.named_parameters() if n.endswith("weight")]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (18, 512)]
    weight = dict(network.named_parameters())["head.0.weight"]
    bound = (6 / (3136 + 512)) ** 0.5
    assert float(weight.abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=1e-2)


def test_same_seed_same_network_on_no_global_generator() -> None:
    state = torch.get_rng_state()
    one, two, other = (make_agent("dqn-pixels", seed=s).q.online.state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["head.0.weight"], other["head.0.weight"])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "wrong", [{"replay_ratio": 0.0}, {"gamma": 1.5}, {"batch_size": -1}, {"learning_starts": -1}]
)
def test_impossible_constants_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"agent\."):
        DQNConfig(**wrong)  # type: ignore[arg-type]


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="--agent sac"):
        DQN(*SPACES["sac"], 1, DQNConfig(replay_capacity=100), np.random.SeedSequence(0), CPU)

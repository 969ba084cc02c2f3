"""SAC's losses and the order of an update: of one agent, or of a stack of agents at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fire_rl.agents.learner import LearnerLike, load_optimizer
from fire_rl.agents.program import Metrics
from fire_rl.agents.replay import Batch
from fire_rl.agents.simba import squashed_gaussian
from fire_rl.method import reset_optimizer

Network = Callable[..., Tensor]


def actor_loss(
    actor: Network, critic: Network, alpha: Tensor, batch: Batch, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """E[α log π(a|s) − min_i Q_i(s, a)], and the entropy −E[log π(a|s)] without gradient."""
    action, log_prob = squashed_gaussian(actor(batch.observation), noise)
    q = critic(batch.observation, action).amin(0)
    return (alpha * log_prob - q).mean(), -log_prob.detach().mean()


@torch.no_grad()
def td_target(
    actor: Network, target: Network, alpha: Tensor, batch: Batch, noise: Tensor, gamma: float
) -> Tensor:
    """r + γ (1 − terminated) (min_i Q_target,i(s′, a′) − α log π(a′|s′)), shape (B,)."""
    action, log_prob = squashed_gaussian(actor(batch.next_observation), noise)
    value: Tensor = target(batch.next_observation, action).amin(0) - alpha * log_prob
    return batch.reward + gamma * (1.0 - batch.terminated) * value


def critic_loss(critic: Network, goal: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Σ_i E[(Q_i(s, a) − goal)²], and the mean of the values without gradient."""
    q = critic(batch.observation, batch.action)
    return (q - goal).square().sum(0).mean(), q.detach().mean()


class Temperature:
    """The entropy coefficient α, learnt as its logarithm by an Adam of its own."""

    def __init__(self, initial: float, learning_rate: float, device: torch.device) -> None:
        self.initial = initial
        self.log_alpha = nn.Parameter(torch.tensor(math.log(initial), device=device))
        self.optimizer = torch.optim.Adam(
            [self.log_alpha], lr=learning_rate, fused=True, capturable=device.type == "cuda"
        )

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser on `loss`."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, inputs=[self.log_alpha])
        self.optimizer.step()

    def restart(self) -> None:
        """Back to where it began, optimiser included, in place."""
        with torch.no_grad():
            self.log_alpha.fill_(math.log(self.initial))
        reset_optimizer(self.optimizer, "recreate")

    def state_dict(self) -> dict[str, Any]:
        """The coefficient and its optimiser."""
        return {"log_alpha": self.log_alpha.detach(), "temperature_optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore in place."""
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        load_optimizer(self.optimizer, state["temperature_optimizer"])


class TemperatureLike(Protocol):
    """A `Temperature`, or a stack of them."""

    @property
    def log_alpha(self) -> Tensor: ...
    def descend(self, loss: Tensor) -> None: ...


class SACUpdate:
    """The update as a function of weights, optimiser states, batch and noise alone.

    Of one agent; or of a stack, where everything has the members as a further, first axis.

    Args:
        losses: `actor_loss`, `td_target` (with gamma given) and `critic_loss`, as they are or made from them.
    """

    def __init__(
        self,
        learners: Mapping[str, LearnerLike],
        temperature: TemperatureLike,
        losses: Sequence[Callable[..., Any]],
        target_entropy: float,
        tau: float,
    ) -> None:
        self._actor, self._critic, self._temperature = learners["actor"], learners["critic"], temperature
        self._actor_loss, self._td_target, self._critic_loss = losses
        self._target_entropy, self._tau = target_entropy, tau

    def __call__(self, batch: Batch, noise: Tensor) -> Metrics:
        """One step of actor, temperature, critics and target.

        Args:
            noise: (2, B, action_dim) standard normal, for the actor's step and for the critics' targets.
        """
        actor, critic, temperature = self._actor, self._critic, self._temperature
        for_actor, for_critics = noise.unbind(-3)
        alpha = temperature.log_alpha.detach().exp()
        with critic.fixed() as judge:
            actor_loss, entropy = self._actor_loss(actor.online, judge, alpha, batch, for_actor)
        actor.descend(actor_loss)

        temperature.descend(temperature.log_alpha.exp() * (entropy - self._target_entropy))

        alpha = temperature.log_alpha.detach().exp()
        goal = self._td_target(actor.online, critic.target, alpha, batch, for_critics)
        critic_loss, q_mean = self._critic_loss(critic.online, goal, batch)
        critic.descend(critic_loss)
        critic.sync_target(self._tau)
        return {
            "actor_loss": actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "q_mean": q_mean,
            "entropy": entropy,
            "temperature": alpha,
        }

"""All measures of plasticity of an agent; measuring changes nothing in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from fire_rl.agents.agent import Agent
from fire_rl.agents.dqn import DQN
from fire_rl.agents.learner import Learner
from fire_rl.agents.replay import Batch
from fire_rl.agents.sac import SAC
from fire_rl.agents.simba import squashed_gaussian
from fire_rl.layout import weight_matrices
from fire_rl.measures import dot_product, spectrum
from fire_rl.plasticity import Loss, learner_measures

CURVATURE_ROWS = 256
Inputs = tuple[Tensor, ...]
Spectra = dict[tuple[str, str], list[float]]  # (learner, weight tensor) -> singular values, descending


def measure(
    agent: Agent,
    rng: np.random.Generator,
    batch_size: int = 2_048,
    curvature_steps: int = 20,
    refit_steps: int = 0,
) -> dict[str, float]:
    """Measures of every learner on transitions from the replay memory, normalised as in training.

    Args:
        rng: the only source of randomness; equal states give the same batches.
        batch_size: transitions; ranks want more of them than there are features.
        curvature_steps: Hessian–vector products at most, on 256 transitions; 0 leaves the curvature out.
        refit_steps: steps of Adam in the refit probe, on 256 transitions; 0 leaves it out.

    Returns:
        "<learner>/<measure>": those of `fire_rl.plasticity.learner_measures`, and `dot_product` (DR3).

    Raises:
        ValueError: when the replay memory holds no transition yet.
    """
    seed = int(rng.integers(2**62))
    pairs = _successive_inputs(agent, agent.sample(batch_size, rng), rng)
    found: dict[str, float] = {}
    for name, learner in agent.learners.items():
        inputs, next_inputs = pairs[name]
        with _same_activations(learner):
            measures = learner_measures(
                learner.online,
                learner.initial,
                learner.optimizer,
                inputs,
                _loss(learner, batch_size, seed),
                curvature_steps=curvature_steps,
                curvature_loss=_loss(learner, min(batch_size, CURVATURE_ROWS), seed),
                refit_steps=refit_steps,
            )
            measures["dot_product"] = dot_product(learner.online, inputs, next_inputs)
        found |= {f"{name}/{key}": value for key, value in measures.items()}
    return found


def spectra(agent: Agent) -> Spectra:
    """Singular values of every weight tensor of every learner, at most 64 each (`measures.spectrum`)."""
    return {
        (name, weights.name): spectrum(weights.matrices())
        for name, learner in agent.learners.items()
        for weights in weight_matrices(learner.online)
    }


@torch.no_grad()
def _successive_inputs(
    agent: Agent, batch: Batch, rng: np.random.Generator
) -> dict[str, tuple[Inputs, Inputs]]:
    """What every network is called with on (s, a) and on (s′, a′), a′ drawn from the policy."""
    states, next_states = (batch.observation,), (batch.next_observation,)
    if isinstance(agent, DQN):
        return {"q": (states, next_states)}
    assert isinstance(agent, SAC), f"what the networks of {type(agent).__name__} are called with is not known"
    noise = torch.from_numpy(rng.standard_normal(batch.action.shape, dtype=np.float32)).to(agent.device)
    next_action, _ = squashed_gaussian(agent.actor.online(*next_states), noise)
    return {
        "actor": (states, next_states),
        "critic": ((*states, batch.action), (*next_states, next_action)),
    }


def _loss(learner: Learner, rows: int, seed: int) -> Loss:
    """The learner's own loss, on the same batch at every call."""
    return lambda: learner.loss(rows, torch.Generator().manual_seed(seed))


@contextmanager
def _same_activations(learner: Learner) -> Iterator[None]:
    """What a method keeps of the last training pass is not replaced by what measuring passes through."""
    kept = dict(learner.activations)
    try:
        yield
    finally:
        learner.activations.clear()
        learner.activations.update(kept)

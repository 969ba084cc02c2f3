"""A supervised test of plasticity in a minute or two: can a network still learn its thirtieth task?

A stream of memorisation tasks in the manner of Lyle et al. (ICML 2023) and Kumar et al. (2023): every task
permutes the pixels of the same images and gives them fresh random labels, which a small network has to learn
in a fixed number of updates. All tasks are equally hard, so a fit that falls from task to task is a loss of
plasticity. Between tasks the method fires; methods that act in every update act in every update. Options are
those of the harmonised preset of DQN: hidden layers projected, head rewound, a new optimiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fire_rl.agents.learner import Learner
from fire_rl.agents.networks import META, Network, mlp, xavier_
from fire_rl.launch.config import default_method
from fire_rl.measures import probe as unit_measures

CPU = torch.device("cpu")
NetworkName = Literal["mlp", "cnn"]
SIDE, CLASSES = 12, 10  # images are SIDE × SIDE pixels


@dataclass(frozen=True)
class Setting:
    """The test; its defaults show the loss of plasticity plainly (docs/plasticity-probe.md)."""

    tasks: int = 32
    """Tasks in the stream."""
    images: int = 256
    """Images, the same in all tasks, whose labels are to be memorised."""
    updates: int = 80
    """Gradient updates per task."""
    batch_size: int = 64
    """Images in a minibatch."""
    learning_rate: float = 6e-3
    """Of Adam."""
    conv_bias: bool = False
    """Whether the convolutions have biases. FIRE shrinks convolutions and keeps biases, which then drown the
    signal of so small a network."""
    seed: int = 0
    """Of images, labels, permutations and weights."""

    def __post_init__(self) -> None:
        for name in ("tasks", "images", "updates", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, but is {self.seed}")


@dataclass(frozen=True)
class Fit:
    """How one network did on one task."""

    network: str
    method: str
    task: int  # from 1
    accuracy: float  # fraction of the images with the right label after the last update of the task
    dormant_ratio: float


def small_mlp(generator: torch.Generator) -> nn.Module:
    """Three hidden layers of 64 ReLUs on the flattened image."""
    return mlp(SIDE * SIDE, CLASSES, (64, 64, 64))(generator)


def small_cnn(generator: torch.Generator, bias: bool = False) -> nn.Module:
    """Two convolutions, with or without biases (`Setting.conv_bias`), and a hidden layer of 64 ReLUs."""
    with META:
        encoder = nn.Sequential(
            nn.Unflatten(1, (1, SIDE, SIDE)),
            nn.Conv2d(1, 16, 3, stride=2, bias=bias),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, bias=bias),
            nn.ReLU(),
            nn.Flatten(),
        )
        head = nn.Sequential(nn.Linear(32 * 2 * 2, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    return xavier_(Network(encoder, head), generator)


def fits(method: str, network: NetworkName, setting: Setting) -> Iterator[Fit]:
    """Put `network` through the stream of tasks under `method`; every method sees the same tasks.

    Raises:
        ValueError: when there is no such method, or it does not fit the network.
    """
    data, weights, order, resets = np.random.SeedSequence(setting.seed).spawn(4)
    stream = _Stream(setting, np.random.default_rng(data), np.random.default_rng(order))
    acting = default_method("dqn", method, "harmonised")
    learner = Learner(
        network,
        small_mlp if network == "mlp" else partial(small_cnn, bias=setting.conv_bias),
        lambda parameters: torch.optim.Adam(parameters, lr=setting.learning_rate, fused=True),
        _generator(weights),
        CPU,
        with_target=False,
        method=acting,
        method_seed=int(weights.generate_state(2)[1]),
    )
    learner.lend(
        inputs=lambda rows, rng: (stream.draw(rows, rng)[0],),
        loss=lambda rows, rng: _loss(learner.online, *stream.draw(rows, rng)),
    )
    reset_rng = _generator(resets)
    for task in range(1, setting.tasks + 1):
        if task > 1 and acting.default_schedule:
            with torch.no_grad():
                acting.at_event(learner, reset_rng)
        stream.next_task()
        for _ in range(setting.updates):
            learner.descend(_loss(learner.online, *stream.draw(setting.batch_size, stream.order)))
        with torch.no_grad():
            right = learner.online(stream.inputs).argmax(1) == stream.labels
        dormant = unit_measures(learner.online, (stream.inputs,))["dormant_ratio"]
        yield Fit(network, method, task, float(right.double().mean()), dormant)


class _Stream:
    """The images, and how the present task permutes and labels them."""

    def __init__(self, setting: Setting, data: np.random.Generator, order: np.random.Generator) -> None:
        shape = (setting.images, SIDE * SIDE)
        self.images = torch.from_numpy(data.standard_normal(shape, dtype=np.float32))
        self.data, self.order = data, order
        self.inputs, self.labels = self.images, torch.zeros(setting.images, dtype=torch.int64)

    def next_task(self) -> None:
        """Permute the pixels anew and draw new labels."""
        self.inputs = self.images[:, torch.from_numpy(self.data.permutation(SIDE * SIDE))]
        self.labels = torch.from_numpy(self.data.integers(CLASSES, size=len(self.images)))

    def draw(self, rows: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A minibatch of the present task, drawn with replacement."""
        index = torch.from_numpy(rng.integers(len(self.images), size=rows))
        return self.inputs[index], self.labels[index]


def _loss(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(module(inputs), labels)


def _generator(seed: np.random.SeedSequence) -> torch.Generator:
    return torch.Generator().manual_seed(int(seed.generate_state(1)[0]))

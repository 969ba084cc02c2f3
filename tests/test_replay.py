"""The replay memory, against a plain list of everything that happened."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fire_rl.agents.replay import Batch, Layout, ReplayMemory

CPU = torch.device("cpu")
PIXELS = Layout((4, 4), torch.uint8, (), stack=4)


@dataclass
class Player:
    """Plays random episodes whose frames are unique numbers, and remembers every transition by its frame."""

    num_envs: int
    rng: np.random.Generator
    next_frame: int = 1
    stacks: NDArray[np.uint8] = field(init=False)
    truth: dict[bytes, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stacks = np.stack([self.first_stack() for _ in range(self.num_envs)])

    def frame(self) -> NDArray[np.uint8]:
        self.next_frame += 1
        return np.frombuffer(self.next_frame.to_bytes(16, "little"), np.uint8).reshape(4, 4)

    def first_stack(self) -> NDArray[np.uint8]:
        frame = self.frame()
        return np.stack([frame, frame, frame, frame])

    def play(self, memory: ReplayMemory, meanwhile: Callable[[], object] = lambda: None) -> None:
        n = self.num_envs
        action, reward = self.rng.integers(9, size=n), self.rng.normal(size=n)
        terminated, truncated = self.rng.random(n) < 0.1, self.rng.random(n) < 0.1
        after = np.stack([np.concatenate([stack[1:], self.frame()[None]]) for stack in self.stacks])
        for i in range(n):
            key = self.stacks[i].tobytes()
            self.truth[key] = (int(action[i]), np.float32(reward[i]), after[i].tobytes(), bool(terminated[i]))
        memory.begin(self.stacks, action)
        meanwhile()
        memory.complete(reward, terminated, truncated, after)
        for ended in np.flatnonzero(terminated | truncated):
            after[ended] = self.first_stack()
        self.stacks = after


def check(batch: Batch, player: Player) -> set[bytes]:
    keys = set()
    for i in range(len(batch.action)):
        key = batch.observation[i].numpy().tobytes()
        action, reward, after, terminated = player.truth[key]
        assert batch.action[i] == action
        assert batch.reward[i] == reward
        assert batch.next_observation[i].numpy().tobytes() == after
        assert batch.terminated[i] == float(terminated)
        keys.add(key)
    return keys


@pytest.mark.parametrize("num_envs", [1, 3])
def test_every_sample_is_a_transition_that_happened(num_envs: int) -> None:
    """Through eight wraps of the ring and episode ends of both kinds."""
    memory = ReplayMemory(60 * num_envs, num_envs, PIXELS, CPU)
    player = Player(num_envs, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for step in range(400):
        player.play(memory)
        if step % 10 == 9:
            check(memory.sample(64, rng), player)


def test_what_is_sampled_while_the_environments_step_has_happened() -> None:
    """No transition whose reward and end are not known yet, with what an earlier lap left in its slot."""
    memory = ReplayMemory(180, 3, PIXELS, CPU)
    player = Player(3, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    player.play(memory)
    player.play(memory)
    for _ in range(300):
        player.play(memory, meanwhile=lambda: check(memory.sample(64, rng), player))


def test_on_a_cpu_the_frames_of_a_pixel_lie_side_by_side() -> None:
    memory = ReplayMemory(40, 1, Layout((5, 6), torch.uint8, (), stack=4), CPU)
    rng, no = np.random.default_rng(0), np.zeros(1, bool)
    frames = rng.integers(256, size=(20, 5, 6)).astype(np.uint8)
    for t in range(3, 20):
        memory.begin(frames[None, t - 3 : t + 1], np.zeros(1))
        memory.complete(np.zeros(1), no, no, frames[None, t - 3 : t + 1])
    batch = memory.sample(8, rng)
    for images in (batch.observation, batch.next_observation):
        assert images.shape == (8, 4, 5, 6)
        assert images.stride() == (4 * 5 * 6, 1, 4 * 6, 4)


def test_all_complete_transitions_are_drawn_equally_often() -> None:
    memory = ReplayMemory(40, 1, PIXELS, CPU)
    player = Player(1, np.random.default_rng(0))
    for _ in range(30):
        player.play(memory)
    rng = np.random.default_rng(2)
    counts: dict[bytes, int] = {}
    draws = 20_000
    for i in memory.sample(draws, rng).observation.numpy():
        counts[i.tobytes()] = counts.get(i.tobytes(), 0) + 1
    # All but the newest, whose successor is stored with the next step unless its episode ended.
    assert len(counts) in (len(player.truth) - 1, len(player.truth))
    expected = draws / len(counts)
    chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_square < 2.0 * len(counts)


def test_vectors_and_continuous_actions() -> None:
    memory = ReplayMemory(100, 2, Layout((3,), torch.float32, (2,)), CPU)
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(2, 3)).astype(np.float32)
    truth = {}
    for _ in range(30):
        action = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        after = rng.normal(size=(2, 3)).astype(np.float32)
        no = np.zeros(2, bool)
        memory.begin(observation, action)
        memory.complete(np.ones(2), no, no, after)
        for i in range(2):
            truth[observation[i].tobytes()] = (action[i].tobytes(), after[i].tobytes())
        observation = after
    batch = memory.sample(256, rng)
    for o, a, following in zip(batch.observation, batch.action, batch.next_observation, strict=True):
        assert truth[o.numpy().tobytes()] == (a.numpy().tobytes(), following.numpy().tobytes())


def test_state_goes_on_bit_for_bit() -> None:
    first, second = (ReplayMemory(90, 3, PIXELS, CPU) for _ in range(2))
    player = Player(3, np.random.default_rng(0))
    for _ in range(70):
        player.play(first)
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        player.play(first)
    second.load_state_dict(first.state_dict())
    a, b = (m.sample(64, np.random.default_rng(3)) for m in (first, second))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_another_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="same replay capacity"):
        ReplayMemory(90, 3, PIXELS, CPU).load_state_dict(ReplayMemory(60, 3, PIXELS, CPU).state_dict())


def test_empty_too_small_and_too_large_memories_are_refused() -> None:
    with pytest.raises(ValueError, match="no complete transition"):
        ReplayMemory(90, 3, PIXELS, CPU).sample(1, np.random.default_rng())
    with pytest.raises(ValueError, match="too small"):
        ReplayMemory(10, 3, PIXELS, CPU)
    with pytest.raises(MemoryError, match=r"needs .* GB .*replay-capacity"):
        ReplayMemory(10**13, 4, PIXELS, CPU)


def test_a_million_atari_transitions_take_less_than_7_2_gb() -> None:
    assert Layout((84, 84), torch.uint8, (), stack=4).bytes_per_slot() * 10**6 <= 7.2e9


def test_memory_announced_is_memory_used() -> None:
    """Resident memory of a process that fills 100,000 Atari slots, within 5 % of the announced bytes."""
    program = """
import numpy as np, torch
from fire_rl.agents.replay import Layout, ReplayMemory
def resident():
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmRSS"))
memory = ReplayMemory(1000, 4, Layout((84, 84), torch.uint8, (), stack=4), torch.device("cpu"))
stack, no = np.ones((4, 4, 84, 84), np.uint8), np.zeros(4, bool)
memory.begin(stack, np.zeros(4, int))
memory.complete(np.zeros(4), no, no, stack)
before = resident()
memory = ReplayMemory(100_000, 4, Layout((84, 84), torch.uint8, (), stack=4), torch.device("cpu"))
for _ in range(25_000):
    memory.begin(stack, np.zeros(4, int))
    memory.complete(np.zeros(4), no, no, stack)
print((resident() - before) / memory.bytes)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0.95 < float(done.stdout) < 1.05

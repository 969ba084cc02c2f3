"""Replay memory: every frame is stored once, stacks are rebuilt at sampling."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fire_rl.agents.transfer import send


class Batch(NamedTuple):
    """A minibatch of B transitions, on the learner's device."""

    observation: Tensor  # (B, *observation)
    action: Tensor  # (B,) int64 or (B, action_dim) float32
    reward: Tensor  # (B,) float32, raw
    next_observation: Tensor  # (B, *observation): the true successor, also where the episode was truncated
    terminated: Tensor  # (B,) float32: 1 where nothing may be bootstrapped


# Of a range of slots that is saved as one: large enough to compress well, small enough to be written again at
# every checkpoint for as long as it fills.
CHUNK_BYTES = 1 << 23


@dataclass(frozen=True)
class Chunk:
    """A range of slots of one environment, as it is saved.

    Slots do not change until they are overwritten. So a chunk of a memory is what it was when it was last
    saved if `writes` is what it was.
    """

    place: tuple[int, int]  # environment, first slot
    writes: int  # how many slots have ever been written in the range
    read: Callable[[], dict[str, Tensor]]  # the arrays, of shape (slots in use, …)


@dataclass(frozen=True)
class Layout:
    """What one stored transition consists of."""

    frame_shape: tuple[int, ...]
    frame_dtype: torch.dtype
    action_shape: tuple[int, ...]  # () for discrete actions
    stack: int = 1  # frames in an observation; an episode's first observation repeats its first frame

    @property
    def action_dtype(self) -> torch.dtype:
        """Discrete actions fit a byte; continuous ones are float32."""
        return torch.float32 if self.action_shape else torch.uint8

    def bytes_per_slot(self) -> int:
        """Memory of one slot: frame, action, reward, two flags and the frame's age in its episode."""
        frame = int(np.prod(self.frame_shape)) * self.frame_dtype.itemsize
        action = int(np.prod(self.action_shape)) * self.action_dtype.itemsize
        return frame + action + 4 + 1 + 1 + 1


class ReplayMemory:
    """A ring of slots per environment; a slot holds one frame and what was done on seeing it.

    The last frame of an episode occupies a slot of its own that is never sampled as a start, so the successor
    of every transition is the slot after it, for terminated and truncated episodes alike, and no stack
    reaches across an episode boundary. The newest slot is never sampled either: a transition takes part from
    the step after it on. So sampling between `begin` and `complete` does not need to know what the
    environments are still computing, and learning goes on at the same time.

    Args:
        capacity: slots in total, divided evenly among the environments.
        device: where batches go.
        storage: `device`, `host`, or `auto`: on the device when it fits there.

    Raises:
        ValueError: when the capacity is too small.
        MemoryError: before anything is allocated, when neither the device nor the host has room.
    """

    _begun: Tensor  # where in the storage the step is that was last begun

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        layout: Layout,
        device: torch.device,
        storage: Literal["auto", "device", "host"] = "auto",
    ) -> None:
        if capacity < num_envs * (layout.stack + 2):
            raise ValueError(
                f"a replay memory of {capacity} transitions is too small for {num_envs} environments: "
                f"give at least {num_envs * (layout.stack + 2)}"
            )
        self.layout, self.num_envs, self.device = layout, num_envs, device
        self.slots = slots = capacity // num_envs  # per environment
        self.bytes = slots * num_envs * layout.bytes_per_slot()
        self.storage_device = choose_storage(self.bytes, device, storage)
        at = self.storage_device
        flat = slots * num_envs
        self.frames = torch.empty((flat, *layout.frame_shape), dtype=layout.frame_dtype, device=at)
        self.actions = torch.zeros((flat, *layout.action_shape), dtype=layout.action_dtype, device=at)
        self.rewards = torch.zeros(flat, dtype=torch.float32, device=at)
        self.terminated = torch.zeros(flat, dtype=torch.bool, device=at)
        # What sampling reads to choose indices stays on the host: no synchronisation with the device.
        self.startable = np.zeros((num_envs, slots), dtype=np.bool_)
        self.age = np.zeros((num_envs, slots), dtype=np.uint8)  # min(steps since reset, stack − 1)
        self.written = np.zeros(num_envs, dtype=np.int64)  # slots ever written
        self.next_age = np.zeros(num_envs, dtype=np.uint8)

    @property
    def head(self) -> NDArray[np.int64]:
        """Next slot to write, of every environment."""
        return self.written % self.slots

    @property
    def count(self) -> NDArray[np.int64]:
        """Slots in use, of every environment."""
        return np.minimum(self.written, self.slots)

    def __len__(self) -> int:
        """Slots in use, over all environments."""
        return int(self.count.sum())

    def begin(self, observation: NDArray[Any], action: NDArray[Any]) -> None:
        """Store what every environment showed and what was done; of a stack only the newest frame is kept.

        Both arguments have a leading axis n = `num_envs`. What came of it follows with `complete`.
        """
        self._begun = self._write(np.arange(self.num_envs), observation[self._newest], startable=True)
        self.actions[self._begun] = self._to_storage(action, self.layout.action_dtype)

    def complete(
        self,
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        final_observation: NDArray[Any],
    ) -> None:
        """Store what came of the last `begin`.

        All arguments have a leading axis n = `num_envs`; `final_observation` is the true successor, read only
        where an episode ended.
        """
        self.rewards[self._begun] = self._to_storage(reward, torch.float32)
        self.terminated[self._begun] = self._to_storage(terminated, torch.bool)
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self._write(ended, final_observation[self._newest][ended], startable=False)
            self.next_age[ended] = 0

    @property
    def _newest(self) -> Any:
        """Index of the newest frame of every observation."""
        return (slice(None), -1) if self.layout.stack > 1 else slice(None)

    def _write(self, environments: NDArray[np.int64], frames: NDArray[Any], startable: bool) -> Tensor:
        """Fill the next slot of these environments; returns where that is in the storage."""
        slot = self.written[environments] % self.slots
        index = self._to_storage(self._flat(environments, slot), torch.int64)
        self.frames[index] = self._to_storage(frames, self.layout.frame_dtype)
        self.startable[environments, slot] = startable
        self.age[environments, slot] = self.next_age[environments]
        self.next_age[environments] = np.minimum(self.next_age[environments] + 1, self.layout.stack - 1)
        self.written[environments] += 1
        return index

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """`batch_size` transitions drawn uniformly with replacement; see `draw`."""
        return self.fetch(self.draw(batch_size, rng))

    def draw(self, batch_size: int, rng: np.random.Generator) -> Tensor:
        """Places of `batch_size` transitions, uniform with replacement; `rng` alone decides which.

        Returns:
            (batch_size, stack + 1) int64 on the host: of every frame of the observation, oldest first, and of
            the newest frame of its successor.

        Raises:
            ValueError: when no complete transition is stored yet.
        """
        environment, slot = self._draw(batch_size, rng)
        stack = self.layout.stack
        age = self.age[environment, slot][:, None].astype(np.int64)
        back = np.arange(stack - 1, -2, -1)  # stack − 1, …, 0 and −1 for the successor
        offset = slot[:, None] - np.minimum(back, age)
        return torch.from_numpy(self._flat(environment[:, None], offset))

    def fetch(self, places: Tensor) -> Batch:
        """The transitions at `places`, from `draw`: a function of these and of the storage alone."""
        places = send(places, self.storage_device)
        frames = self._gather(self.frames, places.flatten())
        start = places[:, -2]  # of the newest frame of the observation
        action = self._gather(self.actions, start)
        observation, next_observation = self._stacks(frames.view(*places.shape, *self.layout.frame_shape))
        return Batch(
            observation=observation,
            action=action.long() if self.layout.action_shape == () else action,
            reward=self._gather(self.rewards, start),
            next_observation=next_observation,
            terminated=self._gather(self.terminated, start).float(),
        )

    def _stacks(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Observations and their successors out of (B, stack + 1, *frame)."""
        stack = self.layout.stack
        if stack == 1:
            return frames[:, 0], frames[:, 1]
        observation, next_observation = frames[:, :stack], frames[:, 1:]
        if self.device.type == "cpu":
            return channels_last(observation), channels_last(next_observation)
        return observation, next_observation

    def _draw(self, batch_size: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Uniform over all transitions by rejection: a start needs its whole stack and its successor."""
        count = self.count
        starts = np.maximum(count - 1, 0)  # the newest slot has no successor yet
        ends = np.cumsum(starts)
        oldest = (self.written - count) % self.slots
        environments: list[NDArray[np.int64]] = []
        slots: list[NDArray[np.int64]] = []
        found = 0
        for _ in range(1000):
            if not ends[-1]:
                break
            drawn = rng.integers(ends[-1], size=batch_size)
            environment = np.searchsorted(ends, drawn, side="right")
            distance = drawn - (ends - starts)[environment]  # from the oldest slot of the environment
            slot = (oldest[environment] + distance) % self.slots
            valid = self.startable[environment, slot] & (distance >= self.age[environment, slot])
            environments.append(environment[valid])
            slots.append(slot[valid])
            found += int(valid.sum())
            if found >= batch_size:
                return np.concatenate(environments)[:batch_size], np.concatenate(slots)[:batch_size]
        raise ValueError(f"the replay memory holds no complete transition yet ({len(self)} slots in use)")

    def _flat(self, environment: NDArray[np.int64], slot: NDArray[np.int64]) -> NDArray[np.int64]:
        return environment * self.slots + slot % self.slots

    def _gather(self, storage: Tensor, index: Tensor) -> Tensor:
        return send(storage.index_select(0, index), self.device)

    def _to_storage(self, array: NDArray[Any], dtype: torch.dtype) -> Tensor:
        return send(torch.from_numpy(np.ascontiguousarray(array)).to(dtype), self.storage_device)

    def state_dict(self) -> dict[str, Any]:
        """The slots in use as `Chunk`s, which read them when asked, and the bookkeeping."""
        return {
            "chunks": list(self._chunks()),
            "slots": self.slots,
            "written": self.written.copy(),
            "next_age": self.next_age.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore in place. Raises ValueError when the saved memory had another capacity."""
        if state["slots"] != self.slots or len(state["written"]) != self.num_envs:
            raise ValueError(
                f"the saved replay memory has {len(state['written'])} x {state['slots']} slots, "
                f"this one {self.num_envs} x {self.slots}: resume with the same replay capacity"
            )
        for chunk in state["chunks"]:
            saved, (environment, start) = chunk.read(), chunk.place
            stop = start + len(saved["frames"])
            for name, stored in self._range(environment, start, stop).items():
                stored.copy_(saved[name])
        self.written[...] = state["written"]
        self.next_age[...] = state["next_age"]

    def _chunks(self) -> Iterator[Chunk]:
        size = max(1, CHUNK_BYTES // self.layout.bytes_per_slot())
        for environment in range(self.num_envs):
            laps, head = divmod(int(self.written[environment]), self.slots)
            used = int(self.count[environment])
            for start in range(0, used, size):
                length = min(size, self.slots - start)
                writes = laps * length + min(max(head - start, 0), length)
                read = partial(self._range, environment, start, min(start + length, used))
                yield Chunk((environment, start), writes, read)

    def _range(self, environment: int, start: int, stop: int) -> dict[str, Tensor]:
        """All arrays between two slots of an environment, as views."""
        flat = slice(environment * self.slots + start, environment * self.slots + stop)
        tensors = {name: getattr(self, name)[flat] for name in ("frames", "actions", "rewards", "terminated")}
        arrays = {name: getattr(self, name)[environment, start:stop] for name in ("startable", "age")}
        return {**tensors, **{name: torch.from_numpy(array) for name, array in arrays.items()}}


def channels_last(images: Tensor) -> Tensor:
    """(B, C, H, W), C > 1, with the channels of a pixel side by side: convolutions on a CPU are fastest so.

    Of bytes this is `contiguous(memory_format=torch.channels_last)` in a tenth of its time.
    """
    planes = list(images.flatten(2).numpy().swapaxes(0, 1))
    return torch.from_numpy(cv2.merge(planes)).view(-1, *images.shape[2:], len(planes)).movedim(-1, 1)


def choose_storage(
    size_bytes: int, device: torch.device, storage: Literal["auto", "device", "host"]
) -> torch.device:
    """Where a memory of `size_bytes` goes. Raises MemoryError, with both numbers, when it fits nowhere."""
    host = torch.device("cpu")
    if device.type == "cuda" and storage != "host":
        free = torch.cuda.mem_get_info(device)[0]
        # Leave room for networks, activations and CUDA graphs.
        if size_bytes <= 0.8 * free:
            return device
        if storage == "device":
            raise MemoryError(_too_big(size_bytes, free, "GPU"))
    free = free_host_bytes()
    if size_bytes > 0.9 * free:
        raise MemoryError(_too_big(size_bytes, free, "host"))
    return host


def _too_big(size_bytes: int, free: int, where: str) -> str:
    return (
        f"the replay memory needs {size_bytes / 1e9:.2f} GB and the {where} has {free / 1e9:.2f} GB free: "
        f"lower --agent.replay-capacity"
    )


def free_host_bytes() -> int:
    """Memory that this process can still take, from the kernel and from the control group's limit."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # MemAvailable also counts caches that the kernel would give back
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free

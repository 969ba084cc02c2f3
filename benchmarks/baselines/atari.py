"""The Atari environments that others use, as they use them: what `benchmarks/atari.py` compares ours with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import (
    AtariPreprocessing,
    FrameStackObservation,
    GrayscaleObservation,
    MaxAndSkipObservation,
    RecordEpisodeStatistics,
    ResizeObservation,
    StickyAction,
    TransformReward,
)

from fire_rl.envs.atari import rom_name

MakeOne = Callable[[], gym.Env[Any, Any]]

gym.register_envs(ale_py)


def _emulator(game: str) -> gym.Env[Any, Any]:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return gym.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, disable_env_checker=True)


def authors_stack(game: str) -> gym.Env[Any, Any]:
    """One environment wrapped as in the DQN code of the FIRE paper, in its order."""
    env = RecordEpisodeStatistics(_emulator(game))
    skipped = MaxAndSkipObservation(env, skip=4)
    clipped = TransformReward(skipped, lambda reward: float(np.sign(float(reward))))
    sticky = StickyAction(clipped, 0.25)
    grey = GrayscaleObservation(ResizeObservation(sticky, (84, 84)))
    return FrameStackObservation(grey, 4)


def gymnasium_stack(game: str) -> gym.Env[Any, Any]:
    """One environment under Gymnasium's own preprocessing, with the same sticky actions."""
    env = RecordEpisodeStatistics(_emulator(game))
    return FrameStackObservation(StickyAction(AtariPreprocessing(env, noop_max=0), 0.25), 4)


def in_processes(make_one: MakeOne, num_envs: int) -> VectorEnv[Any, Any, Any]:
    """One process per environment, frames through shared memory: Gymnasium's usual way."""
    return AsyncVectorEnv([make_one] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP, context="spawn")


def in_this_process(make_one: MakeOne, num_envs: int) -> VectorEnv[Any, Any, Any]:
    """One environment after the other."""
    return SyncVectorEnv([make_one] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def native(game: str, num_envs: int, threads: int) -> VectorEnv[Any, Any, Any]:
    """ale-py's C++ vector environment on so many threads (0: as many as there are cores)."""
    envs: VectorEnv[Any, Any, Any] = AtariVectorEnv(
        rom_name(game),
        num_envs,
        num_threads=threads,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    return envs

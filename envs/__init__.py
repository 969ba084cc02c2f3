"""The worlds of FIRE-RL, by name.

    envs = make_env("atari/Asterix", num_envs=4, workers=2)

A name is `<family>/<environment>`. Each family has its own options (`env_options_class`), and its packages
are imported when one of its environments is made.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fire_rl.envs.vector import AtOnce, Episode, FilmableVectorEnv, Step, VectorEnv
from fire_rl.names import unknown_name

__all__ = [
    "FAMILIES",
    "AtOnce",
    "AtariOptions",
    "ControlOptions",
    "EnvOptions",
    "Episode",
    "FilmableVectorEnv",
    "HumanoidOptions",
    "Step",
    "VectorEnv",
    "describe",
    "env_names",
    "env_options_class",
    "make_env",
    "split_name",
]


@dataclass(frozen=True)
class AtariOptions:
    """Options of `atari/…`."""

    protocol: Literal["fire-paper", "machado"] = "fire-paper"
    """Conditions of play: `fire-paper` as in the authors' DQN (actions stick for a whole agent step, minimal
    actions), `machado` as ALE's authors recommend (actions stick frame by frame, all 18 actions). Scores of
    the two are not comparable."""
    workers: int | None = None
    """Processes that run the emulators; 0 runs them in the training process. Default: 1 beside a GPU, so that
    they play while it learns, else 0. Does not change results."""
    backend: Literal["ale", "gymnasium"] = "ale"
    """`ale` is ours, whose runs can be resumed exactly; `gymnasium` is ale-py's C++ vector environment, whose
    runs cannot (`workers` are then threads, 0 for one per core)."""

    def workers_beside_gpu(self, num_envs: int) -> int:
        """What `workers` is by default for so many environments beside a GPU."""
        return 1


@dataclass(frozen=True)
class HumanoidOptions:
    """Options of `humanoid/…`."""

    contacts: Literal["published", "current"] = "published"
    """Contact physics: `published` as when HumanoidBench's scores were made, `current` MuJoCo's defaults."""
    action_repeat: int = 2
    """Simulator steps (env steps) per agent step; the paper uses 2."""
    threads: int = 1
    """Threads that step the environments in the training process. Does not change results."""
    workers: int | None = None
    """Processes that step the environments, one thread each; 0 steps them in the training process. Default:
    beside a GPU, for four environments or more (evaluations have ten), one for every two, on at most half of
    the cores; else 0. Does not change results."""
    backend: Literal["built-in", "official"] = "built-in"
    """`built-in` tasks, or those of the package `humanoid_bench` where it is installed (`official`)."""

    def workers_beside_gpu(self, num_envs: int) -> int:
        """What `workers` is by default for so many environments beside a GPU."""
        if num_envs < 4 or self.threads > 1 or self.backend == "official":
            return 0
        return min(num_envs // 2, _cores() // 2)


@dataclass(frozen=True)
class ControlOptions:
    """Options of `control/…`: there are none."""


EnvOptions = AtariOptions | HumanoidOptions | ControlOptions


@dataclass(frozen=True)
class _Family:
    """How environments of one family are listed, described and made; everything heavy is imported inside."""

    options: type[EnvOptions]
    names: Callable[[], list[str]]
    describe: Callable[[str], str]
    make: Callable[..., VectorEnv]


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_sets(name: str, sets: Mapping[str, Sequence[str]]) -> str:
    containing = [key for key, names in sets.items() if name in names]
    return f", in the sets {', '.join(containing)}" if containing else ""


def _atari_names() -> list[str]:
    from fire_rl.envs import atari

    return atari.game_names()


def _describe_atari(game: str) -> str:
    from fire_rl.envs import atari

    return f"Atari 2600{_in_sets(game, atari.GAME_SETS)}; 4 x 84 x 84 pixels, discrete actions"


def _make_atari(game: str, num_envs: int, **options: Any) -> VectorEnv:
    from fire_rl.envs import atari

    return atari.make(game, num_envs, **options)


def _humanoid_names() -> list[str]:
    from fire_rl.envs import humanoid

    return list(humanoid.TASKS)


def _describe_humanoid(task: str) -> str:
    from fire_rl.envs import humanoid

    return f"Unitree H1: {humanoid.TASKS[task].summary}{_in_sets(task, humanoid.TASK_SETS)}"


def _make_humanoid(task: str, num_envs: int, **options: Any) -> VectorEnv:
    from fire_rl.envs import humanoid

    return humanoid.make(task, num_envs, **options)


def _make_control(env_id: str, num_envs: int) -> VectorEnv:
    from fire_rl.envs.control import ControlEnvs

    return ControlEnvs(env_id, num_envs)


# `control` takes any Gymnasium id; these are the ones that are listed.
_CONTROL = {
    "CartPole-v1": "balance a pole on a cart; 4 numbers, 2 actions",
    "MountainCar-v0": "swing an underpowered car up a hill; 2 numbers, 3 actions",
    "Acrobot-v1": "swing a two-link chain above a line; 6 numbers, 3 actions",
    "Pendulum-v1": "swing a pendulum up and hold it; 3 numbers, 1 continuous action",
    "MountainCarContinuous-v0": "the car with a throttle; 2 numbers, 1 continuous action",
    "InvertedPendulum-v5": "MuJoCo: balance a pole on a cart; 4 numbers, 1 continuous action",
    "InvertedDoublePendulum-v5": "MuJoCo: balance two poles on a cart; 9 numbers, 1 continuous action",
    "Reacher-v5": "MuJoCo: reach a point with a two-link arm; 10 numbers, 2 continuous actions",
    "Pusher-v5": "MuJoCo: push an object to a place; 23 numbers, 7 continuous actions",
    "Swimmer-v5": "MuJoCo: swim with three links; 8 numbers, 2 continuous actions",
    "Hopper-v5": "MuJoCo: hop on one leg; 11 numbers, 3 continuous actions",
    "HalfCheetah-v5": "MuJoCo: run on two legs in a plane; 17 numbers, 6 continuous actions",
    "Walker2d-v5": "MuJoCo: walk on two legs in a plane; 17 numbers, 6 continuous actions",
    "Ant-v5": "MuJoCo: walk on four legs; 105 numbers, 8 continuous actions",
    "Humanoid-v5": "MuJoCo: walk as a humanoid; 348 numbers, 17 continuous actions",
    "HumanoidStandup-v5": "MuJoCo: stand up as a humanoid; 348 numbers, 17 continuous actions",
}

_FAMILIES = {
    "atari": _Family(AtariOptions, _atari_names, _describe_atari, _make_atari),
    "humanoid": _Family(HumanoidOptions, _humanoid_names, _describe_humanoid, _make_humanoid),
    "control": _Family(ControlOptions, lambda: list(_CONTROL), lambda name: _CONTROL[name], _make_control),
}

FAMILIES = tuple(_FAMILIES)
"""Names of the families of environments."""


def split_name(name: str) -> tuple[str, str]:
    """`"atari/Asterix"` -> `("atari", "Asterix")`. ValueError without a known family before the slash."""
    family, slash, rest = name.partition("/")
    if not slash or not rest:
        raise ValueError(
            f"environments are named <family>/<name>, as in atari/Asterix, control/CartPole-v1; not {name!r}"
        )
    _family(family)
    return family, rest


def env_names(family: str | None = None) -> list[str]:
    """The full names of all environments, or of one family. ValueError for an unknown family."""
    families = FAMILIES if family is None else (family,)
    return [f"{f}/{name}" for f in families for name in _family(f).names()]


def describe(name: str) -> str:
    """One line on the environment of that name. ValueError, with the nearest names, for an unknown one."""
    family, rest = split_name(name)
    if rest not in _family(family).names():
        raise unknown_name("environment", name, env_names(family))
    return _family(family).describe(rest)


def env_options_class(name: str) -> type[EnvOptions]:
    """The dataclass of options of the environment `name`, or of the family of that name."""
    return _family(name.partition("/")[0]).options


def make_env(name: str, num_envs: int, **options: Any) -> VectorEnv:
    """`num_envs` copies of the environment `name`, with the options of its family.

    Listed names are in `env_names`; `control/` takes any Gymnasium id. ValueError for an unknown name or
    option, naming the nearest valid ones, and for values that make no sense.
    """
    family, rest = split_name(name)
    cls = _family(family).options
    known = [field.name for field in dataclasses.fields(cls)]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {family} environments", option, known)
    return _family(family).make(rest, num_envs, **dataclasses.asdict(cls(**options)))


def _family(name: str) -> _Family:
    if name not in _FAMILIES:
        raise unknown_name("family of environments", name, FAMILIES)
    return _FAMILIES[name]

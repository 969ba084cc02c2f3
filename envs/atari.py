"""Atari: the games, and copies of one of them as a `VectorEnv`.

`make("Asterix", 4)` plays in this process, `make("Asterix", 4, workers=2)` in two others with the same
results. The protocols, and what a game is, are in `atari_game.py`.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import ale_py
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from fire_rl.envs.atari_game import (
    FRAME_SKIP,
    FRAMES_PER_SECOND,
    PROTOCOLS,
    SIZE,
    STACK,
    AtariGame,
    AtariProtocol,
)
from fire_rl.envs.vector import (
    Array,
    Episode,
    Step,
    VectorEnv,
    check_discrete_actions,
    check_num_envs,
    child_seeds,
)
from fire_rl.envs.workers import ProcessEnvs
from fire_rl.names import unknown_name

__all__ = [
    "GAME_SETS",
    "PROTOCOLS",
    "AtariEnvs",
    "AtariGame",
    "AtariProtocol",
    "game_names",
    "make",
    "rom_name",
]

OBSERVATION_SPACE = gym.spaces.Box(0, 255, (STACK, SIZE, SIZE), np.uint8)

# fmt: off
# Kaiser et al. (ICLR 2020): the games of the Atari 100k benchmark.
_ATARI_26 = [
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout",
    "ChopperCommand", "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero",
    "Jamesbond", "Kangaroo", "Krull", "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert",
    "RoadRunner", "Seaquest", "UpNDown",
]
# With these the customary 57, as in Wang et al. (ICML 2016).
_REST_OF_57 = [
    "Asteroids", "Atlantis", "BeamRider", "Berzerk", "Bowling", "Centipede", "Defender",
    "DoubleDunk", "Enduro", "FishingDerby", "Gravitar", "IceHockey", "MontezumaRevenge",
    "NameThisGame", "Phoenix", "Pitfall", "Riverraid", "Robotank", "Skiing", "Solaris",
    "SpaceInvaders", "StarGunner", "Surround", "Tennis", "TimePilot", "Tutankham", "Venture",
    "VideoPinball", "WizardOfWor", "YarsRevenge", "Zaxxon",
]
# fmt: on

GAME_SETS: dict[str, tuple[str, ...]] = {
    "fire": ("Asterix", "BeamRider", "DemonAttack"),  # Han et al. (ICLR 2026), Figure 4a
    "atari-26": tuple(_ATARI_26),
    "atari-57": tuple(sorted(_ATARI_26 + _REST_OF_57)),
}


@functools.cache
def _roms() -> dict[str, str]:
    """Name of each single-player game as registered with Gymnasium (`ALE/<name>-v5`) -> its ROM."""
    gym.register_envs(ale_py)
    return {
        gym_id.removeprefix("ALE/").removesuffix("-v5"): str(spec.kwargs["game"])
        for gym_id, spec in sorted(gym.registry.items())
        if gym_id.startswith("ALE/") and gym_id.endswith("-v5")
    }


def game_names() -> list[str]:
    """The 104 single-player games, all of whose ROMs come with ale-py."""
    return list(_roms())


def rom_name(game: str) -> str:
    """ALE's name of a game: `beam_rider` for `BeamRider`. ValueError names the nearest known games."""
    if game not in _roms():
        raise unknown_name("Atari game", game, game_names())
    return _roms()[game]


def protocol_of(name: str | AtariProtocol) -> AtariProtocol:
    """The protocol of that name, or the one given. ValueError for an unknown name."""
    if isinstance(name, AtariProtocol):
        return name
    if name not in PROTOCOLS:
        raise unknown_name("Atari protocol", name, list(PROTOCOLS))
    return PROTOCOLS[name]


def make(
    game: str,
    num_envs: int,
    *,
    protocol: str | AtariProtocol = "fire-paper",
    workers: int | None = None,
    backend: Literal["ale", "gymnasium"] = "ale",
) -> VectorEnv:
    """`num_envs` copies of `game`.

    `backend="ale"` is ours: in this process, or with `workers` in as many others; results do not depend on
    it. `backend="gymnasium"` is ale-py's C++ vector environment on `workers` threads (0: one per core);
    its state cannot be saved. ValueError for unknown names and impossible numbers.
    """
    if backend == "gymnasium":
        from fire_rl.envs.atari_gymnasium import GymnasiumAtariEnvs

        return GymnasiumAtariEnvs(game, num_envs, protocol=protocol, threads=workers or 0)
    if backend != "ale":
        raise unknown_name("Atari backend", backend, ["ale", "gymnasium"])
    if not workers:
        return AtariEnvs(game, num_envs, protocol=protocol)
    return ProcessEnvs(functools.partial(AtariEnvs, game, protocol=protocol), num_envs, workers)


class AtariEnvs:
    """Copies of one game in this process. An observation is a stack of frames, (4, 84, 84) uint8."""

    action_repeat = FRAME_SKIP
    render_fps = FRAMES_PER_SECOND / FRAME_SKIP
    observation_space: gym.spaces.Box = OBSERVATION_SPACE
    action_space: gym.Space[Any]

    def __init__(self, game: str, num_envs: int, *, protocol: str | AtariProtocol = "fire-paper") -> None:
        """Start the emulators; ValueError for an unknown game or protocol."""
        self.num_envs = check_num_envs(num_envs)
        self._protocol = protocol_of(protocol)
        rom = rom_name(game)
        self._games = [AtariGame(rom, self._protocol) for _ in range(num_envs)]
        self.max_episode_agent_steps: int | None = self._protocol.max_frames // FRAME_SKIP
        self._num_actions = self._games[0].num_actions
        self.action_space = gym.spaces.Discrete(self._num_actions)
        self._pending: NDArray[np.int64] | None = None
        # What a saved state must agree with to mean the same here.
        self._identity = {"game": game, "protocol": repr(self._protocol), "ale_py": ale_py.__version__}

    def reset(self, seed: np.random.SeedSequence) -> Array:
        """Switch all consoles on anew; returns (n, 4, 84, 84) uint8. See `VectorEnv.reset`."""
        for game, child in zip(self._games, child_seeds(seed, self.num_envs), strict=True):
            game.reset(child)
        return self._observation()

    def step(self, actions: Array) -> Step:
        """Take one agent step of four frames in every game. See `VectorEnv.step`."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Array) -> None:
        """Take note of `actions`: in one process nothing can go on in the background."""
        self._pending = check_discrete_actions(actions, self.num_envs, self._num_actions)

    def receive(self) -> Step:
        """Take the agent step of the actions last sent."""
        if self._pending is None:
            raise RuntimeError("receive() without a send() before it")
        actions, self._pending = self._pending, None
        reward = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        for i, game in enumerate(self._games):
            reward[i], terminated[i], truncated[i] = game.step(int(actions[i]))
        observation = final_observation = self._observation()
        episodes = []
        finished = np.flatnonzero(terminated | truncated)
        if finished.size:
            observation = final_observation.copy()
        for i in finished.tolist():
            game = self._games[i]
            episodes.append(Episode(i, game.episode_return, game.length_agent_steps))
            game.start_episode()
            observation[i] = game.stack
        return Step(observation, reward, terminated, truncated, final_observation, tuple(episodes))

    def state_dict(self) -> dict[str, Any]:
        """The state of every game, in `envs`, and what it is a state of."""
        return {**self._identity, "envs": [game.state_dict() for game in self._games]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`. ValueError where it is of another game, protocol, number or ale-py."""
        ours = {**self._identity, "number of environments": self.num_envs}
        theirs = {**state, "number of environments": len(state["envs"])}
        for key, value in ours.items():
            if theirs[key] != value:
                raise ValueError(
                    f"the saved Atari state has {key} {theirs[key]}, these environments have {value}"
                )
        for game, saved in zip(self._games, state["envs"], strict=True):
            game.load_state_dict(saved)

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        """The television's picture of game `index`, (210, 160, 3); some cartridges have other heights."""
        return self._games[index].screen()

    def close(self) -> None:
        """Nothing to free: the emulators go with this object."""

    def _observation(self) -> Array:
        return np.stack([game.stack for game in self._games])

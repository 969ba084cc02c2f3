"""Atari: the pixels of the standard preprocessing, exact continuation, sticky actions, limits, seeds."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from fire_rl.envs import atari
from fire_rl.envs.atari import GAME_SETS, PROTOCOLS, AtariEnvs, AtariGame, game_names, rom_name
from fire_rl.envs.vector import Array, Step, VectorEnv

NOT_STICKY = replace(PROTOCOLS["fire-paper"], sticky_probability=0.0)


def random_actions(envs: VectorEnv, steps: int, seed: int = 0) -> Array:
    assert isinstance(envs.action_space, gym.spaces.Discrete)
    return np.random.default_rng(seed).integers(int(envs.action_space.n), size=(steps, envs.num_envs))


def play(envs: VectorEnv, actions: Array) -> list[Step]:
    return [envs.step(row) for row in actions]


def assert_same_steps(ours: list[Step], theirs: list[Step]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(a.final_observation, b.final_observation)
        np.testing.assert_array_equal(a.reward, b.reward)
        np.testing.assert_array_equal(a.terminated, b.terminated)
        np.testing.assert_array_equal(a.truncated, b.truncated)
        assert a.episodes == b.episodes


def with_zero_padding(stack: Array, length: int) -> Array:
    """Our stack as `FrameStackObservation(padding_type="zero")` shows it after `length` agent steps."""
    padded = stack.copy()
    padded[: max(0, 3 - length)] = 0
    return padded


@pytest.mark.parametrize("game", GAME_SETS["fire"])
def test_equals_gymnasiums_preprocessing(game: str) -> None:
    """Pixels, rewards and ends, over several episodes, of the wrappers that the field uses."""
    gym.register_envs(ale_py)
    inner = gym.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0)
    wrapped = AtariPreprocessing(inner, noop_max=0, frame_skip=4)
    reference = FrameStackObservation(wrapped, 4, padding_type="zero")
    ours = AtariGame(rom_name(game), NOT_STICKY)
    ours.reset(np.random.SeedSequence(0))
    observation, _ = reference.reset(seed=0)
    np.testing.assert_array_equal(with_zero_padding(ours.stack, 0), observation)
    episodes, nonzero_rewards = 0, 0
    rng = np.random.default_rng(1)
    for _ in range(900):
        action = int(rng.integers(ours.num_actions))
        observation, reward, terminated, truncated, _ = reference.step(action)
        assert ours.step(action) == (reward, terminated, truncated)
        np.testing.assert_array_equal(with_zero_padding(ours.stack, ours.length_agent_steps), observation)
        nonzero_rewards += reward != 0
        if terminated or truncated:
            episodes += 1
            ours.start_episode()
            observation, _ = reference.reset()
            np.testing.assert_array_equal(with_zero_padding(ours.stack, 0), observation)
    assert nonzero_rewards > 0
    assert episodes > 0 or game == "BeamRider"


@pytest.mark.parametrize("game", ["Breakout", "Asterix"])
def test_equals_the_native_vector_environment(game: str) -> None:
    """ale-py's C++ environment, used directly: frames, raw rewards, ends, last frames of episodes."""
    native = AtariVectorEnv(
        rom_name(game),
        2,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
        autoreset_mode="SameStep",
        stack_num=1,
    )
    ours = AtariEnvs(game, 2, protocol=NOT_STICKY)
    frames, _ = native.reset(seed=3)
    np.testing.assert_array_equal(ours.reset(np.random.SeedSequence(3))[:, -1], frames[:, 0])
    ends = 0
    for row in random_actions(ours, 600):
        step = ours.step(row)
        frames, rewards, terminated, truncated, info = native.step(row)
        np.testing.assert_array_equal(step.observation[:, -1], frames[:, 0])
        np.testing.assert_array_equal(step.reward, rewards)
        np.testing.assert_array_equal(step.terminated, terminated)
        np.testing.assert_array_equal(step.truncated, truncated)
        for i in np.flatnonzero(step.finished):
            ends += 1
            np.testing.assert_array_equal(step.final_observation[i, -1], info["final_obs"][i, 0])
    assert ends > 0


def test_gymnasium_backend_agrees_with_ours() -> None:
    """Sticky actions per decision included, through terminations and truncations."""
    protocol = replace(PROTOCOLS["fire-paper"], max_frames=603)
    ours = atari.make("Breakout", 3, protocol=protocol)
    theirs = atari.make("Breakout", 3, protocol=protocol, backend="gymnasium", workers=1)
    assert ours.action_space == theirs.action_space
    for seed in (5, 6):  # the second reset finds used emulators
        seeds = np.random.SeedSequence(seed)
        np.testing.assert_array_equal(ours.reset(seeds), theirs.reset(seeds))
        actions = random_actions(ours, 350, seed)
        ours_steps = play(ours, actions)
        assert_same_steps(ours_steps, play(theirs, actions))
        assert any(step.truncated.any() for step in ours_steps)
        assert any(step.terminated.any() for step in ours_steps)
    with pytest.raises(ValueError, match="cannot be saved"):
        theirs.state_dict()
    theirs.close()


def test_gymnasium_backend_draws_sticky_frames_from_the_seed() -> None:
    envs = atari.make("Breakout", 2, protocol="machado", backend="gymnasium", workers=1)
    actions = random_actions(envs, 60)

    def run(seed: int) -> Array:
        envs.reset(np.random.SeedSequence(seed))
        return np.stack([step.observation for step in play(envs, actions)])

    first, again, other = run(1), run(1), run(2)
    envs.close()
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


RESTORED_GAMES = ["Breakout", "Qbert", "Tetris", "Asterix", "DemonAttack", "BeamRider"]


@pytest.mark.parametrize(
    ("game", "protocol"), [*((game, "fire-paper") for game in RESTORED_GAMES), ("Tetris", "machado")]
)
def test_continues_bit_for_bit_in_a_fresh_object(game: str, protocol: str) -> None:
    envs = AtariEnvs(game, 1, protocol=replace(PROTOCOLS[protocol], max_frames=700))
    envs.reset(np.random.SeedSequence(7))
    actions = random_actions(envs, 400, seed=8)
    play(envs, actions[:163])
    state = envs.state_dict()
    expected = play(envs, actions[163:])
    assert any(step.finished.any() for step in expected)
    fresh = AtariEnvs(game, 1, protocol=replace(PROTOCOLS[protocol], max_frames=700))
    fresh.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert_same_steps(play(fresh, actions[163:]), expected)
    envs.load_state_dict(state)  # into a used object as well
    assert_same_steps(play(envs, actions[163:260]), expected[:97])


IN_ANOTHER_PROCESS = """
import pickle, sys
from fire_rl.envs.atari import AtariEnvs
with open(sys.argv[1], "rb") as file:
    game, state, actions = pickle.load(file)
envs = AtariEnvs(game, 1)
envs.load_state_dict(state)
steps = [envs.step(row) for row in actions]
with open(sys.argv[1], "wb") as file:
    pickle.dump(steps, file)
"""


def test_continues_bit_for_bit_in_another_process(tmp_path: Path) -> None:
    envs = AtariEnvs("Qbert", 1)
    envs.reset(np.random.SeedSequence(7))
    actions = random_actions(envs, 400, seed=9)
    play(envs, actions[:100])
    file = tmp_path / "state.pickle"
    file.write_bytes(pickle.dumps(("Qbert", envs.state_dict(), actions[100:])))
    expected = play(envs, actions[100:])
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, str(file)], check=True)
    assert_same_steps(pickle.loads(file.read_bytes()), expected)


def test_refuses_the_state_of_something_else() -> None:
    envs = AtariEnvs("Asterix", 1)
    envs.reset(np.random.SeedSequence(0))
    state = envs.state_dict()
    with pytest.raises(ValueError, match="has game Asterix, these environments have Breakout"):
        AtariEnvs("Breakout", 1).load_state_dict(state)
    with pytest.raises(ValueError, match="has protocol"):
        AtariEnvs("Asterix", 1, protocol="machado").load_state_dict(state)
    with pytest.raises(ValueError, match="has number of environments 1, these environments have 2"):
        AtariEnvs("Asterix", 2).load_state_dict(state)


class SpyEmulator:
    """Passes everything on to the emulator and remembers the actions that it was given."""

    def __init__(self, ale: Any) -> None:
        self._ale = ale
        self.actions: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ale, name)

    def act(self, action: Any) -> float:
        self.actions.append(int(action.value))
        return float(self._ale.act(action))


def executed_actions(monkeypatch: pytest.MonkeyPatch, protocol: str, chosen: Array) -> Array:
    """(steps, 4): the actions that the emulator saw in each agent step."""
    game = AtariGame("seaquest", PROTOCOLS[protocol])  # 18 minimal actions, numbered as in the full set
    spy = SpyEmulator(game._ale)
    monkeypatch.setattr(game, "_ale", spy)
    game.reset(np.random.SeedSequence(11))
    rows = []
    for action in chosen.tolist():
        spy.actions.clear()
        _, terminated, truncated = game.step(action)
        rows.append(spy.actions + [-1] * (4 - len(spy.actions)))
        if terminated or truncated:
            game.start_episode()
            rows[-1] = [-1] * 4  # begins a new episode: not compared
    return np.array(rows)


def test_sticky_per_decision_holds_a_whole_agent_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each decision is dropped with p = 1/4, and what is executed instead is what was executed before."""
    chosen = np.arange(1, 1501) % 17 + 1
    executed = executed_actions(monkeypatch, "fire-paper", chosen)
    whole = executed[:, 0] >= 0
    assert (executed[whole] == executed[whole, :1]).all()
    previous = np.concatenate([[0], executed[:-1, 0]])
    repeated = executed[:, 0] != chosen
    comparable = whole & (previous >= 0)
    np.testing.assert_array_equal(executed[comparable & repeated, 0], previous[comparable & repeated])
    rate = repeated[comparable].mean()
    assert abs(rate - 0.25) < 4 * np.sqrt(0.25 * 0.75 / comparable.sum())


def test_sticky_draws_come_in_the_declared_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw of the environment's own PCG64 per decision, before anything else."""
    chosen = np.arange(1, 61) % 17 + 1
    executed = executed_actions(monkeypatch, "fire-paper", chosen)[:, 0]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(11)))
    expected, current = [], 0
    for action in chosen.tolist():
        current = action if rng.random() >= 0.25 else current
        expected.append(current)
    np.testing.assert_array_equal(executed, expected)


def test_sticky_per_frame_draws_anew_for_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new action is delayed by k frames with probability p^k (1 - p); all four repeat with p^4."""
    chosen = np.arange(1, 3001) % 17 + 1
    executed = executed_actions(monkeypatch, "machado", chosen)
    previous = np.concatenate([[-1], executed[:-1, -1]])
    comparable = (executed >= 0).all(axis=1) & (previous >= 0) & (previous != chosen)
    old = executed[comparable] == previous[comparable, None]
    new = executed[comparable] == chosen[comparable, None]
    assert (old | new).all()
    assert (np.diff(new.astype(int), axis=1) >= 0).all()  # once taken, the new action stays
    n = comparable.sum()
    for delay in range(4):
        rate, p = (old.sum(axis=1) > delay).mean(), 0.25 ** (delay + 1)
        assert abs(rate - p) < 4 * np.sqrt(p * (1 - p) / n) + 1 / n


def test_seeds() -> None:
    """Same seed, same play, on new and used objects; environments differ; other seeds differ."""

    def run(envs: AtariEnvs, seed: int) -> Array:
        first = envs.reset(np.random.SeedSequence(seed))
        actions = np.tile(random_actions(envs, 80)[:, :1], (1, envs.num_envs))
        return np.stack([first, *(step.observation for step in play(envs, actions))])

    envs = AtariEnvs("Breakout", 2)
    observations = run(envs, 1)
    np.testing.assert_array_equal(run(envs, 1), observations)
    np.testing.assert_array_equal(run(AtariEnvs("Breakout", 2), 1), observations)
    assert (observations[:, 0] != observations[:, 1]).any()
    assert (run(envs, 2) != observations).any()


def test_frame_cap_truncates_with_the_true_last_frame() -> None:
    """A cap of 90 frames falls inside the 23rd agent step; a free game shows what lies beyond."""
    capped = AtariEnvs("BeamRider", 1, protocol=replace(NOT_STICKY, max_frames=90))
    longer = AtariEnvs("BeamRider", 1, protocol=replace(NOT_STICKY, max_frames=92))
    first = capped.reset(np.random.SeedSequence(0))
    longer.reset(np.random.SeedSequence(0))
    actions = random_actions(capped, 23)
    steps, free = play(capped, actions), play(longer, actions)
    assert_same_steps(steps[:22], free[:22])
    end, free_end = steps[22], free[22]
    assert end.truncated.all() and not end.terminated.any()
    assert end.episodes[0].length_agent_steps == 23
    assert end.episodes[0].episode_return == sum(step.reward[0] for step in steps)
    assert free_end.truncated.all()
    np.testing.assert_array_equal(end.final_observation[0, :3], steps[21].observation[0, 1:])
    # Two frames into the agent step its pool is still that of the step before, as in AtariPreprocessing.
    np.testing.assert_array_equal(end.final_observation[0, 3], steps[21].observation[0, 3])
    assert (free_end.final_observation[0, 3] != free_end.final_observation[0, 2]).any()
    # Same-step autoreset: what to act on next is the first frame of the next episode, four times.
    assert (end.observation == end.observation[:, -1:]).all()
    assert (end.observation != end.final_observation).any()
    np.testing.assert_array_equal(end.observation, first)


def test_returns_are_raw_and_sum_up() -> None:
    envs = AtariEnvs("Asterix", 2)
    envs.reset(np.random.SeedSequence(0))
    sums, lengths, episodes = np.zeros(2), np.zeros(2, int), 0
    for step in play(envs, random_actions(envs, 600)):
        sums += step.reward
        lengths += 1
        for episode in step.episodes:
            i = episode.env_index
            assert (episode.episode_return, episode.length_agent_steps) == (sums[i], lengths[i])
            sums[i], lengths[i], episodes = 0, 0, episodes + 1
    assert episodes > 1
    assert sums.max() > 1  # Asterix pays 50 points at a time


def test_action_sets() -> None:
    assert AtariEnvs("Breakout", 1).action_space == gym.spaces.Discrete(4)
    assert AtariEnvs("Breakout", 1, protocol="machado").action_space == gym.spaces.Discrete(18)


@pytest.mark.parametrize("backend", ["ale", "gymnasium"])
@pytest.mark.parametrize("wrong", [[0], [0, 9], [-1, 0], [0.0, 1.0], [[0, 1]]])
def test_wrong_actions_are_refused(backend: Any, wrong: list[Any]) -> None:
    envs = atari.make("Asterix", 2, backend=backend, workers=0)
    envs.reset(np.random.SeedSequence(0))
    with pytest.raises(ValueError, match="actions must"):
        envs.step(np.array(wrong))
    envs.close()


def test_wrong_names_and_numbers() -> None:
    with pytest.raises(ValueError, match="unknown Atari game 'asterix': did you mean Asterix"):
        AtariEnvs("asterix", 1)
    with pytest.raises(ValueError, match="unknown Atari protocol 'fire': did you mean fire-paper"):
        AtariEnvs("Asterix", 1, protocol="fire")
    with pytest.raises(ValueError, match="positive integer"):
        AtariEnvs("Asterix", 0)
    with pytest.raises(ValueError, match="4 environments need 1 to 4 worker processes, not 5"):
        atari.make("Asterix", 4, workers=5)
    misspelt: Any = "gymnaisum"
    with pytest.raises(ValueError, match="unknown Atari backend 'gymnaisum': did you mean gymnasium"):
        atari.make("Asterix", 4, backend=misspelt)


def test_game_sets_are_registered_games() -> None:
    names = set(game_names())
    assert len(names) == 104
    assert [len(GAME_SETS[key]) for key in ("fire", "atari-26", "atari-57")] == [3, 26, 57]
    for games in GAME_SETS.values():
        assert len(set(games)) == len(games)
        assert set(games) <= names
    assert set(GAME_SETS["fire"]) | set(GAME_SETS["atari-26"]) <= set(GAME_SETS["atari-57"])

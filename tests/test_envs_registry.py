"""Environments by name: lists, descriptions, options, and answers to wrong names."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from fire_rl import envs
from fire_rl.envs.atari import AtariEnvs
from fire_rl.envs.control import ControlEnvs
from fire_rl.envs.vector import child_seeds
from fire_rl.envs.workers import ProcessEnvs


def test_names() -> None:
    assert len(envs.env_names("atari")) == 104
    assert {"atari/Asterix", "atari/BeamRider", "atari/DemonAttack"} <= set(envs.env_names("atari"))
    assert len(envs.env_names("humanoid")) == 14
    assert {"humanoid/h1-walk", "humanoid/h1-run", "humanoid/h1-balance_simple"} <= set(envs.env_names())
    every = envs.env_names()
    assert len(every) == len(set(every)) == sum(len(envs.env_names(family)) for family in envs.FAMILIES)


@pytest.mark.parametrize("family", envs.FAMILIES)
def test_every_environment_has_one_line(family: str) -> None:
    for name in envs.env_names(family):
        line = envs.describe(name)
        assert line and "\n" not in line


def test_descriptions_name_the_sets() -> None:
    assert "in the sets fire, atari-26, atari-57" in envs.describe("atari/Asterix")
    assert "set" not in envs.describe("atari/Adventure")


@pytest.mark.parametrize("name", envs.env_names("control"))
def test_control_descriptions_are_true(name: str) -> None:
    """The numbers in a description are those of the environment, which is also made by its name."""
    made = envs.make_env(name, 1)
    actions = made.action_space
    size = int(actions.n) if isinstance(actions, gym.spaces.Discrete) else int(np.prod(actions.shape or ()))
    kind = " " if isinstance(actions, gym.spaces.Discrete) else " continuous "
    plural = "" if size == 1 else "s"
    expected = f"; {made.observation_space.shape[0]} numbers, {size}{kind}action{plural}"
    assert envs.describe(name).endswith(expected)
    made.close()


def test_make_with_options() -> None:
    assert isinstance(envs.make_env("control/CartPole-v1", 2), ControlEnvs)
    game = envs.make_env("atari/Breakout", 2, protocol="machado")
    assert isinstance(game, AtariEnvs)
    assert game.action_space == gym.spaces.Discrete(18)
    assert game.action_repeat == 4
    split = envs.make_env("atari/Breakout", 2, workers=1)
    assert isinstance(split, ProcessEnvs)
    split.close()


def test_options_classes() -> None:
    assert envs.env_options_class("atari/Asterix") is envs.AtariOptions
    assert envs.env_options_class("humanoid") is envs.HumanoidOptions
    assert envs.env_options_class("control/CartPole-v1") is envs.ControlOptions


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("Asterix", "environments are named <family>/<name>"),
        ("atari/", "environments are named <family>/<name>"),
        ("atary/Asterix", "unknown family of environments 'atary': did you mean atari"),
        ("atari/Astrix", "unknown Atari game 'Astrix': did you mean Asterix"),
        ("atari/beam_rider", "did you mean BeamRider"),
        ("control/CartPol-v1", "unknown Gymnasium environment 'CartPol-v1': did you mean CartPole-v1"),
    ],
)
def test_wrong_names(name: str, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        envs.make_env(name, 1)


def test_wrong_families_options_and_descriptions() -> None:
    with pytest.raises(ValueError, match="unknown family of environments 'contrl': did you mean control"):
        envs.env_names("contrl")
    with pytest.raises(ValueError, match="unknown environment 'atari/asterix': did you mean atari/Asterix"):
        envs.describe("atari/asterix")
    with pytest.raises(
        ValueError, match="unknown option of atari environments 'worker': did you mean workers"
    ):
        envs.make_env("atari/Asterix", 1, worker=1)
    with pytest.raises(ValueError, match="unknown option of control environments 'workers': there are none"):
        envs.make_env("control/CartPole-v1", 1, workers=1)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, fire_rl.envs; print({'ale_py', 'cv2', 'mujoco'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_child_seeds_are_those_of_spawn_and_leave_the_seed_alone() -> None:
    seed = np.random.SeedSequence(5, spawn_key=(2,))
    seed.spawn(3)
    ours = child_seeds(seed, 4)
    again = child_seeds(seed, 4)
    theirs = seed.spawn(4)
    for a, b, c in zip(ours, again, theirs, strict=True):
        assert a.spawn_key == b.spawn_key == c.spawn_key
        np.testing.assert_array_equal(a.generate_state(4), c.generate_state(4))

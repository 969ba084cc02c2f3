"""The humanoid tasks as environments: Gymnasium's contract, seeds, threads, saving, limits, bad input."""

import warnings
from typing import Any, cast

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import fire_rl.envs.humanoid as humanoid
from fire_rl.envs.humanoid import (
    TASK_SETS,
    TASKS,
    HumanoidEnv,
    HumanoidVectorEnv,
    MissingRequirementError,
    rendering,
    robot,
)
from fire_rl.envs.humanoid.scenes import empty, load_model
from fire_rl.envs.humanoid.simulation import Simulation
from fire_rl.results.scores import HUMANOID
from tests.humanoid_for_tests import golden, names, random_actions, same

SEED = np.random.SeedSequence(11)


def test_the_table_and_its_sets() -> None:
    assert len(TASKS) == 14
    assert sorted(TASK_SETS["fire"]) == ["h1-balance_simple", "h1-run", "h1-walk"]
    assert TASK_SETS["locomotion"] == list(TASKS)
    for spec in TASKS.values():
        assert spec.summary and len(golden(spec.name)["pure_obs"][0]) == spec.observation_dim


def test_reference_scores_are_of_registered_tasks() -> None:
    assert set(HUMANOID) == set(TASKS)
    for name, scores in HUMANOID.items():
        assert scores.reference == TASKS[name].success_bar > scores.random


@pytest.mark.parametrize("task", sorted(set(names()) - set(TASK_SETS["fire"])))
def test_random_scores_are_the_measured_ones(task: str) -> None:
    measured = golden("episode_stats")[f"mj316/{task.removeprefix('h1-')}/random_return"]
    assert HUMANOID[task].random == pytest.approx(measured.mean(), abs=0.05)


@pytest.mark.parametrize("task", names())
def test_gymnasium_checker(task: str) -> None:
    env = gym.make(f"fire_rl/{task}-v0")
    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        warnings.filterwarnings("ignore", ".*A Box observation space (min|max)imum value is .*infinity.*")
        check_env(env.unwrapped, skip_render_check=True)
    assert env.spec is not None and env.spec.max_episode_steps == 1000
    env.close()


@pytest.mark.parametrize("task", ["h1-walk", "h1-reach", "h1-sit_hard"])
def test_the_seed_determines_everything(task: str) -> None:
    """Whatever else the process draws, goals and poses included."""

    def play(env: gym.Env[Any, Any], disturbance: int) -> list[Any]:
        np.random.seed(disturbance)  # noqa: NPY002
        observation, info = env.reset(seed=7)
        assert info == {}
        history = [observation]
        for action in random_actions(0, 60, 1)[:, 0]:
            observation, reward, terminated, truncated, _ = env.step(action)
            history += [observation, reward]
            if terminated or truncated:
                history.append(env.reset()[0])
        return history

    one, other = (gym.make(f"fire_rl/{task}-v0") for _ in range(2))
    first, second, again = play(one, 1), play(other, 2), play(one, 3)
    for a, b, c in zip(first, second, again, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert not np.array_equal(first[0], one.reset(seed=8)[0])


def test_info_holds_the_terms_of_the_reward() -> None:
    env = gym.make("fire_rl/h1-walk-v0")
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.zeros(19, np.float32))
    assert info["per_timestep_reward"] == reward
    assert reward == pytest.approx(info["small_control"] * info["stand_reward"] * info["move"])


def test_time_limit_of_the_single_environment() -> None:
    env = gym.make("fire_rl/h1-crawl-v0")  # never ends early
    env.reset(seed=0)
    for step in range(1, 1001):
        _, _, terminated, truncated, _ = env.step(np.zeros(19, np.float32))
        assert not terminated
        assert truncated == (step == 1000)


@pytest.mark.parametrize("task", ["h1-walk", "h1-maze", "h1-reach"])
def test_agent_steps_are_repeated_env_steps(task: str) -> None:
    """The vector environment, played again by hand with one raw simulation per copy."""
    envs = HumanoidVectorEnv(task, 2, max_episode_env_steps=45)
    observation = envs.reset(SEED)
    assert observation.dtype == np.float32
    raw = [Simulation(TASKS[task]) for _ in range(2)]
    rngs = [np.random.default_rng(child) for child in np.random.SeedSequence(11).spawn(2)]
    expected = [simulation.reset(rng) for simulation, rng in zip(raw, rngs, strict=True)]
    env_steps, returns, agent_steps, ended = [0, 0], [0.0, 0.0], [0, 0], {"terminated": 0, "truncated": 0}
    for actions in random_actions(1, 120, 2):
        np.testing.assert_array_equal(observation, np.array(expected, np.float32))
        step = envs.step(actions)
        episodes = []
        for i in range(2):
            total, terminated = 0.0, False
            for _ in range(2):
                reward, terminated, _ = raw[i].step(actions[i])
                total, env_steps[i] = total + reward, env_steps[i] + 1
                if terminated or env_steps[i] == 45:
                    break
            agent_steps[i], returns[i] = agent_steps[i] + 1, returns[i] + total
            truncated = env_steps[i] == 45 and not terminated
            assert (step.reward[i], step.terminated[i], step.truncated[i]) == (total, terminated, truncated)
            final = raw[i].observation()
            np.testing.assert_array_equal(step.final_observation[i], final.astype(np.float32))
            expected[i] = final
            if terminated or truncated:
                ended["terminated" if terminated else "truncated"] += 1
                episodes.append((i, returns[i], agent_steps[i]))
                env_steps[i], agent_steps[i], returns[i] = 0, 0, 0.0
                expected[i] = raw[i].reset(rngs[i])
        assert step.episodes == tuple(episodes)
        observation = step.observation
    assert ended["truncated"] and (ended["terminated"] or task == "h1-reach")


def test_paper_limit_is_500_agent_steps() -> None:
    envs = HumanoidVectorEnv("h1-crawl", 1)
    envs.reset(SEED)
    for number in range(1, 501):
        step = envs.step(np.zeros((1, 19), np.float32))
        assert step.truncated[0] == (number == 500)
    (episode,) = step.episodes
    assert episode.length_agent_steps == 500


def test_two_resets_from_one_seed_are_alike() -> None:
    envs, others = HumanoidVectorEnv("h1-sit_hard", 3), HumanoidVectorEnv("h1-sit_hard", 3)
    first = envs.reset(SEED)
    envs.step(random_actions(0, 1, 3)[0])
    np.testing.assert_array_equal(envs.reset(SEED), first)
    np.testing.assert_array_equal(others.reset(np.random.SeedSequence(11)), first)
    assert len(np.unique(first, axis=0)) == 3
    assert not np.array_equal(envs.reset(np.random.SeedSequence(12)), first)


@pytest.mark.parametrize("task", ["h1-balance_simple", "h1-maze"])
def test_threads_change_nothing(task: str) -> None:
    alone, together = HumanoidVectorEnv(task, 5), HumanoidVectorEnv(task, 5, threads=3)
    np.testing.assert_array_equal(alone.reset(SEED), together.reset(SEED))
    finished = 0
    for actions in random_actions(2, 60, 5):
        one, other = alone.step(actions), together.step(actions)
        assert same(one, other)
        finished += len(one.episodes)
    assert finished
    together.close()
    together.close()


def test_one_model_for_all() -> None:
    envs = HumanoidVectorEnv("h1-walk", 3)
    single = HumanoidEnv("h1-run")  # the same scene
    assert {id(copy.simulation.model) for copy in envs._copies} == {id(single.simulation.model)}


def test_a_step_in_the_background_is_a_step() -> None:
    here, behind = HumanoidVectorEnv("h1-walk", 2), HumanoidVectorEnv("h1-walk", 2)
    for envs in (here, behind):
        envs.reset(np.random.SeedSequence(3))
    rng = np.random.default_rng(0)
    with pytest.raises(RuntimeError, match="without a send"):
        behind.receive()
    for _ in range(60):  # through falls
        actions = rng.uniform(-1, 1, (2, 19)).astype(np.float32)
        behind.send(actions)
        with pytest.raises(RuntimeError, match=r"call receive\(\) first"):
            behind.send(actions)
        one, other = here.step(actions), behind.receive()
        assert same(one, other)
    behind.close()


@pytest.mark.parametrize("task", ["h1-walk", "h1-balance_hard", "h1-maze", "h1-reach", "h1-sit_hard"])
@pytest.mark.parametrize("contacts", ["published", "current"])
def test_resume_is_exact(task: str, contacts: Any) -> None:
    """Saved in the middle of episodes, loaded into a used object: the next 200 agent steps are the same."""
    envs = HumanoidVectorEnv(task, 2, contacts=contacts)
    envs.reset(SEED)
    for actions in random_actions(3, 33, 2):
        envs.step(actions)
    state = envs.state_dict()
    other = HumanoidVectorEnv(task, 2, contacts=contacts, threads=2)
    other.reset(np.random.SeedSequence(99))
    other.step(random_actions(4, 1, 2)[0])
    other.load_state_dict(state)
    for actions in random_actions(5, 200, 2):
        assert same(envs.step(actions), other.step(actions))
    other.close()


def test_the_saved_state_stays_as_it_was() -> None:
    envs = HumanoidVectorEnv("h1-maze", 1)
    envs.reset(SEED)
    state = envs.state_dict()
    actions = random_actions(6, 20, 1)
    first = [envs.step(a) for a in actions]
    envs.load_state_dict(state)
    for a, expected in zip(actions, first, strict=True):
        assert same(envs.step(a), expected)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"did you mean h1-walk"):
        humanoid.make("h1-wlak", 1)
    with pytest.raises(ValueError, match=r"only robot h1 is.*backend=\"official\""):
        humanoid.make("h1hand-walk", 1)
    with pytest.raises(ValueError, match="published, current, not 'old'"):
        humanoid.make("h1-walk", 1, contacts=cast(Any, "old"))
    with pytest.raises(ValueError, match='"built-in" or "official", not \'mine\''):
        humanoid.make("h1-walk", 1, backend=cast(Any, "mine"))
    with pytest.raises(ValueError, match="render_mode"):
        HumanoidEnv("h1-walk", render_mode="human")


@pytest.mark.parametrize("count", ["action_repeat", "threads", "max_episode_env_steps"])
def test_counts_below_one(count: str) -> None:
    with pytest.raises(ValueError, match=f"{count} must be at least 1, not 0"):
        humanoid.make("h1-walk", 1, **cast(Any, {count: 0}))
    with pytest.raises(ValueError, match="number of environments"):
        humanoid.make("h1-walk", 0)


def test_bad_actions() -> None:
    env, envs = HumanoidEnv("h1-walk"), HumanoidVectorEnv("h1-walk", 2)
    env.reset(seed=0)
    envs.reset(SEED)
    with pytest.raises(ValueError, match=r"shape \(19,\), not \(18,\)"):
        env.step(np.zeros(18, np.float32))
    with pytest.raises(ValueError, match=r"shape \(2, 19\), not \(19,\)"):
        envs.step(np.zeros(19, np.float32))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinite"):
            env.step(np.full(19, bad, np.float32))
        with pytest.raises(ValueError, match="NaN or infinite"):
            envs.step(np.full((2, 19), bad))


def test_state_of_another_task() -> None:
    state = HumanoidVectorEnv("h1-walk", 1).state_dict()
    with pytest.raises(ValueError, match="1 x h1-walk, this environment is 2 x h1-walk"):
        HumanoidVectorEnv("h1-walk", 2).load_state_dict(state)
    with pytest.raises(ValueError, match="this environment is 1 x h1-run"):
        HumanoidVectorEnv("h1-run", 1).load_state_dict(state)


def test_missing_meshes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingRequirementError, match=r"pip install robosuite-models==1\.0\.0"):
        robot.mesh_directory()
    assert issubclass(MissingRequirementError, ValueError)


def test_picture() -> None:
    """The robot is in the picture where OpenGL starts; elsewhere the message says what to install."""
    env = HumanoidEnv("h1-walk", render_mode="rgb_array")
    env.reset(seed=0)
    try:
        standing = env.render()
    except MissingRequirementError as error:
        assert "EGL" in str(error) and "OSMesa" in str(error)
        return
    assert standing is not None and standing.shape == (rendering.HEIGHT, rendering.WIDTH, 3)
    env.simulation.data.qpos[2] += 50  # the camera follows the robot: behind it floor becomes sky
    mujoco.mj_forward(env.simulation.model, env.simulation.data)
    aloft = env.render()
    assert aloft is not None
    assert np.mean(standing != aloft) > 0.2
    assert np.mean(standing == aloft) > 0.01
    env.close()


def test_picture_without_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(MissingRequirementError, match="install EGL"):
        rendering.Camera(load_model(empty))
    assert HumanoidEnv("h1-walk").render() is None

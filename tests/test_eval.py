"""`fire-rl eval`: the agent that was trained is the one that plays, and filming it changes nothing."""

import hashlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest

from fire_rl.agents import AGENTS, Agent
from fire_rl.envs import FilmableVectorEnv, VectorEnv, make_env
from fire_rl.envs.control import ControlEnvs
from fire_rl.envs.humanoid import MissingRequirementError
from fire_rl.envs.humanoid.rendering import gl_backend
from fire_rl.launch import cli, train
from fire_rl.launch.config import located, make_config
from fire_rl.launch.evaluate import Evaluator
from fire_rl.launch.film import Filmed
from fire_rl.launch.recorded import load_agent
from fire_rl.launch.run import Run

RUNS: dict[str, dict[str, Any]] = {
    "CartPole": {
        "agent": {"name": "dqn", "learning_starts": 50, "hidden": [16], "epsilon_eval": 0.1},
        "env": "control/CartPole-v1",
        "method": "plasticity-injection",
        "agent_steps": 400,
    },
    "Pendulum": {
        "agent": {"name": "sac", "network": "mlp", "hidden": [8], "learning_starts": 20, "batch_size": 8},
        "env": "control/Pendulum-v1",
        "method": "plasticity-injection",
        "agent_steps": 120,
    },
    "Asterix": {
        "agent": {"name": "dqn", "learning_starts": 40, "batch_size": 2, "replay_capacity": 400},
        "env": {"name": "atari/Asterix", "workers": 2},
        "method": "none",
        "num_envs": 2,
        "agent_steps": 60,
    },
}
COMMON = {"probe_size": 16, "eval_every": 0, "log_every": 20, "wandb": "disabled", "threads": 1}


@dataclass
class Trained:
    """A recorded run, and its agent as training left it."""

    path: Path
    agent: Agent
    code: int

    def plays(self, episodes: int, seed: int, agent: Agent | None = None) -> list[float]:
        """Returns of the agent that never was on a disk."""
        name = load_agent(self.path).config.run.env
        evaluator = Evaluator(lambda n: make_env(name, n), episodes)
        returns = evaluator(agent or self.agent, np.random.SeedSequence(seed))
        evaluator.close()
        return returns


def trained(out: Path, name: str, interrupt_at: int | None = None) -> Trained:
    runs: list[Run] = []

    class Watched(Run):
        def log(self) -> None:
            super().log()
            runs.append(self)
            if self.agent.agent_steps == interrupt_at:
                os.kill(os.getpid(), signal.SIGTERM)

    config = located(make_config({**RUNS[name], **COMMON, "out": out}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Run", Watched)
        code = train.train(config)
    return Trained(config.path, runs[-1].agent, code)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    return {name: trained(tmp_path_factory.mktemp("runs"), name) for name in RUNS}


def evaluate(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `fire-rl eval WORDS`."""
    capsys.readouterr()
    code = cli.main(["eval", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def result(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    code, out, err = evaluate(capsys, *words, "--json")
    assert code == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer


@pytest.mark.parametrize(("name", "episodes"), [("CartPole", 20), ("Pendulum", 5)])
def test_it_plays_as_the_trained_agent_does(
    runs: dict[str, Trained], capsys: pytest.CaptureFixture[str], name: str, episodes: int
) -> None:
    """Weights, injected heads and normaliser: any that is missing changes the returns."""
    run = runs[name]
    assert run.code == 0
    answer = result(capsys, run.path, "--episodes", str(episodes), "--seed", "7")
    returns = answer["returns"]
    assert returns == run.plays(episodes, seed=7)
    assert len(returns) == episodes
    assert answer["mean"] == pytest.approx(np.mean(returns))
    assert answer["median"] == pytest.approx(np.median(returns))
    assert answer["agent_steps"] == RUNS[name]["agent_steps"]
    lower, upper = answer["interval"]
    assert min(returns) <= lower < answer["mean"] < upper <= max(returns)
    assert returns != result(capsys, run.path, "--episodes", str(episodes), "--seed", "8")["returns"]


@pytest.mark.parametrize("name", RUNS)
def test_every_weight_and_statistic_is_there_but_no_memory(runs: dict[str, Trained], name: str) -> None:
    run = runs[name]
    loaded = load_agent(run.path).agent
    observation = make_env(load_agent(run.path).config.run.env, 3).reset(np.random.SeedSequence(1))
    ours, theirs = (a.evaluate(observation, np.random.default_rng(0)) for a in (loaded, run.agent))
    np.testing.assert_array_equal(ours, theirs)
    for key, learner in run.agent.learners.items():
        saved, there = learner.online.state_dict(), loaded.learners[key].online.state_dict()
        assert saved.keys() == there.keys()
        assert all((saved[k] == there[k]).all() for k in saved)
        assert any("injected" in k for k in saved) == (RUNS[name]["method"] == "plasticity-injection")
    assert loaded.memory.slots * loaded.memory.num_envs < 10
    assert len(run.agent.memory) > 10


def test_the_normaliser_has_a_part_in_it(runs: dict[str, Trained]) -> None:
    """Else the test above would not notice its absence."""
    run = runs["Pendulum"]
    loaded = load_agent(run.path)
    env = make_env("control/Pendulum-v1", 1)
    fresh: Any = AGENTS["sac"].make(
        env,
        loaded.config.agent,
        np.random.SeedSequence(0),
        loaded.config.torch_device(),
        loaded.config.method,
    )
    agent: Any = loaded.agent
    agent.normalizer.load_state_dict(fresh.normalizer.state_dict())
    assert run.plays(2, 0, agent) != run.plays(2, 0)


def test_an_interrupted_run_can_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, "CartPole", interrupt_at=200)
    assert run.code == 128 + signal.SIGTERM
    answer = result(capsys, run.path, "--episodes", "4")
    assert answer["agent_steps"] == run.agent.agent_steps < 400
    assert answer["returns"] == run.plays(4, seed=0)


def test_the_record_stays_as_it_is(runs: dict[str, Trained], capsys: pytest.CaptureFixture[str]) -> None:
    def content(path: Path) -> dict[str, tuple[int, str]]:
        return {
            str(p): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "")
            for p in [path, *path.rglob("*")]
        }

    before = content(runs["CartPole"].path)
    result(capsys, runs["CartPole"].path, "--episodes", "3")
    assert content(runs["CartPole"].path) == before


def test_the_lines_for_people(runs: dict[str, Trained], capsys: pytest.CaptureFixture[str]) -> None:
    path = runs["CartPole"].path
    _, out, _ = evaluate(capsys, path, "--episodes", "4")
    answer = result(capsys, path, "--episodes", "4")
    assert "dqn with plasticity-injection on control/CartPole-v1, agent step 400 of 400" in out
    assert "returns  " + " ".join(f"{value:g}" for value in answer["returns"]) in out
    assert f"{answer['interval'][0]:g} to {answer['interval'][1]:g}" in out
    _, out, _ = evaluate(capsys, path, "--episodes", "1")
    assert "too few episodes for an interval" in out


def complaint(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one sentence on stderr; stdout is empty."""
    code, out, err = evaluate(capsys, *words)
    assert code == 2 and out == ""
    assert len([line for line in err.splitlines() if line.startswith("fire-rl: ")]) == 1
    assert "Traceback" not in err
    return err


def test_what_cannot_be_evaluated_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no run" in complaint(capsys, tmp_path)
    assert "holds no run" in complaint(capsys, tmp_path / "nowhere")
    run = trained(tmp_path, "CartPole")
    with pytest.raises(SystemExit, match="2"):
        evaluate(capsys, run.path, "--episodes", "0")
    assert "--device cuda:99" in complaint(capsys, run.path, "--device", "cuda:99")
    (checkpoint,) = [p for p in (run.path / "checkpoints").iterdir() if p.name.isdigit()]
    weights = checkpoint / "agent.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert "no checkpoint" in (said := complaint(capsys, run.path)) and "is intact" in said
    for file in checkpoint.iterdir():
        file.unlink()
    checkpoint.rmdir()
    assert "has no checkpoint yet" in complaint(capsys, run.path)


def film(path: Path) -> list[Any]:
    """The pictures in a file, RGB."""
    video = cv2.VideoCapture(str(path))
    pictures: list[Any] = []
    while (answer := video.read())[0]:
        pictures.append(cv2.cvtColor(answer[1], cv2.COLOR_BGR2RGB))
    return pictures


def test_a_film_shows_the_first_episode_and_changes_nothing(
    runs: dict[str, Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every picture is what the agent saw when it decided, played here once more by hand."""
    run, path = runs["Asterix"], tmp_path / "out.mp4"
    filmed = result(capsys, run.path, "--episodes", "1", "--seed", "7", "--video", path)
    assert filmed["returns"] == run.plays(1, seed=7)
    assert filmed["video"] == str(path)

    env = make_env("atari/Asterix", 1)
    assert isinstance(env, FilmableVectorEnv)
    env_seed, action_seed = np.random.SeedSequence(7).spawn(2)
    rng, observation = np.random.default_rng(action_seed), env.reset(env_seed)
    seen = []
    while True:
        seen.append(env.render())
        step = env.step(run.agent.evaluate(observation, rng))
        observation = step.observation
        if step.finished[0]:
            break
    pictures = film(path)
    assert len(pictures) == len(seen) == step.episodes[0].length_agent_steps
    for i in (0, len(seen) // 2, len(seen) - 1):
        error = np.abs(pictures[i].astype(float) - seen[i])
        swapped = np.abs(pictures[i][..., ::-1].astype(float) - seen[i])
        assert error.mean() < 8 and error.mean() < swapped.mean()
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(60 / 4)


def test_only_the_first_of_many_is_filmed(
    runs: dict[str, Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pygame")
    path, words = tmp_path / "out.mp4", (runs["CartPole"].path, "--episodes", "20")
    plain, filmed = result(capsys, *words), result(capsys, *words, "--video", path)
    assert filmed["returns"] == plain["returns"]
    assert len(film(path)) == plain["returns"][0]  # a point for every step


@pytest.mark.parametrize(
    "name",
    ["atari/Pong", "control/Acrobot-v1", "control/Pendulum-v1", "control/Hopper-v5", "humanoid/h1-reach"],
)
def test_looking_changes_nothing(name: str) -> None:
    """Two environments go the same way, of which one is looked at."""
    seen, unseen = make_env(name, 2), make_env(name, 2)
    assert isinstance(seen, FilmableVectorEnv)
    skip_where_nothing_is_drawn(name)
    for env in (seen, unseen):
        env.reset(np.random.SeedSequence(3))
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(4):
        pictures.append((seen.render(0), seen.render(1)))
        actions = random_actions(seen, rng)
        a, b = seen.step(actions), unseen.step(actions)
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(a.reward, b.reward)
    assert repr(seen.state_dict()) == repr(unseen.state_dict())
    first, last = pictures[0][0], pictures[-1][0]
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    assert (first != last).any()
    if name != "atari/Pong":
        assert (pictures[-1][0] != pictures[-1][1]).any(), "two environments, one picture"
    seen.close()
    seen.close()


def random_actions(env: VectorEnv, rng: np.random.Generator) -> Any:
    if isinstance(env.action_space, gym.spaces.Discrete):
        return rng.integers(int(env.action_space.n), size=env.num_envs)
    return rng.uniform(-1, 1, (env.num_envs, *(env.action_space.shape or ())))


def skip_where_nothing_is_drawn(name: str) -> None:
    if name in ("control/Acrobot-v1", "control/Pendulum-v1"):
        pytest.importorskip("pygame")
    elif not name.startswith("atari"):
        try:
            gl_backend()
        except MissingRequirementError as error:
            pytest.skip(str(error))


def test_control_is_drawn_as_gymnasium_draws_it() -> None:
    pytest.importorskip("pygame")
    envs = ControlEnvs("CartPole-v1", 2)
    envs.reset(np.random.SeedSequence(1))
    for _ in range(5):
        step = envs.step(np.array([0, 1]))
    theirs: Any = gym.make("CartPole-v1", render_mode="rgb_array")
    theirs.reset()
    for i in range(2):
        theirs.unwrapped.state = step.observation[i].astype(np.float64)
        difference = np.abs(envs.render(i).astype(int) - theirs.render())
        assert (difference > 0).mean() < 0.001  # their state is in float64, the observation in float32
    assert envs.render_fps == theirs.metadata["render_fps"]


def test_what_cannot_be_filmed_is_said_in_a_sentence(
    runs: dict[str, Trained],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "out.mp4"
    assert "must be named ….mp4" in complaint(capsys, runs["CartPole"].path, "--video", tmp_path / "out.gif")
    assert "folder that exists" in complaint(
        capsys, runs["CartPole"].path, "--video", tmp_path / "no" / "out.mp4"
    )
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert "pip install" in complaint(capsys, runs["CartPole"].path, "--video", path)
    with pytest.raises(ValueError, match="makes no pictures"):
        Filmed(make_env("atari/Pong", 1, backend="gymnasium"), path)
    assert not path.exists()


def test_a_film_that_is_broken_off_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    env = Filmed(make_env("atari/Pong", 1), path)
    env.reset(np.random.SeedSequence(0))
    env.step(np.array([0]))
    assert path.exists()
    env.close()
    assert not path.exists()

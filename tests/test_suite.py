"""Suites: what a file may say, what the command line changes, and the plan that shares what is the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from fire_rl import method
from fire_rl.agents import AGENTS
from fire_rl.envs import make_env
from fire_rl.envs.atari import GAME_SETS
from fire_rl.envs.humanoid import TASK_SETS
from fire_rl.launch import cli
from fire_rl.launch.bench import missing
from fire_rl.launch.command_line import train_command
from fire_rl.launch.commands.train import parse
from fire_rl.launch.config import identity, located, make_config
from fire_rl.launch.estimate import replay_bytes
from fire_rl.launch.job import Job
from fire_rl.launch.plan import make_plan
from fire_rl.launch.suite import Overrides, load_suite, parse_suite, suite_names
from fire_rl.method import ContinuousMethod, register
from tests.suites_for_tests import TINY, run_here, tiny_suite, write_suite

OUT = Path("runs")


@pytest.mark.parametrize("name", suite_names())
def test_every_built_in_suite_can_be_planned_and_its_commands_mean_its_runs(name: str) -> None:
    suite = load_suite(name)
    configs = suite.configs(OUT)
    assert suite.summary and configs
    for config in configs[::17]:
        again = parse(train_command(config)[1:])
        assert identity(again.to_dict()) == identity(config.to_dict())
    for config in configs:
        assert config.run.threads == 1, "threads are part of a run's identity"
        assert (config.run.agent, config.run.env) in suite.panels()


def test_the_papers_suites_have_the_papers_constants() -> None:
    """Section 4 of the paper and the authors' scripts; the constants of the agents are tested with them."""
    atari = load_suite("fire-atari").configs(OUT)
    assert {c.run.env for c in atari} == {f"atari/{game}" for game in GAME_SETS["fire"]}
    methods = {"none", "fire", "sr-dqn", "full-reset", "plasticity-injection"}
    assert {c.run.method for c in atari} == methods
    for config in atari:
        run = config.run
        assert (run.agent_steps, run.num_envs, run.preset) == (2_500_000, 4, "paper")
        assert config.schedule(1).events == (1_250_000,)
        assert config.agent == AGENTS["dqn"].config()
    humanoid = load_suite("fire-humanoid").configs(OUT)
    assert {c.run.env for c in humanoid} == {f"humanoid/{task}" for task in TASK_SETS["fire"]}
    assert {c.run.seed for c in humanoid} == {0, 1000, 2000, 3000, 4000}
    for config in humanoid:
        assert (config.run.agent_steps, config.schedule(2).events) == (500_000, (250_000,))
        assert config.agent == AGENTS["sac"].config()
    for name, family, names in (
        ("atari-26", "atari", GAME_SETS["atari-26"]),
        ("humanoid-locomotion", "humanoid", TASK_SETS["locomotion"]),
    ):
        assert {c.run.env for c in load_suite(name).configs(OUT)} == {f"{family}/{one}" for one in names}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (TINY + "enviroments = []", "unknown key 'enviroments': did you mean"),
        (TINY + "gamma = 0.9", "unknown key 'gamma'"),
        (TINY + 'fork_from = "x"', "unknown key 'fork_from'"),
        (TINY.replace('"fire"', '"fier"'), "unknown reset method 'fier': did you mean fire"),
        (TINY.replace("keep = 0.5", "kep = 0.5"), "did you mean method.keep"),
        (TINY.replace("keep = 0.5", "keep = 7"), "keep must lie between 0 and 1"),
        (TINY.replace("learning_starts", "learning_start"), "did you mean agent.learning_starts"),
        (TINY.replace('"dqn"', '"dqm"'), "unknown agent 'dqm': did you mean dqn"),
        (TINY.replace("seeds = [1, 2]", "seeds = 3"), "seeds is a list"),
        (TINY.replace("seeds = [1, 2]", "seeds = []"), "seeds is a list of at least one"),
        (TINY.replace("seeds = [1, 2]", 'seeds = ["one"]'), "option seed"),
        (TINY.replace("seeds = [1, 2]", ""), "a group needs seeds"),
        (TINY.replace("agent_steps = 600", 'agent_steps = "long"'), "option agent_steps"),
        (TINY.replace("agent = {", "agnt = {"), "unknown key 'agnt': did you mean agent"),
        (TINY.replace(', label = "half"', "").replace('"none", ', '"shrink-perturb", '), "by labels"),
        (TINY + "[group]\n", "two brackets"),
        (TINY + 'returns = "both"', "returns is one of training, evaluation"),
        (TINY + 'overlay = "mine"', 'overlay can be "paper"'),
        (TINY + "seeds = [2", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_suite_gets_one_sentence_that_names_suite_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, answer: str
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    code = cli.main(["bench", str(tmp_path / "mine.toml"), "--out", str(tmp_path), "--dry-run"])
    message = capsys.readouterr().err.strip()
    assert code == 2
    assert answer in message and "mine" in message and len(message.splitlines()) == 1
    assert not (tmp_path / "mine").exists()


def test_keys_of_the_suite_hold_for_all_groups_unless_they_say_otherwise() -> None:
    text = 'seeds = [3]\nmethods = ["fire"]\n[[group]]\nagent = "dqn"\nenv = "control/CartPole-v1"\n'
    text += '[[group]]\nagent = "sac"\nenv = "control/Pendulum-v1"\nseeds = [4, 5]\nthreads = 2\n'
    configs = parse_suite("mine", text).configs(OUT)
    assert [(c.run.agent, c.run.seed, c.run.threads) for c in configs] == [
        ("dqn", 3, 1),
        ("sac", 4, 2),
        ("sac", 5, 2),
    ]


def test_the_command_line_overrides_the_suite() -> None:
    def runs(**changes: tuple[str, ...]) -> set[tuple[str, str]]:
        return {(c.run.env, c.label) for c in tiny_suite().configs(OUT, Overrides(**changes))}  # type: ignore[arg-type]

    assert {label for _, label in runs(methods=("half", "full-reset"))} == {"half", "full-reset"}
    assert {label for _, label in runs(methods=("shrink-perturb",))} == {"half"}, "by name, as listed"
    assert {env for env, _ in runs(envs=("control/Acrobot-v1",))} == {"control/Acrobot-v1"}
    assert {env for env, _ in runs(envs=("control/MountainCar-v0",))} == {"control/MountainCar-v0"}
    with pytest.raises(ValueError, match="did you mean"):
        runs(envs=("atari/Asterix",))
    changed = tiny_suite().configs(OUT, Overrides(seeds=(7,), settings={"agent_steps": 800}))
    assert {(c.run.seed, c.run.agent_steps) for c in changed} == {(7, 800)}
    assert {c.schedule(1).events for c in changed} == {(400,)}
    quick = load_suite("quick").configs(OUT, Overrides(envs=("atari/Asterix", "control/CartPole-v1")))
    assert {c.run.env for c in quick} == {"atari/Asterix", "control/CartPole-v1"}


def test_the_plan_shares_what_is_the_same_before_the_first_reset() -> None:
    configs = tiny_suite().configs(OUT)
    plan = make_plan(configs, OUT)
    assert len(configs) == 12 and plan.trunks == 4 and len(plan.jobs) == 16
    assert plan.unforked_agent_steps == 12 * 600
    assert plan.agent_steps == 4 * 300 + 12 * 300  # (1 + M) / 2 instead of M for M = 3 methods
    branches = [job for job in plan.jobs if job.after]
    for job in branches:
        trunk = next(other for other in plan.jobs if other.paths == job.after)
        for part in ("CartPole-v1", "Acrobot-v1", "s1", "s2"):
            assert (part in str(job.path)) == (part in str(trunk.path))
        config = parse(list(trunk.words[1:]))
        assert (config.run.method, config.run.stop_at) == ("none", 300)
        assert str(trunk.path) in job.words
    assert {job.path for job in branches} == {config.path for config in configs}
    assert make_plan(configs, OUT, fork=False).agent_steps == 12 * 600


@pytest.fixture
def continuous() -> Iterator[None]:
    @register("always-acting")
    @dataclass
    class AlwaysActing(ContinuousMethod):
        """Acts from the first update on."""

    yield
    del method._REGISTRY["always-acting"]


def test_what_has_nothing_to_share_is_planned_without_a_trunk(continuous: None) -> None:
    def plan(**changes: str) -> tuple[int, int]:
        made = make_plan(tiny_suite(**changes).configs(OUT), OUT)
        return made.trunks, made.unforked_agent_steps - made.agent_steps

    assert plan(methods='["fire"]') == (0, 0)
    assert plan(reset_unit='"updates"', reset_at="[10]") == (0, 0)
    assert plan(methods='["none", "fire", "always-acting"]') == (4, 4 * 300)
    assert plan(methods='["fire", "always-acting"]') == (0, 0)


def test_a_run_without_resets_shares_the_trunk_of_the_others() -> None:
    lines = tiny_suite(methods='["none", "fire"]').text.replace("reset_at = [0.5]\n", "")
    plan = make_plan(parse_suite("mine", lines).configs(OUT), OUT)
    assert (plan.trunks, plan.agent_steps) == (4, 4 * 300 + 8 * 300)


def test_resets_every_so_often_share_the_steps_before_the_first() -> None:
    periodic = load_suite("fire-periodic").configs(OUT, Overrides(seeds=(0,), envs=("humanoid/h1-walk",)))
    assert periodic[0].schedule(2).events == (200_000, 400_000, 600_000, 800_000)  # env steps
    plan = make_plan(periodic, OUT)
    assert plan.agent_steps == 100_000 + 4 * 400_000


def test_only_what_is_missing_is_run(tmp_path: Path) -> None:
    suite = tiny_suite(envs='["control/CartPole-v1"]', seeds="[1]")
    plan = make_plan(suite.configs(tmp_path), tmp_path)

    def labels(jobs: list[Job]) -> list[str]:
        return [job.path.parts[-2] for job in jobs]

    assert labels(missing(plan)) == ["CartPole-v1", "none", "fire", "half"]
    run_here(tiny_suite(envs='["control/CartPole-v1"]', seeds="[1]", methods='["none", "fire"]'), tmp_path)
    assert labels(missing(plan)) == ["CartPole-v1", "half"], "the trunk, and what branches from it"
    run_here(suite, tmp_path)
    assert missing(plan) == []


def test_the_dry_run_prints_commands_savings_memory_and_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_suite(tmp_path, tiny_suite())
    words = [
        "bench",
        str(file),
        "--out",
        str(tmp_path / "out"),
        "--dry-run",
        "--workers",
        "3",
        "--seeds",
        "1,5",
    ]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    comments = [line for line in text.splitlines() if line.startswith("#")]
    commands = [line for line in text.splitlines() if not line.startswith("#")]
    assert "12 runs, 4,800 agent steps in 16 jobs" in text
    assert "save 2,400 steps (33%)" in text and "3 at a time" in text and "disk" in comments[3]
    assert len(commands) == 16 and all(line.startswith("fire-rl train --agent dqn") for line in commands)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("agent", "env"),
    [("dqn", "control/CartPole-v1"), ("dqn", "atari/Pong"), ("sac", "control/Pendulum-v1")],
)
def test_the_estimated_replay_memory_is_what_the_agent_allocates(agent: str, env: str) -> None:
    settings = {"agent": {"name": agent, "replay_capacity": 5_001}, "env": env, "num_envs": 2}
    config = located(make_config(settings))
    envs = make_env(env, 2)
    made = AGENTS[agent].make(
        envs, config.agent, np.random.SeedSequence(1), torch.device("cpu"), config.method
    )
    envs.close()
    assert replay_bytes(config) == made.memory.bytes

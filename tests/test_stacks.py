"""Plans of stacked runs: which seeds go together, and that nothing else changes."""

import itertools
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fire_rl.launch import cli
from fire_rl.launch.bench import missing
from fire_rl.launch.commands.train import parse
from fire_rl.launch.config import RunConfig, located, make_config, members
from fire_rl.launch.engines.slurm import SlurmOptions
from fire_rl.launch.estimate import estimate, replay_bytes
from fire_rl.launch.job import Job
from fire_rl.launch.overview import read_overview
from fire_rl.launch.plan import Plan, make_plan, read_plan, write_plan
from fire_rl.launch.room import SHARE, Room
from fire_rl.launch.suite import Overrides, parse_suite
from fire_rl.results.store import RunDirectory
from tests.suites_for_tests import tiny_suite, write_suite

OUT = Path("runs")
METHODS = ("none", "fire", "full-reset", "l2-init")  # the last acts from the start, so it has no trunk


def at_most(limit: int) -> Callable[[RunConfig], int]:
    return lambda config: limit


def tiny_plan(limit: int, folder: Path = OUT, fork: bool = True, **changes: str) -> Plan:
    suite = tiny_suite(**{"envs": '["control/CartPole-v1"]', "seeds": "[1, 2, 3]", **changes})
    return make_plan(suite.configs(folder), folder, fork, at_most(limit))


def finish(*paths: Path) -> None:
    """A record of each that says it is finished."""
    for path in paths:
        with RunDirectory(path) as run:
            run.create({"agent": "dqn", "env": "control/CartPole-v1", "method": "none", "seed": 1})
            run.write_status(state="finished")


@settings(deadline=None, max_examples=60)
@given(
    runs=st.sets(st.tuples(st.sampled_from(METHODS), st.integers(0, 9)), min_size=1),
    limit=st.integers(1, 12),
    fork=st.booleans(),
)
def test_every_run_is_in_exactly_one_job_whatever_the_stack(
    runs: set[tuple[str, int]], limit: int, fork: bool
) -> None:
    """Any seeds of any methods, not the same of each."""
    every = tiny_suite(envs='["control/CartPole-v1"]', methods=json.dumps(METHODS)).configs(
        OUT, Overrides(seeds=tuple(range(10)))
    )
    configs = [config for config in every if (config.run.method, config.run.seed) in runs]
    plan, single = (make_plan(configs, OUT, fork, at_most(stack)) for stack in (limit, 1))
    recorded = [path for job in plan.jobs for path in job.paths]
    assert len(recorded) == len(set(recorded))
    assert set(recorded) == {job.path for job in single.jobs}, "the same runs as without stacking"
    assert {config.path for config in configs} <= set(recorded)
    assert (plan.agent_steps, plan.trunks) == (single.agent_steps, single.trunks)
    after = {job.path: job.after for job in single.jobs}
    for place, job in enumerate(plan.jobs):
        assert len(job.paths) <= limit
        seeds = [int(path.name[1:].partition("-")[0]) for path in job.paths]
        assert seeds == [job.seed + index * job.stride for index in range(len(seeds))]
        assert job.after == tuple(trunk for path in job.paths for trunk in after[path])
        earlier = {path for other in plan.jobs[:place] for path in other.paths}
        assert earlier.issuperset(job.after), "trunks first"


def test_seeds_that_are_evenly_spaced_go_together_as_many_as_may() -> None:
    def words(limit: int, seeds: str) -> set[str]:
        plan = tiny_plan(limit, methods='["fire"]', seeds=seeds)
        return {" ".join(job.words[job.words.index("--seed") + 1 :]) for job in plan.jobs}

    assert words(99, "[7, 2, 1, 4, 3, 9, 8]") == {"1 --stack 4", "7 --stack 3"}
    assert words(2, "[1, 2, 3, 4, 5]") == {"1 --stack 2", "3 --stack 2", "5"}
    assert words(5, "[0, 1000, 2000, 3000, 4000]") == {"0 --stack 5 --stack-stride 1000"}
    assert words(1, "[1, 2, 3]") == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("limit", "seeds"), [(1, "[1, 2, 3]"), (2, "[1, 2, 3]"), (3, "[1, 2, 3]"), (2, "[0, 1000, 2000, 3000]")]
)
def test_the_command_of_a_job_means_its_runs_and_their_trunks(limit: int, seeds: str) -> None:
    for job in tiny_plan(limit, methods='["none", "fire"]', seeds=seeds).jobs:
        runs = members(parse(list(job.words[1:])))
        assert tuple(run.path for run in runs) == job.paths
        assert tuple(run.run.fork_from for run in runs if run.run.fork_from) == job.after
        assert ("--stack" in job.words) == (len(job.paths) > 1)


def test_trunks_of_several_seeds_are_one_job_and_so_are_the_branches_of_a_method() -> None:
    plan = tiny_plan(3)
    trunk, *branches = plan.jobs
    assert len(trunk.paths) == 3 and [job.after for job in branches] == [trunk.paths] * 3
    assert len({path.name.partition("-")[2] for path in trunk.paths}) == 1, "one name for all seeds"
    assert plan.agent_steps == 3 * 300 + 9 * 300


def test_what_differs_in_more_than_the_seed_is_not_stacked() -> None:
    text = 'methods = ["fire"]\nseeds = [1, 2]\nagent_steps = 600\nagent = "dqn"\n'
    text += '[[group]]\nenv = "control/CartPole-v1"\n[[group]]\nenv = "control/Acrobot-v1"\nseeds = [3]\n'
    text += '[[group]]\nenv = "control/CartPole-v1"\nseeds = [3]\nagent_steps = 700\n'
    plan = make_plan(parse_suite("mine", text).configs(OUT), OUT, stack=at_most(9))
    assert sorted(len(job.paths) for job in plan.jobs) == [1, 1, 2]


@given(left_out=st.sets(st.integers(0, 5)), stride=st.integers(1, 3))
def test_a_job_without_some_of_its_runs_does_the_others(left_out: set[int], stride: int) -> None:
    names = [Path(f"s{4 + stride * n}") for n in range(6)]
    trunks = tuple(Path(f"t{4 + stride * n}") for n in range(6))
    job = Job(tuple(names), ("train",), seed=4, agent_steps=10, stride=stride, after=trunks)
    rest = job.without([names[n] for n in left_out])
    assert [path for part in rest for path in part.paths] == [
        n for i, n in enumerate(names) if i not in left_out
    ]
    for part in rest:
        numbers = [int(path.name[1:]) for path in part.paths]
        assert numbers == [part.seed + part.stride * index for index in range(len(numbers))]
        assert [trunk.name[1:] for trunk in part.after] == [path.name[1:] for path in part.paths]
    assert all(len(a.paths) > 1 for a, _ in itertools.pairwise(rest)), "two always fit together"


def test_a_job_with_a_run_that_is_left_is_to_run_again(tmp_path: Path) -> None:
    plan = tiny_plan(3, tmp_path, methods='["none", "fire"]')
    trunk, none, fire = plan.jobs
    assert missing(plan) == [trunk, none, fire]
    finish(*trunk.paths, *none.paths, *fire.paths[:2])
    assert missing(plan) == [fire]
    finish(fire.paths[2])
    assert missing(plan) == []


def test_only_trunks_that_are_needed_are_trained_again(tmp_path: Path) -> None:
    """Trunks were deleted to save space; a seed is added later."""
    plan = tiny_plan(3, tmp_path, methods='["none", "fire"]')
    trunk, none, fire = plan.jobs
    finish(*none.paths[:2], *fire.paths[:2])
    jobs = missing(plan)
    assert [job.paths for job in jobs] == [trunk.paths[2:], none.paths, fire.paths]
    assert jobs[0].words[-2:] == ("--seed", "3")


def test_status_lists_the_runs_of_a_stack_one_by_one(tmp_path: Path) -> None:
    stacked = tiny_plan(3, tmp_path)
    write_plan(stacked.jobs, tmp_path)
    by_run = {name: {**facts, "command": []} for name, facts in read_plan(tmp_path).items()}
    (tmp_path / "plan.json").unlink()
    write_plan(tiny_plan(1, tmp_path).jobs, tmp_path)
    assert by_run == {name: {**facts, "command": []} for name, facts in read_plan(tmp_path).items()}
    assert [row.total_agent_steps for row in read_overview(tmp_path).rows] == [300] * 12


def test_status_reads_what_the_version_before_stacks_has_written(tmp_path: Path) -> None:
    trunk, branch = ".trunks/dqn/control/CartPole-v1/s1-01234567", "dqn/control/CartPole-v1/fire/s1"
    facts = {"command": ["fire-rl", "train"], "agent_steps": 300}
    old = {trunk: {**facts, "after": None}, branch: {**facts, "after": trunk}}
    (tmp_path / "plan.json").write_text(json.dumps(old))
    row = {"time": "2026-01-01T00:00:00Z", "host": "h", "launcher": 1, "run": branch}
    (tmp_path / "launcher.jsonl").write_text(json.dumps({**row, "event": "failed", "reason": "why"}) + "\n")
    (tmp_path / branch).mkdir(parents=True)
    (tmp_path / branch / "stdout.log").write_text("the last line\n")
    rows = {row.path: row for row in read_overview(tmp_path).rows}
    assert (rows[trunk].state, rows[trunk].total_agent_steps) == ("queued", 300)
    assert (rows[branch].state, rows[branch].message, rows[branch].last_lines) == (
        "failed",
        "why",
        ("the last line",),
    )
    write_plan(tiny_plan(3, tmp_path).jobs, tmp_path)
    assert read_plan(tmp_path).keys() >= old.keys() and len(read_plan(tmp_path)) == 1 + 12


def test_a_process_needs_the_replay_memories_of_all_its_runs() -> None:
    suite = tiny_suite(seeds="[1, 2, 3, 4, 5]")
    configs = suite.configs(OUT)
    one, stack = (estimate(make_plan(configs, OUT, stack=at_most(n)), configs) for n in (1, 4))
    assert one.replay_bytes == max(map(replay_bytes, configs))
    assert stack.replay_bytes == 4 * one.replay_bytes
    assert stack.disk_bytes == one.disk_bytes
    assert stack.disk_bytes_per_worker == 4 * one.disk_bytes_per_worker


def atari(storage: str = "auto", device: str = "auto") -> RunConfig:
    agent = {"name": "dqn", "replay_storage": storage}
    return located(make_config({"agent": agent, "env": "atari/Asterix", "num_envs": 4, "device": device}))


def test_auto_stacks_what_has_room_on_a_gpu_and_nothing_on_a_cpu() -> None:
    size = replay_bytes(atari())
    gpu, host = int(3.5 * size / SHARE), int(7.5 * size / SHARE)
    room = Room(gpus=2, gpu_bytes=gpu, host_bytes=host)
    assert room.stack(atari()) == room.stack(atari("device")) == 3
    assert room.stack(atari("host")) == 7
    assert Room(2, gpu_bytes=size // 2, host_bytes=host).stack(atari()) == 7, "none fits on the GPU"
    assert Room(2, gpu_bytes=size // 2, host_bytes=host).stack(atari("device")) == 1
    assert Room(2, 0, 0).stack(atari()) == 1
    assert room.stack(atari(device="cpu")) == Room(0, 0, host).stack(atari()) == 1


def test_no_more_processes_at_a_time_than_have_room() -> None:
    config = atari()
    size = replay_bytes(config)
    runs = [located(make_config({"env": "atari/Asterix", "num_envs": 4, "seed": seed})) for seed in (1, 2, 3)]
    plan, single = (make_plan(runs, OUT, stack=at_most(n)) for n in (2, 1))
    room = Room(gpus=2, gpu_bytes=int(5 * size / SHARE) + 1, host_bytes=int(7 * size / SHARE) + 1)
    assert room.processes(single, runs) == 2 * 5 + 7
    assert room.processes(plan, runs) == 2 * 2 + 3
    assert Room(0, 0, room.host_bytes).processes(single, runs) == 7
    assert Room(0, 0, 0).processes(single, runs) == 1


def test_slurm_reads_amounts_of_memory_as_we_do() -> None:
    amounts = {"16G": 16 * 2**30, "500": 500 * 2**20, "2T": 2**41, "64K": 2**16}
    assert {text: SlurmOptions(memory=text).memory_bytes() for text in amounts} == amounts
    assert SlurmOptions(memory="0").memory_bytes() > 2**50
    with pytest.raises(ValueError, match="16GB"):
        SlurmOptions(memory="16GB").memory_bytes()


def dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, *words: str) -> list[str]:
    """The commands that `bench --dry-run` prints."""
    file = tmp_path / "tiny.toml"
    file.write_text(text)
    assert cli.main(["bench", str(file), "--out", str(tmp_path / "out"), "--dry-run", *words]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any("seeds that are trained together" in line for line in printed) == any(
        "--stack" in line for line in printed if line.startswith("fire-rl")
    )
    return [line for line in printed if line.startswith("fire-rl")]


def test_a_suite_may_say_how_many_seeds_are_stacked_and_the_command_line_has_the_last_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny_suite(seeds="[1, 2, 3, 4]", methods='["none", "fire"]').text.replace("envs", "#")
    text += '\n[[group]]\nenv = "control/CartPole-v1"\n[[group]]\nenv = "control/Acrobot-v1"\nstack = 2\n'
    cpu = ("--device", "cpu")
    assert len(dry_run(tmp_path, capsys, text, *cpu)) == 12 + 6
    assert len(dry_run(tmp_path, capsys, text, *cpu, "--stack", "auto")) == 12 + 12
    assert len(dry_run(tmp_path, capsys, text, *cpu, "--stack", "1")) == 12 + 12
    stacked = dry_run(tmp_path, capsys, text, *cpu, "--stack", "4")
    assert len(stacked) == 3 + 3
    trunk, branch = stacked[0], stacked[2]
    assert trunk.endswith("--seed 1 --stack 4") and "/s{seed}-" in trunk and "--stop-at 300" in trunk
    words = shlex.split(branch)
    assert words[words.index("--fork-from") + 1] in shlex.split(trunk), "the trunks' --run-dir"


@pytest.mark.parametrize(
    ("value", "words", "answer"),
    [
        ("0", (), "stack is a number of seeds"),
        ('"all"', (), "stack is a number of seeds"),
        ("2", ("--stack", "0"), "--stack must be at least 1, not 0"),
    ],
)
def test_a_wrong_stack_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, words: tuple[str, ...], answer: str
) -> None:
    file = write_suite(tmp_path, tiny_suite())
    file.write_text(f"stack = {value}\n{file.read_text()}")
    assert cli.main(["bench", str(file), "--out", str(tmp_path), "--dry-run", *words]) == 2
    message = capsys.readouterr().err.strip()
    assert answer in message and len(message.splitlines()) == 1

"""Engines: whatever is killed, lost or broken, a suite ends complete and equal to the undisturbed result."""

import json
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fire_rl.launch import cli
from fire_rl.launch.checkpoint import checkpoints
from fire_rl.launch.claims import HEARTBEAT_SECONDS, STALE_SECONDS, Claims
from fire_rl.launch.engines import local
from fire_rl.launch.engines.pool import LAUNCHER_LOG
from fire_rl.launch.job import Job
from fire_rl.launch.suite import Suite
from fire_rl.results.store import RunDirectory, find_runs, load_run
from tests.suites_for_tests import (
    assert_same_records,
    bench,
    finish,
    run_here,
    tiny_suite,
    wait_until,
    write_suite,
)

ONE_ENV = {"envs": '["control/CartPole-v1"]', "seeds": "[1]"}
SLOW = {"agent_steps": "100_000", "checkpoint_minutes": "0.002"}  # long enough to be interrupted


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny suite, every run whole, in this process."""
    return run_here(tiny_suite(), tmp_path_factory.mktemp("reference"))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LAUNCHER_LOG).read_text().splitlines()]


def workers_of(launcher: int) -> list[int]:
    """The `fire-rl train` processes that `launcher` has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children]


def at_work(folder: Path) -> Callable[[], bool]:
    """Whether a run below `folder` has checkpoints, which tells that it is in the middle of training."""
    return lambda: any(checkpoints(p.parent / "checkpoints") for p in folder.rglob("config.json"))


def have_ended(processes: list[int], seconds: float) -> bool:
    """Whether all end within `seconds`; takes the file descriptors of processes, which are closed."""
    poll = select.poll()
    for descriptor in processes:
        poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + seconds
    waiting = set(processes)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(1000 * left):
            poll.unregister(descriptor)
            os.close(descriptor)
            waiting.remove(descriptor)
    return not waiting


def test_a_suite_whose_workers_are_killed_at_random_ends_as_the_undisturbed_one(
    tmp_path: Path, reference: Path
) -> None:
    suite = tiny_suite(checkpoint_minutes="0.003")
    launcher = bench(write_suite(tmp_path, suite), tmp_path, "--workers", "2", "--retries", "50")
    chance = random.Random(1)
    kills = 0
    while launcher.poll() is None:
        time.sleep(chance.uniform(2.0, 6.0))  # the fault itself, not a wait for something
        if kills < 6 and launcher.poll() is None and (pids := workers_of(launcher.pid)):
            os.kill(chance.choice(pids), signal.SIGKILL)
            kills += 1
    finish(launcher)
    folder = tmp_path / "tiny"
    assert len(assert_same_records(folder, reference)) == 12
    retried = [row for row in log(folder) if row["event"] == "retried"]
    assert 0 < len(retried) <= kills, "one that is killed after its run has finished is not started again"
    assert all("killed by SIGKILL" in row["reason"] for row in retried)
    assert len(find_runs(folder)) == 12, "trunks are no results"
    assert (folder / "tiny.png").stat().st_size > 10_000
    assert not list((folder / ".claims").iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_launcher_that_dies_leaves_no_orphan_and_the_same_command_goes_on(
    tmp_path: Path, number: int
) -> None:
    file = write_suite(tmp_path, tiny_suite(**ONE_ENV, **SLOW))
    folder = tmp_path / "tiny"
    launcher = bench(file, tmp_path, "--workers", "2", "--no-fork")
    wait_until(lambda: at_work(folder)() and len(workers_of(launcher.pid)) == 2, launcher)
    workers = [os.pidfd_open(pid) for pid in workers_of(launcher.pid)]
    launcher.send_signal(number)
    launcher.wait(60)
    assert have_ended(workers, seconds=30), "orphans"
    states = [load_run(path).status for run in find_runs(folder) for path in [run.path]]
    assert "interrupted" in {status.state for status in states}
    assert {status.state for status in states} <= {
        "interrupted",
        "running",
    }  # one may not have begun to train
    steps = max(status.agent_steps for status in states)
    again = bench(file, tmp_path, "--workers", "1", "--no-fork")
    wait_until(lambda: max(run.status.agent_steps for run in find_runs(folder)) > steps, again)
    again.terminate()
    again.wait(60)


def test_two_launchers_at_once_share_the_work(tmp_path: Path, reference: Path) -> None:
    file = write_suite(tmp_path, tiny_suite(envs='["control/CartPole-v1"]', methods='["none", "fire"]'))
    launchers = [bench(file, tmp_path, "--workers", "1", "--stack", stack) for stack in ("1", "2")]
    for launcher in launchers:
        finish(launcher)
    folder = tmp_path / "tiny"
    assert_same_records(folder, reference)
    started = [row["run"] for row in log(folder) if row["event"] == "started"]
    assert len(started) == len(set(started)) == 6, "no job ran twice"
    assert {row["launcher"] for row in log(folder)} == {launcher.pid for launcher in launchers}
    finish(bench(file, tmp_path, "--methods", "full-reset", "--seeds", "1"))
    (latest,) = (row["run"] for row in log(folder)[len(started) * 2 :] if row["event"] == "started")
    assert latest == "dqn/control/CartPole-v1/full-reset/s1", "a further method needs no new trunk"


def breaking_method(folder: Path) -> Path:
    """A plug-in whose method raises when it fires."""
    file = folder / "breaks.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from fire_rl.method import ResetMethod, register\n"
        '@register("breaks")\n@dataclass\nclass Breaks(ResetMethod):\n'
        '    """Raises."""\n'
        "    def apply(self, module, learner, generator):\n"
        '        raise RuntimeError("this method is broken")\n'
    )
    return file


def test_one_run_that_raises_and_one_that_does_not_fit_leave_the_others_alone(
    tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method that raises; a replay memory of a hundred terabytes."""
    text = tiny_suite(**ONE_ENV).text.replace('"none", "fire"', '"none", "breaks"').splitlines()
    agent = next(line for line in text if line.startswith("agent = "))
    rest = [line for line in text if line != agent and not line.startswith(("envs", "seeds", "methods"))]
    too_big = agent.replace("replay_capacity = 500", "replay_capacity = 10_000_000_000_000")
    groups = [
        "[[group]]",
        agent,
        'env = "control/CartPole-v1"',
        "seeds = [1]",
        'methods = ["none", "breaks", { name = "shrink-perturb", keep = 0.5, label = "half" }]',
        "[[group]]",
        too_big,
        'env = "control/CartPole-v1"',
        "seeds = [1]",
        'methods = [{ name = "none", label = "too-big" }]',
    ]
    file = tmp_path / "tiny.toml"
    file.write_text("\n".join([*rest, *groups]))
    plugin = ["--plugin", str(breaking_method(tmp_path)), "--workers", "2", "--retries", "1"]
    said = finish(bench(file, tmp_path, *plugin), code=1)
    folder = tmp_path / "tiny"
    failed = {row["run"].split("/")[-2]: row["reason"] for row in log(folder) if row["event"] == "failed"}
    assert failed.keys() == {"breaks", "too-big"}
    assert "this method is broken" in failed["breaks"] and "replay memory needs" in failed["too-big"]
    assert all(reason in said for reason in failed.values())
    tries = [row["run"].split("/")[-2] for row in log(folder) if row["event"] == "started"]
    assert tries.count("breaks") == 2, "started again once, as asked"
    assert tries.count("too-big") == 1, "what cannot be run is not tried again"
    for run in ("none", "half"):
        path = Path("dqn/control/CartPole-v1") / run / "s1"
        assert load_run(folder / path).status.state == "finished"
        assert (folder / path / "train.jsonl").read_bytes() == (reference / path / "train.jsonl").read_bytes()
    assert cli.main(["status", str(folder)]) == 1
    told = capsys.readouterr().out
    assert "2 failed" in told and "RuntimeError: this method is broken" in told


def test_branches_of_a_failed_trunk_say_so(tmp_path: Path) -> None:
    suite = tiny_suite(**ONE_ENV)
    text = suite.text.replace("replay_capacity = 500", "replay_capacity = 10_000_000_000_000")
    file = write_suite(tmp_path, Suite("tiny", "", None, (), text))
    said = finish(bench(file, tmp_path), code=1)
    assert said.count("the run that it branches from failed") == 3
    assert "replay memory needs" in said


def test_an_unreachable_wandb_stops_nobody(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    suite = tiny_suite(**ONE_ENV, methods='["fire"]')
    finish(bench(write_suite(tmp_path, suite), tmp_path, "--wandb", "online"))
    for run in find_runs(tmp_path / "tiny"):
        assert run.status.state == "finished" and run.status.wandb == "offline"
        path = run.path.relative_to(tmp_path / "tiny")
        assert (run.path / "eval.jsonl").read_bytes() == (reference / path / "eval.jsonl").read_bytes()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_claim_is_exclusive_and_is_given_back(tmp_path: Path) -> None:
    ours, theirs = Claims(tmp_path), Claims(tmp_path)
    assert ours.take(["a.b"]) and not theirs.take(["a.b"]) and theirs.take(["a.c"])
    ours.release(["a.b"])
    assert theirs.take(["a.b"]) and not ours.take(["a.b"])


def test_a_claim_of_a_dead_launcher_is_taken_over_at_once_on_its_host(tmp_path: Path) -> None:
    assert Claims(tmp_path).take(["job"])
    dead = subprocess.Popen(["true"])
    dead.wait()
    rewrite_owner(tmp_path, pid=dead.pid)
    ours = Claims(tmp_path)
    assert ours.take(["job"]) and not Claims(tmp_path).take(["job"])


def rewrite_owner(folder: Path, **changes: object) -> None:
    (claim,) = folder.iterdir()
    claim.write_text(json.dumps({**json.loads(claim.read_text()), **changes}))


def test_a_claim_of_another_host_is_taken_over_when_its_heart_stops(tmp_path: Path) -> None:
    clock = Clock()
    theirs = Claims(tmp_path, clock)
    assert theirs.take(["job"])
    rewrite_owner(tmp_path, host="elsewhere", pid=1)
    ours, others = Claims(tmp_path, clock), Claims(tmp_path, clock)
    assert not ours.take(["job"]) and not others.take(["job"])
    clock.now += STALE_SECONDS - 1
    assert theirs.heartbeat() == []  # alive after all
    assert not ours.take(["job"])
    clock.now += STALE_SECONDS + 1
    assert ours.take(["job"]) and not others.take(["job"])
    clock.now += HEARTBEAT_SECONDS
    assert theirs.heartbeat() == ["job"], "it learns that it lost the claim"


def test_a_run_that_somebody_runs_by_hand_is_left_to_them(tmp_path: Path) -> None:
    suite = tiny_suite(**ONE_ENV, methods='["none"]')
    (config,) = suite.configs(tmp_path / "tiny")
    with RunDirectory(config.path) as by_hand:
        by_hand.create(config.to_dict())
        launcher = bench(write_suite(tmp_path, suite), tmp_path)
        wait_until((tmp_path / "tiny" / ".claims").exists, launcher)
        assert not (tmp_path / "tiny" / LAUNCHER_LOG).exists()
    finish(launcher)
    assert load_run(config.path).status.state == "finished"


def test_runs_share_the_gpus_evenly_and_give_their_slots_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []

    def start(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        given.append(environment)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(local, "start_process", start)
    workers = local.LocalWorkers(5, ["2", "GPU-abc"])
    job = Job((Path("run"),), (), seed=1, agent_steps=1)
    handles = []
    while workers.has_room(job):
        handles.append(workers.start(job))
    names = [environment["CUDA_VISIBLE_DEVICES"] for environment in given]
    assert len(names) == 5 and names.count("2") == 3 and names.count("GPU-abc") == 2
    handles[1].wait()
    assert workers.exit_code(handles[1]) == 0 and workers.has_room(job)
    workers.start(job)
    assert given[-1] == given[1] and not workers.has_room(job)


def test_how_many_runs_at_a_time() -> None:
    cores = len(os.sched_getaffinity(0))
    assert local.default_workers(threads=1, gpus=0, per_gpu=4) == cores
    assert local.default_workers(threads=10 * cores, gpus=0, per_gpu=4) == 1
    assert local.default_workers(threads=0, gpus=0, per_gpu=4) == 1, "a run takes all cores"
    assert local.default_workers(threads=1, gpus=2, per_gpu=4) == 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_free_memory_of_a_gpu_is_some_of_its_memory() -> None:
    assert 0 < local.free_gpu_bytes() <= torch.cuda.get_device_properties(0).total_memory

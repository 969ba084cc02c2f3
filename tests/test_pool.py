"""How the pool treats jobs of several runs, with an engine whose processes take no time at all."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fire_rl.launch.claims import Claims
from fire_rl.launch.engines import pool
from fire_rl.launch.engines.pool import LAUNCHER_LOG, reason, run_jobs
from fire_rl.launch.job import Job, is_finished
from fire_rl.launch.overview import read_overview
from fire_rl.launch.plan import write_plan
from fire_rl.results.store import RunDirectory

CONFIG = {"agent": "dqn", "env": "control/CartPole-v1", "method": "none", "seed": 1}
SEEDS = 4


@pytest.fixture(autouse=True, scope="module")
def no_pauses() -> Iterator[None]:
    """Nothing here takes time that one would have to wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "POLL_SECONDS", 0.0)
        yield


class Workers:
    """Workers whose processes are over when they are looked at twice.

    Args:
        broken: runs that fail each time.
        together: whether all runs of a process fail with them.
    """

    def __init__(self, broken: Iterable[Path] = (), together: bool = False) -> None:
        self.broken, self.together = set(broken), together
        self.tries: Counter[Path] = Counter()

    def has_room(self, job: Job) -> bool:
        return True

    def start(self, job: Job) -> list[Job]:
        assert all(map(is_finished, job.after)), "a branch before its trunk"
        job.path.mkdir(parents=True, exist_ok=True)
        (job.path / "stdout.log").write_text("the last line\n")
        return [job, job]

    def exit_code(self, handle: list[Job]) -> int | None:
        job = handle.pop()
        return None if handle else self.train(job)

    def train(self, job: Job) -> int:
        """As `fire-rl train` does: finished runs are passed over, a failure leaves the others alone."""
        fails = not self.broken.isdisjoint(job.paths)
        for path in job.unfinished():
            self.tries[path] += 1
            if path in self.broken or (fails and self.together):
                record(path, "failed", f"{path.name} is broken")
            else:
                record(path, "finished")
        return int(fails)

    def stop(self, handles: Sequence[list[Job]]) -> None:
        assert not handles


def record(path: Path, state: Any, message: str = "") -> None:
    with RunDirectory(path) as run:
        if not run.exists:
            run.create(CONFIG)
        run.write_status(state=state, message=message)


def stacks(folder: Path, name: str, limit: int, after: str = "") -> list[Job]:
    """Jobs of at most `limit` runs each that record the runs NAME/s1, NAME/s2, …"""

    def paths(of: str) -> list[Path]:
        return [folder / of / f"s{seed}" for seed in range(1, SEEDS + 1)] if of else []

    whole = Job(tuple(paths(name)), (), seed=1, agent_steps=1, after=tuple(paths(after)))
    return [
        part
        for start in range(0, SEEDS, limit)
        for part in whole.without([*whole.paths[:start], *whole.paths[start + limit :]])
    ]


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LAUNCHER_LOG).read_text().splitlines()]


@settings(deadline=None, max_examples=30)
@given(
    broken=st.sets(st.tuples(st.sampled_from(("trunk", "a", "b")), st.integers(1, SEEDS))),
    limits=st.tuples(*[st.integers(1, SEEDS)] * 3),
    together=st.booleans(),
)
def test_a_run_that_fails_takes_its_own_branches_with_it_and_nothing_else(
    broken: set[tuple[str, int]], limits: tuple[int, int, int], together: bool
) -> None:
    with TemporaryDirectory() as place:
        folder = Path(place)
        jobs = stacks(folder, "trunk", limits[0])
        jobs += stacks(folder, "a", limits[1], "trunk") + stacks(folder, "b", limits[2], "trunk")
        workers = Workers((folder / name / f"s{seed}" for name, seed in broken), together)
        failed = run_jobs(jobs, workers, folder, retries=1)
        for name, seed in itertools.product(("trunk", "a", "b"), range(1, SEEDS + 1)):
            path = folder / name / f"s{seed}"
            if name != "trunk" and ("trunk", seed) in broken:
                assert failed[path] == f"the run that it branches from failed: {folder}/trunk/s{seed}"
                assert not path.exists() and not workers.tries[path]
            elif (name, seed) in broken:
                assert failed[path] == f"s{seed} is broken" and workers.tries[path] <= 4, "with others, alone"
            else:
                assert path not in failed and is_finished(path)
                assert workers.tries[path] <= (3 if together else 1)
        ends = {row["run"]: row["event"] for row in log(folder)}
        assert {folder / run for run, event in ends.items() if event == "failed"} == failed.keys()


def test_after_a_failure_the_log_tells_of_the_run_and_where_its_output_is(tmp_path: Path) -> None:
    (job,) = stacks(tmp_path, "a", SEEDS)
    write_plan([job], tmp_path)
    record(job.paths[0], "finished")
    run_jobs([job], Workers([job.paths[2]]), tmp_path, retries=1)
    told = [(row["run"], row["event"]) for row in log(tmp_path)]
    first = [("a/s2", "started"), ("a/s3", "started"), ("a/s4", "started"), ("a/s2", "finished")]
    assert told[:5] == [*first, ("a/s4", "finished")]
    assert told[5:] == [("a/s3", "retried"), ("a/s3", "started"), ("a/s3", "failed")]
    rows = read_overview(tmp_path).rows
    assert [row.state for row in rows] == ["finished", "finished", "failed", "finished"]
    assert (rows[2].message, rows[2].last_lines) == ("s3 is broken", ("the last line",))


def test_the_reason_is_the_runs_own_where_it_has_one(tmp_path: Path) -> None:
    (job,) = stacks(tmp_path, "a", SEEDS)
    first, second, third, _ = job.paths
    record(first, "failed", "its loss is not finite")
    record(second, "running", "no checkpoint at agent step 10")
    (first / "stdout.log").write_text("one\ntwo\n\n")
    assert reason(job, first, 1) == "its loss is not finite"
    assert reason(job, second, 1) == reason(job, third, 1) == "two (exit code 1)"
    assert reason(job, first, 2) == "two (exit code 2)", "of an earlier attempt"
    assert "SIGKILL" in reason(job, first, -9) and "SIGSEGV" in reason(job, first, -11)


def test_launchers_that_stack_differently_run_nothing_twice(tmp_path: Path) -> None:
    """Four launchers at a time, each with stacks of its own size."""
    workers = Workers()

    def launch(limit: int) -> dict[Path, str]:
        jobs = stacks(tmp_path, "trunk", limit) + stacks(tmp_path, "a", limit, "trunk")
        return run_jobs(jobs, workers, tmp_path)

    with ThreadPoolExecutor(4) as launchers:
        assert list(launchers.map(launch, (4, 3, 2, 1))) == [{}] * 4
    assert set(workers.tries.values()) == {1} and len(workers.tries) == 2 * SEEDS
    started = [row["run"] for row in log(tmp_path) if row["event"] == "started"]
    assert len(started) == len(set(started)) == 2 * SEEDS
    assert not list((tmp_path / ".claims").iterdir())


NAMES = ("a", "b", "c", "d")


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), st.sets(st.sampled_from(NAMES), min_size=1)), max_size=30
    )
)
def test_a_job_is_claimed_whole_or_not_at_all(acts: list[tuple[int, bool, set[str]]]) -> None:
    """Three launchers take and give back overlapping jobs in any order."""
    with TemporaryDirectory() as place:
        launchers = [Claims(Path(place)) for _ in range(3)]
        held: dict[str, int] = {}
        for who, takes, names in acts:
            if takes:
                free = held.keys().isdisjoint(names)
                assert launchers[who].take(sorted(names, reverse=True)) == free
                held.update(dict.fromkeys(names, who) if free else {})
            else:
                launchers[who].release(list(names))
                held = {name: owner for name, owner in held.items() if name not in names or owner != who}
            assert {path.stem for path in Path(place).iterdir()} == held.keys()


def test_of_two_launchers_that_claim_overlapping_jobs_at_once_one_gets_its_own(tmp_path: Path) -> None:
    jobs = ["a", "b", "c"], ["d", "c", "b"]
    together = threading.Barrier(2)

    def take(claims: Claims, names: list[str]) -> bool:
        together.wait()
        return claims.take(names)

    with ThreadPoolExecutor(2) as launchers:
        for attempt in map(str, range(200)):
            claims = [Claims(tmp_path / attempt) for _ in jobs]
            got = list(launchers.map(take, claims, jobs))
            assert sorted(got) == [False, True]
            assert {path.stem for path in (tmp_path / attempt).iterdir()} == set(jobs[got.index(True)])

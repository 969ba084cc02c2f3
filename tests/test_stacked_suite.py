"""Suites of stacked runs with real processes: what one run of a stack does wrong costs the others nothing."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from fire_rl.launch import cli
from fire_rl.launch.engines.pool import LAUNCHER_LOG
from fire_rl.launch.job import is_finished
from fire_rl.launch.plan import make_plan
from fire_rl.launch.train import train
from fire_rl.results.jsonl import plain
from fire_rl.results.store import find_runs
from tests.suites_for_tests import assert_same_records, bench, finish, run_here, tiny_suite, write_suite

ONE_ENV = {"envs": '["control/CartPole-v1"]'}
BREAKS = '''
import sys
from dataclasses import dataclass
from fire_rl.method import ResetMethod, register

calls = []

@register("breaks")
@dataclass
class Breaks(ResetMethod):
    """Raises for seed 2: the second run of the stack, and the only one when it is alone."""

    def apply(self, module, learner, generator):
        calls.append(learner)
        alone = "--stack" not in sys.argv
        if (alone and sys.argv[sys.argv.index("--seed") + 1] == "2") or (not alone and len(calls) == 2):
            raise RuntimeError("this seed is broken")
'''


def test_a_run_that_raises_takes_its_stack_down_only_until_they_are_tried_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tiny_suite(**ONE_ENV, seeds="[1, 2, 3]", methods='["none"]')
    reference = run_here(suite, tmp_path / "reference")
    (tmp_path / "breaks.py").write_text(BREAKS)
    words = (
        "--methods",
        "none,breaks",
        "--plugin",
        str(tmp_path / "breaks.py"),
        "--stack",
        "3",
        "--retries",
        "0",
    )
    said = finish(bench(write_suite(tmp_path, suite), tmp_path, *words), code=1)
    folder = tmp_path / "tiny"
    runs = Path("dqn/control/CartPole-v1")
    broken = f"{runs}/breaks/s2"
    assert f"failed: {folder / broken}: RuntimeError: this seed is broken" in said
    assert {run.path for run in find_runs(folder) if not is_finished(run.path)} == {folder / broken}
    assert len(find_runs(folder)) == 6
    assert len(assert_same_records(folder / runs / "none", reference / runs / "none")) == 3
    rows = [json.loads(line) for line in (folder / LAUNCHER_LOG).read_text().splitlines()]
    events = [row["event"] for row in rows if row["run"] == broken]
    assert events == ["started", "retried", "started", "failed"]
    assert cli.main(["status", str(folder)]) == 1
    assert "RuntimeError: this seed is broken" in capsys.readouterr().out


def test_a_slurm_task_leaves_out_the_branch_whose_trunk_was_not_finished(tmp_path: Path) -> None:
    """The task itself, without SLURM: it starts when the task of the trunks has ended, however it has."""
    suite = tiny_suite(**ONE_ENV, methods='["none", "fire"]')
    folder = tmp_path / "tiny"
    trunks, _, branches = make_plan(suite.configs(folder), folder, stack=lambda config: 2).jobs
    (first,) = trunks.without(trunks.paths[1:])
    assert cli.main(list(first.words)) == 0
    (folder / "slurm").mkdir()
    (folder / "slurm" / "jobs.jsonl").write_text(json.dumps(plain(asdict(branches))) + "\n")
    task = [
        sys.executable,
        "-m",
        "fire_rl.launch.engines.slurm",
        str(folder / "slurm" / "jobs.jsonl"),
        "0",
        "0",
    ]
    assert subprocess.run(task).returncode == 1
    assert [is_finished(path) for path in branches.paths] == [True, False]
    last = json.loads((folder / LAUNCHER_LOG).read_text().splitlines()[-1])
    assert (
        last["run"].endswith("fire/s2") and last["event"] == "failed" and "no config.json" in last["reason"]
    )
    (whole,) = [
        config for config in suite.configs(tmp_path / "whole") if config.path.parts[-2:] == ("fire", "s1")
    ]
    assert train(whole) == 0
    assert len(assert_same_records(folder, tmp_path / "whole")) == 1

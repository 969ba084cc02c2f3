"""A run that is stopped, however it is stopped, goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fire_rl.launch.checkpoint import checkpoints
from fire_rl.launch.config import located, make_config
from fire_rl.launch.evaluate import Evaluator
from fire_rl.launch.run import Run
from fire_rl.results.store import load_run
from tests.runs_for_tests import RUNS, assert_same_run, rows, run, run_until_killed
from tests.test_fork import CARTPOLE

KILLS = 5
ALWAYS = 1e-9  # checkpoint_minutes: after every step


@pytest.mark.parametrize("kind", RUNS)
def test_killed_at_five_random_moments_it_ends_bit_for_bit_the_same(tmp_path: Path, kind: str) -> None:
    """SIGKILL at a function call drawn at random: in a step, a reset, a row of the log, a checkpoint."""
    settings = {**RUNS[kind], "method": "fire", "checkpoint_minutes": ALWAYS}
    settings["compile"] = "off"  # or most calls would be the compiler's
    if kind == "sac-h1":
        settings["wandb"] = "offline"
    assert run_until_killed(tmp_path / "whole", settings, None) == 0
    calls = int((tmp_path / "whole" / "calls").read_text())
    path = located(make_config({**settings, "out": tmp_path / "cut"})).path
    rng = np.random.default_rng(0)
    steps, ids = [], set()
    for _ in range(KILLS):
        moment = int(rng.integers(1, calls // KILLS))  # so that no attempt gets to the end
        assert run_until_killed(tmp_path / "cut", settings, moment) == -signal.SIGKILL
        ids.add(load_run(path).id)
        steps += [int(checkpoint.name) for checkpoint in checkpoints(path / "checkpoints")[-1:]]
    assert len(set(steps)) > 2 and max(steps) < settings["agent_steps"]
    assert run_until_killed(tmp_path / "cut", settings, None) == 0
    assert_same_run(path, located(make_config({**settings, "out": tmp_path / "whole"})).path)
    if kind == "sac-h1":  # one run on W&B, however many attempts there were
        folders = list((path / "wandb").glob("offline-run-*"))
        assert len(folders) > 1
        assert {folder.name.rsplit("-", 1)[1] for folder in folders} == ids


@pytest.mark.parametrize("moment", ["start", "scheduled", "before_reset", "after_reset"])
def test_an_evaluation_is_left_at_a_signal_and_done_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    whole = run(tmp_path / "whole", CARTPOLE, method="fire")
    genuine = Evaluator.__call__
    evaluations = [row["moment"] for row in load_run(whole).rows("eval")]
    due = evaluations.index(moment)

    def interrupted(self: Evaluator, *args: Any) -> list[float]:
        nonlocal due
        due -= 1
        if due == -1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return genuine(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", interrupted)
        path = run(tmp_path / "cut", CARTPOLE, code=128 + signal.SIGUSR1, method="fire")
    assert [row["moment"] for row in load_run(path).rows("eval")] == evaluations[: evaluations.index(moment)]
    assert load_run(path).status.state == "interrupted"
    run(tmp_path / "cut", CARTPOLE, method="fire")
    assert_same_run(path, whole)


def stop_at(agent_steps: int, patch: pytest.MonkeyPatch) -> None:
    """Have the run pre-empted at `agent_steps`."""
    genuine = Run.finish_step

    def step(self: Run) -> None:
        genuine(self)
        if self.agent.agent_steps == agent_steps:
            os.kill(os.getpid(), signal.SIGUSR1)

    patch.setattr(Run, "finish_step", step)


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "truncated manifest": ("manifest.json", lambda content: content[: len(content) // 2]),
    "flipped byte": ("agent.safetensors", lambda content: bytes([content[0] ^ 1]) + content[1:]),
    "truncated chunk": ("chunk", lambda content: content[: len(content) // 2]),
    "flipped byte in a chunk": ("chunk", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_with_a_damaged_checkpoint_the_run_goes_on_from_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    settings = {**CARTPOLE, "method": "fire"}
    whole = run(tmp_path / "whole", settings)
    for steps in (50, 90):
        with monkeypatch.context() as patch:
            stop_at(steps, patch)
            path = run(tmp_path / "cut", settings, code=128 + signal.SIGUSR1)
    before, newest = checkpoints(path / "checkpoints")
    assert (before.name, newest.name) == ("000000000050", "000000000090")
    name, harm = DAMAGE[damage]
    victim = newest / name
    if name == "chunk":
        (chunk,) = json.loads((newest / "manifest.json").read_text())["chunks"]
        victim = path / "checkpoints" / "chunks" / chunk
    victim.write_bytes(harm(victim.read_bytes()))
    capsys.readouterr()
    run(tmp_path / "cut", settings)
    said = capsys.readouterr().err
    assert str(newest) in said and "using the checkpoint before it" in said
    assert "continuing at agent step 50" in said
    assert_same_run(path, whole)


def test_a_checkpoint_of_a_newer_version_is_refused_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(50, patch)
        path = run(tmp_path, CARTPOLE, code=128 + signal.SIGUSR1, method="fire")
    (newest,) = checkpoints(path / "checkpoints")
    manifest = newest / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(ValueError, match=r"newer version \(format 99.*update fire-rl"):
        run(tmp_path, CARTPOLE, method="fire")
    assert json.loads(manifest.read_text())["format"] == 99


def test_a_run_goes_on_when_the_disk_has_no_room_for_a_checkpoint(tmp_path: Path) -> None:
    """Really full: a process whose files may not grow beyond 60 kB, enough for rows and not for weights."""
    settings = {**CARTPOLE, "method": "fire", "compile": "off"}  # a compiler needs room, too
    settings["agent"] = {**CARTPOLE["agent"], "hidden": [128, 128]}
    whole = run(tmp_path / "whole", settings)
    full = {**settings, "out": tmp_path / "full", "checkpoint_minutes": ALWAYS}
    program = textwrap.dedent(f"""
        import resource, sys
        from pathlib import Path, PosixPath
        from fire_rl.launch.config import located, make_config
        from fire_rl.launch.train import train
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        sys.exit(train(located(make_config({full}))))
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    path = located(make_config({**settings, "out": tmp_path / "full"})).path
    assert done.returncode == 1
    assert "no checkpoint at agent step 1 " in done.stderr and "the run goes on" in done.stderr
    assert "at its end, state not saved" in load_run(path).status.message
    assert load_run(path).status.state == "failed"
    assert rows(path) == rows(whole)
    run(tmp_path / "full", settings)  # with room again
    assert_same_run(path, whole)

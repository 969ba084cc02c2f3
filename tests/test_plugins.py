"""Methods from files and from installed packages: found, configured, run, and told off in one sentence."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fire_rl import method
from fire_rl.launch.cli import main
from fire_rl.method import make_method, method_names
from fire_rl.plugins import PluginError, load_plugins

HALVE = '''
"""Halve all weights."""
from dataclasses import dataclass

from fire_rl import ResetMethod, register


@register("{name}")
@dataclass
class Halve(ResetMethod):
    """Multiply every parameter by a factor."""

    factor: float = 0.5
    """What every parameter is multiplied by."""

    def apply(self, module, learner, generator):
        for parameter in module.parameters():
            parameter.mul_(self.factor)
'''
TINY = "--env control/CartPole-v1 --agent-steps 600 --eval-every 0 --wandb disabled --device cpu --threads 1"


@pytest.fixture(autouse=True)
def same_registry() -> Iterator[None]:
    known = dict(method._REGISTRY)
    yield
    method._REGISTRY.clear()
    method._REGISTRY.update(known)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_s_method_runs_with_its_typed_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "mine.py", HALVE.format(name="halve"))
    words = ["train", "--plugin", str(file), "--method", "halve", *TINY.split()]
    assert main([*words, "--method.factor", "0.25", "--out", str(tmp_path / "runs")]) == 0
    run = tmp_path / "runs/dqn/control/CartPole-v1/halve/s1"
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["method"]["factor"] == 0.25 and config["plugin"] == [str(file)]
    (event,) = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert event["options"]["name"] == "halve"
    with pytest.raises(SystemExit) as stop:
        main([*words, "--method.factor", "much"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit):
        main(["train", "--plugin", str(file), "--method", "halve", "--help"])
    assert "What every parameter is multiplied by" in " ".join(capsys.readouterr().out.split())


def test_several_methods_and_their_options(tmp_path: Path) -> None:
    words = ["train", "--method", "fire", "--method", "layer-norm", *TINY.split(), "--out", str(tmp_path)]
    assert main([*words, "--method.fire.steps", "3", "--method.layer-norm.eps", "1e-3"]) == 0
    run = tmp_path / "dqn/control/CartPole-v1/fire+layer-norm/s1"
    recorded = json.loads((run / "config.json").read_text())["config"]["method"]
    assert recorded["name"] == "fire+layer-norm"
    assert (recorded["fire"]["steps"], recorded["fire"]["head"]) == (3, "rewind"), "the paper's preset"
    assert recorded["layer_norm"]["eps"] == 1e-3


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("fire+none", "none cannot be combined"),
        ("fire+fire", "'fire' is named twice"),
        ("muon+upgd", "muon and upgd do not go together: each replaces the optimiser"),
        ("layer-norm+normalize-and-project", "each puts norms before the activations"),
        ("layer-norm+crelu", "crelu must come before layer-norm"),
        ("fire+laier-norm", "did you mean layer-norm"),
    ],
)
def test_combinations_that_cannot_work_are_refused(names: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_method(names)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import fire_rl\n\n1 / 0\n", r"bad\.py:3: ZeroDivisionError: division by zero"),
        ("def f(:\n    pass\n", r"bad\.py:1: invalid syntax"),
        ("import no_such_package\n", r"bad\.py:1: ModuleNotFoundError: No module named 'no_such_package'"),
        (
            HALVE.format(name="fire"),
            r"bad\.py:\d+: ValueError: two reset methods are called 'fire': .*bad\.py",
        ),
    ],
)
def test_a_broken_plugin_is_told_with_file_and_line(tmp_path: Path, text: str, reason: str) -> None:
    file = write(tmp_path / "bad.py", text)
    with pytest.raises(PluginError, match=reason):
        load_plugins([file])
    assert main(["train", "--plugin", str(file)]) == 2


def test_a_missing_plugin(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="there is no such file"):
        load_plugins([tmp_path / "nowhere.py"])


def test_two_files_may_not_give_one_name_but_a_file_may_come_twice(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, HALVE.format(name="halve")) for name in ("one.py", "two.py"))
    load_plugins([one, one])
    assert "halve" in method_names()
    with pytest.raises(PluginError, match=r"'halve': Halve in .*one\.py and Halve in .*two\.py"):
        load_plugins([two])


def test_a_method_of_an_installed_package(tmp_path: Path) -> None:
    """Built and installed with pip: found by its entry point and run; a broken one is only warned of."""
    project = tmp_path / "project"
    project.mkdir()
    write(project / "halving.py", HALVE.format(name="halve"))
    write(project / "broken_plugin.py", "raise RuntimeError('sorry')\n")
    write(
        project / "pyproject.toml",
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "halving"\nversion = "1"\n'
        '[project.entry-points."fire_rl.methods"]\nhalve = "halving"\nbroken = "broken_plugin"\n'
        '[tool.setuptools]\npy-modules = ["halving", "broken_plugin"]\n',
    )
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(project)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def fire_rl(words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fire_rl.launch.cli", *words.split()]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

    listed = fire_rl("methods")
    assert "Multiply every parameter by a factor." in listed.stdout
    assert "broken_plugin.py:1: RuntimeError: sorry" in listed.stderr
    run = fire_rl(f"train --method halve --out runs {TINY}")
    assert run.returncode == 0, run.stderr
    again = fire_rl(f"train --method halve --out runs {TINY}")
    assert "is finished" in again.stderr

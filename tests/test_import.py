"""`import fire_rl` needs torch only, and works from a checkout that nobody has installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fire_rl

ROOT = Path(__file__).resolve().parents[1]


def python(code: str) -> str:
    """Run `code` in a new interpreter outside the checkout and return what it prints."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_there() -> None:
    assert all(hasattr(fire_rl, name) for name in fire_rl.__all__)
    assert {"none", "fire", "full-reset", "shrink-perturb"} <= set(fire_rl.method_names())
    assert isinstance(fire_rl.__version__, str)


def test_import_needs_torch_only() -> None:
    modules = python("import fire_rl; print(*sys.modules)").split()
    loaded = {name.split(".")[0] for name in modules}
    assert "torch" in loaded
    theirs = {"gymnasium", "wandb", "ale_py", "mujoco", "cv2", "tyro", "rich", "matplotlib", "imageio"}
    assert not theirs & loaded
    parts = {name.split(".")[1] for name in modules if name.startswith("fire_rl.")}
    assert "methods" in parts and not {"agents", "envs", "launch", "results"} & parts


UNINSTALLED = """
# As in a checkout that was never installed: no finder of an editable installation.
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
from importlib.util import find_spec
import fire_rl
for name in "agents", "envs", "launch", "results", "tests":
    spec = find_spec(f"fire_rl.{name}")
    print(spec and spec.origin)
import fire_rl.agents
print(fire_rl.agents.__file__)
"""


def test_a_checkout_that_is_not_installed_finds_its_four_other_folders_only() -> None:
    found = python(UNINSTALLED).split()
    expected = [str(ROOT / part / "__init__.py") for part in ("agents", "envs", "launch", "results")]
    assert found == [*expected, "None", expected[0]]

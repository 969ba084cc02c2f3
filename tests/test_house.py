"""The house rules that a machine can check: style, types, floors, packaging."""

import ast
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"fire_rl": 1, "agents": 2, "envs": 2, "results": 2, "launch": 3}


def run(*words: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint() -> None:
    run(sys.executable, "-m", "ruff", "check", "--no-cache", ".")


def test_format() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", "--no-cache", ".")


def test_types() -> None:
    run(sys.executable, "-m", "mypy")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(module: str) -> tuple[str, int] | None:
    """Folder and floor of a module of ours."""
    parts = module.split(".")
    if parts[0] != "fire_rl":
        return None
    folder = parts[1] if len(parts) > 1 and parts[1] in FLOORS else "fire_rl"
    return folder, FLOORS[folder]


@pytest.mark.parametrize("folder", FLOORS)
def test_imports_go_down_only(folder: str) -> None:
    """fire_rl < agents, envs, results < launch; those in the middle do not know each other."""
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            target = floor(module)
            if target is not None and target[0] != folder:
                assert target[1] < FLOORS[folder], f"{path.relative_to(ROOT)} imports {module}"


def test_fire_rl_needs_torch_only() -> None:
    """`import fire_rl` in anyone's training loop pulls in torch and nothing else of ours."""
    program = (
        "import sys; import torch; before = set(sys.modules); import fire_rl;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names);"
        "assert new == {'fire_rl'}, new;"
        "assert not [m for m in sys.modules if m.startswith(('fire_rl.agents', 'fire_rl.launch'))]"
    )
    run(sys.executable, "-c", program)


def test_the_wheel_holds_everything_and_runs(tmp_path: Path) -> None:
    """Built, installed into a new environment and started, away from the checkout."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tracked = subprocess.run(
        ["git", "ls-files", *FLOORS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in tracked:
        if name.endswith((".py", ".toml", ".csv")):
            inside = name if name.startswith("fire_rl/") else f"fire_rl/{name}"
            assert inside in names, f"{name} is not in the wheel: name its package in pyproject.toml"
    assert not [n for n in names if n.startswith(("agents/", "envs/", "launch/", "results/", "tests/"))]

    home = tmp_path / "venv"
    venv.create(home, system_site_packages=False, with_pip=False)
    # The libraries of the environment that runs the tests, but not its editable install of this checkout.
    site = next(home.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    libraries = [p for p in sys.path if p.endswith("site-packages")]
    program = (
        f"import sys; sys.path += {libraries!r}; import fire_rl, fire_rl.launch.cli as cli;"
        f"assert fire_rl.__file__.startswith({str(site)!r}), fire_rl.__file__;"
        f"assert cli.__file__.startswith({str(site)!r}), cli.__file__;"
        "sys.exit(cli.main(['methods']))"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [str(home / "bin" / "python"), "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fire " in done.stdout

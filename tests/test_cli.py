"""The command line: what it says to users, above all to those who mistype."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fire_rl.launch import cli
from fire_rl.launch.command_line import train_command
from fire_rl.launch.commands.train import parse
from fire_rl.launch.config import located, make_config


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `fire-rl WORDS`."""
    try:
        code = cli.main(list(words))
    except SystemExit as stopped:  # how the flag parser answers
        code = int(stopped.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("trian", "unknown command 'trian': did you mean train"),
        ("train --agent ppo", "unknown agent 'ppo': did you mean"),
        ("train --method fier", "unknown reset method 'fier': did you mean fire"),
        ("train --env atari/Asterics --out OUT --wandb disabled", "did you mean Asteroids or Asterix"),
        ("train --env humanoid/h1-wlak --agent sac --out OUT --wandb disabled", "did you mean h1-walk"),
        ("train --env control/CartPol-v1 --out OUT --wandb disabled", "did you mean CartPole-v1"),
        ("train --env nowhere/x", "unknown family of environments 'nowhere'"),
        ("train --agent.gama 0.9", "--agent.gamma"),
        ("train --agent-steps 0", "--agent-steps must be at least 1"),
        ("train --agent-steps -5", "--agent-steps must be at least 1"),
        ("train --method shrink-perturb --method.keep 2", "keep must lie between 0 and 1"),
        ("train --agent.gamma much", "much"),
        ("train --method fire --reset-at 1.5 --out OUT --wandb disabled", "between 0 and 1"),
        ("train --method fire --reset-every 0 --out OUT --wandb disabled", "reset-every must be a positive"),
        ("train --env control/CartPole-v1 --out FILE --wandb disabled", "choose another --out"),
        ("train --env control/CartPole-v1 --out FILE/x --wandb disabled", "choose another --out"),
        ("train --agent sac --env control/CartPole-v1 --out OUT --wandb disabled", "sac"),
        ("train --env control/Pendulum-v1 --out OUT --wandb disabled", "use --agent sac"),
        ("train --device cuda:77 --out OUT --wandb disabled", "--device cuda:77"),
        ("train --device gpu --out OUT --wandb disabled", "auto, cpu, cuda"),
        ("train --agent.replay-capacity 100000000000 --out OUT --wandb disabled", "replay memory needs"),
        ("bench quik", "unknown suite 'quik': did you mean quick"),
        ("bench nothing.toml", "nothing.toml"),
        ("plot OUT/nothing", "does not exist"),
        ("report FILE", "is a file"),
        ("envs mujoco", "unknown family of environments 'mujoco'"),
    ],
)
def test_a_mistake_gets_one_clear_sentence_and_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, answer: str
) -> None:
    (tmp_path / "file").write_text("")
    places = {"OUT": str(tmp_path / "out"), "FILE": str(tmp_path / "file")}
    for name, place in places.items():
        words = words.replace(name, place)
    code, _, errors = run(capsys, *words.split())
    assert code == 2
    assert answer in " ".join(errors.replace("│", " ").split())
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists(), "a command that cannot run must not leave a record"


def test_help_of_train_shows_the_flags_of_the_names_given(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, *["train", "--agent", "dqn", "--env", "atari/Asterix", "--method", "shrink-perturb", "--help"]
    )
    assert code == 0
    for flag in ("--agent.replay-ratio", "--env.protocol", "--method.keep", "--reset-at", "--seed"):
        assert flag in out
    assert "6.25e-05" in out


def test_flags_reach_the_configuration(tmp_path: Path) -> None:
    config = parse(
        "--agent dqn --env control/CartPole-v1 --method fire --method.steps 5 --agent.gamma 0.9 "
        f"--reset-at 0.25 300 --agent-steps 1000 --seed 7 --out {tmp_path}".split()
    )
    assert config.method.steps == 5  # type: ignore[attr-defined]
    assert (config.agent.gamma, config.run.seed, config.run.reset_at) == (0.9, 7, (0.25, 300.0))
    assert config.path == tmp_path / "dqn" / "control" / "CartPole-v1" / "fire" / "s7"
    assert config.schedule(action_repeat=1).events == (250, 300)


def test_a_printed_command_gives_the_configuration_back(tmp_path: Path) -> None:
    config = located(
        make_config(
            {
                "agent": {"name": "dqn", "hidden": [32, 16], "clip_rewards": True, "learning-rate": 1e-3},
                "env": {"name": "atari/Pong", "protocol": "machado"},
                "method": {"name": "fire", "steps": 7, "head": "keep"},
                "label": "fire-7",
                "reset_every": 5_000,
                "eval_at_reset": False,
                "out": tmp_path / "a b",
            }
        )
    )
    again = parse(train_command(config)[1:])
    assert again.to_dict() == config.to_dict() and again.path == config.path


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agent": {"name": "dqn", "gama": 0.9}}, "unknown option 'agent.gama': did you mean agent.gamma"),
        ({"agent": {"gamma": 0.9}}, "needs a name"),
        ({"agent_stps": 5}, "unknown option 'agent_stps': did you mean agent_steps"),
        ({"method": {"name": "fire", "solver": "magic"}}, "option method.solver"),
        ({"agent": {"name": "dqn", "gamma": "much"}}, "option agent.gamma"),
    ],
)
def test_mistakes_in_settings_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        make_config(settings)


def test_listings(capsys: pytest.CaptureFixture[str]) -> None:
    methods, envs, suites = (run(capsys, what)[1].splitlines() for what in ("methods", "envs", "suites"))
    assert any(line.startswith("fire ") for line in methods)
    assert sum(line.startswith("atari/") for line in envs) == 104
    assert sum(line.startswith("humanoid/") for line in envs) == 14
    assert any(line.startswith("quick ") for line in suites)


def test_help_is_quick_to_load() -> None:
    """`fire-rl --help` imports neither torch nor anything else that is heavy."""
    program = (
        "import sys; from fire_rl.launch import cli; cli.main(['--help']);"
        "heavy = {'gymnasium', 'wandb', 'matplotlib', 'mujoco', 'ale_py'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).parent / "fire-rl"
    done = subprocess.run(
        [script, "nonsense"], capture_output=True, text=True, env=os.environ.copy(), check=False
    )
    assert done.returncode == 2 and "unknown command" in done.stderr

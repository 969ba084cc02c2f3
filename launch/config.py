"""The typed configuration of one run, and the defaults of each protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from pydantic import TypeAdapter, ValidationError

from fire_rl.agents import AGENTS
from fire_rl.agents.program import Compile, Precision
from fire_rl.composition import field_name
from fire_rl.envs import env_options_class, split_name
from fire_rl.method import ResetMethod, make_method, method_class
from fire_rl.names import unknown_name
from fire_rl.plugins import load_plugins
from fire_rl.results.store import run_path
from fire_rl.schedule import Schedule, Unit

Preset = Literal["paper", "harmonised"]
WandbMode = Literal["offline", "online", "disabled"]

# One policy for all methods, so that they are compared by what they do to the weights alone.
HARMONISED: dict[str, object] = {"optimizer": "recreate", "target": "copy", "temperature": "init"}


@dataclass(frozen=True)
class RunOptions:
    """One run: an agent learns in an environment, and a method resets it."""

    agent: str = "dqn"
    """Learning algorithm: dqn or sac. Its constants are the flags --agent.*."""
    env: str = "atari/Asterix"
    """Environment as family/name; `fire-rl envs` lists them. Its options are the flags --env.*."""
    method: str = "none"
    """Reset method; `fire-rl methods` lists them. Its options are the flags --method.*. Named several times
    (--method fire --method layer-norm), the methods act in this order; then the options of each are the flags
    --method.NAME.*."""
    preset: Preset = "paper"
    """Where the method's defaults come from: the FIRE paper's choices for this agent, or one common policy
    for optimiser, target and temperature (`harmonised`)."""
    plugin: tuple[Path, ...] = ()
    """Python files of your own that register methods; see docs/write-a-method.md."""
    label: str = ""
    """What figures and folders call the method; default: its name."""

    seed: int = 1
    """All randomness of the run derives from it."""
    agent_steps: int = 0
    """Length of the run in decisions."""
    num_envs: int = 1
    """Environments stepped at once."""

    reset_at: tuple[float, ...] = ()
    """Moments of the reset: fractions of the run (0.5), or whole numbers of steps in --reset-unit.
    Default: the method's own, 0.5 for most, and no reset for none and methods that act in every update."""
    reset_every: int | None = None
    """Reset at this interval instead, in --reset-unit."""
    reset_from: int | None = None
    """First reset of --reset-every; default: one interval."""
    reset_until: int | None = None
    """No reset of --reset-every from here on; default: the end of the run."""
    reset_unit: Unit = "agent_steps"
    """Clock that the reset moments refer to."""

    eval_every: int = 0
    """Agent steps between evaluations; 0: none."""
    eval_episodes: int = 10
    """Full episodes in an evaluation."""
    eval_at_reset: bool = True
    """Also evaluate right before and right after every reset (if evaluation is on)."""
    log_every: int = 1_000
    """Agent steps between rows of the training log."""
    probe_size: int = 2_048
    """Transitions on which plasticity is measured (dormant ratio, feature rank), at resets in any case."""
    measure_every: int = 0
    """Agent steps between measurements of everything (gradients, curvature, distances, …), which are then
    taken right before and after every reset, too; 0: none."""
    stop_at: int | None = None
    """Stop here, in agent steps, before the reset or evaluation that is due: other runs can go on from this
    point with --fork-from. The run then counts as finished."""
    fork_from: Path | None = None
    """Folder of a run that stopped at --stop-at: start from its state, bit for bit as if this run had come to
    that point itself. The two may differ in method, resets and length only. {seed} stands for the seed."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; one more is written when the run is interrupted, and one at its end."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads of torch; 0: all cores. Results are bit-identical only for equal numbers."""
    stack: int = 1
    """Runs in this process: with --seed and the seeds that follow, trained together, each recorded as if it
    had run alone. On a GPU their updates are one batched program."""
    stack_stride: int = 1
    """Difference between the seeds of a stack."""
    compile: Compile = "auto"
    """Updates as one program: `auto` (on a GPU a CUDA graph, batched over a stack; on a CPU, where that gains
    nothing, none), `on` (torch.compile too, also on a CPU), or `off` (operation by operation)."""
    precision: Precision = "tf32"
    """Products of float32 numbers on a GPU in training: `tf32` (operands rounded to 10 bits after the point;
    sums in float32), the default of JAX, in which the paper's SAC is written, or `float32`. Resets, and all
    that is computed on a CPU, take float32 in any case."""
    out: Path = Path("runs")
    """Folder of the records; the run goes to OUT/agent/family/env/method/sSEED."""
    run_dir: Path | None = None
    """Folder of this very run, instead of the place below --out. {seed} stands for the seed."""
    fresh: bool = False
    """Start over where a record of this run exists, deleting it; without it the run is continued."""
    wandb: WandbMode = "offline"
    """Weights & Biases: record on disk for a later `wandb sync`, online, or not at all."""
    wandb_project: str = "fire-rl"
    """Project on Weights & Biases."""

    def __post_init__(self) -> None:
        positive = ["agent_steps", "num_envs", "eval_episodes", "log_every", "probe_size"]
        positive += ["stack", "stack_stride"]
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        for name in ("seed", "eval_every", "measure_every", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"--{name.replace('_', '-')} must not be negative, but is {getattr(self, name)}"
                )
        if self.stop_at is not None and not 1 <= self.stop_at <= self.agent_steps:
            raise ValueError(
                f"--stop-at must lie in the run, from 1 to {self.agent_steps}, not {self.stop_at}"
            )
        for name in ("run_dir", "fork_from"):
            if self.stack > 1 and "{seed}" not in str(getattr(self, name) or "{seed}"):
                raise ValueError(
                    f"--{name.replace('_', '-')} names one folder for {self.stack} runs: write {{seed}} in it"
                )
        if self.checkpoint_minutes <= 0:
            raise ValueError(f"--checkpoint-minutes must be positive, not {self.checkpoint_minutes}")


# Defaults of (agent, family): the run's length and cadences, and the agent's constants where they differ
# from the paper's. Control tasks are small: they get small networks, memories and warm-ups.
_CONTROL: dict[str, Any] = {"agent_steps": 50_000, "num_envs": 1, "eval_every": 2_500, "log_every": 500}
RUN_DEFAULTS: dict[str, dict[str, Any]] = {
    "atari": {"agent_steps": 2_500_000, "num_envs": 4, "eval_every": 250_000},
    "humanoid": {"agent_steps": 500_000, "num_envs": 1, "eval_every": 10_000},
    "control": _CONTROL,
}
AGENT_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("dqn", "control"): {
        "replay_ratio": 0.5,
        "learning_starts": 1_000,
        "epsilon_final": 0.05,
        "epsilon_decay": 9_000,
        "epsilon_eval": 0.0,
        "batch_size": 64,
        "replay_capacity": 50_000,
        "learning_rate": 2.5e-4,
        "adam_epsilon": 1e-8,
        "target_period": 500,
        "clip_rewards": False,
    },
    ("sac", "control"): {
        "actor_width": 64,
        "critic_width": 128,
        "critic_blocks": 1,
        "learning_starts": 1_000,
        "batch_size": 128,
        "replay_capacity": 100_000,
        "learning_rate": 1e-3,
        "tau": 0.01,
    },
}

# Where records are written, how they are logged, how many workers step the environments, on what hardware and
# beside whom it is computed, and who computed the first part has no part in what is computed.
NOT_IDENTITY = frozenset(
    (
        "out",
        "run_dir",
        "plugin",
        "fresh",
        "fork_from",
        "wandb",
        "wandb_project",
        "checkpoint_minutes",
        "device",
        "stack",
        "stack_stride",
        "compile",
        "precision",
        "env.workers",
        "env.threads",
    )
)


@dataclass(frozen=True)
class RunConfig:
    """The resolved configuration: everything that decides what a run computes."""

    run: RunOptions
    agent: Any  # the agent's config dataclass
    env: Any  # the environment family's options dataclass
    method: ResetMethod
    path: Path = field(default=Path(), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the names and options of agent, environment and method side by side."""
        run = asdict(self.run)
        return {
            **run,
            "agent": {"name": self.run.agent, **asdict(self.agent)},
            "env": {"name": self.run.env, **asdict(self.env)},
            "method": {"name": self.run.method, **self.method.options()},
            "label": self.label,
        }

    @property
    def label(self) -> str:
        """What figures and folders call the method."""
        return self.run.label or self.run.method

    def schedule(self, action_repeat: int) -> Schedule:
        """The schedule of resets. Raises ValueError, naming the flag, for moments that cannot be."""
        run, default = self.run, self.method.default_schedule
        at, every, unit = run.reset_at, run.reset_every, run.reset_unit
        is_default = not at and every is None
        if is_default:
            at, every, unit = default.get("at", ()), default.get("every"), default.get("unit", unit)
        if unit == "updates" and any(0 < moment < 1 for moment in at):
            raise ValueError(
                "--reset-unit updates takes whole numbers: fractions are of the run's agent steps"
            )
        total = run.agent_steps * (action_repeat if unit == "env_steps" else 1)
        if unit == "updates":
            total = 2**62  # how many updates a run has is the agent's business
        if is_default:
            at = tuple(moment for moment in at if moment <= total)  # a short run takes those that fit
        return Schedule(total, at, every, run.reset_from, run.reset_until, unit)

    def torch_device(self) -> torch.device:
        """See `find_device`."""
        return find_device(self.run.device)


def find_device(name: str) -> torch.device:
    """The device; `auto` is the first GPU, if any. Raises ValueError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no GPU is usable here; give cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} GPUs")
    return device


def default_config(agent: str, env: str, method: str, preset: str = "paper") -> RunConfig:
    """The configuration of a run before anything is said about it but its three names.

    Raises ValueError for an unknown name, with the nearest valid ones.
    """
    check_name("agent", agent, AGENTS)
    check_name("preset", preset, get_args(Preset))
    family, _ = split_name(env)
    config_class = AGENTS[agent].config
    run = RunOptions(
        agent=agent,
        env=env,
        method=method,
        preset=cast(Preset, preset),
        **RUN_DEFAULTS[family],
    )
    agent_config = config_class(**AGENT_DEFAULTS.get((agent, family), {}))
    return RunConfig(run, agent_config, env_options_class(env)(), default_method(agent, method, preset))


def default_method(agent: str, name: str, preset: str) -> ResetMethod:
    """A method, or several joined by `+`, with the options that `preset` gives it on `agent`."""
    if "+" in name:
        parts: dict[str, Any] = {field_name(p): default_method(agent, p, preset) for p in name.split("+")}
        return method_class(name)(**parts)
    options = dict(AGENTS[agent].paper.get(name, {}))
    if preset == "harmonised" and method_class(name).default_schedule:
        options |= HARMONISED  # what never fires has nothing to do with the rest of the state
    if name == "plasticity-injection":
        options["target"] = "same"  # the target needs the new architecture too
    return make_method(name, **options)


def make_config(settings: Mapping[str, Any]) -> RunConfig:
    """A configuration from plain values: as a suite file writes them, or as `to_dict` gave them.

    `agent`, `env` and `method` are names, or tables of a name and options.

    Raises:
        ValueError: for an unknown name or option, with the nearest valid ones.
    """
    load_plugins(settings.get("plugin", ()))
    named = {key: _named(settings.get(key, getattr(RunOptions, key))) for key in ("agent", "env", "method")}
    preset = str(settings.get("preset", "paper"))
    base = default_config(named["agent"][0], named["env"][0], named["method"][0], preset)
    rest = {k: v for k, v in settings.items() if k not in (*named, "preset")}
    return RunConfig(
        run=with_options(base.run, rest, ""),
        agent=with_options(base.agent, named["agent"][1], "agent."),
        env=with_options(base.env, named["env"][1], "env."),
        method=with_options(base.method, named["method"][1], "method."),
    )


def located(config: RunConfig) -> RunConfig:
    """`config` with the path of its run directory."""
    run = config.run
    path = _of_seed(run.run_dir, run.seed)
    path = path or run_path(run.out, run.agent, run.env, config.label, run.seed)
    return replace(config, path=path)


def members(config: RunConfig) -> list[RunConfig]:
    """The runs that a process of `config` trains: one, or with `stack` one for each of so many seeds."""
    run, runs = config.run, []
    for seed in range(run.seed, run.seed + run.stack * run.stack_stride, run.stack_stride):
        run_dir, fork_from = _of_seed(run.run_dir, seed), _of_seed(run.fork_from, seed)
        member = replace(run, seed=seed, stack=1, stack_stride=1, run_dir=run_dir, fork_from=fork_from)
        runs.append(located(replace(config, run=member)))
    return runs


def _of_seed(path: Path | None, seed: int) -> Path | None:
    """A path as the command line gives it, with {seed} filled in."""
    return None if path is None else Path(str(path).replace("{seed}", str(seed)))


def with_options(base: Any, options: Mapping[str, Any], prefix: str) -> Any:
    """`base` (a dataclass) with `options` set; names may be spelt with hyphens, values are checked by type.

    Raises ValueError for an unknown option or a value of the wrong type.
    """
    values = {f.name: getattr(base, f.name) for f in fields(base) if f.init}
    for key, value in options.items():
        name = key.replace("-", "_")
        if isinstance(value, Mapping) and is_dataclass(values.get(name)):
            value = with_options(values[name], value, f"{prefix}{key}.")
        check_name("option", f"{prefix}{name}", [f"{prefix}{known}" for known in values])
        values[name] = value
    try:
        return TypeAdapter(type(base)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), ValueError):
            raise cause from None
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"option {prefix}{where}: {first['msg'].lower()}, not {first['input']!r}") from None


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Raise ValueError with the nearest of `known` unless `name` is one of them."""
    names = list(known)
    if name not in names:
        raise unknown_name(what, name, names)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run must share with the run that it continues: all that has a part in the computation.

    Args:
        settings: `RunConfig.to_dict()`, or what the record of a run says.
    """
    return {k: v for k, v in flatten(settings).items() if k not in NOT_IDENTITY}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The keys in which two identities differ, with both values, as part of a sentence; empty if in none."""
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return ", ".join(f"{k} ({old.get(k)!r} there, {new.get(k)!r} now)" for k in keys[:5])


def _named(value: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(value, Mapping):
        if "name" not in value:
            raise ValueError(f"a table for agent, env or method needs a name: {dict(value)}")
        return str(value["name"]), {k: v for k, v in value.items() if k != "name"}
    return str(value), {}

"""Suites: named benchmarks as TOML files. docs/suites.md describes the format."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from fire_rl.envs import split_name
from fire_rl.launch.config import RunConfig, RunOptions, check_name, located, make_config
from fire_rl.method import method_class, method_names
from fire_rl.names import unknown_name
from fire_rl.results.curves import Returns
from fire_rl.results.figures import Panel
from fire_rl.results.learning_curves import Overlay

Settings = Mapping[str, Any]
Stack = int | Literal["auto"]

SUITE_FILE = "suite.toml"  # a copy of the suite beside its runs
GROUP_LISTS = {"envs": "env", "methods": "method", "seeds": "seed"}  # a group is the product over these
FIGURE_KEYS = ("title", "note", "returns", "bin_steps")
SUITE_KEYS = ("summary", "overlay", "group")  # of the whole suite; other keys may stand there or in a group
# The launcher decides these.
NOT_IN_SUITES = ("out", "run_dir", "fresh", "fork_from", "stop_at", "stack", "stack_stride")
LAUNCH_KEYS = ("stack",)  # how the runs are launched, which is none of a run's own options
RUN_KEYS = tuple(f.name for f in fields(RunOptions) if f.name not in NOT_IN_SUITES)


@dataclass(frozen=True)
class Overrides:
    """What the command line changes in a suite. Empty: as the suite says."""

    envs: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()  # by label or name as in the suite; others are added with their defaults
    seeds: tuple[int, ...] = ()
    settings: Settings = field(default_factory=dict)  # options of every run, such as agent_steps


AS_WRITTEN = Overrides()


@dataclass(frozen=True)
class Suite:
    """A benchmark: runs (environments × methods × seeds, per group) and the panels of its figure."""

    name: str
    summary: str
    overlay: Overlay  # "paper": the figure shows the paper's own curves too
    groups: tuple[Settings, ...]
    text: str  # of the file

    def configs(self, out: Path, overrides: Overrides = AS_WRITTEN) -> list[RunConfig]:
        """Every run of the suite, recorded below `out`.

        Raises:
            ValueError: for what cannot be run, naming the suite and what is wrong with it.
        """
        groups = _overridden(self, overrides)
        try:
            configs = [
                located(make_config({**settings, "out": out}))
                for group in groups
                for settings in _product(group)
            ]
        except ValueError as error:
            raise ValueError(f"suite {self.name}: {error}") from error
        seen: dict[Path, RunConfig] = {}
        for config in configs:
            if seen.setdefault(config.path, config) != config:
                raise ValueError(
                    f"suite {self.name}: two different runs would both be recorded in {config.path}; "
                    "tell their methods apart by labels"
                )
        return list(seen.values())

    def stacks(self, overrides: Overrides = AS_WRITTEN) -> dict[tuple[str, str], Stack]:
        """How many seeds of each (agent, environment) a process trains together, where a group says it."""
        return {
            (_name_of(group["agent"]), _name_of(env)): group["stack"]
            for group in _overridden(self, overrides)
            if "stack" in group
            for env in _list(group, "envs")
        }

    def panels(self) -> dict[tuple[str, str], Panel]:
        """How the runs of each (agent, environment) are drawn."""
        panels = {}
        for group in self.groups:
            facts = {key: group[key] for key in FIGURE_KEYS if key in group}
            for env in map(_name_of, _list(group, "envs")):
                title = env.partition("/")[2]
                panels[_name_of(group["agent"]), env] = Panel(**{"title": title, **facts})
        return panels


def suite_names() -> list[str]:
    """The built-in suites."""
    folder = resources.files("fire_rl.launch.suites")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """A built-in suite by name, or one's own by the path of its TOML file.

    Raises ValueError for an unknown name, or a file that is no suite, saying what is wrong with it.
    """
    if name in suite_names():
        text = (resources.files("fire_rl.launch.suites") / f"{name}.toml").read_text()
    elif name.endswith(".toml"):
        if not Path(name).is_file():
            raise ValueError(f"there is no suite file {name}")
        text = Path(name).read_text()
    else:
        raise unknown_name("suite", name, suite_names())
    try:
        return parse_suite(Path(name).stem, text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"suite {name} is not valid TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"suite {name}: {error}") from None


def parse_suite(name: str, text: str) -> Suite:
    """The suite that `text` (TOML) describes. Raises ValueError for an unknown, missing or wrong key."""
    content = tomllib.loads(text)
    groups = content.get("group", [{}])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError("write a group of runs as [[group]], with two brackets")
    common = {key: value for key, value in content.items() if key not in SUITE_KEYS}
    overlay = content.get("overlay")
    if overlay not in (None, "paper"):
        raise ValueError(f'overlay can be "paper", not {overlay!r}')
    for key in (key for table in (common, *groups) for key in table):
        check_name("key", key, (*SUITE_KEYS, "agent", *GROUP_LISTS, *RUN_KEYS, *LAUNCH_KEYS, *FIGURE_KEYS))
    merged = tuple({"threads": 1, **common, **group} for group in groups)
    for group in merged:
        _check_group(group)
    return Suite(name, str(content.get("summary", "")), overlay, merged, text)


def panels_of(folder: Path) -> dict[tuple[str, str], Panel]:
    """How the suite that was run into `folder` wants its runs drawn; nothing for other folders."""
    file = folder / SUITE_FILE
    return load_suite(str(file)).panels() if file.exists() else {}


def _check_group(group: Settings) -> None:
    if "agent" not in group:
        raise ValueError('a group needs an agent, such as agent = "dqn"')
    for many, one in GROUP_LISTS.items():
        if (many in group) == (one in group):
            raise ValueError(f"a group needs {many} = [...], or one {one}")
        if not isinstance(_list(group, many), list) or not _list(group, many):
            raise ValueError(f"{many} is a list of at least one value, not {group[many]!r}")
    stack = group.get("stack", "auto")
    if stack != "auto" and (not isinstance(stack, int) or stack < 1):
        raise ValueError(f'stack is a number of seeds, or "auto", not {stack!r}')
    if group.get("returns", "training") not in get_args(Returns):
        raise ValueError(f"returns is one of {', '.join(get_args(Returns))}, not {group['returns']!r}")


def _overridden(suite: Suite, overrides: Overrides) -> list[dict[str, Any]]:
    """The groups with the changes of the command line."""
    groups = [dict(group) for group in suite.groups]
    for group in groups:
        if overrides.seeds:
            group.pop("seed", None)
            group["seeds"] = list(overrides.seeds)
        if overrides.methods:
            group["methods"] = _chosen_methods(_list(group, "methods"), overrides.methods)
            group.pop("method", None)
        group.update(overrides.settings)
    return _with_envs(groups, overrides.envs) if overrides.envs else groups


def _chosen_methods(listed: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """The entries of `listed` with these labels or names; what the suite does not list by its defaults."""
    chosen = []
    for name in names:
        entries = [entry for entry in listed if name in (_label_of(entry), _name_of(entry))]
        if "+" in name:  # several combined
            method_class(name)
        elif not entries:
            labels = [_label_of(entry) for entry in listed]
            check_name("reset method", name, dict.fromkeys((*labels, *method_names())))
        chosen += entries or [name]
    return chosen


def _with_envs(groups: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The groups with only these environments: each goes where it is listed, or else to the first group
    that has environments of its family."""
    found: list[list[Any]] = [[] for _ in groups]
    for name in names:
        family = split_name(name)[0]
        listed = [_list(group, "envs") for group in groups]
        at = [i for i, envs in enumerate(listed) if name in map(_name_of, envs)]
        at = at or [i for i, envs in enumerate(listed) if family in map(_family_of, envs)][:1]
        if not at:
            raise unknown_name("environment", name, [_name_of(env) for envs in listed for env in envs])
        for i in at:
            found[i] += [env for env in listed[i] if _name_of(env) == name] or [name]
    return [
        {**{k: v for k, v in group.items() if k != "env"}, "envs": envs}
        for group, envs in zip(groups, found, strict=True)
        if envs
    ]


def _product(group: Settings) -> Iterator[dict[str, Any]]:
    """The settings of every run of a group."""
    apart = (*GROUP_LISTS, *GROUP_LISTS.values(), *LAUNCH_KEYS, *FIGURE_KEYS)
    common = {key: value for key, value in group.items() if key not in apart}
    for values in itertools.product(*(_list(group, key) for key in GROUP_LISTS)):
        settings = {**common, **dict(zip(GROUP_LISTS.values(), values, strict=True))}
        if isinstance(method := settings["method"], Mapping) and "label" in method:
            settings["label"] = method["label"]
            settings["method"] = {key: value for key, value in method.items() if key != "label"}
        yield settings


def _list(group: Settings, many: str) -> Any:
    return group[many] if many in group else [group[GROUP_LISTS[many]]]


def _name_of(value: Any) -> str:
    return str(value.get("name", "")) if isinstance(value, Mapping) else str(value)


def _family_of(env: Any) -> str:
    return _name_of(env).partition("/")[0]


def _label_of(method: Any) -> str:
    return str(method["label"]) if isinstance(method, Mapping) and "label" in method else _name_of(method)

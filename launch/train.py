"""One run: an agent learns, a schedule fires resets, everything is recorded and can be resumed."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from fire_rl.agents import AGENTS
from fire_rl.envs import make_env
from fire_rl.launch.checkpoint import load_latest, save_checkpoint
from fire_rl.launch.config import RunConfig, identity
from fire_rl.launch.evaluate import Evaluator
from fire_rl.launch.meter import Meter, NonFiniteLoss
from fire_rl.launch.progress import Progress
from fire_rl.launch.reports import event_row
from fire_rl.launch.tracking import Tracker
from fire_rl.results.jsonl import plain
from fire_rl.results.store import RunDirectory

ROLES = ("agent", "env", "reset", "probe", "evaluation")  # who draws random numbers; append only


class Run:
    """A run in progress: all that a checkpoint holds, and the loop over it."""

    def __init__(self, config: RunConfig, record: RunDirectory, tracker: Tracker) -> None:
        run = config.run
        self.config, self.record, self.tracker = config, record, tracker
        self.device = config.torch_device()
        self.seeds = dict(zip(ROLES, np.random.SeedSequence(run.seed).spawn(len(ROLES)), strict=True))
        self.env = make_env(run.env, run.num_envs, **asdict(config.env))
        self.schedule = config.schedule(self.env.action_repeat)
        self.method = config.method
        self.agent = AGENTS[run.agent].make(
            self.env.observation_space,
            self.env.action_space,
            run.num_envs,
            config.agent,
            self.seeds["agent"],
            self.device,
            **_env_facts(run.agent, self.env),
        )
        self.reset_rng = torch.Generator().manual_seed(int(self.seeds["reset"].generate_state(1)[0]))
        self.probe_rng = np.random.default_rng(self.seeds["probe"])
        self.evaluator = Evaluator(lambda n: make_env(run.env, n, **asdict(config.env)), run.eval_episodes)
        self.meter = Meter()
        self.observation = self.env.reset(self.seeds["env"])
        self.seconds = 0.0  # of training in earlier attempts
        self.signal: int | None = None
        self.saved = self.measured = time.monotonic()

    @property
    def clock(self) -> dict[str, int]:
        """The three clocks: decisions, simulator steps, gradient updates."""
        steps = self.agent.agent_steps
        return {
            "agent_steps": steps,
            "env_steps": steps * self.env.action_repeat,
            "updates": self.agent.updates,
        }

    def loop(self) -> None:
        """Act, observe, learn; reset when due; record. Returns at the run's end or after a signal."""
        agent, env, run = self.agent, self.env, self.config.run
        if agent.agent_steps == 0:
            self.evaluate("start")
        with Progress(run.agent_steps, start=agent.agent_steps) as progress:
            while agent.agent_steps < run.agent_steps and self.signal is None:
                before = agent.agent_steps
                action = agent.act(self.observation)
                step = env.step(action)
                agent.observe(
                    self.observation,
                    action,
                    step.reward,
                    step.terminated,
                    step.truncated,
                    step.final_observation,
                )
                self.observation = step.observation
                for _ in range(agent.updates_due()):
                    self.meter.update(agent.update())
                for episode in step.episodes:
                    self.record_episode(episode.episode_return, episode.length_agent_steps)
                if self.schedule.due(self.clock):
                    self.reset()
                elif _crossed(before, agent.agent_steps, run.eval_every):
                    self.evaluate("scheduled")
                if _crossed(before, agent.agent_steps, run.log_every):
                    self.log()
                if time.monotonic() - self.saved > 60 * run.checkpoint_minutes:
                    self.checkpoint()
                progress.advance(agent.agent_steps, self.meter.recent_return)

    def reset(self) -> None:
        """Fire the reset method through the agent's hook, evaluate before and after, record what it did."""
        if self.config.run.eval_at_reset:
            self.evaluate("before_reset")
        batch = self.agent.sample(self.config.run.probe_size, self.probe_rng)
        report = self.agent.reset(self.method, self.reset_rng, batch)
        self.tracker.event(*event_row(self.clock, self.config.label, self.method, report))
        self.tracker.timing({**self.clock, "reset_seconds": report.seconds})
        if self.config.run.eval_at_reset:
            self.evaluate("after_reset")

    def evaluate(self, moment: str) -> None:
        """Play evaluation episodes and record their returns; draws nothing from training's generators."""
        if self.config.run.eval_every == 0:
            return
        # A seed of the clock and the moment, not of a stream: evaluations can be added or left out freely.
        parent = self.seeds["evaluation"]
        moments = ("start", "scheduled", "before_reset", "after_reset")
        key = (*parent.spawn_key, self.agent.agent_steps, moments.index(moment))
        returns = self.evaluator(self.agent, np.random.SeedSequence(parent.entropy, spawn_key=key))
        self.tracker.evaluation(
            {**self.clock, "moment": moment, "return": float(np.mean(returns)), "returns": returns}
        )

    def record_episode(self, episode_return: float, length_agent_steps: int) -> None:
        """Record a finished training episode."""
        self.meter.episode(episode_return)
        self.tracker.episode(
            {**self.clock, "return": episode_return, "length_agent_steps": length_agent_steps}
        )

    def log(self) -> None:
        """Record the means since the last log. Raises NonFiniteLoss if a loss was not finite."""
        self.tracker.train({**self.clock, **self.meter.read(self.agent.updates)})
        now = time.monotonic()
        self.seconds += now - self.measured
        self.tracker.timing({**self.clock, "seconds": self.seconds, "interval_seconds": now - self.measured})
        self.measured = now
        self.record.write_status(agent_steps=self.agent.agent_steps)

    def checkpoint(self) -> Path | None:
        """Write a checkpoint; when that fails, say so and go on with the one before it."""
        self.meter.check(self.agent.updates)  # a state that is not finite must not replace a good one
        agent = self.agent.state_dict()
        components = {
            "memory": agent.pop("memory"),
            "agent": agent,
            "env": self.env.state_dict(),
            "loop": {
                "observation": self.observation,
                "schedule": self.schedule.state_dict(),
                "method": self.method.state_dict(),
                "meter": self.meter.state_dict(),
                "reset_rng": self.reset_rng.get_state(),
                "probe_rng": self.probe_rng.bit_generator.state,
                "offsets": self.record.offsets(),
                "seconds": self.seconds,
            },
        }
        self.saved = time.monotonic()
        try:
            return save_checkpoint(self.record.checkpoints, self.agent.agent_steps, components)
        except OSError as error:
            message = f"no checkpoint at agent step {self.agent.agent_steps} ({error}); the run goes on"
            print(f"warning: {message}", file=sys.stderr)
            self.record.write_status(message=message)
            return None

    def restore(self) -> bool:
        """Go on from the newest intact checkpoint, if there is one."""
        found = load_latest(self.record.checkpoints, torch.device("cpu"))
        if found is None:
            self.record.truncate_to({})
            return False
        state, _ = found
        self.agent.load_state_dict({**state["agent"], "memory": state["memory"]})
        self.env.load_state_dict(state["env"])
        loop = state["loop"]
        self.observation = loop["observation"]
        self.schedule.load_state_dict(loop["schedule"])
        self.method.load_state_dict(loop["method"])
        self.meter.load_state_dict(loop["meter"])
        self.reset_rng.set_state(loop["reset_rng"])
        self.probe_rng.bit_generator.state = loop["probe_rng"]
        self.record.truncate_to(loop["offsets"])
        self.seconds = loop["seconds"]
        return True

    def close(self) -> None:
        """Close the environments."""
        self.env.close()
        self.evaluator.close()


def train(config: RunConfig) -> int:
    """Run, or continue, the run of `config`; returns the exit code of the process.

    0: finished. 1: stopped by a loss that is not finite. 128 + signal: interrupted, to be continued by the
    same command.

    Raises:
        ValueError: when the configuration cannot be run or differs from that of the record.
        MemoryError: when the replay memory does not fit.
    """
    torch.set_num_threads(config.run.threads or torch.get_num_threads())
    with open_record(config) as record:
        if record.status.state == "finished":
            print(f"{record.path} is finished: start over with --fresh", file=sys.stderr)
            return 0
        run = config.run
        record.write_status(
            state="running", total_agent_steps=run.agent_steps, attempt=record.status.attempt + 1, message=""
        )
        tracker = Tracker(record, wandb=run.wandb, project=run.wandb_project)
        try:
            state, message, code = _run(config, record, tracker)
        except BaseException as error:
            tracker.finish("failed", f"{type(error).__name__}: {error}")
            raise
        tracker.finish(state, message)
        if message:
            print(message, file=sys.stderr)
        return code


def _run(config: RunConfig, record: RunDirectory, tracker: Tracker) -> tuple[Any, str, int]:
    """State, message and exit code of one attempt."""
    run = Run(config, record, tracker)
    try:
        announce(run, resumed=run.restore())
        with _signals(run):
            run.loop()
        if run.signal is not None:
            path = run.checkpoint()
            message = f"interrupted at agent step {run.agent.agent_steps}, state saved in {path}: the same command continues"
            return "interrupted", message, 128 + run.signal
        run.checkpoint()
        return "finished", "", 0
    except NonFiniteLoss as error:
        kept = sorted(record.checkpoints.glob("[0-9]*"))
        last = f"the last good state is {kept[-1]}" if kept else "no checkpoint had been written yet"
        return "failed", f"{error} (agent step {run.agent.agent_steps}); {last}", 1
    finally:
        run.close()


def open_record(config: RunConfig) -> RunDirectory:
    """The run directory of `config`, created or, if it holds the same run, opened to go on.

    Raises:
        ValueError: when it holds a run of another configuration, naming the keys that differ.
    """
    if config.run.fresh:
        erase(config.path)
    record = RunDirectory(config.path)
    if not record.exists:
        record.create(config.to_dict())
        return record
    old, new = identity(record.config), identity(plain(config.to_dict()))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        record.close()
        what = ", ".join(f"{k} ({old.get(k)!r} there, {new.get(k)!r} now)" for k in differing[:5])
        raise ValueError(
            f"{config.path} holds a run with another configuration: {what}; "
            f"choose another --out, or delete it and start over with --fresh"
        )
    return record


def erase(path: Path) -> None:
    """Delete the run recorded at `path`; a folder that holds no run is left alone."""
    if (path / "config.json").exists():
        shutil.rmtree(path)


def announce(run: Run, resumed: bool) -> None:
    """Say on stderr what starts: where it is recorded, and the memory that replay takes."""
    memory = run.agent.memory
    print(
        f"{run.record.path}: {'continuing at' if resumed else 'starting,'} agent step {run.agent.agent_steps}"
        f" of {run.config.run.agent_steps} on {run.device}; replay memory {memory.bytes / 1e9:.2f} GB"
        f" on {memory.storage_device}",
        file=sys.stderr,
    )


@contextmanager
def _signals(run: Run) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into an orderly end of the loop; a second one acts at once."""
    handled = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in handled}

    def stop(number: int, frame: FrameType | None) -> None:
        run.signal = number
        for each in handled:
            signal.signal(each, previous[each])

    try:
        for number in handled:
            signal.signal(number, stop)
        yield
    finally:
        for number in handled:
            signal.signal(number, previous[number])


def _crossed(before: int, now: int, period: int) -> bool:
    """Whether a multiple of `period` lies in (before, now]; never for period 0."""
    return period > 0 and before // period < now // period


def _env_facts(agent: str, env: Any) -> dict[str, Any]:
    """What an agent must know of its environment beyond the spaces."""
    if agent == "dqn":
        return {"padding": getattr(env, "frame_padding", "repeat")}
    return {"max_episode_agent_steps": env.max_episode_agent_steps}

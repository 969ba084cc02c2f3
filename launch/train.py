"""One run: an agent learns, a schedule fires resets, everything is recorded and can be resumed."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from fire_rl.agents import AGENTS
from fire_rl.envs import make_env
from fire_rl.launch.checkpoint import checkpoints, load_latest, save_checkpoint
from fire_rl.launch.config import RunConfig
from fire_rl.launch.evaluate import Evaluator
from fire_rl.launch.interrupt import Interrupt
from fire_rl.launch.meter import Meter, NonFiniteLoss
from fire_rl.launch.progress import Progress
from fire_rl.launch.record import is_finished, open_record
from fire_rl.launch.reports import event_row
from fire_rl.launch.tracking import Tracker
from fire_rl.results.store import RunDirectory, State

ROLES = ("agent", "env", "reset", "probe", "evaluation")  # who draws random numbers; append only


class Run:
    """A run in progress: all that a checkpoint holds, and the loop over it."""

    record: RunDirectory  # both set when the attempt begins
    tracker: Tracker

    def __init__(self, config: RunConfig) -> None:
        run = config.run
        self.config = config
        self.device = config.torch_device()
        self.seeds = dict(zip(ROLES, np.random.SeedSequence(run.seed).spawn(len(ROLES)), strict=True))
        self.env = make_env(run.env, run.num_envs, **asdict(config.env))
        self.schedule = config.schedule(self.env.action_repeat)
        self.method = config.method
        self.agent = AGENTS[run.agent].make(self.env, config.agent, self.seeds["agent"], self.device)
        self.reset_rng = torch.Generator().manual_seed(int(self.seeds["reset"].generate_state(1)[0]))
        self.probe_rng = np.random.default_rng(self.seeds["probe"])
        self.evaluator = Evaluator(lambda n: make_env(run.env, n, **asdict(config.env)), run.eval_episodes)
        self.meter = Meter()
        self.observation = self.env.reset(self.seeds["env"])
        self.seconds = 0.0  # of training in earlier attempts
        self.interrupt = Interrupt()
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
            while agent.agent_steps < run.agent_steps and self.interrupt.signal is None:
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

    def checkpoint(self, final: bool = False) -> Path | None:
        """Write a checkpoint; when that fails, say so and go on with the one before it.

        A `final` one is for evaluation: it leaves out the replay memory, most of what there is to write.
        """
        self.meter.check(self.agent.updates)  # a state that is not finite must not replace a good one
        agent = self.agent.state_dict()
        memory = agent.pop("memory")
        components = {
            **({} if final else {"memory": memory}),
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
        memory = state.get("memory", self.agent.memory.state_dict())  # a final one has none, nor needs it
        self.agent.load_state_dict({**state["agent"], "memory": memory})
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
    same command. Nothing is written before everything that the run needs has been built.

    Raises:
        ValueError: when the configuration cannot be run or differs from that of the record.
        MemoryError: when the replay memory does not fit.
    """
    torch.set_num_threads(config.run.threads or torch.get_num_threads())
    if is_finished(config):
        print(f"{config.path} is finished: start over with --fresh", file=sys.stderr)
        return 0
    run = Run(config)
    try:
        with open_record(config) as record:
            record.write_status(
                state="running",
                total_agent_steps=config.run.agent_steps,
                attempt=record.status.attempt + 1,
                message="",
            )
            return _attempt(run, record)
    finally:
        run.close()


def _attempt(run: Run, record: RunDirectory) -> int:
    """Restore, loop, save; leaves the final status in the record and returns the exit code."""
    options = run.config.run
    state: State
    run.record = record
    resumed = run.restore()
    announce(run, resumed)
    run.tracker = tracker = Tracker(record, wandb=options.wandb, project=options.wandb_project)
    try:
        with run.interrupt:
            run.loop()
        steps = run.agent.agent_steps
        if run.interrupt.signal is not None and steps < options.agent_steps:
            path = run.checkpoint()
            message = f"interrupted at agent step {steps}, state saved in {path}: the same command continues"
            state, code = "interrupted", 128 + run.interrupt.signal
        else:
            run.checkpoint(final=True)
            state, message, code = "finished", "", 0
    except NonFiniteLoss as error:
        kept = checkpoints(record.checkpoints)
        last = f"the last good state is {kept[-1]}" if kept else "no checkpoint had been written yet"
        state, message, code = "failed", f"{error} (agent step {run.agent.agent_steps}); {last}", 1
    except BaseException as error:
        tracker.finish("failed", f"{type(error).__name__}: {error}")
        raise
    tracker.finish(state, message)
    if message:
        print(message, file=sys.stderr)
    return code


def announce(run: Run, resumed: bool) -> None:
    """Say on stderr what starts: where it is recorded, and the memory that replay takes."""
    memory = run.agent.memory
    print(
        f"{run.record.path}: {'continuing at' if resumed else 'starting,'} agent step {run.agent.agent_steps}"
        f" of {run.config.run.agent_steps} on {run.device}; replay memory {memory.bytes / 1e9:.2f} GB"
        f" on {memory.storage_device}",
        file=sys.stderr,
    )


def _crossed(before: int, now: int, period: int) -> bool:
    """Whether a multiple of `period` lies in (before, now]; never for period 0."""
    return period > 0 and before // period < now // period

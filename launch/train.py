"""One run: an agent learns, a schedule fires resets, everything is recorded and can be resumed."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fire_rl.agents import AGENTS
from fire_rl.agents.measuring import measure, spectra
from fire_rl.envs import VectorEnv, make_env
from fire_rl.launch.checkpoint import checkpoints, load_latest, save_checkpoint
from fire_rl.launch.chunks import ChunkStore
from fire_rl.launch.config import RunConfig
from fire_rl.launch.evaluate import Evaluator
from fire_rl.launch.fork import Trunk, load_trunk, needs_trunk
from fire_rl.launch.interrupt import Interrupt, Interrupted
from fire_rl.launch.meter import Meter, NonFiniteLoss
from fire_rl.launch.progress import Progress
from fire_rl.launch.record import is_finished, open_record
from fire_rl.launch.reports import event_row, spectra_rows
from fire_rl.launch.tracking import Tracker
from fire_rl.results.store import RunDirectory, State

ROLES = ("agent", "env", "reset", "probe", "evaluation", "measures")  # who draws random numbers; append only


class Run:
    """A run in progress: all that a checkpoint holds, and the loop over it."""

    record: RunDirectory  # all three set when the attempt begins
    chunks: ChunkStore
    tracker: Tracker

    def __init__(self, config: RunConfig) -> None:
        run = config.run
        self.config = config
        self.device = config.torch_device()
        self.seeds = dict(zip(ROLES, np.random.SeedSequence(run.seed).spawn(len(ROLES)), strict=True))
        self.env = make_envs(config, run.num_envs)
        self.schedule = config.schedule(self.env.action_repeat)
        self.method = config.method
        self.agent = AGENTS[run.agent].make(
            self.env, config.agent, self.seeds["agent"], self.device, self.method
        )
        self.reset_rng = torch.Generator().manual_seed(int(self.seeds["reset"].generate_state(1)[0]))
        self.probe_rng = np.random.default_rng(self.seeds["probe"])
        self.interrupt = Interrupt()
        self.evaluator = Evaluator(lambda n: make_envs(config, n), run.eval_episodes, self.interrupt.check)
        self.meter = Meter()
        self.observation = self.env.reset(self.seeds["env"])
        self.todo: list[str] = ["start"]  # what is due at this moment and not done yet
        self.settled = self.clock  # when it was last decided what is due
        self.seconds = 0.0  # of training in earlier attempts
        self.saved = self.measured = time.monotonic()

    @property
    def end(self) -> int:
        """Where the run ends, in agent steps."""
        return self.config.run.stop_at or self.config.run.agent_steps

    @property
    def clock(self) -> dict[str, int]:
        """The three clocks: decisions, simulator steps, gradient updates."""
        steps = self.agent.agent_steps
        return {
            "agent_steps": steps,
            "env_steps": steps * self.env.action_repeat,
            "updates": self.agent.updates,
        }

    def loop(self) -> bool:
        """Act, observe, learn; reset when due; record. Returns whether no signal ended it."""
        agent, run = self.agent, self.config.run
        with Progress(self.end, start=agent.agent_steps) as progress:
            while self.interrupt.signal is None:
                if run.stop_at is not None and agent.agent_steps >= run.stop_at:
                    return True
                try:
                    self.settle()
                except Interrupted:
                    break
                if agent.agent_steps >= run.agent_steps:
                    return True
                self.step()
                if time.monotonic() - self.saved > 60 * run.checkpoint_minutes:
                    self.checkpoint()
                progress.advance(agent.agent_steps, self.meter.recent_return)
        return False

    def step(self) -> None:
        """One decision in every environment, and the updates that it earns while they step."""
        agent = self.agent
        action = agent.act(self.observation)
        self.env.send(action)
        agent.begin(self.observation, action)
        for _ in range(agent.updates_due()):
            self.meter.update(agent.update())
        step = self.env.receive()
        agent.observe(step.reward, step.terminated, step.truncated, step.final_observation)
        self.observation = step.observation
        for episode in step.episodes:
            self.record_episode(episode.episode_return, episode.length_agent_steps)

    def settle(self) -> None:
        """Do what is due at this moment, in order; what an interruption leaves is done when the run goes on.

        Raises:
            Interrupted: from an evaluation.
        """
        self.todo += self.due()
        while self.todo:
            if self.todo[0] == "reset":
                self.reset()
            elif self.todo[0] == "log":
                self.log()
            elif self.todo[0].startswith("measure"):
                self.measure(self.todo[0].partition(" ")[2])
            else:
                self.evaluate(self.todo[0])
            self.todo.pop(0)

    def due(self) -> list[str]:
        """What has come due since it was last asked: resets with their evaluations, evaluations, the log."""
        run, before, now = self.config.run, self.settled["agent_steps"], self.clock["agent_steps"]
        due: list[str] = []
        if self.schedule.due(self.clock):
            around = run.measure_every > 0
            due += ["before_reset"] * run.eval_at_reset + ["measure before_reset"] * around
            due += ["reset"]
            due += ["measure after_reset"] * around + ["after_reset"] * run.eval_at_reset
        elif _crossed(before, now, run.eval_every):
            due += ["scheduled"]
        if _crossed(before, now, run.measure_every) and "reset" not in due:
            due += ["measure scheduled"]
        if _crossed(before, now, run.log_every):
            due += ["log"]
        self.settled = self.clock
        return due

    def reset(self) -> None:
        """Fire the reset method through the agent's hook and record what it did."""
        batch = self.agent.sample(self.config.run.probe_size, self.probe_rng)
        is_first = self.schedule.fired == 1  # spectra are long: those of the first reset say it
        before = spectra(self.agent) if is_first else {}
        report = self.agent.reset(self.method, self.reset_rng, batch)
        row, tables = event_row(self.clock, self.config.label, self.method, report)
        if is_first:
            tables["spectra"] = spectra_rows(before, spectra(self.agent))
        self.tracker.event(row, tables)
        self.tracker.timing({**self.clock, "reset_seconds": report.seconds})

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

    def measure(self, moment: str) -> None:
        """Record all measures of plasticity; nothing in the agent changes.

        The batch depends on the clock alone, so that before and after a reset it is the same.
        """
        parent, run = self.seeds["measures"], self.config.run
        key = (*parent.spawn_key, self.agent.agent_steps)
        rng = np.random.default_rng(np.random.SeedSequence(parent.entropy, spawn_key=key))
        if self.agent.updates:
            measures = measure(self.agent, rng, run.probe_size)
            self.tracker.measures({**self.clock, "moment": moment, **measures})

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

        A `final` one is for evaluation: it leaves out the replay memory, most of what there is to write, and
        removes the one before it, which is needed no more.
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
                "todo": self.todo,
                "settled": self.settled,
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
            steps, keep = self.agent.agent_steps, 1 if final else 2
            return save_checkpoint(self.record.checkpoints, steps, components, self.chunks, keep)
        except OSError as error:
            message = f"no checkpoint at agent step {self.agent.agent_steps} ({error}); the run goes on"
            print(f"warning: {message}", file=sys.stderr)
            self.record.write_status(message=message)
            return None

    def restore(self, trunk: Trunk | None) -> bool:
        """Go on from the newest intact checkpoint, or else from the trunk, if there is one."""
        if trunk is not None:
            self.load_state(trunk.state)
            self.record.copy_rows(trunk.path, trunk.state["loop"]["offsets"])
            self.checkpoint()  # from here on the run needs its own directory only
            return True
        found = load_latest(self.record.checkpoints, torch.device("cpu"))
        if found is None:
            self.record.truncate_to({})
            return False
        state, _ = found
        self.load_state(state)
        self.schedule.load_state_dict(state["loop"]["schedule"])
        self.method.load_state_dict(state["loop"]["method"])
        self.record.truncate_to(state["loop"]["offsets"])
        return True

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over all of a checkpoint but what a branch has for itself: schedule and method."""
        memory = state.get("memory", self.agent.memory.state_dict())  # a final one has none, nor needs it
        self.agent.load_state_dict({**state["agent"], "memory": memory})
        self.chunks.adopt(state["memory"]["chunks"] if "memory" in state else ())
        self.env.load_state_dict(state["env"])
        loop = state["loop"]
        self.observation = loop["observation"]
        self.todo, self.settled = loop["todo"], loop["settled"]
        self.meter.load_state_dict(loop["meter"])
        self.reset_rng.set_state(loop["reset_rng"])
        self.probe_rng.bit_generator.state = loop["probe_rng"]
        self.seconds = loop["seconds"]

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
        trunk = load_trunk(config, run.schedule) if needs_trunk(config) else None
        with open_record(config, trunk.about if trunk else None) as record:
            record.write_status(
                state="running",
                total_agent_steps=run.end,
                attempt=record.status.attempt + 1,
                message="",
            )
            return _attempt(run, record, trunk)
    finally:
        run.close()


def _attempt(run: Run, record: RunDirectory, trunk: Trunk | None) -> int:
    """Restore, loop, save; leaves the final status in the record and returns the exit code."""
    options = run.config.run
    state: State
    run.record, run.chunks = record, ChunkStore(record.checkpoints)
    resumed = run.restore(trunk)
    announce(run, resumed)
    run.tracker = tracker = Tracker(record, wandb=options.wandb, project=options.wandb_project)
    try:
        with run.interrupt:
            finished = run.loop()
            # Only a run that others will go on from needs its replay memory now.
            path = run.checkpoint(final=finished and options.stop_at is None)
        steps = run.agent.agent_steps
        saved = f"state saved in {path}" if path else f"state not saved ({record.status.message})"
        if finished and path:
            state, message, code = "finished", "", 0
        elif finished:
            state, message, code = "failed", f"at its end, {saved}: the same command does the rest again", 1
        else:
            assert run.interrupt.signal is not None
            message = f"interrupted at agent step {steps}, {saved}: the same command continues"
            state, code = "interrupted", 128 + run.interrupt.signal
    except NonFiniteLoss as error:
        kept = checkpoints(record.checkpoints)
        last = f"the last good state is {kept[-1]}" if kept else "no checkpoint had been written yet"
        state, message, code = "failed", f"{error} (agent step {run.agent.agent_steps}); {last}", 1
    except BaseException as error:
        tracker.finish("failed", f"{type(error).__name__}: {error}")
        raise
    record.write_status(agent_steps=run.agent.agent_steps)
    tracker.finish(state, message)
    if message:
        print(message, file=sys.stderr)
    return code


def announce(run: Run, resumed: bool) -> None:
    """Say on stderr what starts: where it is recorded, and the memory that replay takes."""
    memory = run.agent.memory
    print(
        f"{run.record.path}: {'continuing at' if resumed else 'starting,'} agent step {run.agent.agent_steps}"
        f" of {run.end} on {run.device}; replay memory {memory.bytes / 1e9:.2f} GB"
        f" on {memory.storage_device}",
        file=sys.stderr,
    )


def make_envs(config: RunConfig, num_envs: int) -> VectorEnv:
    """The environments of `config`, in another number: no more workers than there are environments."""
    options = asdict(config.env)
    if "workers" in options:
        options["workers"] = min(options["workers"], num_envs)
    return make_env(config.run.env, num_envs, **options)


def _crossed(before: int, now: int, period: int) -> bool:
    """Whether a multiple of `period` lies in (before, now]; never for period 0."""
    return period > 0 and before // period < now // period

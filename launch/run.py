"""One run: its agent, environments, schedule and record, and everything that is done to them in training."""

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
from fire_rl.agents.agent import Array
from fire_rl.agents.measuring import measure, spectra
from fire_rl.envs import VectorEnv, make_env
from fire_rl.launch.checkpoint import checkpoints, load_latest, save_checkpoint
from fire_rl.launch.chunks import ChunkStore
from fire_rl.launch.config import RunConfig
from fire_rl.launch.evaluate import Evaluator
from fire_rl.launch.fork import Trunk
from fire_rl.launch.meter import Meter, NonFiniteLoss
from fire_rl.launch.reports import event_row, spectra_rows
from fire_rl.launch.tracking import Tracker
from fire_rl.results.store import RunDirectory, State

ROLES = ("agent", "env", "reset", "probe", "evaluation", "measures")  # who draws random numbers; append only


class Run:
    """A run in progress: all that a checkpoint holds, and what is done with it.

    Args:
        evaluator: plays in environments like the run's; several runs may share it.
    """

    record: RunDirectory  # all three set when the attempt begins
    chunks: ChunkStore
    tracker: Tracker

    def __init__(self, config: RunConfig, evaluator: Evaluator) -> None:
        run = config.run
        self.config = config
        self.device = config.torch_device()
        self.seeds = dict(zip(ROLES, np.random.SeedSequence(run.seed).spawn(len(ROLES)), strict=True))
        self.env = make_envs(config, run.num_envs)
        self.schedule = config.schedule(self.env.action_repeat)
        self.method = config.method
        self.agent = AGENTS[run.agent].make(
            self.env, config.agent, self.seeds["agent"], self.device, self.method, run.compile
        )
        self.reset_rng = torch.Generator().manual_seed(int(self.seeds["reset"].generate_state(1)[0]))
        self.probe_rng = np.random.default_rng(self.seeds["probe"])
        self.evaluator = evaluator
        self.meter = Meter(self.device)
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

    def begin(self, action: Array) -> None:
        """Send the actions to the environments, which are busy with them until `finish_step`."""
        self.env.send(action)
        self.agent.begin(self.observation, action)

    def finish_step(self) -> None:
        """Take in what the actions led to."""
        step = self.env.receive()
        self.agent.observe(step.reward, step.terminated, step.truncated, step.final_observation)
        self.observation = step.observation
        for episode in step.episodes:
            self.record_episode(episode.episode_return, episode.length_agent_steps)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do but what is due at this moment, if that."""
        return self.agent.agent_steps >= self.end

    def settle(self) -> None:
        """Do what is due at this moment, in order; what an interruption leaves is done when the run goes on.

        A run that stops early leaves all of it to those that go on from there.

        Raises:
            Interrupted: from an evaluation.
            NonFiniteLoss: from a row of the log.
        """
        if self.config.run.stop_at is not None and self.is_over:
            return
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

    def save_if_due(self) -> None:
        """Write a checkpoint if the last one is old enough. Raises NonFiniteLoss as `checkpoint` does."""
        if time.monotonic() - self.saved > 60 * self.config.run.checkpoint_minutes:
            self.checkpoint()

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

    def start(self, record: RunDirectory, trunk: Trunk | None) -> None:
        """Begin an attempt: restore what there is, say so, and open what is written to."""
        record.write_status(
            state="running", total_agent_steps=self.end, attempt=record.status.attempt + 1, message=""
        )
        self.record, self.chunks = record, ChunkStore(record.checkpoints)
        resumed = self.restore(trunk)
        memory, steps = self.agent.memory, self.agent.agent_steps
        print(
            f"{record.path}: {'continuing at' if resumed else 'starting,'} agent step {steps}"
            f" of {self.end} on {self.device}; replay memory {memory.bytes / 1e9:.2f} GB"
            f" on {memory.storage_device}",
            file=sys.stderr,
        )
        options = self.config.run
        self.tracker = Tracker(record, wandb=options.wandb, project=options.wandb_project)

    def stop(self, signal: int | None) -> int:
        """End the attempt in order, at the run's end or because of a signal; returns the exit code.

        Raises NonFiniteLoss for a state that must not be kept.
        """
        # Only a run that others will go on from needs its replay memory now.
        path = self.checkpoint(final=signal is None and self.config.run.stop_at is None)
        saved = f"state saved in {path}" if path else f"state not saved ({self.record.status.message})"
        if signal is not None:
            steps = self.agent.agent_steps
            message = f"interrupted at agent step {steps}, {saved}: the same command continues"
            return self.conclude("interrupted", message, 128 + signal)
        if path is None:
            message = f"at its end, {saved}: the same command does the rest again"
            return self.conclude("failed", message, 1)
        return self.conclude("finished", "", 0)

    def give_up(self, error: NonFiniteLoss) -> int:
        """End the attempt because of a loss that is not finite; returns the exit code."""
        kept = checkpoints(self.record.checkpoints)
        last = f"the last good state is {kept[-1]}" if kept else "no checkpoint had been written yet"
        return self.conclude("failed", f"{error} (agent step {self.agent.agent_steps}); {last}", 1)

    def conclude(self, state: State, message: str, code: int) -> int:
        """Leave the last status in the record and on stderr; returns `code`."""
        self.record.write_status(agent_steps=self.agent.agent_steps)
        self.tracker.finish(state, message)
        if message:
            print(message, file=sys.stderr)
        return code

    def close(self) -> None:
        """Close the environments."""
        self.env.close()


def make_envs(config: RunConfig, num_envs: int) -> VectorEnv:
    """The environments of `config`, in another number: no more workers than there are environments.

    Unless told otherwise there are workers only beside a GPU, as many as suit the environments.
    """
    options = asdict(config.env)
    if "workers" in options:
        workers = options["workers"]
        if workers is None:
            workers = config.env.workers_beside_gpu(num_envs) if config.torch_device().type == "cuda" else 0
        options["workers"] = min(workers, num_envs)
    return make_env(config.run.env, num_envs, **options)


def _crossed(before: int, now: int, period: int) -> bool:
    """Whether a multiple of `period` lies in (before, now]; never for period 0."""
    return period > 0 and before // period < now // period

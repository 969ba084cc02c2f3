"""The training loop: runs act, learn and are reset when due; they are recorded and can be resumed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch

from fire_rl.agents.program import set_precision
from fire_rl.agents.stack import Stack
from fire_rl.launch.config import RunConfig, members
from fire_rl.launch.evaluate import Evaluator
from fire_rl.launch.fork import load_trunk, needs_trunk
from fire_rl.launch.interrupt import Interrupt, Interrupted
from fire_rl.launch.meter import NonFiniteLoss
from fire_rl.launch.progress import Progress
from fire_rl.launch.record import is_finished, open_record
from fire_rl.launch.run import Run, make_envs


class Loop:
    """Act, learn, reset when due, record: one run, or several of one configuration in lockstep.

    Runs that are behind, because others were interrupted later, catch up first. A run whose loss is no longer
    finite ends; the others go on.
    """

    def __init__(self, runs: Sequence[Run], interrupt: Interrupt) -> None:
        self.runs = runs
        self.codes: dict[Run, int] = {}  # exit codes of those that have ended
        self._interrupt = interrupt
        self._stacked: list[Run] = []
        self._stack: Stack

    def __call__(self) -> None:
        """Until all runs have ended, by themselves or because of a signal."""
        with Progress(self.runs[0].end, start=self.agent_steps) as progress:
            while self.running and self._interrupt.signal is None:
                try:
                    self.advance()
                except Interrupted:
                    break
                returns = [run.meter.recent_return for run in self.running]
                progress.advance(self.agent_steps, [value for value in returns if value is not None])
        for run in self.running:
            self._attempt(run, partial(run.stop, self._interrupt.signal))

    @property
    def running(self) -> list[Run]:
        """The runs that have not ended."""
        return [run for run in self.runs if run not in self.codes]

    @property
    def agent_steps(self) -> int:
        """Of the run that is furthest behind."""
        return min((run.agent.agent_steps for run in self.running), default=self.runs[0].end)

    def advance(self) -> None:
        """What is due for the runs that are furthest behind, then an agent step of theirs."""
        hindmost = [run for run in self.running if run.agent.agent_steps == self.agent_steps]
        for run in hindmost:
            self._attempt(run, run.settle)
            if run.is_over and run not in self.codes:
                self._attempt(run, partial(run.stop, None))
        group = [run for run in hindmost if run not in self.codes]
        if group:
            self.step(group)
        for run in group:
            self._attempt(run, run.save_if_due)

    def step(self, runs: list[Run]) -> None:
        """One decision in every environment, and the updates that it earns while these step."""
        if runs != self._stacked:
            self._stacked = runs
            self._stack = Stack([run.agent for run in runs], runs[0].config.run.compile)
        actions = self._stack.act([run.observation for run in runs])
        for run, action in zip(runs, actions, strict=True):
            run.begin(action)
        for _ in range(runs[0].agent.updates_due()):
            for run, metrics in zip(runs, self._stack.update(), strict=True):
                run.meter.update(metrics)
        for run in runs:
            run.finish_step()

    def _attempt(self, run: Run, action: Callable[[], int | None]) -> None:
        """Do it; note how the run has ended, if it has."""
        try:
            code = action()
        except NonFiniteLoss as error:
            code = run.give_up(error)
        if code is not None:
            self.codes[run] = code


def train(config: RunConfig) -> int:
    """Run, or continue, the run of `config`, or its stack of runs; returns the exit code of the process.

    0: finished. 1: stopped by a loss that is not finite. 128 + signal: interrupted, to be continued by the
    same command. Nothing is written before everything that the runs need has been built.

    Raises:
        ValueError: when the configuration cannot be run or differs from that of the record.
        MemoryError: when the replay memory does not fit.
    """
    torch.set_num_threads(config.run.threads or torch.get_num_threads())
    set_precision(config.run.precision)
    configs = []
    for member in members(config):
        if is_finished(member):
            print(f"{member.path} is finished: start over with --fresh", file=sys.stderr)
        else:
            configs.append(member)
    if not configs:
        return 0
    interrupt = Interrupt()
    evaluator = Evaluator(partial(make_envs, config), config.run.eval_episodes, interrupt.check)
    with ExitStack() as opened:
        opened.callback(evaluator.close)
        runs = []
        for member in configs:
            runs.append(Run(member, evaluator))
            opened.callback(runs[-1].close)
        trunks = [load_trunk(r.config, r.schedule) if needs_trunk(r.config) else None for r in runs]
        for run, trunk in zip(runs, trunks, strict=True):
            record = opened.enter_context(open_record(run.config, trunk.about if trunk else None))
            run.start(record, trunk)
        return _train(runs, interrupt)


def _train(runs: Sequence[Run], interrupt: Interrupt) -> int:
    loop = Loop(runs, interrupt)
    try:
        with interrupt:
            loop()
    except BaseException as error:
        for run in loop.running:
            run.tracker.finish("failed", f"{type(error).__name__}: {error}")
        raise
    return max(loop.codes.values())

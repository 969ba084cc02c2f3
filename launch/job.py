"""A job: one process, which records one run or several that differ in nothing but consecutive seeds."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fire_rl.results.store import load_run


@dataclass(frozen=True)
class Job:
    """One process: `fire-rl WORDS`, which records the runs at `paths` and can be started again any time."""

    paths: tuple[Path, ...]
    command: tuple[str, ...]  # without --seed and --stack; {seed} in it stands for the seed of a run
    seed: int  # of the first run; those of the others follow
    agent_steps: int  # that each of the runs trains when started from nothing
    threads: int = 1
    after: tuple[Path, ...] = ()  # the trunk of each run, which must be finished before; none: they need none

    @property
    def path(self) -> Path:
        """The first run: it names the job, and its directory takes what the process prints."""
        return self.paths[0]

    @property
    def words(self) -> tuple[str, ...]:
        """What follows `fire-rl`."""
        seed = ("--seed", str(self.seed))
        if len(self.paths) == 1:
            return *(word.replace("{seed}", str(self.seed)) for word in self.command), *seed
        return *self.command, *seed, "--stack", str(len(self.paths))

    def unfinished(self) -> list[Path]:
        """The runs that are left to do."""
        return [path for path in self.paths if not is_finished(path)]

    def is_finished(self) -> bool:
        """Whether the records say that all runs reached their end."""
        return all(map(is_finished, self.paths))

    def branches_of(self, trunks: Collection[Path]) -> list[Path]:
        """The runs that begin with one of `trunks`."""
        return [path for path, trunk in zip(self.paths, self.after, strict=False) if trunk in trunks]

    def without(self, paths: Collection[Path]) -> list[Job]:
        """The jobs that record the other runs: more than one where seeds are no longer consecutive."""
        rest = (index for index, path in enumerate(self.paths) if path not in paths)
        return [self._part(group[0], group[-1] + 1) for group in consecutive(rest)]

    def one_by_one(self, paths: Collection[Path]) -> list[Job]:
        """A job for each of these runs."""
        return [self._part(index, index + 1) for index, path in enumerate(self.paths) if path in paths]

    def _part(self, start: int, stop: int) -> Job:
        """The runs `start` to `stop` (exclusive)."""
        paths, after = self.paths[start:stop], self.after[start:stop]
        return replace(self, paths=paths, after=after, seed=self.seed + start)


def is_finished(path: Path) -> bool:
    """Whether the record says that the run at `path` reached its end."""
    return (path / "config.json").exists() and load_run(path).status.state == "finished"


def consecutive(numbers: Iterable[int]) -> list[list[int]]:
    """Different `numbers` in ascending order, cut where one is left out."""
    ranked = enumerate(sorted(numbers))  # number minus rank stays the same within a group
    groups = itertools.groupby(ranked, key=lambda pair: pair[1] - pair[0])
    return [[number for _, number in group] for _, group in groups]

"""A job: one process, which records one run or several that differ in nothing but their seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fire_rl.results.store import load_run


@dataclass(frozen=True)
class Job:
    """One process: `fire-rl WORDS`, which records the runs at `paths` and can be started again any time."""

    paths: tuple[Path, ...]
    command: tuple[str, ...]  # without seeds; {seed} in it stands for the seed of a run
    seed: int  # of the first run
    agent_steps: int  # that each of the runs trains when started from nothing
    stride: int = 1  # between the seeds
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
        stride = () if self.stride == 1 else ("--stack-stride", str(self.stride))
        return *self.command, *seed, "--stack", str(len(self.paths)), *stride

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
        """The jobs that record the other runs: more than one where their seeds are not evenly spaced."""
        rest = [index for index, path in enumerate(self.paths) if path not in paths]
        return [self._part(group) for group in evenly_spaced(rest, len(rest))]

    def one_by_one(self, paths: Collection[Path]) -> list[Job]:
        """A job for each of these runs."""
        return [self._part([index]) for index, path in enumerate(self.paths) if path in paths]

    def _part(self, indices: Sequence[int]) -> Job:
        """The runs with these evenly spaced indices."""
        return replace(
            self,
            paths=tuple(self.paths[index] for index in indices),
            after=tuple(self.after[index] for index in indices if self.after),
            seed=self.seed + self.stride * indices[0],
            stride=self.stride * stride(indices),
        )


def is_finished(path: Path) -> bool:
    """Whether the record says that the run at `path` reached its end."""
    return (path / "config.json").exists() and load_run(path).status.state == "finished"


def evenly_spaced(numbers: Iterable[int], limit: int) -> list[list[int]]:
    """Different `numbers` in ascending order, cut into groups of at most `limit`, evenly spaced."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        group = groups[-1] if groups else []
        fits = len(group) == 1 or (group and number - group[-1] == stride(group))
        if fits and len(group) < limit:
            group.append(number)
        else:
            groups.append([number])
    return groups


def stride(numbers: Sequence[int]) -> int:
    """Distance of evenly spaced `numbers`; 1 where there is only one."""
    return numbers[1] - numbers[0] if len(numbers) > 1 else 1

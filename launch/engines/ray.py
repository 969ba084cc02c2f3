"""The Ray engine: the same runs as processes on the nodes of a Ray cluster, with fractions of GPUs.

All nodes must see the folder of the records under the same path. Ray only starts commands; nothing but exit
codes travels through it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fire_rl.launch.engines.local import start_process
from fire_rl.launch.job import Job

LOST_NODE = 255  # exit code that we report when Ray lost the process together with its node


class RayWorkers:
    """Processes on a Ray cluster, as many as its CPUs and GPUs have room for.

    Args:
        address: "local" starts a cluster on this machine, "auto" finds a running one, or host:port.
        gpu_share: of one GPU, per process; ignored where the cluster has no GPU.

    Raises:
        ValueError: when Ray is not installed, or no cluster answers at `address`.
    """

    def __init__(self, address: str, gpu_share: float) -> None:
        try:
            import ray
        except ImportError:
            raise ValueError("--engine ray needs Ray: pip install 'fire-rl[ray]'") from None
        self._ray: Any = ray
        try:
            dashboard = False if address == "local" else None
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard
            )
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster answers at {address!r}: {error}") from None
        self._total: dict[str, float] = self._ray.cluster_resources()
        self._gpu_share = gpu_share if self._total.get("GPU") else 0.0
        self._cpus = 0.0  # in use by our jobs
        self._gpus = 0.0
        self._jobs: dict[Any, Job] = {}

    def has_room(self, job: Job) -> bool:
        """Whether the cluster has CPUs, and a share of a GPU, that no other job of ours has."""
        cpus, gpus = self._total.get("CPU", 0.0), self._total.get("GPU", 0.0)
        fits = self._cpus + _cpus(job) <= cpus and self._gpus + self._gpu_share <= gpus + 1e-6
        return fits or not self._jobs

    def start(self, job: Job) -> Any:
        """Start `job` somewhere; returns Ray's reference to its exit code."""
        self._cpus += _cpus(job)
        self._gpus += self._gpu_share
        # Retries are the pool's business, which knows whether a job got any further.
        remote = self._ray.remote(num_cpus=_cpus(job), num_gpus=self._gpu_share, max_retries=0)(_run)
        handle = remote.remote(job, Path.cwd())
        self._jobs[handle] = job
        return handle

    def exit_code(self, handle: Any) -> int | None:
        """None while it runs; −n when signal n ended it."""
        done, _ = self._ray.wait([handle], timeout=0)
        if not done:
            return None
        self._free(handle)
        try:
            return int(self._ray.get(handle))
        except self._ray.exceptions.RayError:
            return LOST_NODE

    def stop(self, handles: Sequence[Any]) -> None:
        """Ask all of them to save their state, and wait until they have."""
        for handle in handles:
            self._ray.cancel(handle)
        for handle in handles:
            self._ray.wait([handle])
            self._free(handle)

    def _free(self, handle: Any) -> None:
        self._cpus -= _cpus(self._jobs.pop(handle))
        self._gpus -= self._gpu_share

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()


def _cpus(job: Job) -> int:
    return max(1, job.threads)


def _run(job: Job, cwd: Path) -> int:
    """On a node: run the command of `job`; when Ray cancels it, let it save its state."""
    process = start_process(job, {}, cwd)
    try:
        return process.wait()
    except KeyboardInterrupt:  # how Ray cancels
        process.terminate()
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()

"""The local engine: every job is a process of its own, a few at a time.

Nothing is returned through pipes or pickles: a run writes its directory, and the exit code says how it went.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fire_rl.launch.job import Job

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


class LocalWorkers:
    """Processes on this machine; on one with GPUs, each belongs to a slot of a GPU.

    Args:
        workers: processes at a time.
        gpus: names of the GPUs as in CUDA_VISIBLE_DEVICES; empty: runs see what this process sees.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        per_gpu = -(-workers // len(gpus)) if gpus else 0
        slots: list[str | None] = [gpu for _ in range(per_gpu) for gpu in gpus]
        self._free = (slots or [None] * workers)[:workers]
        self._slot: dict[subprocess.Popen[bytes], str | None] = {}

    def has_room(self, job: Job) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def start(self, job: Job) -> subprocess.Popen[bytes]:
        """Start `job` in a free slot."""
        gpu = self._free.pop(0)
        process = start_process(job, {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        self._slot[process] = gpu
        return process

    def exit_code(self, handle: subprocess.Popen[bytes]) -> int | None:
        """None while it runs; −n when signal n ended it."""
        code = handle.poll()
        if code is not None:
            self._free.insert(0, self._slot.pop(handle))
        return code

    def stop(self, handles: Sequence[subprocess.Popen[bytes]]) -> None:
        """Ask all of them to save their state, and wait until they have."""
        for process in handles:
            process.send_signal(signal.SIGTERM)
        for process in handles:
            process.wait()
            self._free.insert(0, self._slot.pop(process))


def start_process(job: Job, environment: dict[str, str], cwd: Path = Path()) -> subprocess.Popen[bytes]:
    """Start `fire-rl` on `job` in `cwd`: its output goes to stdout.log, and it ends when we do (Linux).

    Call it from the main thread: the kernel ties a child to the thread that started it.
    """
    launcher = os.getpid()

    def follow_launcher() -> None:
        """In the child: a session of its own (Ctrl-C reaches it through us), and SIGTERM when we die."""
        os.setsid()
        if _LIBC is not None:
            _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != launcher:  # too late: we died in between
                os._exit(1)

    threads = {"OMP_NUM_THREADS": str(job.threads)} if job.threads else {}
    (cwd / job.path).mkdir(parents=True, exist_ok=True)
    with (cwd / job.path / "stdout.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fire_rl.launch.cli", *job.words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **threads, **environment},
            preexec_fn=follow_launcher,
        )


def default_workers(threads: int, gpus: int, per_gpu: int) -> int:
    """How many processes at a time: `per_gpu` on each GPU, else as many as cores suffice for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return gpus * per_gpu if gpus else max(1, cores // threads) if threads else 1


def visible_gpus() -> list[str]:
    """The GPUs that runs may use, by their names for CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given is not None else [str(index) for index in range(count)]


def free_gpu_bytes() -> int:
    """Free memory of the visible GPU that has least.

    Asked in a process of its own: one that has asked holds some hundred megabytes of every GPU till it ends.
    """
    ask = "from torch import cuda; print(min(cuda.mem_get_info(i)[0] for i in range(cuda.device_count())))"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    if answer.returncode:
        raise ValueError(f"the GPUs do not answer: {answer.stderr.strip().splitlines()[-1]}")
    return int(answer.stdout)

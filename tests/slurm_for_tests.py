"""A real SLURM of one node for tests: no systemd, no munge, no accounting. Needs root and `slurm-wlm`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={next_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=2
MinJobAge=3600
KillWait=30
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_requirement() -> str:
    """Why no SLURM can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "starting SLURM's daemons takes root"
    for program in ("slurmctld", "slurmd", "sbatch"):
        if shutil.which(program) is None:
            return f"there is no {program}: apt-get install --no-install-recommends slurm-wlm"
    return ""


@contextlib.contextmanager
def running_slurm(folder: Path) -> Iterator[Path]:
    """A SLURM whose configuration is the yielded file (SLURM_CONF), up until the context ends."""
    port = _free_port()
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    facts = {"host": host, "port": port, "next_port": port + 1, "folder": folder, "cpus": os.cpu_count()}
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(**facts))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    environment = {**os.environ, "SLURM_CONF": str(config)}
    commands = (["slurmctld", "-D"], ["slurmd", "-D", "-N", host])
    with contextlib.ExitStack() as stack:
        for command in commands:
            daemon = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(_end, daemon)
        deadline = time.monotonic() + 60
        while "idle" not in _ask(["sinfo", "-h", "-o", "%T"], environment):
            if time.monotonic() > deadline:
                logs = [(folder / f"{name}.log").read_text()[-2000:] for name in ("slurmctld", "slurmd")]
                raise RuntimeError("SLURM did not start:\n" + "\n".join(logs))
        yield config


def _ask(words: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True).stdout


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _free_port() -> int:
    """A port that is free, and so is the next."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port

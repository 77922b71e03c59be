# SPDX-License-Identifier: Apache-2.0
"""The Slurm script on a real Slurm of this machine, with a task that only saves: who requeues it, and when.

Sets up a controller and one node of its own, without munge, on free ports and below tmp_path.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm" / "train.sbatch"
HOST = socket.gethostname().split(".")[0]
# one process: Slurm signals all, and a shell goes on when its child is ended before its own signal comes
TASK = """#!{python}
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("saved", flush=True)))
print("begun", flush=True)
time.sleep(60)
"""
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/control.pid
SlurmdPidFile={folder}/node.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 Port={node} CPUs=2
PartitionName=usual Nodes=node Default=YES PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=node PriorityTier=2
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or shutil.which("slurmd") is None or os.getuid() != 0,
        reason="needs slurmctld and slurmd (apt-get install slurm-wlm), and root",
    ),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """Commands of Slurm in a folder where `python` is the task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{folder}/bin:{os.environ['PATH']}"
        self.environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": path}

    def __call__(self, *command: object) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(
            words, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=30
        )
        return done.stdout.strip()

    def submit(self) -> str:
        """A job of two tasks that run."""
        options = ["--parsable", "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", "--time=10"]
        job = self("sbatch", *options, "--output=%j.out", SCRIPT)
        self.wait(lambda: self.output(job).count("begun") == 2, job)
        return job

    def output(self, job: str) -> str:
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def state(self, job: str) -> tuple[str, int]:
        """JobState and how often it was requeued."""
        found = re.search(r"JobState=(\w+).*Restarts=(\d+)", self("scontrol", "show", "job", job), re.DOTALL)
        return (found[1], int(found[2])) if found else ("UNKNOWN", 0)

    def wait(self, condition, job: str) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < deadline, f"{self.state(job)}: {self.output(job)}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    (folder / "bin" / "python").write_text(TASK.format(python=sys.executable))
    (folder / "bin" / "python").chmod(0o755)
    text = CONFIG.format(folder=folder, host=HOST, control=free_port(), node=free_port())
    (folder / "slurm.conf").write_text(text)
    cluster = Cluster(folder)
    with (folder / "log").open("w") as log:
        daemons = [
            subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log)
            for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "node"])
        ]
    deadline = time.monotonic() + 20
    while "idle" not in cluster("sinfo", "--noheader", "--format=%t") and time.monotonic() < deadline:
        time.sleep(0.2)
    if time.monotonic() >= deadline:
        for daemon in daemons:
            daemon.kill()
        pytest.skip(f"no Slurm can be started here: {(folder / 'log').read_text()[-300:]}")
    yield cluster
    cluster("scancel", "--state=RUNNING", "--user=root")
    for daemon in reversed(daemons):
        daemon.terminate()
        daemon.wait(30)


def test_at_the_end_of_its_time_it_saves_and_is_requeued(slurm):
    job = slurm.submit()
    slurm("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@300 has Slurm send
    slurm.wait(lambda: slurm.state(job) == ("PENDING", 1), job)
    assert slurm.output(job).count("saved") == 2
    slurm("scancel", job)


def test_preempted_within_the_grace_time_it_saves_and_is_requeued(slurm):
    job = slurm.submit()
    other = slurm("sbatch", "--parsable", "--partition=urgent", "--ntasks=2", "--wrap", "sleep 1")
    slurm.wait(lambda: slurm.state(job) == ("PENDING", 1), job)
    assert slurm.output(job).count("saved") == 2
    slurm("scancel", job, other)


def test_cancelled_it_saves_and_stays_so(slurm):
    job = slurm.submit()
    slurm("scancel", job)
    slurm.wait(lambda: slurm.output(job).count("saved") == 2 and not slurm("squeue", "-h", "-j", job), job)
    assert slurm.state(job) == ("CANCELLED", 0)

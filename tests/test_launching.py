# SPDX-License-Identifier: Apache-2.0
"""The Slurm script against a stand-in for Slurm, and the container recipes as far as they can be read."""

import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foldwright.training.checkpoint import complete
from foldwright.training.config import compose_config

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"
SMALL = [
    "curriculum.initial.crop_tokens=32",
    "curriculum.initial.crop_atoms=320",
    "curriculum.initial.msa_rows=4",
    "curriculum.initial.diffusion_samples=1",
    "model.diffusion.blocks=1",
    "summary.sampler.steps=1",
    "summary.entry=1as5",
    "trainer.accelerator=cpu",
    "trainer.batch_per_device=1",
    "rollout.sampler.steps=1",
    "validation.entries=[]",
    "loader.workers=1",
    "global_batch=2",
]

# two tasks on this machine, with what Slurm says to each; their process ids where scancel finds them
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" & echo $! >> {folder}/tasks
done
code=0
for job in $(jobs -p); do wait $job || code=$?; done
exit $code
"""
SCANCEL = """#!/bin/bash
echo "scancel $@" >> {folder}/calls
kill -TERM $(cat {folder}/tasks)
"""
SCONTROL = """#!/bin/bash
echo "scontrol $@" >> {folder}/calls
if [[ $1 == show ]]; then cat {folder}/job; fi
"""
# as of Slurm 22.05; the second time is that of a preemption, or None
JOB = "   StartTime=2026-11-21T17:29:57 EndTime=Unknown\n   PreemptEligibleTime=2026 PreemptTime={}\n"


@pytest.fixture
def slurm(tmp_path):
    """Environment of a batch script of one node with two tasks."""
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
        program = tmp_path / name
        program.write_text(text.format(folder=tmp_path))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    job = {
        "SLURM_JOB_ID": str(random.randrange(10_000, 40_000)),
        "SLURM_JOB_NAME": "foldwright",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_NODELIST": "localhost",
    }
    (tmp_path / "job").write_text(JOB.format("None"))
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | job | {"PATH": path}


@pytest.mark.thorough
def test_a_job_at_its_end_saves_is_requeued_and_resumes(slurm, tmp_path):
    run = tmp_path / "runs" / "job"
    settings = [*SMALL, f"paths.output_root={run.parent}", "run_name=job", "checkpoint.every_steps=1000"]

    def submit(*extra):
        with output.open("w") as file:
            return subprocess.Popen(
                ["bash", str(SCRIPT), *settings, *extra],
                cwd=ROOT,
                env=slurm,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    output = tmp_path / "output"
    job = submit()
    metrics, deadline = run / "metrics.csv", time.monotonic() + 200
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        assert job.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 0, output.read_text()
    number = slurm["SLURM_JOB_ID"]
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"scancel --signal=TERM {number}",
        f"scontrol requeue {number}",
    ]
    (saved,) = complete(run / "checkpoints")
    step = int(saved.name[-8:])
    (tmp_path / "tasks").unlink()
    job = submit(f"trainer.max_steps={step + 1}")
    assert job.wait(200) == 0, output.read_text()
    said = output.read_text()
    assert f"resuming at step {step}" in said
    assert "2 x CPU (ddp" in said
    assert (tmp_path / "calls").read_text().count("requeue") == 1, "a finished job must not be requeued"


@pytest.mark.parametrize(
    ("code", "preempted", "requeued"),
    [
        (0, "2026-11-21T17:30:02", True),  # saved within the partition's GraceTime
        (143, "2026-11-21T17:29:57", True),  # ended by the TERM while it started
        (0, "None", False),  # finished
        (0, "2026-11-21T17:20:00", False),  # preempted in an earlier leg, finished in this one
        (1, "2026-11-21T17:30:02", False),  # failed
        (137, "None", False),  # a task was killed
    ],
)
def test_a_preempted_job_is_requeued(slurm, tmp_path, code, preempted, requeued):
    (tmp_path / "srun").write_text(f"#!/bin/bash\nexit {code}\n")
    (tmp_path / "job").write_text(JOB.format(preempted))
    assert subprocess.run(["bash", str(SCRIPT)], cwd=ROOT, env=slurm, check=False).returncode == code
    calls = tmp_path / "calls"
    assert ("scontrol requeue" in (calls.read_text() if calls.exists() else "")) == requeued


def test_the_script_parses_and_hands_its_arguments_to_every_task(slurm, tmp_path):
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    given = ["stage=finetune1", "paths.output_root=a folder"]
    done = subprocess.run(["bash", str(SCRIPT), *given], cwd=ROOT, env=slurm, capture_output=True, text=True)
    options, command = done.stdout.split("python\n")
    assert options.split() == ["--kill-on-bad-exit=1", "--cpus-per-task=1"]
    assert command.splitlines() == ["train.py", "trainer.devices=2", "trainer.num_nodes=1", *given]


def test_recipes_install_the_same_and_copy_what_there_is():
    docker, apptainer = (ROOT / "Dockerfile").read_text(), (ROOT / "apptainer.def").read_text()
    lines = [line for line in docker.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    assert {line.split()[0] for line in lines} == {"FROM", "RUN", "WORKDIR", "COPY", "CMD"}
    sections = re.split(r"^%(\w+)\n", apptainer, flags=re.MULTILINE)
    assert sections[1::2] == ["files", "post", "runscript"]
    copied = {source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]}
    assert copied == {line.split()[0] for line in sections[2].strip().splitlines()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)
    for installs in (r"apt-get install .*", r"pip install .*"):
        assert re.findall(installs, docker)[0].rstrip(" \\") == re.findall(installs, apptainer)[0]
    base = re.findall(r"^(?:FROM|From:) (\S+)$", docker + apptainer, re.MULTILINE)
    assert base == ["python:3.12-slim"] * 2


def test_sweeps_compose_with_submitit():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra foldwright[slurm]")
    for launcher in ("submitit_slurm", "submitit_local"):
        assert compose_config([f"hydra/launcher={launcher}", "seed=3"]).seed == 3

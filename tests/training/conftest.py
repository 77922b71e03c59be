# SPDX-License-Identifier: Apache-2.0
"""Small runs of the real model on the built-in sample, in this process or another."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from foldwright.training.cli import train
from foldwright.training.config import compose_config

ROOT = Path(__file__).parents[2]
SMALL = [
    "curriculum.initial.crop_tokens=32",
    "curriculum.initial.crop_atoms=320",
    "curriculum.initial.msa_rows=8",
    "curriculum.initial.diffusion_samples=2",
    "model.diffusion.blocks=1",
    "summary.sampler.steps=2",
    "summary.entry=1as5",
    "trainer.accelerator=cpu",
    "trainer.batch_per_device=1",
    "checkpoint.every_steps=3",
    "loader.workers=1",
    "validation.entries=[]",
    "validation.n_samples=1",
    "validation.cycles=1",
    "validation.msa_rows=4",
]


class Runs:
    """Starts runs under one output directory and reads what they left."""

    TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

    def __init__(self, root: Path) -> None:
        self.root = root

    def overrides(self, name: str, *extra: str) -> list[str]:
        return [*SMALL, f"paths.output_root={self.root}", f"run_name={name}", *extra]

    def here(self, name: str, *extra: str) -> None:
        train(compose_config(self.overrides(name, *extra)))

    def start(
        self,
        name: str,
        *extra: str,
        launcher: tuple[str, ...] = (sys.executable,),
        script: Path = ROOT / "train.py",
    ) -> subprocess.Popen:
        command = [*launcher, str(script), *self.overrides(name, *extra)]
        return subprocess.Popen(
            command,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def on_two(self, name: str, *extra: str) -> str:
        """Run on two processes to the end; what it printed."""
        process = self.start(name, "trainer.devices=2", *extra, launcher=self.TWO)
        output = process.communicate(timeout=150)[0]
        assert process.returncode == 0, output
        return output

    def metrics(self, name: str) -> list[dict[str, float]]:
        """Rows of metrics.csv without the time of each step."""
        path = self.root / name / "metrics.csv"
        if not path.exists():
            return []
        with path.open() as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
        return [{key: float(value) for key, value in row.items() if key != "step_time"} for row in rows]

    def checkpoints(self, name: str) -> list[Path]:
        return sorted((self.root / name / "checkpoints").glob("step-*"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def uninterrupted(runs) -> str:
    """Name of a run of eight steps, straight through: dropout, recycling, average and workers are all on."""
    runs.here("uninterrupted", "trainer.max_steps=8")
    return "uninterrupted"

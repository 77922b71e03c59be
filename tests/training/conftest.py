# SPDX-License-Identifier: Apache-2.0
"""Small runs of the real model on the built-in sample, in this process or another."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

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
    "rollout.sampler.steps=2",
    "validation.entries=[]",
    "validation.n_samples=1",
    "validation.cycles=1",
    "validation.msa_rows=4",
]


class Ranks:
    """Several ranks of a run, forked by one process that has all imports behind it."""

    def __init__(self, root: Path) -> None:
        self.log = root / "ranks.log"
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forked_ranks.py"))],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, count: int, overrides: list[str], metrics: Path | None = None, kill_at: int = 0
    ) -> list[int]:
        """Exit codes of all ranks, which get SIGKILL when `metrics` has `kill_at` rows; what they printed is
        in the log.
        """
        self.log.unlink(missing_ok=True)
        leg = {"count": count, "overrides": overrides, "log": str(self.log), "kill_at": kill_at}
        self.process.stdin.write(json.dumps(leg | ({"metrics": str(metrics)} if metrics else {})) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


class Runs:
    """Starts runs under one output directory and reads what they left."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def ranks(self) -> Ranks:
        return Ranks(self.root)

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

    def on(self, processes: int, name: str, *extra: str) -> str:
        """Run on that many processes to the end; what it printed."""
        devices = f"trainer.devices={processes}"
        codes = self.ranks.run(processes, self.overrides(name, devices, *extra))
        output = self.ranks.log.read_text()
        assert codes == [0] * processes, output
        return output

    def wait_for_step(self, process: subprocess.Popen, name: str, step: int) -> None:
        self._wait(process, f"step {step}", lambda: len(self.metrics(name)) >= step)

    def wait_for_checkpoint(self, process: subprocess.Popen, name: str) -> None:
        """Until one of the run's own steps is written to its end, which may be steps later."""
        self._wait(process, "checkpoint", lambda: any(int(c.name[-8:]) for c in self.checkpoints(name)))

    def _wait(
        self, process: subprocess.Popen, what: str, is_there: Callable[[], bool], seconds: float = 120
    ) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            if is_there():
                return
            time.sleep(0.02)
        raise AssertionError(f"no {what} within {seconds} s; output:\n{process.communicate()[0]}")

    def kill(self, process: subprocess.Popen) -> None:
        """SIGKILL to the run and its workers."""
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """All tensors of the newest checkpoint through torch's own reader, without the code under test."""
        reader = dcp.FileSystemReader(self.checkpoints(name)[-1])
        stored = reader.read_metadata().state_dict_metadata
        tensors = {
            key: torch.empty(entry.size, dtype=entry.properties.dtype) for key, entry in stored.items()
        }
        dcp.load(tensors, storage_reader=reader, no_dist=True)
        return tensors

    def assert_same_weights(self, one: str, other: str) -> None:
        first, second = self.tensors(one), self.tensors(other)
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), name

    def assert_close(self, rows: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
        """What metrics of the same steps must agree to on another number of processes."""
        assert len(rows) == len(expected)
        for row, other in zip(rows, expected, strict=True):
            for name in ("loss", "mse", "smooth_lddt", "distogram", "n_cycles"):
                assert row[name] == pytest.approx(other[name], rel=1e-5), f"step {row['step']}: {name}"
            assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)

    def metrics(self, name: str) -> list[dict[str, float]]:
        """Rows of metrics.csv without the times of each step; None for a figure that a step does not have."""
        path = self.root / name / "metrics.csv"
        if not path.exists():
            return []
        times = ("step_time", "loader_wait")
        with path.open() as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
        return [
            {key: None if value == "nan" else float(value) for key, value in row.items() if key not in times}
            for row in rows
        ]

    def checkpoints(self, name: str) -> list[Path]:
        """Those written to their end."""
        return sorted((self.root / name / "checkpoints").glob("step-????????"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    yield runs
    if "ranks" in vars(runs):
        runs.ranks.end()


@pytest.fixture(scope="session")
def uninterrupted(runs) -> str:
    """Name of a run of eight steps, straight through: dropout, recycling, average and workers are all on."""
    runs.here("uninterrupted", "trainer.max_steps=8")
    return "uninterrupted"

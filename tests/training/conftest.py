# SPDX-License-Identifier: Apache-2.0
"""Small runs of the real model on the built-in sample, in this process or another."""

import csv
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed.checkpoint as dcp
from forked import TRAIN, Forked

from foldwright.training.cli import train
from foldwright.training.config import compose_config

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


class Runs:
    """Starts runs under one output directory and reads what they left."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def overrides(self, name: str, *extra: str) -> list[str]:
        return [*SMALL, f"paths.output_root={self.root}", f"run_name={name}", *extra]

    def here(self, name: str, *extra: str) -> None:
        with mock.patch.dict(os.environ):  # where Lightning leaves the port of its group
            train(compose_config(self.overrides(name, *extra)))

    def start(self, name: str, *extra: str, script: Path = TRAIN, **environment: str) -> Forked:
        return Forked(self.overrides(name, *extra), self.root, script=script, environment=environment)

    def start_ranks(self, count: int, name: str, *extra: str, script: Path = TRAIN) -> list[Forked]:
        """With the environment that torchrun would give them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        same = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forked"}  # fmt: skip
        extra = (f"trainer.devices={count}", *extra)
        return [
            self.start(name, *extra, script=script, RANK=str(rank), LOCAL_RANK=str(rank), **same)
            for rank in range(count)
        ]

    def on(self, processes: int, name: str, *extra: str, script: Path = TRAIN) -> str:
        """Run on that many processes to the end; what they printed."""
        ranks = self.start_ranks(processes, name, *extra, script=script)
        while None in (codes := [rank.poll() for rank in ranks]) and not any(codes):
            time.sleep(0.02)
        self.kill(*ranks)  # those that wait for one that failed
        output = "".join(rank.said() for rank in ranks)
        assert codes == [0] * processes, output
        return output

    def wait_for_step(self, process: Forked, name: str, step: int) -> None:
        self._wait(process, f"step {step}", lambda: len(self.metrics(name)) >= step)

    def wait_for_checkpoint(self, process: Forked, name: str) -> None:
        """Until one of the run's own steps is written to its end, which may be steps later."""
        self._wait(process, "checkpoint", lambda: any(int(c.name[-8:]) for c in self.checkpoints(name)))

    def _wait(self, process: Forked, what: str, is_there: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            if is_there():
                return
            time.sleep(0.02)
        process.kill()
        raise AssertionError(f"no {what} within {seconds} s; output:\n{process.said()}")

    def kill(self, *processes: Forked) -> None:
        """SIGKILL to the runs and their workers."""
        for process in processes:
            process.kill()

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
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def uninterrupted(runs) -> str:
    """Name of a run of eight steps, straight through: dropout, recycling, average and workers are all on."""
    runs.here("uninterrupted", "trainer.max_steps=8")
    return "uninterrupted"

# SPDX-License-Identifier: Apache-2.0
"""What the loader is asked for, and that a failing worker ends a run instead of hanging it."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from foldwright.training import datamodule
from foldwright.training.config import compose_config
from foldwright.training.curriculum import Curriculum, PhaseConfig
from foldwright.training.datamodule import StoreData, WatchedLoader, open_dataset, padding_buckets

FAILING = """
from foldwright.data import dataset

sound = dataset.StoreDataset.__getitem__


def failing(self, request):
    if request.n == 4:
        raise RuntimeError("a defect of the dataset")
    return sound(self, request)


dataset.StoreDataset.__getitem__ = failing
from foldwright.training.cli import main

main()
"""


@pytest.fixture
def loader(monkeypatch):
    def of(step, rank=0, world_size=1):
        monkeypatch.setattr(datamodule, "data_position", lambda _: (rank, world_size))
        return loader_at(step, world_size)

    return of


def loader_at(step, world_size):
    config = compose_config(["loader.workers=0", "trainer.batch_per_device=1"])
    curriculum = Curriculum(config.curriculum)
    data = StoreData(config, curriculum, open_dataset(config.data, config.seed))
    data.trainer = SimpleNamespace(
        global_step=step,
        accumulate_grad_batches=2 // world_size,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data.train_dataloader()


def numbers(loader, count):
    return [int(batch.sample_number) for batch, _ in zip(loader, range(count), strict=False)]


def test_batches_start_at_the_trainers_step_and_are_shared_out(loader):
    assert numbers(loader(step=3), 4) == [6, 7, 8, 9]
    assert numbers(loader(step=3, rank=1, world_size=2), 2) == [7, 9]


def test_batches_have_the_shape_of_the_phase(loader):
    batch = next(iter(loader(step=0)))
    batch.check()
    assert batch.sizes()["N"] == 64
    assert batch.sizes()["A"] == 576
    assert batch.sizes()["M"] == 64


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_workers_are_taken_over_in_a_thread_that_ends_with_them(workers):
    loader = WatchedLoader(list(range(5)), batch_size=None, num_workers=workers)
    before = threading.active_count()
    batches = iter(loader)
    assert next(batches) == 0
    ahead = [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
    assert len(ahead) == workers
    assert list(batches) == [1, 2, 3, 4]
    assert loader.take_wait() > 0
    del batches
    deadline = time.monotonic() + 10  # a worker's threads end in their own time
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_buckets_are_those_of_all_phases():
    curriculum = Curriculum(
        {"a": PhaseConfig(until=1), "b": PhaseConfig(until=2, crop_tokens=640, crop_atoms=5760)}
    )
    assert padding_buckets(curriculum, 4)["N"] == (384, 640)
    assert padding_buckets(curriculum, 4)["A"] == (3456, 5760)
    assert padding_buckets(curriculum, 4)["T"] == (4,)


@pytest.mark.slow
def test_a_failing_worker_ends_the_run(runs):
    script = runs.root / "failing.py"
    script.write_text(FAILING)
    process = runs.start("failing", "loader.workers=2", script=script)
    output = process.wait(timeout=150)
    assert process.returncode == 1
    assert "a defect of the dataset" in output

# SPDX-License-Identifier: Apache-2.0
"""The data module: feeds the training loop from the store, starting at whatever step the trainer is at.

Which samples a step sees follows from (seed, step) alone, so nothing of the loader needs to be saved. Workers
ignore their first SIGTERM: one sent to the whole process group must not cost the batches in flight.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from foldwright.batch import Batch, collate
from foldwright.data.dataset import DataConfig, StoreDataset, buckets
from foldwright.data.sample import affinity_store_path, store_path
from foldwright.data.sampler import StepBatchSampler
from foldwright.training.config import TrainConfig
from foldwright.training.curriculum import Curriculum

# as data.root: portable, where a path would differ from machine to machine
BUILT_IN = {"built-in sample": store_path, "built-in affinity sample": affinity_store_path}


def open_dataset(config: DataConfig, seed: int) -> StoreDataset:
    """The dataset of a configuration; ValueError where there is no store of this code's schema."""
    if not config.root:
        raise ValueError("data.root: got no store; add data.root=STORE, the folder that prepare_data.py made")
    if config.root in BUILT_IN:
        config = replace(config, root=str(BUILT_IN[config.root]()))
    return StoreDataset(config, seed)


def padding_buckets(curriculum: Curriculum, n_templates: int) -> dict[str, tuple[int, ...]]:
    """Padding sizes of each axis: those of every phase, so that a step has one of a few shapes."""
    sizes: dict[str, set[int]] = {}
    for phase in curriculum.phases.values():
        of_phase = buckets(phase.crop_tokens, phase.crop_atoms, phase.msa_rows, n_templates)
        for axis, values in of_phase.items():
            sizes.setdefault(axis, set()).update(values)
    return {axis: tuple(sorted(values)) for axis, values in sizes.items()}


class StoreData(L.LightningDataModule):
    """Training batches of this rank, from the trainer's step on."""

    def __init__(self, config: TrainConfig, curriculum: Curriculum, dataset: Dataset[Any]) -> None:
        super().__init__()
        self.config, self.curriculum, self.dataset = config, curriculum, dataset

    def train_dataloader(self) -> DataLoader[Batch]:
        """Asked for by Lightning after the checkpoint's step has been set."""
        assert self.trainer is not None
        sampler = StepBatchSampler(
            start_step=self.trainer.global_step,
            global_batch=self.config.global_batch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            accumulate=self.trainer.accumulate_grad_batches,
            seed=self.config.seed,
            max_cycles=self.config.max_cycles,
            sizes=self.curriculum.at,
        )
        workers = self.config.loader.workers
        return DataLoader(
            self.dataset,
            batch_sampler=sampler,
            num_workers=workers,
            prefetch_factor=self.config.loader.prefetch if workers else None,
            collate_fn=self.collate(),
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            worker_init_fn=_start_worker,
        )

    def collate(self) -> Callable[[list[Batch]], Batch]:
        """Makes a batch of what the dataset gave."""
        return partial(collate, buckets=padding_buckets(self.curriculum, self.config.data.n_templates))


def end_workers() -> None:
    """Send workers left behind by an exception their first SIGTERM; the interpreter's own then ends them."""
    for process in multiprocessing.active_children():
        process.terminate()


def _start_worker(worker: int) -> None:
    signal.signal(signal.SIGTERM, _ignore_once)
    torch.set_num_threads(1)


def _ignore_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)

# SPDX-License-Identifier: Apache-2.0
"""The data module: feeds the training loop from the store, starting at whatever step the trainer is at.

Which samples a step sees follows from (seed, step) alone, so nothing of the loader needs to be saved. Workers
ignore SIGTERM: those sent to all processes of a run (a preemption by Slurm is several) must not cost the
batches in flight.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from foldwright.batch import Batch, Packed, collate, pack
from foldwright.data.dataset import DataConfig, StoreDataset, buckets, named_datasets
from foldwright.data.external import PREFIX
from foldwright.data.sample import affinity_store_path, store_path
from foldwright.data.sampler import StepBatchSampler, choose_dataset
from foldwright.data.staging import stage
from foldwright.training.config import TrainConfig
from foldwright.training.curriculum import Curriculum
from foldwright.training.parallel import data_position
from foldwright.training.read_ahead import read_ahead

# as root: portable, where a path would differ from machine to machine
BUILT_IN = {"built-in sample": store_path, "built-in affinity sample": affinity_store_path}


def open_dataset(config: DataConfig, seed: int, stage_to: str = "") -> StoreDataset:
    """The dataset of a configuration, its stores staged to a local folder if one is named.

    Raises ValueError where there is no store of this code's schema.
    """
    named = named_datasets(config)
    paths = {dataset.root: _path(dataset.root) for dataset in named.values()}
    if stage_to:
        paths = {
            root: path if path.startswith(PREFIX) else str(stage(path, stage_to))
            for root, path in paths.items()
        }
    datasets = {name: replace(dataset, root=paths[dataset.root]) for name, dataset in named.items()}
    return StoreDataset(replace(config, datasets=datasets), seed)


def _path(root: str) -> str:
    return str(BUILT_IN[root]()) if root in BUILT_IN else root


def padding_buckets(curriculum: Curriculum, n_templates: int) -> dict[str, tuple[int, ...]]:
    """Padding sizes of each axis: those of every phase and crop, so that a step has one of a few shapes."""
    sizes: dict[str, set[int]] = {}
    for phase in curriculum.sizes():
        of_phase = buckets(phase.crop_tokens, phase.crop_atoms, phase.msa_rows, n_templates)
        for axis, values in of_phase.items():
            sizes.setdefault(axis, set()).update(values)
    return {axis: tuple(sorted(values)) for axis, values in sizes.items()}


class WatchedLoader(DataLoader[Any]):
    """Batches from workers, each in one buffer, and the seconds that their consumer was blocked so far.

    Where there are workers, one batch more is taken over from them in a thread.
    """

    waited: float

    def __iter__(self) -> Any:
        self.waited = 0.0
        batches = map(_unpacked, super().__iter__())  # starts the workers: not in the thread
        return self._watch(read_ahead(batches) if self.num_workers else batches)

    def _watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def take_wait(self) -> float:
        """Seconds waited since the last call."""
        waited, self.waited = self.waited, 0.0
        return waited


def _unpacked(batch: Any) -> Any:
    return batch.unpack() if isinstance(batch, Packed) else batch


class StoreData(L.LightningDataModule):
    """Training batches of this rank, from the trainer's step on."""

    def __init__(self, config: TrainConfig, curriculum: Curriculum, dataset: Dataset[Any]) -> None:
        super().__init__()
        self.config, self.curriculum, self.dataset = config, curriculum, dataset

    def train_dataloader(self) -> WatchedLoader:
        """Asked for by Lightning after the checkpoint's step has been set."""
        assert self.trainer is not None
        number, numbers = data_position(self.config.trainer.tensor_parallel)
        sampler = StepBatchSampler(
            start_step=self.trainer.global_step,
            global_batch=self.config.global_batch,
            rank=number,
            world_size=numbers,
            accumulate=self.trainer.accumulate_grad_batches,
            seed=self.config.seed,
            max_cycles=self.config.max_cycles,
            sizes=self.curriculum.at,
        )
        workers = self.config.loader.workers
        self.loader = WatchedLoader(
            self.dataset,
            batch_sampler=sampler,
            num_workers=workers,
            prefetch_factor=self.config.loader.prefetch if workers else None,
            collate_fn=self.collate(),
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            worker_init_fn=start_worker,
        )
        return self.loader

    def drawn(self, step: int) -> dict[str, float]:
        """Share of each data set in the examples of the step that follows `step` completed ones, told from
        their numbers; nothing where there is one set.
        """
        if not isinstance(self.dataset, StoreDataset) or len(self.dataset.parts) < 2:
            return {}
        numbers = range(step * self.config.global_batch, (step + 1) * self.config.global_batch)
        weights = self.dataset.shares(self.curriculum.at(step).dataset_weights)
        names = [choose_dataset(self.config.seed, number, weights) for number in numbers]
        return {name: names.count(name) / len(names) for name in weights}

    def collate(self) -> Callable[[Sequence[Any]], Any]:
        """Makes a batch of what the dataset gave, in a worker."""
        return partial(collate_packed, buckets=padding_buckets(self.curriculum, self.config.data.n_templates))


def collate_packed(examples: Sequence[Batch], buckets: Mapping[str, Sequence[int]]) -> Packed:
    """Pad, stack and pack examples."""
    return pack(collate(examples, buckets))


def end_workers() -> None:
    """Have workers left behind by an exception obey SIGTERM again: the interpreter's own then ends them."""
    for process in multiprocessing.active_children():
        if process.pid is not None:
            os.kill(process.pid, signal.SIGUSR2)


def start_worker(worker: int) -> None:
    """What a worker process begins with: one thread, and no SIGTERM that it obeys before a SIGUSR2."""
    signal.signal(signal.SIGUSR2, _obey_sigterm)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def _obey_sigterm(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

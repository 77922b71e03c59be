# SPDX-License-Identifier: Apache-2.0
"""What a stage learns from which data: the one place where stages differ by code, not by settings alone.

`structure_objective` serves the stages up to `confidence`: examples of a store, diffusion and confidence
losses, LDDT of held-out entries, a structure sampled at the end. `affinity_objective` serves the last stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.data.dataset import StoreDataset
from foldwright.data.readiness import require_ready
from foldwright.data.splits import split_path
from foldwright.data.store import ITEMS, MANIFEST
from foldwright.kernels import Ops
from foldwright.model import AlphaFold3
from foldwright.training.callbacks import Checkpointer, Summary
from foldwright.training.config import TrainConfig
from foldwright.training.curriculum import Curriculum, PhaseConfig
from foldwright.training.datamodule import StoreData, open_dataset
from foldwright.training.held_out import hold_out, leave_out
from foldwright.training.module import Losses
from foldwright.training.step import Apart, step_losses
from foldwright.training.summary import choose_entry
from foldwright.training.validation import ConfidenceValidator, StructureValidator, Validator, describe


@dataclass
class Objective:
    """The parts of a run that depend on what is learnt.

    `losses` maps network, batch and phase to scalars, `loss` first; what it runs through its last argument is
    not captured. `captures`: whether the rest may be, as CUDA graphs. `begin` is told the digest of the
    checkpoint that the network's frozen part came from ("" without one) before training. `closing` makes the
    callbacks that end a run. `tables`: what decides which examples are drawn, by the setting it comes from.
    """

    losses: Losses
    captures: bool
    data: L.LightningDataModule
    shares: Callable[[dict[str, float]], dict[str, float]]  # of the data sets, given a phase's weights
    validator: Validator | None
    validation: str  # a line of the banner
    begin: Callable[[str], None]
    closing: Callable[[Checkpointer], list[L.Callback]]
    tables: Mapping[str, Path]


def structure_objective(config: TrainConfig, curriculum: Curriculum, ops: Ops, run_dir: Path) -> Objective:
    """Structure and confidence. ValueError for data or held-out entries that cannot be used."""
    config.losses.check()
    if not (config.losses.diffusion or config.losses.external or config.rollout.enabled):
        raise ValueError(
            "losses: got neither losses.diffusion nor losses.external, nor a rollout whose confidence could "
            "be learnt, expected one of them; set losses.diffusion above 0 or rollout.enabled=true"
        )
    dataset = open_dataset(config.data, config.seed, config.loader.stage_to)
    require_ready(dataset.parts, config.data)
    choose_entry(dataset, config.summary.entry)
    first = next(iter(dataset.parts.values()))
    held_out = hold_out(dataset.store, config.validation, first.config.entries, config.data.allow_overlap)
    for name, phase in curriculum.phases.items():
        if unknown := sorted(set(phase.dataset_crops) - set(dataset.parts)):
            raise ValueError(
                f"curriculum.{name}.dataset_crops: got {unknown[0]!r}, expected names of data.datasets: "
                f"{', '.join(dataset.parts)}"
            )
    training_dataset = StoreDataset(leave_out(dataset.config, held_out, dataset), config.seed)

    def losses(network: AlphaFold3, batch: Batch, phase: PhaseConfig, apart: Apart) -> dict[str, Tensor]:
        settings = (config.seed, config.noise, config.losses, config.rollout, ops)
        terms = step_losses(network, batch, phase.diffusion_samples, *settings, apart)
        terms["n_cycles"] = torch.full((), float(batch.msa.shape[1]), device=batch.device)
        return terms

    kind = ConfidenceValidator if config.losses.pae else StructureValidator
    validator = kind(dataset, held_out, config) if held_out.scored else None
    return Objective(
        losses=losses,
        captures=True,
        data=StoreData(config, curriculum, training_dataset),
        shares=dataset.shares,
        validator=validator,
        validation=describe(held_out, config.validation),
        begin=lambda digest: None,
        closing=lambda checkpointer: [Summary(run_dir, config, dataset, checkpointer)],
        tables=_tables(dataset, config),
    )


def _tables(dataset: StoreDataset, config: TrainConfig) -> dict[str, Path]:
    """Manifest, items and splits of every data set."""
    found: dict[str, Path] = {}
    for name, part in dataset.parts.items():
        paths = [part.store.path / table for table in (MANIFEST, ITEMS)]
        paths += [
            split_path(part.store, split) for split in (part.config.split, config.validation.split) if split
        ]
        found |= {f"data.datasets.{name}: {path.name}": path for path in paths}
    return found

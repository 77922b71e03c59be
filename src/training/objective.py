# SPDX-License-Identifier: Apache-2.0
"""What a stage learns from which data: the one place where stages differ by code, not by settings alone.

`structure_objective` serves the stages up to `confidence`: examples of a store, diffusion and confidence
losses, LDDT of held-out entries, a structure sampled at the end. `affinity_objective` serves the last stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.kernels import Ops
from foldwright.model import AlphaFold3
from foldwright.training.callbacks import Checkpointer, Summary
from foldwright.training.config import TrainConfig
from foldwright.training.curriculum import Curriculum, PhaseConfig
from foldwright.training.datamodule import StoreData, open_dataset
from foldwright.training.held_out import hold_out
from foldwright.training.step import step_losses
from foldwright.training.summary import choose_entry
from foldwright.training.validation import StructureValidator, Validator, describe


@dataclass
class Objective:
    """The parts of a run that depend on what is learnt.

    `losses` maps network, batch and phase to scalars, `loss` first. `begin` is told the digest of the
    checkpoint that the network's frozen part came from ("" without one) before training. `closing` makes the
    callbacks that end a run.
    """

    losses: Callable[[AlphaFold3, Any, PhaseConfig], dict[str, Tensor]]
    data: L.LightningDataModule
    validator: Validator | None
    validation: str  # a line of the banner
    begin: Callable[[str], None]
    closing: Callable[[Checkpointer], list[L.Callback]]


def structure_objective(config: TrainConfig, curriculum: Curriculum, ops: Ops, run_dir: Path) -> Objective:
    """Structure and confidence. ValueError for data or held-out entries that cannot be used."""
    config.losses.check()
    dataset = open_dataset(config.data, config.seed)
    choose_entry(dataset, config.summary.entry)
    held_out = hold_out(dataset.store, config.validation, config.data.entries)
    training_data = config.data
    if held_out.trained_on is not None:
        training_data = replace(config.data, entries=list(held_out.trained_on))

    def losses(network: AlphaFold3, batch: Batch, phase: PhaseConfig) -> dict[str, Tensor]:
        settings = (config.seed, config.noise, config.losses, config.rollout, ops)
        terms = step_losses(network, batch, phase.diffusion_samples, *settings)
        terms["n_cycles"] = torch.tensor(float(batch.msa.shape[1]), device=batch.device)
        return terms

    validator = StructureValidator(dataset, held_out, config) if held_out.scored else None
    return Objective(
        losses=losses,
        data=StoreData(config, curriculum, open_dataset(training_data, config.seed)),
        validator=validator,
        validation=describe(held_out, config.validation),
        begin=lambda digest: None,
        closing=lambda checkpointer: [Summary(run_dir, config, dataset, checkpointer)],
    )

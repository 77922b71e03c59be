# SPDX-License-Identifier: Apache-2.0
"""Validation of the averaged model in the course of training: LDDT of held-out entries, sampled from noise,
over all atoms and by kind. The best checkpoint is the one with the highest model-selection score.

Runs before the first step, every `validation.every_steps` and at the end. Each rank samples its share of the
entries; all run the same number of forwards, as a sharded network needs, and no entry counts twice. Noise and
MSA rows are fixed, so that the curve shows the weights alone and a resumed run repeats it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
from rich.console import Console

from foldwright.data.dataset import StoreDataset
from foldwright.evaluation.selection import selection_score
from foldwright.model import AlphaFold3
from foldwright.training.callbacks import Checkpointer, Meter, MetricsFile
from foldwright.training.config import TrainConfig
from foldwright.training.held_out import HeldOut, ValidationConfig
from foldwright.training.module import StructureTraining
from foldwright.training.parallel import data_position, from_first_rank, gather, rank
from foldwright.training.prediction import Predictor, predict, predict_judged


def share(entries: tuple[str, ...], rank: int, world_size: int) -> list[tuple[str, bool]]:
    """What one rank samples, in order, and whether it counts: equally many on every rank, each entry once."""
    rounds = -(-len(entries) // world_size)
    positions = (turn * world_size + rank for turn in range(rounds))
    return [(entries[position % len(entries)], position < len(entries)) for position in positions]


def validate(
    network: AlphaFold3,
    dataset: StoreDataset,
    entries: tuple[str, ...],
    config: ValidationConfig,
    seed: int,
    device: torch.device,
    predictor: Predictor = predict,
    position: tuple[int, int] = (0, 1),
) -> dict[str, float]:
    """Mean LDDT over entries and samples, the same with each entry's best sample, and every entry's mean; the
    same by kind of chain and interface; and AF3's model-selection score of these, of the kinds that the
    entries show, with the share of its weight that they carry.

    Beside them the predictor's own figures, averaged over entries. Collective; the same figures on every
    rank. `position`: which share of the entries is this rank's, of how many (`data_position`). An entry
    without a scorable atom is left out.
    """
    own: dict[str, dict[str, dict[str, float]]] = {}
    for entry, counts in share(entries, *position):
        prediction = predictor(
            network,
            dataset,
            entry,
            config.sampler,
            n_samples=config.n_samples,
            n_cycles=config.cycles,
            msa_rows=config.msa_rows,
            seed=seed,
            device=device,
        )
        if counts:
            lddt = {"lddt": float(prediction.lddt.mean()), "lddt_best": float(prediction.lddt.max())}
            kinds = _mean_known(prediction.kinds)
            own[entry] = {"lddt": lddt, "kinds": kinds, "judged": prediction.figures}
    found = {entry: figures for part in gather(own) for entry, figures in part.items()}
    lddt, kinds, judged = (
        _mean_known([found[entry][part] for entry in entries]) for part in ("lddt", "kinds", "judged")
    )
    selection = selection_score(kinds)
    chosen = {"model_selection": selection.score, "model_selection_coverage": selection.coverage}
    each = {f"lddt/{entry}": found[entry]["lddt"]["lddt"] for entry in entries}
    return {**lddt, **chosen, **judged, **kinds, **each}


def _mean_known(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure the mean over those that have it and know it, in order of first appearance."""
    names = dict.fromkeys(name for own in scores for name in own)
    values = {name: np.array([own.get(name, np.nan) for own in scores]) for name in names}
    return {
        name: float(np.nanmean(v)) if not np.isnan(v).all() else float("nan") for name, v in values.items()
    }


class Validator(Protocol):
    """Scores a network: named figures; the highest `best` decides which checkpoint is kept."""

    best: str

    def __call__(self, network: AlphaFold3, device: torch.device) -> dict[str, float]: ...

    def line(self, figures: dict[str, float]) -> str:
        """What the log says of the figures."""
        ...


class StructureValidator:
    """LDDT of the held-out entries (`validate`); every entry has a chain, so there always is a score."""

    best = "model_selection"
    predictor: Predictor = staticmethod(predict)

    def __init__(self, dataset: StoreDataset, held_out: HeldOut, config: TrainConfig) -> None:
        self.dataset, self.held_out, self.config = dataset, held_out, config

    def __call__(self, network: AlphaFold3, device: torch.device) -> dict[str, float]:
        settings, seed = self.config.validation, self.config.seed
        scored, position = self.held_out.scored, data_position(self.config.trainer.tensor_parallel)
        return validate(network, self.dataset, scored, settings, seed, device, self.predictor, position)

    def line(self, figures: dict[str, float]) -> str:
        return (
            f"LDDT {figures['lddt']:.3f} (best samples {figures['lddt_best']:.3f}), model selection "
            f"{figures['model_selection']:.3f}"
        )


class ConfidenceValidator(StructureValidator):
    """Also how well the confidence head judges the samples (`judgement`): that decides which step is best,
    where the structures that are judged stay as they are.
    """

    best = "plddt_score"
    predictor: Predictor = staticmethod(predict_judged)

    def __call__(self, network: AlphaFold3, device: torch.device) -> dict[str, float]:
        figures = super().__call__(network, device)
        return {**figures, self.best: 1.0 - figures["plddt_error"]}

    def line(self, figures: dict[str, float]) -> str:
        return (
            f"pLDDT off by {figures['plddt_error']:.3f} (correlation {figures['plddt_correlation']:.2f}), "
            f"PAE by {figures['pae_error']:.1f} A, PDE by {figures['pde_error']:.1f} A; pTM "
            f"{figures['ptm']:.2f}, ipTM {figures['iptm']:.2f}; {super().line(figures)}"
        )


class Validation(L.Callback):
    """Scores the average, writes validation.csv (and the logger), and has the best checkpoint kept.

    Must stand before the Checkpointer, so that a saved step has always been scored, and after the Meter.
    """

    def __init__(
        self,
        path: Path,
        every_steps: int,
        validator: Validator,
        checkpointer: Checkpointer,
        meter: Meter,
        console: Console,
    ) -> None:
        self.file, self.every_steps, self.validator = MetricsFile(path), every_steps, validator
        self.checkpointer, self.meter, self.console = checkpointer, meter, console
        self.best = -math.inf
        self.is_first_due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget what ran after the checkpoint.

        What all ranks validate and save by is what the first one reads: others may look before it has
        forgotten, or through a file system that is late, and would then wait for each other for ever.
        """
        if rank() == 0:
            self.file.truncate(trainer.global_step)
        rows = from_first_rank(self.file.rows() if rank() == 0 else [])
        name = self.validator.best
        trained = [row for row in rows if row["step"] > 0 and not math.isnan(row.get(name, math.nan))]
        if trained:
            best = max(trained, key=lambda row: row[name])
            self.best, self.checkpointer.best_step = best[name], int(best["step"])
        self.is_first_due = trainer.global_step == 0 and not rows

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the weights that the run starts from, now that the Checkpointer has taken SIGTERM over."""
        if self.is_first_due:
            self.is_first_due = False
            self._run(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if step % self.every_steps == 0 or step >= trainer.max_steps:
            score = self._run(trainer, pl_module)
            if score > self.best:
                self.best, self.checkpointer.best_step = score, step

    def _run(self, trainer: L.Trainer, pl_module: L.LightningModule) -> float:
        assert isinstance(pl_module, StructureTraining)
        start = time.perf_counter()
        figures = self.validator(pl_module.average, pl_module.device)
        seconds = time.perf_counter() - start
        self.meter.leave_out(seconds)
        step = trainer.global_step
        if rank() == 0:
            self.file.append({"step": float(step), **figures, "seconds": seconds})
        for logger in trainer.loggers:
            logger.log_metrics({f"validation/{name}": value for name, value in figures.items()}, step=step)
        self.console.print(
            f"step {step:,}/{trainer.max_steps:,}  validation {self.validator.line(figures)}"
            f"  {seconds:.1f} s",
            highlight=False,
        )
        return figures[self.validator.best]


def describe(held_out: HeldOut, config: ValidationConfig) -> str:
    """One line of the banner: what is validated on, and that training does not see it."""
    if not held_out.scored:
        return _nothing_scored(held_out, config)
    names = ", ".join(held_out.scored[:8]) + ", ..." * (len(held_out.scored) > 8)
    large = f" ({held_out.too_large} more are too large to score)" if held_out.too_large else ""
    return (
        f"every {config.every_steps:,} steps on {names}{large}; training never draws them nor any of the "
        f"{held_out.excluded} entries that share their sequences"
    )


def _nothing_scored(held_out: HeldOut, config: ValidationConfig) -> str:
    """Why there is no validation, and what would make one."""
    if held_out.too_large:
        limits = f"validation.max_tokens={config.max_tokens} and max_atoms={config.max_atoms}"
        return f"none: all {held_out.too_large} that are held out are above {limits}; raise them"
    if config.split:
        return (
            f"none: the validation set of the split {config.split!r} is empty; choose other dates with "
            "`split_data.py --validation-from DATE --validation-until DATE`, or name validation.entries"
        )
    return "none: name validation.entries, or hold out a larger validation.fraction of the clusters"

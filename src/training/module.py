# SPDX-License-Identifier: Apache-2.0
"""The Lightning module: wires network, noise, losses, optimiser and average together; decides nothing else.

One step: one trunk pass and mini-rollout an example, D noise samples, one weighted sum of losses (AF3 SI 3.7,
4 and 5), all randomness keyed by (seed, sample number). A step whose loss or gradient is not finite on any
rank is skipped on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from foldwright.kernels import Ops
from foldwright.kernels.casts import WeightCopies
from foldwright.layers.stack import set_recomputation
from foldwright.layers.tensor_parallel import Split, split_network
from foldwright.losses.noise_levels import level_means
from foldwright.model import AlphaFold3
from foldwright.training.config import TrainConfig
from foldwright.training.curriculum import Curriculum, PhaseConfig
from foldwright.training.ema import averaged_copy, update_average
from foldwright.training.figures import module_norms
from foldwright.training.gradients import FlatGradients, Gradients, ShardedGradients
from foldwright.training.graphs import Eager, Execution, Graphed
from foldwright.training.hand_off import freeze
from foldwright.training.optim import build_adam, learning_rate, set_learning_rate
from foldwright.training.parallel import mean_over_ranks, shard, tensor_group
from foldwright.training.step import Apart

Losses = Callable[[AlphaFold3, Any, PhaseConfig, Apart], dict[str, Tensor]]
"""Scalars of a batch, `loss` first: what an `objective` gives."""


class StructureTraining(L.LightningModule):
    """Trains AlphaFold3 in any stage. `captures`: replay the losses as CUDA graphs where that can be done.

    After each optimiser step `record` holds its figures, the same on every rank: loss and every loss term,
    gradient norm, learning rate, number of cycles, and 1 in `skipped` if the step was skipped; `not_finite`
    names the figures that it was skipped for. `module_norms` holds the gradient norm of each module before
    clipping, in steps that have it written.
    """

    network: AlphaFold3
    average: AlphaFold3
    gradients: Gradients
    execution: Execution

    def __init__(self, config: TrainConfig, ops: Ops, losses: Losses, captures: bool) -> None:
        super().__init__()
        self.config = config
        self.ops = ops
        self.losses = losses
        self.captures = captures
        self.curriculum = Curriculum(config.curriculum, config.seed)
        self.record: dict[str, float] = {}
        self.not_finite: list[str] = []
        self.module_norms: dict[str, float] = {}
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self._terms: list[dict[str, Tensor]] = []

    def configure_model(self) -> None:
        """Build the network (weights drawn on the CPU from the seed alone), its average, and shard both."""
        if hasattr(self, "network"):
            return
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.config.seed)
            network = AlphaFold3(self.config.model, self.ops)
        set_recomputation(network, self.config.trainer.recompute, self.config.trainer.recompute_ops)
        freeze(network, self.config.frozen())
        average = averaged_copy(network)
        if (size := self.config.trainer.tensor_parallel) > 1:
            split = Split(tensor_group(size))
            split_network(network, split)
            split_network(average, split)
        if self.device_mesh is not None:
            shard(network, self.device_mesh, self.config.model.products_dtype)
            shard(average, self.device_mesh, self.config.model.products_dtype)
        self.network, self.average = network, average

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam; the weights are on their device by now, so the gradients get their place too."""
        sharded = self.device_mesh is not None
        self.gradients = (ShardedGradients if sharded else FlatGradients)(self.network.parameters())
        return build_adam(self.network.parameters(), self.config.optimizer)

    def on_train_start(self) -> None:
        scale = 1.0 / self.trainer.accumulate_grad_batches
        whole = self.device_mesh is None and self.config.trainer.tensor_parallel == 1
        captured = self.captures and self.config.trainer.captures() and self.device.type == "cuda" and whole
        if captured and isinstance(self.gradients, FlatGradients):
            self.execution = Graphed(self._losses, self.gradients, scale)
        else:
            self.execution = Eager(self._losses, self.gradients, WeightCopies() if whole else None)

    def _losses(self, batch: Any, phase: PhaseConfig, apart: Apart) -> dict[str, Tensor]:
        return self.losses(self.network, batch, phase, apart)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of one batch; `record` follows once the step's last batch has run."""
        terms = self.execution.forward(batch, self.curriculum.at(self.global_step))
        self._terms.append({name: term.detach() for name, term in terms.items()})
        return terms["loss"]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        self.gradients.zero()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.execution.backward(loss)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, then decide for all ranks alike whether the step counts: no gradients, no update."""
        self.gradients.average_over_ranks()
        every = self.config.logger.gradient_norms_every
        is_due = every and (self.global_step + 1) % every == 0
        self.module_norms = module_norms(self.network.named_parameters()) if is_due else {}
        norm = self.gradients.clip(self.config.optimizer.clip_norm)
        names = list(self._terms[0])
        terms = torch.stack([torch.stack([term[name].float() for name in names]) for term in self._terms])
        means = mean_over_ranks(terms.mean(dim=0))  # a NaN or infinity of any rank reaches every rank
        figures = torch.cat([means, norm.to(means).view(1)]).tolist()
        self._terms.clear()
        by_name = dict(zip([*names, "grad_norm"], figures, strict=True))
        self.not_finite = [name for name, figure in by_name.items() if not math.isfinite(figure)]
        self.record = level_means(by_name, "weighted_mse")  # in which an empty band is NaN, too
        self.record |= {"lr": optimizer.param_groups[0]["lr"], "skipped": float(bool(self.not_finite))}
        self._count_skip()
        if self.not_finite:
            self.gradients.withhold()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        rate = learning_rate(self.global_step + 1, self.config.schedule)
        set_learning_rate(optimizer, rate * self.curriculum.at(self.global_step).lr_factor)
        optimizer.step(closure=optimizer_closure)
        if not self.record["skipped"]:
            update_average(self.average, self.network, self.config.ema.decay)

    def _count_skip(self) -> None:
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if self.not_finite else 0
        self.skipped_steps += bool(self.not_finite)
        limit = self.config.optimizer.max_skipped_in_a_row
        if self.skipped_in_a_row > limit:
            first = self.global_step * self.config.global_batch
            raise RuntimeError(
                f"{self.skipped_in_a_row} steps in a row had a loss or gradient not finite (the last, step "
                f"{self.global_step + 1:,} of samples {first:,} to {first + self.config.global_batch - 1:,}: "
                f"{', '.join(self.not_finite)}), expected at most optimizer.max_skipped_in_a_row={limit}; "
                "the weights are those before them: lower schedule.lr, or look at the samples of these steps"
            )

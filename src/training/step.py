# SPDX-License-Identifier: Apache-2.0
"""The computation of one training step's losses: what the Lightning module and the benchmark both run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from foldwright.batch import Batch
from foldwright.diffusion.noise import NoiseConfig, NoisedSamples, noise_samples
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.kernels import Ops
from foldwright.losses import LossConfig, confidence_loss, external_loss, structure_loss
from foldwright.permutation import Labels, permuted_labels
from foldwright.randomness import key


@dataclass
class RolloutConfig:
    """The mini-rollout that the confidence head judges and the ground truth is permuted onto (SI 4.1).

    Without it (as Boltz trains structure; not as AF3) labels stay as given and the confidence head is frozen.
    """

    enabled: bool = True
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(steps=20))


class Apart(Protocol):
    """How a function of a batch and a structure is run in the middle of a step."""

    def __call__(self, function: Callable[[Batch, Tensor], Labels], batch: Batch, x: Tensor) -> Labels: ...


def directly(function: Callable[[Batch, Tensor], Labels], batch: Batch, x: Tensor) -> Labels:
    """Like any other call."""
    return function(batch, x)


def step_losses(
    network: nn.Module,
    batch: Batch,
    n_samples: int,
    seed: int,
    noise: NoiseConfig,
    losses: LossConfig,
    rollout: RolloutConfig,
    ops: Ops,
    apart: Apart = directly,
) -> dict[str, Tensor]:
    """Scalars of one batch, `loss` first: one trunk pass an example, `n_samples` noised copies of each.

    Everything random is keyed by (seed, sample number). Nothing is noised where no loss asks for it. `apart`
    runs what cannot be part of a captured graph: sizes of the permutation vary from example to example.
    """
    seed_B = key(batch.sample_number, seed)
    truth, noised = batch, None

    def noising(x_rollout: Tensor | None) -> NoisedSamples | None:
        nonlocal truth, noised
        if x_rollout is not None:  # a step whose rollout is not finite is skipped later, by its loss
            labels = apart(permuted_labels, batch, torch.nan_to_num(x_rollout, 0.0, 0.0, 0.0))
            truth = replace(batch, **labels._asdict())
        if losses.diffusion:
            noised = noise_samples(truth, n_samples, noise, key(seed_B, "noise"))
        return noised

    sampler = rollout.sampler if rollout.enabled else None
    output = network(batch, noising, key(seed_B, "network"), sampler)
    parts = []
    if noised is not None:
        parts.append(structure_loss(output.x_denoised, output.distogram_logits, noised, truth, losses, ops))
    if output.confidence is not None:
        parts.append(confidence_loss(output.confidence, output.x_rollout, truth, losses))
    for name, weight in losses.external.items():
        term = external_loss(name)(output, truth, noised)
        parts.append({"loss": weight * term, name: term})
    loss = torch.stack([part.pop("loss") for part in parts]).sum()
    return {"loss": loss, **{name: term for part in parts for name, term in part.items()}}

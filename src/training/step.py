# SPDX-License-Identifier: Apache-2.0
"""The computation of one training step's losses: what the Lightning module and the benchmark both run."""

from __future__ import annotations

from torch import Tensor, nn

from foldwright.batch import Batch
from foldwright.diffusion.noise import NoiseConfig, noise_samples
from foldwright.kernels import Ops
from foldwright.losses import LossConfig, structure_loss
from foldwright.randomness import key


def structure_step(
    network: nn.Module,
    batch: Batch,
    n_samples: int,
    seed: int,
    noise: NoiseConfig,
    losses: LossConfig,
    ops: Ops,
) -> dict[str, Tensor]:
    """Scalars of one batch, `loss` first: one trunk pass an example, `n_samples` noised copies of each.

    Everything random is keyed by (seed, sample number).
    """
    seed_B = key(batch.sample_number, seed)
    noised = noise_samples(batch, n_samples, noise, key(seed_B, "noise"))
    output = network(batch, noised, key(seed_B, "network"))
    return structure_loss(output.x_denoised, output.distogram_logits, noised, batch, losses, ops)

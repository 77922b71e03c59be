# SPDX-License-Identifier: Apache-2.0
"""The training noise distribution and the noised copies of an example (AF3 SI 3.7.1, Algorithm 19).

Pure in the seed: the same copies on every device and world size and after every resume.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.diffusion.precondition import SIGMA_DATA
from foldwright.geometry import masked_mean, rotation_from_quaternion
from foldwright.randomness import key, normal


@dataclass
class NoiseConfig:
    """t̂ = σ_data exp(log_mean + log_std n), n ~ N(0, 1). Defaults: AF3's."""

    log_mean: float = -1.2
    log_std: float = 1.5


@dataclass
class NoisedSamples:
    """D noised copies of each example: t_hat [B, D] Å; x_noisy and x_true [B, D, A, 3] Å, float32.

    x_true is the ground truth after each copy's own rotation and translation.
    """

    t_hat: Tensor
    x_noisy: Tensor
    x_true: Tensor


def centre_random_augmentation(x: Tensor, mask: Tensor, seed: Tensor, translation_std: float = 1.0) -> Tensor:
    """AF3 Algorithm 19: x [B, D, A, 3] centred on its masked atoms, rotated uniformly, moved by N(0, 1 Å).

    mask [B, A]; seed int64 [B]. Each of the D copies has a motion of its own.
    """
    rotation, shift = random_motions(seed, x.shape[1])
    return centred_and_moved(x, mask, rotation, shift * translation_std)


def random_motions(seed: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
    """For each seed and sample a rotation [*seed.shape, D, 3, 3], uniform, and a translation [*seed.shape, D,
    1, 3], N(0, 1 Å); float32.
    """
    rotation = rotation_from_quaternion(normal(key(seed, "rotation"), (n_samples, 4)))
    return rotation, normal(key(seed, "translation"), (n_samples, 1, 3))


def centred_and_moved(x: Tensor, mask: Tensor, rotation: Tensor, shift: Tensor) -> Tensor:
    """x [B, D, A, 3] centred on its atoms with mask [B, A], rotated, then moved."""
    centred = x - masked_mean(x, mask[:, None])
    return centred @ rotation.to(x.dtype).transpose(-1, -2) + shift.to(x.dtype)


def place_unresolved(batch: Batch) -> Tensor:
    """Ground-truth coordinates [B, A, 3] with every unresolved atom put where its token is.

    An unresolved atom takes the position of its token's mean resolved atom, or of the token nearest in the
    sequence of the same chain (then of any chain) that has one. So no pile-up at the origin tells the network
    what is missing (RF3's treatment). Without one resolved atom everything is at the origin.
    """
    n_tokens = batch.token_mask.shape[1]
    index = batch.atom_to_token.long()
    resolved = batch.atom_resolved[..., None].to(batch.atom_coords.dtype)
    total = batch.atom_coords.new_zeros(index.shape[0], n_tokens, 3)
    total = total.scatter_add(1, index[..., None].expand(-1, -1, 3), batch.atom_coords * resolved)
    count = batch.atom_coords.new_zeros(index.shape[0], n_tokens).scatter_add(1, index, resolved[..., 0])
    position = torch.arange(n_tokens, device=index.device)
    distance = (position[:, None] - position[None, :]).abs().float()[None]
    distance = distance + 1e4 * (batch.asym_id[:, :, None] != batch.asym_id[:, None, :])
    distance = distance + 1e9 * (count == 0)[:, None, :]
    nearest = distance.argmin(-1)
    means = total / count.clamp(min=1.0)[..., None]
    anchor = torch.gather(means, 1, torch.gather(nearest, 1, index)[..., None].expand(-1, -1, 3))
    return torch.where(batch.atom_resolved[..., None], batch.atom_coords, anchor)


def noise_samples(batch: Batch, n_samples: int, config: NoiseConfig, seed: Tensor) -> NoisedSamples:
    """D noised, independently rotated and translated copies of each example. seed int64 [B]."""
    x = place_unresolved(batch)[:, None].expand(-1, n_samples, -1, -1)
    x_true = centre_random_augmentation(x, batch.atom_resolved, key(seed, "augmentation"))
    level = normal(key(seed, "noise level"), (n_samples,)).to(x.dtype)
    t_hat = SIGMA_DATA * torch.exp(config.log_mean + config.log_std * level)
    noise = normal(key(seed, "noise"), (n_samples, x.shape[2], 3)).to(x.dtype)
    return NoisedSamples(t_hat, x_true + t_hat[..., None, None] * noise, x_true)

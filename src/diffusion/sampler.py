# SPDX-License-Identifier: Apache-2.0
"""Sampling structures: AF3 Algorithm 18 and its noise schedule (SI eq. 7). A pure function of a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from foldwright.diffusion.noise import centre_random_augmentation
from foldwright.diffusion.precondition import SIGMA_DATA
from foldwright.kernels.casts import frozen_weights
from foldwright.randomness import key, normal

Denoiser = Callable[[Tensor, Tensor], Tensor]


@dataclass
class SamplerConfig:
    """Defaults: AF3's inference settings. Noise levels s_min and s_max are in units of σ_data."""

    steps: int = 200
    s_max: float = 160.0
    s_min: float = 4e-4
    rho: float = 7.0
    gamma_0: float = 0.8
    gamma_min: float = 1.0
    noise_scale: float = 1.003
    step_scale: float = 1.5


def noise_schedule(config: SamplerConfig) -> list[float]:
    """c_0 .. c_T in Å, falling from σ_data s_max to σ_data s_min."""
    top, bottom = config.s_max ** (1 / config.rho), config.s_min ** (1 / config.rho)
    fractions = [step / config.steps for step in range(config.steps + 1)]
    return [SIGMA_DATA * (top + fraction * (bottom - top)) ** config.rho for fraction in fractions]


@frozen_weights()
def sample_diffusion(
    denoiser: Denoiser, atom_mask: Tensor, n_samples: int, config: SamplerConfig, seed: Tensor
) -> Tensor:
    """Structures [B, D, A, 3] Å, float32, from noise, without gradient. atom_mask [B, A]; seed int64 [B].

    `denoiser` maps (x_noisy [B, D, A, 3], t̂ [B, D]) to the denoised x. Line 9 uses x_noisy (erratum).
    """
    schedule = noise_schedule(config)
    shape = (n_samples, atom_mask.shape[1], 3)
    x = schedule[0] * normal(key(seed, "initial noise"), shape)
    for step, (previous, current) in enumerate(pairwise(schedule)):
        step_seed = key(seed, step)
        x = centre_random_augmentation(x, atom_mask, step_seed)
        gamma = config.gamma_0 if current > config.gamma_min else 0.0
        t_hat = previous * (1.0 + gamma)
        churn = config.noise_scale * (t_hat**2 - previous**2) ** 0.5
        x_noisy = x + churn * normal(key(step_seed, "churn"), shape)
        level = torch.full(x.shape[:2], t_hat, dtype=x.dtype, device=x.device)
        delta = (x_noisy - denoiser(x_noisy, level)) / t_hat
        x = x_noisy + config.step_scale * (current - t_hat) * delta
    return x

# SPDX-License-Identifier: Apache-2.0
"""EDM preconditioning: the only place with c_skip, c_out, c_in and c_noise (AF3 Algorithm 20, lines 2 and
8).
"""

from __future__ import annotations

import torch
from torch import Tensor

from foldwright.diffusion.module import DiffusionModule, SharedConditioning

SIGMA_DATA = 16.0  # Å, standard deviation of the data (AF3 SI 3.7)


def c_skip(t_hat: Tensor) -> Tensor:
    return SIGMA_DATA**2 / (SIGMA_DATA**2 + t_hat**2)


def c_out(t_hat: Tensor) -> Tensor:
    return SIGMA_DATA * t_hat / torch.sqrt(SIGMA_DATA**2 + t_hat**2)


def c_in(t_hat: Tensor) -> Tensor:
    return 1.0 / torch.sqrt(SIGMA_DATA**2 + t_hat**2)


def c_noise(t_hat: Tensor) -> Tensor:
    return 0.25 * torch.log(t_hat / SIGMA_DATA)


def loss_weight(t_hat: Tensor) -> Tensor:
    """w(t̂) = (t̂² + σ²) / (t̂ σ)² = 1 / c_out². AF3 SI eq. 6 prints a sum in the denominator: an erratum."""
    return (t_hat**2 + SIGMA_DATA**2) / (t_hat * SIGMA_DATA) ** 2


def denoise(module: DiffusionModule, x_noisy: Tensor, t_hat: Tensor, shared: SharedConditioning) -> Tensor:
    """D(x; t̂) = c_skip x + c_out F(c_in x; c_noise): x_noisy [B, D, A, 3] Å, t_hat [B, D] Å -> [B, D, A,
    3] Å.
    """
    if x_noisy.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"coordinates must be float32 or float64, got {x_noisy.dtype}")
    t = t_hat[..., None, None]
    update = module(c_in(t) * x_noisy, c_noise(t_hat), shared)
    return c_skip(t) * x_noisy + c_out(t) * update

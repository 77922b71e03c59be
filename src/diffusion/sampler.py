# SPDX-License-Identifier: Apache-2.0
"""Sampling structures: AF3 Algorithm 18 and its noise schedule (SI eq. 7). Pure in its denoisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from foldwright.diffusion.noise import centred_and_moved, random_motions
from foldwright.diffusion.precondition import SIGMA_DATA
from foldwright.kernels.casts import frozen_weights
from foldwright.randomness import key, keys, normal

Denoisers = Callable[[Sequence[float]], Iterable[Callable[[Tensor], Tensor]]]
"""From the noise levels t̂ of all steps, Å, to what denoises x_noisy [B, D, A, 3] at each, in order."""

_ELEMENTS = 1 << 22  # random numbers drawn at once


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
    denoisers: Denoisers, atom_mask: Tensor, n_samples: int, config: SamplerConfig, seed: Tensor
) -> Tensor:
    """Structures [B, D, A, 3] Å, float32, from noise, without gradient. atom_mask [B, A]; seed int64 [B].

    Line 9 uses x_noisy (erratum). Every draw is keyed by the seed and its step alone; what is drawn, and what
    the denoisers make of the noise levels, is made of many steps at once.
    """
    schedule = noise_schedule(config)
    gammas = [config.gamma_0 if current > config.gamma_min else 0.0 for current in schedule[1:]]
    t_hats = [previous * (1.0 + gamma) for previous, gamma in zip(schedule, gammas, strict=False)]
    shape = (n_samples, atom_mask.shape[1], 3)
    x = schedule[0] * normal(key(seed, "initial noise"), shape)
    step_seeds = keys(seed, config.steps)
    steps = zip(
        pairwise(schedule),
        t_hats,
        denoisers(t_hats),
        zip(*random_motions(step_seeds, n_samples), strict=True),
        _noise(key(step_seeds, "churn"), shape),
        strict=True,
    )
    for (previous, current), t_hat, denoise, motion, noise in steps:
        churn = config.noise_scale * (t_hat**2 - previous**2) ** 0.5
        x_noisy = centred_and_moved(x, atom_mask, *motion) + churn * noise
        delta = (x_noisy - denoise(x_noisy)) / t_hat
        x = x_noisy + config.step_scale * (current - t_hat) * delta
    return x


def _noise(seeds: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Of each of the seeds [T, B] standard normal numbers [B, *shape], drawn of some of them at once."""
    portion = max(1, _ELEMENTS // (seeds.shape[1] * math.prod(shape)))
    for some in seeds.split(portion):
        yield from normal(some, shape)

# SPDX-License-Identifier: Apache-2.0
"""A loss by noise level: means over the samples of five fixed bands of t̂.

Its own choice, not the paper's: with AF3's noise distribution (median 4.8 Å) the bands hold 15, 23, 26, 20
and 17 per cent of the samples. Shapes are fixed and nothing waits for the device, so that it may be captured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

BANDS = ((0.0, 1.0), (1.0, 3.0), (3.0, 8.0), (8.0, 20.0), (20.0, math.inf))  # Å of t̂
_SUM, _COUNT = "sum over t ", "samples of t "


def band_name(low: float, high: float) -> str:
    """ "3-8 A", or "20 A up" for the last."""
    return f"{low:g}-{high:g} A" if math.isfinite(high) else f"{low:g} A up"


def sums_by_noise_level(values: Tensor, t_hat: Tensor) -> dict[str, Tensor]:
    """For every band the sum of `values` [B, D] over its samples and their number, scalars without gradient.

    Sums and numbers may be averaged over batches and ranks before `level_means` divides them. t_hat [B, D] Å.
    """
    values, figures = values.detach(), {}
    for low, high in BANDS:
        inside = (t_hat >= low) & (t_hat < high)
        figures[_SUM + band_name(low, high)] = torch.where(inside, values, 0.0).sum()
        figures[_COUNT + band_name(low, high)] = inside.sum().to(values.dtype)
    return figures


def level_means(figures: Mapping[str, float], name: str) -> dict[str, float]:
    """The figures with sums and numbers replaced by means, `name`/band; NaN where a band had no sample."""
    means = {}
    for key, value in figures.items():
        if key.startswith(_SUM):
            band = key.removeprefix(_SUM)
            count = figures[_COUNT + band]
            means[f"{name}/{band}"] = value / count if count else math.nan
        elif not key.startswith(_COUNT):
            means[key] = value
    return means
